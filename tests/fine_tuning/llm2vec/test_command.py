"""What the pipeline refuses before anything is loaded, and which chats it takes."""

import json
from pathlib import Path
from typing import Any

import pytest

from fine_tuning.embedding.errors import BadRows, FineTuningError
from fine_tuning.llm2vec.chat_rows import read_chat_rows, write_chat_rows
from fine_tuning.llm2vec.command import main, make_parser
from fine_tuning.llm2vec.options import Options, check


def never(**_: Any) -> Path:
    raise AssertionError("no script is written")


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ([], "nothing to train on"),
        (["--pairs", "nowhere.jsonl"], "there is no file nowhere.jsonl"),
        (["--data", "{file}", "--adapter", "a"], "--adapter takes the place"),
        (["--data", "{file}", "--min-mrr", "0.5"], "--min-mrr is measured on pairs"),
        (["--pairs", "{file}", "--eval-data", "{file}"], "there is none"),
        (["--pairs", "{file}", "--pairs-lr", "0"], "--pairs-lr 0.0 is not usable"),
        (["--pairs", "{file}", "--max-length", "1"], "--max-length 1 is not usable"),
        (["--pairs", "{file}", "--output", "."], "holds more than a model"),
    ],
)
def test_one_line_for_what_cannot_be_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], line: str
) -> None:
    file = tmp_path / "rows.jsonl"
    file.touch()
    given = ["--base-model", "b", "--output", str(tmp_path / "out"), *(flag.format(file=file) for flag in flags)]

    assert main(never, given) == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1


def test_the_environment_asks_for_a_gguf_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EXPORT_GGUF", "yes")
    assert main(never, ["--base-model", "b", "--output", "out"]) == 2
    assert "EXPORT_GGUF=yes is not usable" in capsys.readouterr().err


def test_flags_and_options_have_the_same_defaults() -> None:
    given = vars(make_parser().parse_args(["--base-model", "b", "--output", "out"]))
    del given["json"]
    assert Options(**given) == Options("b", Path("out"))


def test_held_out_chats_lie_beside_the_chats(tmp_path: Path) -> None:
    chats, heldout = tmp_path / "chats.jsonl", tmp_path / "chats.heldout.jsonl"
    chats.touch()
    options = Options("b", tmp_path / "out", data=chats)
    assert options.heldout_data is None
    heldout.touch()
    assert options.heldout_data == heldout
    check(options)


def test_chats_as_texts_and_as_messages(tmp_path: Path) -> None:
    source, target = tmp_path / "chats.jsonl", tmp_path / "rows.jsonl"
    as_text = {"prompt": "Hello", "completion": "Hi", "meta": {"user": 1}}
    messages = [{"role": "system", "content": "Be kind"}, {"role": "user", "content": "Bye"}]
    as_messages = {"prompt": messages, "completion": [{"role": "assistant", "content": "See you"}]}
    source.write_text("\n".join(map(json.dumps, (as_text, as_messages, as_text))) + "\n\n", "utf8")

    assert write_chat_rows(source, target, skips_bad_rows=False) == {"read": 3, "bad": 0, "double": 1, "written": 2}
    assert read_chat_rows(target, 10) == [
        {"prompt": [{"role": "user", "content": "Hello"}], "completion": [{"role": "assistant", "content": "Hi"}]},
        as_messages,
    ]
    assert len(read_chat_rows(target, 1)) == 1


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "this is not JSON"),
        (b"[]", "this is not a JSON object"),
        (b"\xff", "this is not JSON"),
        (b'{"prompt": "a"}', "completion is neither a text nor a list of messages"),
        (b'{"prompt": [], "completion": "b"}', "prompt is neither a text nor a list of messages"),
        (b'{"prompt": " ", "completion": "b"}', "prompt has a message without a role or a content"),
        (b'{"prompt": "a", "completion": [{"role": "user", "content": "b"}]}', "completion does not end with"),
    ],
)
def test_bad_rows_are_named_by_their_line(tmp_path: Path, line: bytes, why: str) -> None:
    source, target = tmp_path / "chats.jsonl", tmp_path / "rows.jsonl"
    source.write_bytes(b'{"prompt": "a", "completion": "b"}\n' + line + b"\n")

    with pytest.raises(BadRows, match=f"chats.jsonl:2: {why}"):
        write_chat_rows(source, target, skips_bad_rows=False)
    assert write_chat_rows(source, target, skips_bad_rows=True)["bad"] == 1

    source.write_bytes(line)
    with pytest.raises(FineTuningError, match="holds no row to use"):
        write_chat_rows(source, target, skips_bad_rows=True)
