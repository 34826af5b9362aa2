"""Rows to train on: bad ones told, doubles dropped, groups never on both sides, sets by their number of negatives."""

import json
from pathlib import Path

import pytest

pytest.importorskip("datasets")

from datasets import DatasetDict

from fine_tuning.embedding.errors import BadRows, FineTuningError
from fine_tuning.embedding.rows import prepare_rows, training_sets
from tests.fine_tuning.tiny import write_pairs

pytestmark = pytest.mark.fine_tuning


def write(file: Path, *rows: dict[str, object] | str) -> Path:
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf8")
    return file


def test_groups_are_held_out_whole(tmp_path: Path) -> None:
    rows = prepare_rows(tmp_path / "rows", write_pairs(tmp_path / "a.jsonl", 80), None, 16, False)
    assert rows.heldout is not None
    train, heldout = set(rows.train["group"]), set(rows.heldout["group"])
    assert not train & heldout
    assert len(train | heldout) == 8
    assert (len(rows.train), len(rows.heldout)) == (60, 16), "two groups of ten are held out, and 16 rows of them taken"


def test_pairs_without_groups_are_held_out_with_all_of_their_anchor(tmp_path: Path) -> None:
    rows = [{"a": f"question {n // 3}", "b": f"answer {n}"} for n in range(90)]
    split = prepare_rows(tmp_path / "rows", write(tmp_path / "a.jsonl", *rows), None, 12, False)
    assert split.heldout is not None
    assert len(split.heldout) == 12
    assert not set(split.train["anchor"]) & set(split.heldout["anchor"])


def test_one_big_group_stays_with_training(tmp_path: Path) -> None:
    rows = [{"a": f"question {n}", "b": f"answer {n}", "user": "ada"} for n in range(50)]
    split = prepare_rows(tmp_path / "rows", write(tmp_path / "a.jsonl", *rows), None, 10, False)
    assert (len(split.train), split.heldout) == (50, None)


def test_bad_rows_stop_the_training_or_are_left_out(tmp_path: Path) -> None:
    good = [{"a": f"question {n}", "b": f"answer {n}"} for n in range(3)]
    file = write(tmp_path / "a.jsonl", *good, *["{"] * 12, good[0], {"a": "same", "b": "same"})
    with pytest.raises(BadRows) as refused:
        prepare_rows(tmp_path / "rows", file, None, 10, False)
    lines = str(refused.value).splitlines()
    assert lines[0] == f"{file}:4: this is not JSON"
    assert lines[9].startswith(f"{file}:13: ")
    assert lines[10:] == [
        "and 2 more",
        f"{file} has 12 bad rows of 17; mend them, or leave them out with --skip-bad-rows.",
    ]
    counts = prepare_rows(tmp_path / "rows", file, None, 10, True).counts
    assert counts == {"read": 17, "bad": 12, "duplicate": 1, "same_text": 1, "train": 3, "heldout": 0}


def test_no_copy_of_what_is_compared_by_is_trained_on(tmp_path: Path) -> None:
    rows = [{"a": f"question {n}", "b": f"answer {n}"} for n in range(6)]
    data, heldout = write(tmp_path / "a.jsonl", *rows), write(tmp_path / "b.jsonl", *rows[4:])
    split = prepare_rows(tmp_path / "rows", data, heldout, 10, False)
    assert split.heldout is not None
    assert split.train["anchor"][:] == [f"question {n}" for n in range(4)]
    assert split.heldout["anchor"][:] == ["question 4", "question 5"]


def test_a_file_without_pairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FineTuningError, match="holds no pair to train on"):
        prepare_rows(tmp_path / "rows", write(tmp_path / "a.tsv", "", ""), None, 10, False)


def test_a_set_for_each_number_of_negatives(tmp_path: Path) -> None:
    rows = [{"a": f"q{n}", "b": f"a{n}", "negative": [f"n{n}{k}" for k in range(n % 3)]} for n in range(6)]
    split = prepare_rows(tmp_path / "rows", write(tmp_path / "a.jsonl", *rows), None, 0, False)
    sets = training_sets(split.train, tmp_path / "sets")
    assert isinstance(sets, DatasetDict)
    assert {name: rows.column_names for name, rows in sets.items()} == {
        "negatives_0": ["anchor", "positive"],
        "negatives_1": ["anchor", "positive", "negative_1"],
        "negatives_2": ["anchor", "positive", "negative_1", "negative_2"],
    }
    assert sets["negatives_2"][1] == {"anchor": "q5", "positive": "a5", "negative_1": "n50", "negative_2": "n51"}
