"""docs/unified-runtime.md says what the runtime and its service do."""

import re
from pathlib import Path

from serving.llm2vec.command import _flags
from serving.llm2vec.main import create_llm2vec_app
from serving.llm2vec.settings import ModelSettings
from serving.runtime import UnifiedLLMRuntime
from serving.settings import ServeSettings
from tests.serving.llm2vec.checkpoints import ROOT

TEXT = (ROOT / "docs/unified-runtime.md").read_text("utf8")
UNSET = {"threads": "all cores"}


def rows(title: str) -> list[list[str]]:
    """The cells of a section's tables."""
    body = TEXT.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]
    return [line.strip("| ").split(" | ") for line in body.splitlines() if line.startswith("| `")]


def test_every_variable_is_listed_with_its_default() -> None:
    listed = {cells[0].strip("`"): cells[1].strip("`") for cells in rows("Settings")}

    fields = ModelSettings.model_fields
    assert listed.keys() == {f"MODEL__{name.upper()}" for name in fields}
    for name, field in fields.items():
        default = UNSET.get(name, "as the manifest says") if field.default is None else str(field.default).lower()
        assert listed[f"MODEL__{name.upper()}"] == default, name


def test_every_flag_is_listed() -> None:
    listed = re.findall(r"`(--[\w-]+)`", " ".join(cells[0] for cells in rows("Start it")))
    values = {"--prefer-merged": [], "--force-4bit": [], "--log-level": ["info"]}

    given = _flags([word for flag in listed for word in (flag, *values.get(flag, ["1"]))])

    assert len(given) == len(listed) == 7


def test_every_operation_is_listed(fake_folder: Path) -> None:
    app = create_llm2vec_app(UnifiedLLMRuntime(fake_folder), ServeSettings(_env_file=None))
    operations = {f"{method.upper()} {path}" for path, each in app.openapi()["paths"].items() for method in each}

    listed = {name for cells in rows("What it answers") for name in re.findall(r"`([^`]+)`", cells[0])}

    assert listed == operations
