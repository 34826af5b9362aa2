"""docs/slm-server.md says what the server does."""

import re

from serving.slm.main import create_slm_app
from serving.slm.settings import ChatSettings, EmbeddingSettings, SlmSettings, load_slm_settings
from tests.serving.running import ROOT

TEXT = (ROOT / "docs/slm-server.md").read_text("utf8")


def rows(title: str) -> list[list[str]]:
    """The cells of a section's table."""
    body = TEXT.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]
    return [line.strip("| ").split(" | ") for line in body.splitlines() if line.startswith("| `")]


def test_every_variable_is_listed_with_its_default() -> None:
    groups = {"EMBEDDING__": EmbeddingSettings, "CHAT__": ChatSettings, "": SlmSettings}
    defaults = {
        f"{prefix}{name.upper()}": str(field.default)
        for prefix, settings in groups.items()
        for name, field in settings.model_fields.items()
        if name not in {"embedding", "chat"}
    }

    listed = {cells[0].strip("`"): cells[1].strip("`") for cells in rows("Settings")}

    assert listed.keys() == defaults.keys()
    for name, default in defaults.items():
        if name != "CHAT__MODEL_PATH":
            assert listed[name].lower() == default.lower(), name


def test_every_operation_is_listed() -> None:
    paths = create_slm_app(load_slm_settings()).openapi()["paths"]
    operations = {f"{method.upper()} {path}" for path, each in paths.items() for method in each}

    listed = {name for cells in rows("What it answers") for name in re.findall(r"`([^`]+)`", cells[0])}

    assert listed == operations
