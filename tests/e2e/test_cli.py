"""The command line on the data of a service, beside it while it runs and alone while it does not."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.running import RunningService
from tests.servers import open_folder

pytestmark = pytest.mark.slow

USER = "ünï/cøde 用户"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with open_folder() as opened:
        yield opened


@pytest.fixture(scope="module", params=["beside", "alone"])
def service(request: pytest.FixtureRequest, folder: Path) -> Iterator[RunningService]:
    """First a running service, then the same data without one."""
    named = RunningService(folder, {"ENABLE_TRAINING_DATA_COLLECTION": "true"})
    if request.param == "alone":
        yield named
        return
    named.start()
    yield named
    named.stop()


@pytest.fixture(scope="module")
def exported(folder: Path, service: RunningService) -> bytes:
    """The export of a user, made over HTTP while there is a service, and kept for when there is none."""
    kept = folder / "user.ndjson"
    if kept.exists():
        return kept.read_bytes()
    with service.client() as http:
        for content in ("I write Python and deploy with Docker on AWS", "My editor is Vim"):
            body = {"user_id": USER, "type": "PREFERENCE", "content": content}
            assert http.post("/v1/memories", json=body).status_code == 200
        said = {"user_id": USER, "input_text": "deploy my app"}
        shown = http.post("/v1/hypothesize", json=said).json()
        chosen = {"hypothesis_set_id": shown["hypothesis_set_id"], "hypothesis_id": "h1"}
        executed = http.post("/v1/execute", json=said | chosen).json()
        body = {"user_id": USER, "execution_id": executed["execution_id"], "comment": "too long"}
        assert http.post("/v1/feedback", json=body).status_code == 200
        kept.write_bytes(http.get("/v1/memory/export", params={"user_id": USER}).content)
    return kept.read_bytes()


def ask(service: RunningService, *arguments: str) -> Any:
    """The one JSON document a command prints."""
    return json.loads(service.run_command(*arguments, "--json").stdout)


def refused(service: RunningService, *arguments: str) -> str:
    """The one line on stderr of a command that fails; nothing goes to stdout and no trace to anyone."""
    done = service.run_command(*arguments, check=False)
    assert done.returncode != 0, done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    return done.stderr


def test_a_user_is_exported_erased_imported_and_shown(service: RunningService, exported: bytes, folder: Path) -> None:
    """What the command exports is what the service exports; erased, nothing is left; imported, all is back
    as it was; the counts of all three agree."""
    assert service.run_command("memory", "export", USER).stdout.encode() == exported
    out = folder / "again.ndjson"
    service.run_command("memory", "export", USER, "--out", str(out))
    assert out.read_bytes() == exported
    shown = ask(service, "persona", "show", USER)
    assert (shown["user_id"], shown["version"]) == (USER, 1)
    assert shown["facets"]["concise"]["value"] > 0.5
    assert "concise" in service.run_command("persona", "show", USER).stdout

    rows = [json.loads(line)["table"] for line in exported.splitlines()]
    erased = ask(service, "users", "erase", USER, "--yes")["erased"]
    assert {table: erased[table] for table in set(rows)} == {table: rows.count(table) for table in set(rows)}
    assert "no such user" in refused(service, "persona", "show", USER)
    assert "no such user" in refused(service, "memory", "export", USER)
    assert "no such user" in refused(service, "users", "erase", USER, "--yes")

    imported = ask(service, "memory", "import", str(out))["imported"]
    assert imported == {table: rows.count(table) for table in imported}
    assert set(ask(service, "memory", "import", str(out))["imported"].values()) == {0}
    assert service.run_command("memory", "export", USER).stdout.encode() == exported


def test_memories_are_added_found_and_listed(service: RunningService) -> None:
    """What one command adds the others show: as JSON with all of it, as a table with its words."""
    user = f"bob {service._process is None}"
    added = ask(service, "memory", "add", user, "I live in [Lyon]", "--type", "profile", "--tag", "home")
    again = ask(service, "memory", "add", user, "I live in [Lyon].", "--type", "profile")
    assert (again["deduplicated"], again["ids"]) == (1, added["ids"])
    moved = ask(service, "memory", "add", user, "I live in Paris", "--type", "PROFILE", "--since", "2026-01-31")
    assert "remembered" in service.run_command("memory", "add", user, "We met", "--type", "history").stdout

    found = ask(service, "memory", "search", user, "where do I live", "--type", "profile")["results"]
    assert found[0]["memory"]["content"] == "I live in [Lyon]"
    then = ask(service, "memory", "search", user, "where do I live", "--as-of", "2026-02-01")["results"]
    assert [result["memory"]["id"] for result in then] == moved["ids"]
    assert "[Lyon]" in service.run_command("memory", "search", user, "where").stdout

    listed = ask(service, "memory", "list", user)
    assert [memory["content"] for memory in listed] == ["We met", "I live in [Lyon]"]
    assert ask(service, "memory", "list", user, "--tag", "home") == listed[1:]
    table = service.run_command("memory", "list", user, "--limit", "1").stdout
    assert "We met" in table
    assert "There are more" in table
    assert "no such user" in refused(service, "memory", "list", "nobody")


def test_a_persona_is_set_and_its_history_shown(service: RunningService) -> None:
    """What is set is shown, and why it moved."""
    ask(service, "memory", "add", "eve", "I like tea", "--type", "preference")
    assert ask(service, "persona", "set", "eve", "concise=0.9", "formal=0.2")["facets"]["concise"]["value"] == 0.9
    changes = ask(service, "persona", "history", "eve")["changes"]
    assert {(each["facet"], each["reason"]) for each in changes} == {
        ("concise", "correction"),
        ("formal", "correction"),
    }
    assert "correction" in service.run_command("persona", "history", "eve").stdout
    pinned = ask(service, "persona", "pin", "eve", "concise", "formal=0.3")["facets"]
    assert [(pinned[name]["value"], pinned[name]["is_pinned"]) for name in ("concise", "formal")] == [
        (0.9, True),
        (0.3, True),
    ]
    assert not ask(service, "persona", "unpin", "eve", "formal")["facets"]["formal"]["is_pinned"]
    assert ask(service, "persona", "delete", "eve", "concise")["facets"]["concise"]["value"] == 0.5
    assert ask(service, "persona", "delete", "eve", "formal")["facets"]["formal"]["told_at"] is None
    assert ask(service, "persona", "history", "eve")["changes"] == []
    assert "no such facet" in refused(service, "persona", "delete", "eve", "patience")


def test_training_samples_go_with_the_user(service: RunningService, exported: bytes) -> None:
    """The erasure beside a running service took the training lines, too."""
    files = list((service.data_dir / "training").glob("*.jsonl"))
    assert not any(USER.encode() in path.read_bytes() for path in files)


def test_erasing_asks_first(service: RunningService, exported: bytes) -> None:
    """Without --yes and without an answer nothing is erased."""
    done = service.run_command("users", "erase", USER, check=False)
    assert done.returncode != 0
    assert service.run_command("memory", "export", USER).stdout.encode() == exported


def test_keys_are_made_listed_and_revoked(service: RunningService) -> None:
    """A key works at once on the running service, is listed without its secret, and is dead once revoked."""
    made = ask(service, "keys", "create", "--tenant", "acme", "--name", "front end", "--scope", "user")
    assert (made["tenant"], made["scopes"]) == ("acme", ["user"])
    listed = {key["key_id"]: key for key in ask(service, "keys", "list", "--tenant", "acme")}
    assert (listed[made["key_id"]]["name"], listed[made["key_id"]]["revoked_at"]) == ("front end", None)
    assert made["key"] not in json.dumps(listed)
    assert made["key_id"] in service.run_command("keys", "list", "--tenant", "acme").stdout
    assert ask(service, "keys", "list") == []
    assert _status(service, made["key"]) in (200, None)
    assert _status(service, None) in (401, None)

    assert ask(service, "keys", "revoke", made["key_id"], "--tenant", "acme") == {"revoked": made["key_id"]}
    assert _status(service, made["key"]) in (401, None)
    listed = {key["key_id"]: key for key in ask(service, "keys", "list", "--tenant", "acme")}
    assert listed[made["key_id"]]["revoked_at"]
    assert made["key_id"] in refused(service, "keys", "revoke", made["key_id"], "--tenant", "acme")
    assert refused(service, "keys", "create", "--scope", "root")
    assert refused(service, "keys", "create", "--tenant", "No Such Name!")


def _status(service: RunningService, key: str | None) -> int | None:
    """How the service answers with a key; None where none runs."""
    if service._process is None:
        return None
    with service.client() as http:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return http.get("/v1/telemetry", headers=headers).status_code


def test_what_is_wrong_is_one_line(folder: Path) -> None:
    """A bad file, a wrong setting and a database that is not there: a line that says so."""
    bad = folder / "bad.ndjson"
    bad.write_text('{"table": "users"}\n')
    assert "line 1" in refused(RunningService(folder), "memory", "import", str(bad))
    wrong = RunningService(folder, {"TOKEN_BUDGET": "lots"})
    assert "TOKEN_BUDGET='lots'" in refused(wrong, "doctor")
    unreachable = RunningService(folder, {"DATABASE_URL": "postgresql://a:secret@127.0.0.1:1/x"})
    said = refused(unreachable, "keys", "list")
    assert "127.0.0.1:1" in said
    assert "secret" not in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["no-such-command"], "No such command"),
        (["persona", "show"], "Missing argument"),
        (["memory", "import", "nowhere.ndjson"], "nowhere.ndjson"),
    ],
)
def test_a_wrong_command_line_is_explained(folder: Path, arguments: list[str], says: str) -> None:
    """A word, an argument or a file that is not there: what is wrong, no trace, and a status that is not 0."""
    assert says in refused(RunningService(folder), *arguments)


def test_a_service_that_cannot_start_says_so(folder: Path) -> None:
    """`run` on a database that is not there ends by itself, with a status and a reason."""
    named = RunningService(folder, {"DATABASE_URL": "postgresql://a:secret@127.0.0.1:1/x"})
    done = named.run_command("run", check=False)
    assert done.returncode not in (0, None)
    assert "127.0.0.1:1" in done.stdout + done.stderr
    assert "secret" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
