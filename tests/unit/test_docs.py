"""The documents say what the code does: settings, commands, paths, constants, events, links."""

import importlib
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from prometheus_client import REGISTRY

from app.cli import cli
from app.domain.budget import DEFAULT_WEIGHTS
from app.domain.memory import HALF_LIFE_DAYS
from app.main import create_app
from app.settings import Settings
from serving.settings import PREFIX, ServeSettings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf8")
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text("utf8")
DOMAIN = (ROOT / "docs/domain.md").read_text("utf8")
OPERATIONS = (ROOT / "docs/operations.md").read_text("utf8")
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "clients/python/README.md",
    ROOT / "clients/typescript/README.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if "api" not in path.parts),
]
DECISIONS = sorted((ROOT / "docs/decisions").glob("*.md"))
SOURCES = {path: path.read_text("utf8") for path in sorted((ROOT / "app").rglob("*.py"))}


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of one language."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [body for found, body in fences if found == language]


def rows(text: str) -> list[list[str]]:
    """The cells of every table row, backticks removed."""
    lines = (line for line in text.splitlines() if line.startswith("| ") and not line.startswith("|--"))
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines]


def section(text: str, title: str) -> str:
    """A section of the second level."""
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def shown(value: Any) -> str:
    """A setting's default as one would write it into the environment."""
    if value is None:
        return "unset"
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def test_every_setting_is_in_the_table_with_its_default() -> None:
    table = {row[0]: row[1] for row in rows(section(README, "Configuration"))[1:]}

    own = {name.upper(): shown(field.default) for name, field in Settings.model_fields.items()}
    servers = {PREFIX + name.upper(): shown(field.default) for name, field in ServeSettings.model_fields.items()}
    assert table == own | servers


def test_every_make_target_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf8"), re.MULTILINE))
    named = {target for path in DOCUMENTS for target in re.findall(r"`make ([a-z-]+)", path.read_text("utf8"))}

    assert {"run", "test", "check", "demo", "bench", "install"} <= named <= targets


def commands() -> Iterator[str]:
    """Every command with its group, e.g. `keys create`."""
    root = typer.main.get_command(cli)
    for name, command in root.commands.items():  # pyright: ignore[reportAttributeAccessIssue]
        inner = getattr(command, "commands", None)
        yield from [f"{name} {sub}" for sub in inner] if inner else [name]


def test_every_command_is_in_the_table_and_exists() -> None:
    named = {row[0].removeprefix("embed-service ") for row in rows(section(README, "Commands"))[1:]}

    assert {name for name in named if not name.startswith("make ")} == set(commands())


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_bash_blocks_are_bash(path: Path) -> None:
    for block in blocks(path.read_text("utf8"), "bash"):
        done = subprocess.run(
            [shutil.which("bash") or "bash", "-n"], input=block, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{block}\n{done.stderr}"


def test_every_curl_calls_an_operation_of_the_api() -> None:
    paths = create_app().openapi()["paths"]
    calls = [call for block in blocks(README, "bash") for call in re.findall(r"curl -s (?:[^|)]|\n)*", block)]

    assert len(calls) >= 4
    for call in calls:
        path = re.search(r"\$BASE(/[^\s'\"?]*)", call)
        method = "post" if " -d " in call else "get"
        assert path, call
        assert method in paths[path[1]], call


def test_every_path_named_is_in_the_api() -> None:
    paths = {re.sub(r"\{\w+\}", "{}", path) for path in create_app().openapi()["paths"]} | {"/docs", "/metrics"}
    for text in (README, ARCHITECTURE, DOMAIN, OPERATIONS):
        named = re.findall(
            r"`(?:(?:GET|POST|PUT|PATCH|DELETE) )?(/(?:v1|healthz|readyz|info|metrics|docs)[^`\s]*)`", text
        )
        for path in named:
            plain = re.sub(r"\{\w+\}", "{}", path)
            assert any(known == plain or known.startswith(plain + "/") for known in paths), path


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text("utf8")):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", linked.read_text("utf8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, target


