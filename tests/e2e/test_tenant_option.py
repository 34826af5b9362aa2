"""Every command with `--tenant` says in one line that there is no such tenant, which there are, and what makes one."""

import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from app.cli import cli, main
from app.store.engine import Database
from app.store.tenants import TenantStore
from tests.e2e.running import RunningService
from tests.servers import open_folder
from tests.unit.test_command_line import leaves

pytestmark = pytest.mark.slow

TENANT = "acme"
TYPO = "acne"

COMMANDS: dict[str, tuple[str, ...]] = {
    "keys list": (),
    "keys revoke": ("some-key",),
    "users export": ("ada",),
    "users import": (__file__,),
    "users erase": ("ada", "--yes"),
    "memory export": ("ada",),
    "memory add": ("ada", "I like tea", "--type", "preference"),
    "memory search": ("ada", "tea"),
    "memory import": (__file__,),
    "memory list": ("ada",),
    "persona show": ("ada",),
    "persona set": ("ada", "concise=0.9"),
    "persona pin": ("ada", "concise=0.9"),
    "persona unpin": ("ada", "concise"),
    "persona delete": ("ada", "concise"),
    "persona history": ("ada",),
    "jobs list": (),
    "jobs dead": (),
    "space plan": ("--endpoint", "http://127.0.0.1:1"),
    "space create": ("--endpoint", "http://127.0.0.1:1"),
    "space fill": (),
    "space verify": (),
    "space switch": (),
    "space drop": (),
    "space status": (),
    "space trial start": ("--endpoint", "http://127.0.0.1:1"),
    "space trial status": (),
    "space trial report": (),
    "space trial stop": (),
    "policy status": (),
    "policy fit": (),
    "policy promote": (),
    "policy rollback": (),
    "policy evaluate": ("--question-cost", "0.2"),
    "policy report": (),
    "policy replay": ("11111111-1111-1111-1111-111111111111",),
    "train run": (),
    "train list": (),
    "train show": ("some-run",),
    "train judge": ("some-run",),
    "train promote": ("some-run",),
    "train rollback": ("some-run",),
    "train status": (),
}

OTHERWISE = {
    "keys create",  # makes it
    "mcp",  # below: it reads the standard input
    "shards find",  # computes, and asks nobody
    # These work on files, of whoever has some.
    "pairs export",
    "train stats",
    "train datasets",
    "train script",
}


@pytest.fixture(scope="module")
async def folder(database: Database, embedded_dir: Path) -> Path:
    """The data of a service that knows TENANT."""
    async with database.begin(TENANT) as connection:
        await TenantStore().ensure(connection, TENANT)
    return embedded_dir


@pytest.fixture
def _quiet(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATA_DIR", str(folder))
    monkeypatch.setenv("SLM_IMPL", "local")
    monkeypatch.setattr("app.commands.terminal.configure_logs", lambda *_, **__: None)


def test_no_command_is_left_out() -> None:
    options: dict[str, Any] = {
        path: {option for each in command.params for option in each.opts}
        for path, command in leaves(typer.main.get_command(cli))
    }

    assert {path for path, known in options.items() if "--tenant" in known} == {*COMMANDS, *OTHERWISE}


@pytest.mark.parametrize("path", COMMANDS)
@pytest.mark.usefixtures("_quiet")
def test_a_tenant_that_is_not_there_is_named_and_so_are_those_that_are(
    path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if path == "train judge":
        monkeypatch.setenv("SLM_IMPL", "vllm")
    monkeypatch.setattr(sys, "argv", ["embed-service", *path.split(), *COMMANDS[path], "--tenant", TYPO])

    assert main() == 1

    said = capsys.readouterr().err
    assert said.startswith(f"error: there is no tenant {TYPO!r} but ")
    assert f" {TENANT}" in said
    assert said.endswith(f"; a tenant is made with its first key: embed-service keys create --tenant {TYPO}\n")
    assert said.count("\n") == 1


def test_an_assistant_is_told_too_and_the_default_tenant_needs_no_key() -> None:
    with open_folder() as folder:
        alone = RunningService(folder)
        assert alone.run_command("space", "status").returncode == 0
        refused = alone.run_command("mcp", "--user", "ada", "--tenant", TYPO, check=False)

    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: there is no tenant {TYPO!r} but default; ")
    assert refused.stderr.count("\n") == 1
