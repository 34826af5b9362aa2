"""What cannot be done as asked is one line and status 2, before torch is loaded."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from fine_tuning.embedding.base import find_base
from fine_tuning.embedding.command import main, make_parser
from fine_tuning.embedding.errors import FineTuningError
from fine_tuning.embedding.options import Options


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    file = tmp_path / "pairs.tsv"
    file.write_text("hello\tworld\n")
    return file


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ([], "--data is missing (DATA="),
        (["--data", "{pairs}"], "--output is missing (OUTPUT="),
        (["--data", "nowhere.tsv", "--output", "{out}"], "there is no file nowhere.tsv"),
        (["--data", "{pairs}", "--output", "{out}", "--eval-data", "no.tsv"], "there is no file no.tsv"),
        (["--data", "{pairs}", "--output", "{out}", "--batch-size", "0"], "--batch-size 0 is not usable"),
        (["--data", "{pairs}", "--output", "{out}", "--matryoshka", "64,0"], "--matryoshka 0 is not usable"),
        (["--data", "{pairs}", "--output", "{out}", "--mine-negatives", "-1"], "--mine-negatives -1 is not usable"),
        (["--data", "{pairs}", "--output", "{out}", "--lr", "nan"], "--lr nan is not usable"),
        (["--data", "{pairs}", "--output", "{out}", "--lr", "0"], "--lr 0.0 is not usable"),
        (
            ["--data", "{pairs}", "--output", "{out}", "--keep-adapter"],
            "--keep-adapter keeps the adapter of --use-lora",
        ),
        (["--data", "{pairs}", "--output", "{out}/.."], "holds more than a model"),
    ],
)
def test_one_line_says_what_is_wrong(
    flags: list[str], line: str, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([flag.format(pairs=pairs, out=tmp_path / "out") for flag in flags]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert line in said[0]


def test_a_folder_without_a_model_is_told(tmp_path: Path) -> None:
    for name in (str(tmp_path), "./nowhere", "bge small"):
        with pytest.raises(FineTuningError, match="there is no model in") as refused:
            find_base(name)
        assert "\n" not in str(refused.value)


def test_the_built_in_model_names_its_licence() -> None:
    base = find_base("sentence-transformers/all-MiniLM-L6-v2")
    assert base.licence == "apache-2.0"
    assert base.weights_sha256 == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def test_what_makes_a_run_another_run() -> None:
    first = Options(Path("a.tsv"), Path("out"), epochs=2.0)
    same = Options(Path("b.tsv"), Path("other"), epochs=2.0, lr=2e-5, save_every=5, resume=True)
    assert first.hyper_parameters() == same.hyper_parameters(), "data and base are told by their hashes"
    assert first.hyper_parameters() != Options(Path("a.tsv"), Path("out"), epochs=2.0, use_lora=True).hyper_parameters()


def test_every_flag_is_on_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs/fine-tuning-embeddings.md").read_text("utf8")
    listed = page.split("\n## Flags\n", 1)[1].split("\n## ", 1)[0]
    shown = {
        flag for line in listed.splitlines() if line.startswith("| `--") for flag in re.findall(r"`--([a-z-]+)", line)
    }
    flags = {flag.removeprefix("--") for action in make_parser()._actions for flag in action.option_strings}
    assert shown == flags - {"h", "-h", "help"}
    assert {flag.replace("-", "_") for flag in shown} == {field.name for field in fields(Options)}
