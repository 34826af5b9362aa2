"""docs/ray.md says what there is."""

import re

from serving.ray.settings import DeploymentSettings, RaySettings
from serving.ray_app import NAMES
from tests.serving.running import ROOT

TEXT = (ROOT / "docs/ray.md").read_text("utf8")
SHARED = {"adapter_registry", "local_models_dir"}


def rows(title: str) -> list[list[str]]:
    """The cells of a section's first table."""
    body = TEXT.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]
    return [line.strip("| ").split(" | ") for line in body.splitlines() if line.startswith("| `")]


def test_every_variable_is_listed_with_its_default() -> None:
    own = {f"RAY_{name.upper()}": field.default for name, field in RaySettings.model_fields.items()}
    for name in (*NAMES, *SHARED):
        del own[f"RAY_{name.upper()}"]
    group = {f"RAY_EMBEDDING__{name.upper()}": field.default for name, field in DeploymentSettings.model_fields.items()}

    listed = {cells[0].strip("`"): cells[1].strip("`") for cells in rows("Settings") if cells[0].startswith("`RAY_")}

    assert listed == {name: str(default).lower() for name, default in (own | group).items()}


def test_every_command_is_listed() -> None:
    listed = {re.findall(r"ray_app (\w+)", cells[0])[0] for cells in rows("Start it")}

    assert listed == {"up", "status", "switch", "down"}
