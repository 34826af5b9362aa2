"""The command line itself: JSON everywhere, completion in a shell, errors in one line, texts that cannot harm."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console

from app.cli import cli, main
from app.commands.completion import Shell, places, script
from app.commands.terminal import shown
from app.domain.errors import NotFound, StoreUnavailable
from app.store.embedded import EmbeddedServerError

WITHOUT_JSON = {"run", "worker", "mcp", "demo", "completion"}
"""Servers, a play for people, and a script for a shell."""

COMPLETE = """
COMP_WORDS=(%s); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _embed_service; echo "${COMPREPLY[@]}"
"""


def leaves(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every command with its words."""
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path.strip(), command
    for name, each in (inner or {}).items():
        yield from leaves(each, f"{path} {name}")


ROOT = typer.main.get_command(cli)


@pytest.mark.parametrize(("path", "command"), list(leaves(ROOT)), ids=[path for path, _ in leaves(ROOT)])
def test_every_command_prints_json_on_request(path: str, command: Any) -> None:
    """A program can read every answer."""
    options = {option for parameter in command.params for option in parameter.opts}
    assert ("--json" in options) == (path not in WITHOUT_JSON)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("embed-service me", "memory"),
        ("embed-service persona ''", "show set pin unpin delete history"),
        ("/somewhere/embed-service space trial st", "start status stop"),
        ("embed-service memory search ada --li", "--limit"),
        ("embed-service memory search --limit 3 --ta", "--tag"),
        ("embed-service nothing ''", ""),
    ],
)
def test_bash_completes_commands_and_options(words: str, found: str) -> None:
    """In a real bash, after the script was sourced."""
    bash = shutil.which("bash")
    assert bash
    sourced = script(Shell.BASH, places(ROOT, "embed-service")) + COMPLETE % words
    done = subprocess.run([bash, "-c", sourced], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == (found, "")


COMPLETED = [
    ("embed-service me", {"memory"}),
    ("embed-service persona ", {"show", "set", "pin", "unpin", "delete", "history"}),
    ("/somewhere/embed-service space trial st", {"start", "status", "stop"}),
    ("embed-service memory search ada --li", {"--limit"}),
    ("embed-service memory search --limit 3 --ta", {"--tag"}),
]


def program(name: str) -> str:
    """Where a program is; a machine without it cannot tell."""
    found = shutil.which(name)
    return found if found is not None else pytest.skip(f"{name} is not installed")


def test_fish_completes_commands_and_options(tmp_path: Path) -> None:
    """In a real fish, after the script was sourced."""
    asked = "\n".join(f'complete -C "{words}"; echo ==' for words, _ in COMPLETED)
    file = tmp_path / "completed.fish"
    file.write_text(f"{script(Shell.FISH, places(ROOT, 'embed-service'))}\n{asked}\n")
    command = [program("fish"), "--no-config", str(file)]
    done = subprocess.run(command, env=bare(tmp_path), capture_output=True, text=True, check=True, timeout=60)
    found = [set(part.split()) for part in done.stdout.split("==\n")[:-1]]
    assert (found, done.stderr) == ([expected for _, expected in COMPLETED], "")


def test_zsh_completes_commands_and_options(tmp_path: Path) -> None:
    """In a real zsh at a terminal, after the script was sourced: the tab key writes out the one word that is left."""
    sourced = script(Shell.ZSH, places(ROOT, "embed-service"))
    file = tmp_path / "completed.zsh"
    file.write_text(f'{sourced}\nfunction embed-service {{ print -r -- "<$*>" }}\n')
    single = [(words, found) for words, found in COMPLETED if len(found) == 1]
    single.append(("embed-service space trial sto", {"stop"}))
    typed = [f"source {file}", *(f"{words}\t" for words, _ in single), "exit", ""]
    terminal = [program("script"), "-qec", f"{program('zsh')} -f -i", "/dev/null"]
    lines = "\n".join(typed).encode()
    done = subprocess.run(terminal, env=bare(tmp_path), input=lines, capture_output=True, check=True, timeout=60)
    shown_by_zsh = done.stdout.decode()
    for words, found in single:
        begun = words.removeprefix("embed-service ").rpartition(" ")[0]
        assert f"<{' '.join([*begun.split(), *found])}>" in shown_by_zsh


def bare(home: Path) -> dict[str, str]:
    """An environment in which a shell reads and writes nothing of the person's who runs the tests."""
    return {"HOME": str(home), "XDG_DATA_HOME": str(home), "TERM": "dumb", "PATH": os.environ["PATH"], "LC_ALL": "C"}


@pytest.mark.parametrize("shell", list(Shell))
def test_every_shell_is_told_every_command(shell: Shell) -> None:
    """No command is missing in any of the scripts."""
    written = script(shell, places(ROOT, "embed-service"))
    assert all(f'"embed-service {path}"' in written for path, _ in leaves(ROOT))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nope"], "error: No such command 'nope'; see embed-service --help"),
        (["persona", "show"], "error: Missing argument 'user_id'; see embed-service persona show --help"),
        (["memory", "add", "ada", "x"], "error: Missing option '--type'. Choose from: "),
        (["memory", "list", "ada", "--limit", "x"], "error: Invalid value for '--limit': "),
        (["memory", "import", "/nowhere"], "error: there is no file '/nowhere': name one that exists\n"),
        (["memory", "import", "/nowhere/a"], "error: there is no folder '/nowhere': make it, or name another\n"),
        (["memory", "import", "/tmp"], "error: '/tmp' is a folder: name a file\n"),
        (["users", "import", "/dev/null/a"], "error: '/dev/null/a' cannot be: a part of that path is a file and no "),
        (["persona", "set", "ada", "concise"], "error: 'concise' is not NAME=VALUE with a number from 0 to 1"),
        (["persona", "pin", "ada", "Concise"], "error: pinned.Concise.[key]: String should match pattern"),
        (["persona", "set", "ada", "concise=2"], "error: facets.concise: Input should be less than or equal to 1"),
        (["memory", "add", "", "x", "--type", "goal"], "error: user_id: String should have at least 1 character"),
    ],
)
def test_what_is_wrong_is_one_line_that_says_what_to_do(
    arguments: list[str], line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr, with a status that is not 0, before anything is started."""
    monkeypatch.setattr(sys, "argv", ["embed-service", *arguments])
    assert main() in {1, 2}
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(line)
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/root/a"),
            "'/root/a' is closed to this user: change its permissions, or run as the user that owns it",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "no space is left for what is written: free some, or name a place on another disk",
        ),
        (
            BrokenPipeError(errno.EPIPE, "Broken pipe"),
            "whoever read the output is gone: run the command again to see the rest",
        ),
        (
            OSError(errno.EIO, "Input/output error", "/data/a"),
            "Input/output error ('/data/a'); embed-service doctor says what is wrong",
        ),
        (ConnectionError("closed"), "closed; embed-service doctor says what is wrong"),
        (
            StoreUnavailable("cannot connect to db: [Errno 111] Connect call failed\nin the night"),
            "cannot connect to db: Connect call failed in the night; embed-service doctor says what is wrong",
        ),
        (
            EmbeddedServerError("no space is left for the database in /data: free some"),
            "no space is left for the database in /data: free some",
        ),
        (NotFound("no such tenant: there is acme"), "no such tenant: there is acme"),
    ],
    ids=["closed", "full", "piped", "another", "no file", "store", "store that says what to do", "domain"],
)
def test_a_failure_under_way_is_one_line_that_says_what_to_do(
    error: Exception, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither the system's numbers nor a driver's lines: what it is, which file, and what mends it."""

    def fail(**_: object) -> int:
        raise error

    monkeypatch.setattr("app.cli.cli", fail)
    assert main() == 1
    assert capsys.readouterr() == ("", f"error: {line}\n")


OF_A_TENANT = [
    path for path, command in leaves(ROOT) if "--tenant" in {option for each in command.params for option in each.opts}
]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        *((path, "A B") for path in OF_A_TENANT),
        *(("jobs list", name) for name in ("", "a" * 64, "acme\n", "-x", "naïve")),
    ],
)
def test_a_name_that_no_tenant_can_have_is_not_understood(
    path: str, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By every command that works in a tenant, in one line that says what a name is, before anything is started."""
    monkeypatch.setattr(sys, "argv", ["embed-service", *path.split(), f"--tenant={name}"])
    assert main() == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: Invalid value for '--tenant': {name!r} is no name of a tenant: 1 to 63 lower-case")
    assert said.endswith(f"; see embed-service {path} --help\n")
    assert said.count("\n") == 1


def test_what_users_wrote_is_shown_as_text() -> None:
    """Neither markup nor a terminal's commands: the escape character and line ends are gone."""
    console = Console(width=200, file=None, force_terminal=False)
    with console.capture() as captured:
        console.print(shown("[bold]x[/bold]\x1b[2J\x07\u202e\ny 用户"))
    assert captured.get().strip() == "[bold]x[/bold] [2J   y 用户"
