"""Files of pairs: every form is read, every bad row is told by file and line, nothing of its text is repeated."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fine_tuning.embedding.errors import FineTuningError
from fine_tuning.embedding.pairs import LONGEST_LINE, BadRow, Pair, read_pairs


def write(folder: Path, name: str, content: str | bytes) -> Path:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def complaints(file: Path) -> dict[int, str]:
    """What is wrong, by line."""
    return {row.line: row.why for row in read_pairs(file) if isinstance(row, BadRow)}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", 'how are you\tI am "fine"\nday\tnight\tmorning\n'),
        ("a.tsv", '\ufeffhow are you\tI am "fine"\r\n\r\nday\tnight\tmorning'),
        ("a.csv", 'how are you,"I am ""fine"""\nday,night,morning\n'),
        ("a.csv", 'text_a,text_b,negative\r\nhow are you,"I am ""fine""",\r\nday,night,morning\r\n'),
        ("a.csv", 'a,b\nhow are you,"I am ""fine"""\nday,night,morning\n'),
        (
            "a.jsonl",
            '{"text_a": "how are you", "text_b": "I am \\"fine\\""}\n{"a":"day","b":"night","negative":"morning"}',
        ),
        (
            "a.jsonl",
            '{"a": "how are you", "b": "I am \\"fine\\"", "negative": []}\n\n'
            '{"a": "day", "b": "night", "negative": ["morning"]}',
        ),
    ],
)
def test_every_form_gives_the_same_pairs(tmp_path: Path, name: str, content: str) -> None:
    pairs = [Pair("how are you", 'I am "fine"'), Pair("day", "night", ("morning",))]
    assert list(read_pairs(write(tmp_path, name, content))) == pairs


@pytest.mark.parametrize("key", ["user", "group"])
def test_a_row_of_json_names_its_group(tmp_path: Path, key: str) -> None:
    rows = [{"a": "x", "b": "y", key: name} for name in ("ada", 7, None)]
    file = write(tmp_path, "a.jsonl", "\n".join(json.dumps(row) for row in rows))
    assert [row.group for row in read_pairs(file) if isinstance(row, Pair)] == ["ada", "7", None]


def test_bad_rows_of_tsv_are_told_by_line(tmp_path: Path) -> None:
    lines = [
        b"good\tpair",
        b"alone",
        b"",
        b"a\tb\tc\td",
        b"secret\t ",
        b"caf\xe9\tx",
        b"x\0\ty",
        b"a\tb\tb",
        b"good\tend",
    ]
    file = write(tmp_path, "a.tsv", b"\n".join(lines))
    assert complaints(file) == {
        2: "2 columns, or 3 with a negative, are needed; there is 1",
        4: "2 columns, or 3 with a negative, are needed; there are 4",
        5: "text_b is empty",
        6: "text_a is not UTF-8, or half of a surrogate pair",
        7: "text_a contains the character NUL",
        8: "a negative is the same text as text_b",
    }
    assert [row.anchor for row in read_pairs(file) if isinstance(row, Pair)] == ["good", "good"]
    assert "secret" not in "\n".join(map(str, read_pairs(file)))
    assert str(next(row for row in read_pairs(file) if isinstance(row, BadRow))).startswith(f"{file}:2: ")


def test_bad_rows_of_json_are_told_by_line(tmp_path: Path) -> None:
    lines = [
        "{",
        "[1]",
        '{"a": "x"}',
        '{"a": "x", "b": 3}',
        '{"a": "\\ud800", "b": "y"}',
        '{"a": "x", "b": "y", "negative": ["z", null]}',
        '{"a": "x", "b": "y", "group": {}}',
        "[" * 100_000,
    ]
    assert complaints(write(tmp_path, "a.jsonl", "\n".join(lines))) == {
        1: "this is not JSON",
        2: "this is not a JSON object",
        3: "the keys text_a and text_b, or a and b, are needed",
        4: "text_b is not a text",
        5: "text_a is not UTF-8, or half of a surrogate pair",
        6: "negative 2 is not a text",
        7: "group is neither a text nor a whole number",
        8: "this is not JSON",
    }


def test_a_row_of_csv_over_several_lines_is_told_by_its_first(tmp_path: Path) -> None:
    file = write(tmp_path, "a.csv", 'one,"two\nlines"\nx\n"a\nb",c\n"open,x\n')
    assert [row.positive for row in read_pairs(file) if isinstance(row, Pair)] == ["two\nlines", "c"]
    assert list(complaints(file)) == [3, 6]
    assert complaints(file)[6].startswith("this is not CSV")


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl"])
def test_a_line_without_end_is_one_bad_row(tmp_path: Path, name: str) -> None:
    file = write(tmp_path, name, b"x" * (3 * LONGEST_LINE + 5) + b'\n{"a":"x"}\n')
    assert list(complaints(file)) == [1, 2]
    if name != "a.csv":
        assert complaints(file)[1] == f"the line is longer than {LONGEST_LINE} bytes"


@given(rows=st.lists(st.tuples(st.text(), st.text()), max_size=5))
def test_whatever_texts_hold_a_row_is_a_whole_pair_or_a_bad_one(
    rows: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("rows") / "a.jsonl"
    file.write_text("".join(json.dumps({"a": a, "b": b}) + "\n" for a, b in rows), "utf8")
    for (a, b), read in zip(rows, read_pairs(file), strict=True):
        if isinstance(read, Pair):
            assert (read.anchor, read.positive) == (a, b)
        else:
            assert not (a.strip() and b.strip()) or "\0" in a + b


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FineTuningError, match=r"ends in \.tsv, \.csv or \.jsonl"):
        list(read_pairs(write(tmp_path, "a.txt", "x\ty")))
