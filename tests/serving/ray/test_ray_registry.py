"""Which model a replica serves, by the registry that the service writes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serving.errors import ModelRefused
from serving.ray.registry import Choice, Registry
from serving.ray.settings import load_ray_settings
from serving.ray_app import agree
from serving.settings import SettingsError
from tests.serving.ray.registries import write_registry


def test_the_checkpoint_of_the_current_adapter_is_chosen(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    runs = {"sft-1": tmp_path / "models" / "sft-1" / "checkpoint", "sft-2": elsewhere}
    (tmp_path / "models").mkdir()
    file = tmp_path / "models" / "adapters.json"

    chosen = [Registry(write_registry(file, current, runs), tmp_path / "base").choose() for current in (*runs, None)]

    assert chosen == [
        Choice("sft-1", runs["sft-1"]),
        Choice("sft-2", elsewhere),
        Choice("base", tmp_path / "base"),
    ]


def test_without_a_registry_the_base_model_is_chosen(tmp_path: Path) -> None:
    base = Choice("base", tmp_path / "base")

    assert Registry(tmp_path / "adapters.json", base.folder).choose() == base
    assert Registry(None, base.folder).choose() == base


def test_the_mark_changes_with_the_file_and_only_with_it(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "adapters.json", tmp_path)
    marks = [registry.mark()]
    for current in (None, "sft-1", "sft-1", None):
        write_registry(tmp_path / "adapters.json", current, {"sft-1": tmp_path})
        marks.append(registry.mark())

    assert len(set(marks)) == 3
    assert marks[2] == marks[3]
    assert marks[1] == marks[4]


ENTRY = {"run_id": "sft-1", "checkpoint": None}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("{", "is no adapter registry"),
        ({"schema_version": 2}, "schema_version"),
        ({"schema_version": 1, "current": "sft-2", "adapters": [ENTRY]}, "sft-2, which is not in it"),
        ({"schema_version": 1, "current": "sft-1", "adapters": [{"run_id": "sft-1"}]}, "adapters.0.checkpoint"),
        ({"schema_version": 1, "current": "sft-1", "adapters": [ENTRY]}, "has no checkpoint"),
        ({"schema_version": 1, "current": None}, "no base model is named"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_line(tmp_path: Path, document: Any, said: str) -> None:
    file = tmp_path / "adapters.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document), "utf8")

    with pytest.raises(ModelRefused) as refused:
        Registry(file, None).choose()

    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_wrong_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_EMBEDDING__MIN_REPLICAS", "3")
    monkeypatch.setenv("RAY_RUNTIME__CPUS", "many")
    monkeypatch.setenv("RAY_HTTP_PORT", "0")

    with pytest.raises(SettingsError) as wrong:
        load_ray_settings()

    lines = str(wrong.value).splitlines()
    assert len(lines) == 3
    assert {line.split(" ")[0].split("=")[0] for line in lines} == {
        "RAY_EMBEDDING",
        "RAY_RUNTIME__CPUS",
        "RAY_HTTP_PORT",
    }


def test_the_registry_lies_where_the_service_has_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOCAL_MODELS_DIR", str(tmp_path))
    assert load_ray_settings().registry_path == tmp_path / "adapters.json"
    monkeypatch.setenv("LLM_ADAPTER_REGISTRY_PATH", str(tmp_path / "other.json"))
    assert load_ray_settings().registry_path == tmp_path / "other.json"


WITHOUT = """
import sys
sys.modules["ray"] = sys.modules["torch"] = None
from serving.ray_app import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("command", ["up embedding", "down", "switch --json"])
def test_without_ray_and_torch_it_is_imported_and_says_what_is_missing(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *command.split()], capture_output=True, text=True, check=False, timeout=120
    )

    assert done.returncode == 2
    assert done.stderr == f"{command.split(maxsplit=1)[0]}: the package ray is not installed: make install-ray\n"


def replica(model: str | None, wanted: str | None, fault: str | None = None) -> dict[str, Any]:
    return {"model": model, "wanted": wanted, "fault": fault}


@pytest.mark.parametrize(
    ("replicas", "is_agreed"),
    [
        ([replica("a", "a"), replica("a", "a")], True),
        ([replica("a", "a"), replica("b", "b")], False),
        ([replica("a", "b", "it is broken")], False),
        ([replica("a", None, "the registry is none")], False),
        ([replica("a", "a"), {"fault": "does not answer"}], False),
        ([], False),
    ],
)
def test_replicas_agree_when_all_serve_what_the_registry_says(replicas: list[dict[str, Any]], is_agreed: bool) -> None:
    assert agree(replicas) is is_agreed
