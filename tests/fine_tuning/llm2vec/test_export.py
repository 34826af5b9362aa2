"""The wrapper's export: the manifest that the training wrote, stamped; and one line for a folder that has none."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fine_tuning.llm2vec.export import WRAPPER
from fine_tuning.llm2vec.export_command import main
from serving.llm2vec.manifest import Artifacts, Chat, Embedding, Manifest, read_manifest

TRAINED = Manifest(
    base_model="some/base",
    embedding=Embedding(dimension=576, max_length=300, normalise=False, prompt="query: "),
    artifacts=Artifacts(adapters="adapters", merged="merged"),
    chat=Chat(temperature=0.1),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("adapters", "merged", "tokenizer"):
        (tmp_path / name).mkdir()
    TRAINED.write(tmp_path / "wrapper_config.json")
    return tmp_path


def exported(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "wrapper/config.json").read_text("utf8"))


def test_the_export_is_what_the_training_knows_and_a_stamp(folder: Path) -> None:
    assert main(["--model-dir", str(folder)]) == 0

    found = exported(folder)
    stamp = {key: found.pop(key) for key in ("manifest_version", "created_at", "export_dir")}
    assert found == json.loads((folder / "wrapper_config.json").read_text("utf8"))
    assert (stamp["manifest_version"], stamp["export_dir"]) == (1, str(folder))
    assert timedelta() <= datetime.now(UTC) - datetime.fromisoformat(stamp["created_at"]) < timedelta(minutes=5)
    assert read_manifest(folder).embedding == TRAINED.embedding
    assert (folder / "wrapper/llm2vec_wrapper.py").read_bytes() == WRAPPER.read_bytes()


def test_another_base_model_is_kept_for_later_loads(folder: Path) -> None:
    assert main(["--model-dir", str(folder), "--base-model", "mirror/base"]) == 0

    assert read_manifest(folder).base_model == "mirror/base"
    assert json.loads((folder / "wrapper_config.json").read_text("utf8"))["base_model"] == "some/base"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"pooling": "mean"}, "there is no key pooling"),
        ({"embedding": {"dimension": 576, "poling": "mean"}}, "there is no key embedding.poling"),
        ({"artifacts": {"merged": "../elsewhere"}}, "artifacts.merged"),
        ({"artifacts": {"merged": "gone"}}, "gone, which the manifest names as artifacts.merged, is not there"),
        ({"base_model": ""}, "base_model"),
        (None, "it is not JSON"),
    ],
)
def test_a_folder_that_is_wrong_is_told_in_one_line_and_keeps_its_export(
    folder: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any] | None, line: str
) -> None:
    main(["--model-dir", str(folder)])
    before = exported(folder)
    file = folder / "wrapper_config.json"
    text = json.dumps(json.loads(file.read_text("utf8")) | change) if change is not None else "{"
    file.write_text(text, "utf8")

    assert main(["--model-dir", str(folder)]) == 2
    said = capsys.readouterr().err
    assert line in said
    assert said.count("\n") == 1
    assert exported(folder) == before


def test_a_folder_of_something_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model-dir", str(tmp_path)]) == 2
    assert "wrapper_config.json cannot be read" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
