"""What the packages of a release say of themselves: one version, one licence or none, nothing that is not there."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CLIENTS = ROOT / "clients"
NODE = json.loads((CLIENTS / "typescript/package.json").read_text("utf8"))
NODE_LOCK = json.loads((CLIENTS / "typescript/package-lock.json").read_text("utf8"))


def project(folder: Path) -> dict[str, Any]:
    """What a Python package says of itself."""
    return tomllib.loads((folder / "pyproject.toml").read_text("utf8"))["project"]


SERVICE, PYTHON = project(ROOT), project(CLIENTS / "python")


def test_one_version_for_all() -> None:
    """A client of a version is of the service of that version."""
    locked = NODE_LOCK["packages"][""]
    versions = {each["version"] for each in (SERVICE, PYTHON, NODE, NODE_LOCK, locked)}

    assert len(versions) == 1, versions
    assert {each["name"] for each in (PYTHON, NODE, NODE_LOCK, locked)} == {"embed-service-client"}
    assert (PYTHON["description"], PYTHON["keywords"]) == (NODE["description"], NODE["keywords"])


def test_the_licence_is_the_repository_s_own() -> None:
    """Where it has none, no package names one: that is for whoever publishes to decide, in one place for all."""
    of_repository = [path.name for path in ROOT.iterdir() if path.name.upper().startswith(("LICENSE", "LICENCE"))]
    named = {each.get("license") for each in (SERVICE, PYTHON, NODE, NODE_LOCK["packages"][""])}
    classified = [one for each in (SERVICE, PYTHON) for one in each["classifiers"] if one.startswith("License")]

    assert len(named) == 1, "the packages do not agree"
    assert (named != {None}) == bool(of_repository)
    assert classified == [], "the licence is told by `license` alone"


@pytest.mark.parametrize(
    ("folder", "said"),
    [(ROOT, SERVICE), (CLIENTS / "python", PYTHON)],
    ids=["the service", "the client"],
)
def test_what_a_python_package_names_is_there(folder: Path, said: dict[str, Any]) -> None:
    """Its README, and the versions of Python it is for."""
    assert (folder / said["readme"]).is_file()
    assert {one for one in said["classifiers"] if one.startswith("Programming Language :: Python :: 3.")} == {
        f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)
    }
    assert said["requires-python"].startswith(">=3.11")