def test_the_picture_of_the_house_shows_what_is_there() -> None:
    """Nothing else, and every package, every part of the service and of the bulk work."""
    picture = blocks(README, "")[0]
    folders: list[str] = []
    shown: set[str] = set()
    for line in picture.splitlines():
        match = re.match(r"^((?:│   |    )*(?:├── |└── )?)(\S+)", line)
        assert match, line
        depth = len(match[1]) // 4
        folders[depth:] = [match[2].rstrip("/")]
        assert ROOT.joinpath(*folders).exists(), line
        shown.add("/".join(folders))

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["tool"]
    packages = {name.removesuffix("*") for name in project["setuptools"]["packages"]["find"]["include"]}
    parts = {
        path.relative_to(ROOT).as_posix()
        for folder in ("app", "bulk")
        for path in ROOT.joinpath(folder).iterdir()
        if not path.name.startswith(("_", "."))
    }
    assert packages | {*project["importlinter"]["root_packages"]} | parts <= shown


def constant(name: str) -> Any:
    """The value of e.g. `ranking.Weights.similarity` or `services.persona.CORRECTION_STRENGTH`."""
    parts = name.split(".")
    depth = 2 if parts[0] == "services" else 1
    module = ".".join(["app", *([] if depth == 2 else ["domain"]), *parts[:depth]])
    found: Any = importlib.import_module(module)
    for part in parts[depth:]:
        found = getattr(found, part)
    return found


def test_constants_have_the_values_written() -> None:
    written = [(row[0].split()[0], row[1]) for row in rows(DOMAIN) if re.match(r"[a-z_]+\.\w", row[0])]

    assert len(written) >= 20
    assert {name: float(value) for name, value in written} == {name: float(constant(name)) for name, _ in written}


def test_half_lives_and_budget_weights_are_those_written() -> None:
    table = {row[0]: row[-1] for row in rows(DOMAIN)}

    assert {str(kind): float(table[kind]) for kind in HALF_LIFE_DAYS} == {
        str(kind): days for kind, days in HALF_LIFE_DAYS.items()
    }
    assert {name: float(table[name]) for name in DEFAULT_WEIGHTS} == dict(DEFAULT_WEIGHTS)


def test_every_event_is_listed() -> None:
    logged = {
        event
        for text in SOURCES.values()
        for event in re.findall(r"\b_?log(?:\.(?:debug|info|warning|error|exception))?\(\s*\"(\w+)\"", text)
    }
    listed = {event for row in rows(section(OPERATIONS, "Logs"))[1:] for event in row[0].split(", ")}

    assert listed == logged


def test_every_metric_is_listed() -> None:
    own = {metric.name for metric in REGISTRY.collect() if metric.name.startswith("embed_service_")}
    listed = {row[0].split()[0].removesuffix("_total") for row in rows(section(OPERATIONS, "Metrics"))[1:]}

    assert listed == own


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.stem)
def test_decisions_have_four_parts_and_fit_a_screen(path: Path) -> None:
    text = path.read_text("utf8")

    assert re.match(rf"# {path.stem[:4]} ", text)
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences", "Alternatives"]
    assert len(text.splitlines()) <= 60


def test_every_page_of_results_is_listed_and_exists() -> None:
    folder = ROOT / "benchmarks/results"
    listed = re.findall(r"\[([\w.]+)\]\(([\w.]+)\)", (folder / "README.md").read_text("utf8"))

    assert all(title == target for title, target in listed)
    assert sorted(target for _, target in listed) == sorted(
        path.name for path in folder.iterdir() if path.name != "README.md"
    )


def test_decisions_are_numbered_without_gaps() -> None:
    assert [int(path.stem[:4]) for path in DECISIONS] == list(range(1, len(DECISIONS) + 1))


def test_every_runtime_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]
    needed = {re.match(r"[\w.-]+", item)[0] for item in project["dependencies"]}  # pyright: ignore[reportOptionalSubscript]
    reasons = {row[0] for row in rows((ROOT / "docs/decisions/0009-dependencies.md").read_text("utf8"))[1:]}

    assert reasons == needed
