"""docs/embeddings.md says what the server does."""

import re

from serving.main import create_app
from serving.metrics import Metrics
from serving.settings import ServeSettings
from tests.serving.fakes import FakeBackend
from tests.serving.running import ROOT

TEXT = (ROOT / "docs/embeddings.md").read_text("utf8")


def first_cells(title: str) -> list[str]:
    """What stands in backticks in the first column of a section's table."""
    body = TEXT.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]
    rows = [line.split("|")[1] for line in body.splitlines() if line.startswith("| `")]
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row)]


def test_every_metric_is_listed() -> None:
    names = {family.name + ("_total" if family.type == "counter" else "") for family in Metrics().registry.collect()}

    assert set(first_cells("Metrics")) == names


def test_every_operation_is_listed() -> None:
    app = create_app(FakeBackend, ServeSettings(_env_file=None))
    operations = {f"{method.upper()} {path}" for path, each in app.openapi()["paths"].items() for method in each}

    assert set(first_cells("What it answers")) == operations


def test_the_command_shown_has_every_flag() -> None:
    shown = set(re.findall(r" --([a-z-]+)", TEXT.split("```bash")[2].split("```")[0]))

    assert shown | {"queue-tokens"} == {name.replace("_", "-") for name in ServeSettings.model_fields}
