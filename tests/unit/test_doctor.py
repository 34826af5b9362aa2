"""The doctor's verdicts, and its questions to servers on real sockets: each names what is wrong and what mends it."""

import asyncio
import contextlib
import errno
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx2
import pytest
from rich.console import Console

from app.doctor import guarded
from app.doctor.check import Check, Unfit, document, summary, table
from app.doctor.database import (
    DatabaseFacts,
    KeyCount,
    Revisions,
    judge_database,
    judge_keys,
    judge_migrations,
    judge_pgvector,
    judge_tenancy,
)
from app.doctor.embedder import judge_vectors
from app.doctor.machine import (
    Room,
    check_port,
    check_training,
    find_venv,
    judge_disk,
    judge_port,
    judge_venv,
    measure_room,
)
from app.doctor.reranker import check_reranker
from app.doctor.slm import Answers, check_builtin, find_models, judge_answers, judge_models, slm_server, try_answers
from app.domain.embeddings import EmbeddingSpace
from app.services.training import TrainingDataCollector
from app.settings import Settings
from tests.http_server import QuietServer

MODEL = "tiny"
Reply = tuple[int, Any]


class ModelServer:
    """A language model server: what `answers` says for a path and a body, with a key where `key` is set."""

    def __init__(self) -> None:
        self.key: str | None = None
        self.prefix = "/v1"
        self.models: list[dict[str, Any]] = [{"id": MODEL, "max_model_len": 2048}]
        self.has_structure = True
        self.has_logprobs = True
        self.refused: tuple[str, ...] = ()
        self.delay_s = 0.0
        self.url = ""

    def get(self, path: str, key: str | None) -> Reply:
        if self.key and key != f"Bearer {self.key}" and path.startswith(self.prefix):
            return 401, {"error": "unauthorised"}
        return (200, {"data": self.models}) if path == f"{self.prefix}/models" else (404, {"detail": "Not Found"})

    def post(self, path: str, key: str | None, body: dict[str, Any]) -> Reply:
        time.sleep(self.delay_s)
        if path != f"{self.prefix}/chat/completions":
            return 404, {"detail": "Not Found"}
        for name in self.refused:
            if name in body:
                return 400, {"error": f"unsupported parameter {name}, see max_completion_tokens"}
        content = '{"colour": "teal"}' if "response_format" in body and self.has_structure else "Soup."
        choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": content}}
        if body.get("logprobs") and self.has_logprobs:
            choice["logprobs"] = {"content": [{"token": "S", "logprob": -0.1}]}
        return 200, {"choices": [choice]}


@contextlib.contextmanager
def served(get: Callable[[str, str | None], Reply], post: Callable[[str, str | None, Any], Reply]) -> Iterator[str]:
    """The address of a running server that answers as the functions say."""

    class Requests(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(get(self.path, self.headers.get("authorization")))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self._reply(post(self.path, self.headers.get("authorization"), body))

        def log_message(self, *_: object) -> None:
            pass

        def _reply(self, reply: Reply) -> None:
            content = reply[1] if isinstance(reply[1], bytes) else json.dumps(reply[1]).encode()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.send_response(reply[0])
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

    server = QuietServer(("127.0.0.1", 0), Requests)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def model_server() -> Iterator[ModelServer]:
    fake = ModelServer()
    with served(fake.get, fake.post) as url:
        fake.url = url
        yield fake


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(timeout=5) as opened:
        yield opened


def settings_of(**values: Any) -> Settings:
    return Settings(_env_file=None, **values)


def vllm(url: str, **values: Any) -> Settings:
    return settings_of(slm_impl="vllm", vllm_base_url=url, **{"vllm_model_name": MODEL, **values})


async def check_models(settings: Settings, client: httpx2.AsyncClient) -> Check:
    """As the doctor does: the listing's verdict, or what is wrong with the server."""

    async def work() -> Check:
        server = slm_server(settings)
        assert server
        return judge_models(server, await find_models(server, client))

    return await guarded("slm", 5, work())


async def check_answers(settings: Settings, client: httpx2.AsyncClient, budget_s: float = 5) -> Check:
    async def work() -> Check:
        server = slm_server(settings)
        assert server
        return judge_answers(await try_answers(server, MODEL, client, budget_s), budget_s)

    return await guarded("slm answers", 30, work())


# The language model's server


async def test_a_server_that_is_fine(model_server: ModelServer, client: httpx2.AsyncClient) -> None:
    """Its models, their lengths and their adapters are named; it answers, keeps to a schema and tells logprobs."""
    model_server.models.append({"id": "my-adapter", "parent": MODEL})
    check = await check_models(vllm(f"{model_server.url}/v1"), client)
    assert (check.state, check.mend) == ("ok", "")
    assert "tiny (2048 tokens)" in check.found
    assert "my-adapter (on tiny)" in check.found

    answers = await check_answers(vllm(f"{model_server.url}/v1/"), client)
    assert answers.state == "ok", answers
    assert "JSON schema honoured; logprobs" in answers.found


async def test_a_server_that_is_not_there(client: httpx2.AsyncClient) -> None:
    """vLLM on this machine is to be started; a server elsewhere is for someone to look at."""
    check = await check_models(vllm(f"http://127.0.0.1:{closed_port()}/v1"), client)
    assert (check.state, check.mend) == ("wrong", "./start_vllm.sh")

    settings = settings_of(slm_impl="openai", slm_base_url=f"http://a:secret@127.0.0.1:{closed_port()}/v1")
    check = await check_models(settings, client)
    assert (check.state, "SLM_BASE_URL" in check.mend) == ("wrong", True)
    assert "secret" not in check.found + check.mend


async def test_a_server_that_wants_a_key(model_server: ModelServer, client: httpx2.AsyncClient) -> None:
    """Without a key and with another one SLM_API_KEY is named, never its value; with the key all is well."""
    model_server.key = "right"
    for key, says in ((None, "wants a key"), ("wrong-one", "refuses SLM_API_KEY")):
        check = await check_models(vllm(f"{model_server.url}/v1", slm_api_key=key), client)
        assert check.state == "wrong"
        assert says in check.found
        assert check.mend.startswith("SLM_API_KEY=")
        assert "wrong-one" not in check.found + check.mend
    assert (await check_models(vllm(f"{model_server.url}/v1", slm_api_key="right"), client)).state == "ok"


@pytest.mark.parametrize("key", [None, "secret"])
async def test_a_base_address_without_v1(
    model_server: ModelServer, client: httpx2.AsyncClient, key: str | None
) -> None:
    """The setting to write is given whole, also where /v1 would first ask for a key."""
    model_server.key = key
    check = await check_models(vllm(model_server.url), client)
    assert check.state == "wrong"
    assert "must include /v1" in check.found
    assert check.mend == f"VLLM_BASE_URL={model_server.url}/v1"


async def test_a_model_that_is_not_served(model_server: ModelServer, client: httpx2.AsyncClient) -> None:
    """Those that are served are named, and the variable of the implementation that is chosen."""
    check = await check_models(vllm(f"{model_server.url}/v1", vllm_model_name="big"), client)
    assert (check.state, check.mend) == ("wrong", "VLLM_MODEL_NAME=tiny")
    assert "VLLM_MODEL_NAME=big is not served" in check.found

    settings = settings_of(slm_impl="openai", slm_base_url=f"{model_server.url}/v1", slm_model="big")
    assert (await check_models(settings, client)).mend == "SLM_MODEL=tiny"


async def test_a_model_that_is_not_named(model_server: ModelServer, client: httpx2.AsyncClient) -> None:
    """The only one is fine; among several the first is asked, which is worth a warning."""
    settings = settings_of(slm_impl="openai", slm_base_url=f"{model_server.url}/v1")
    assert (await check_models(settings, client)).state == "ok"
    model_server.models.append({"id": "other"})
    check = await check_models(settings, client)
    assert (check.state, check.mend) == ("warning", "SLM_MODEL=tiny")


@pytest.mark.parametrize("reply", [(500, {}), (200, b"<html>"), (200, {"data": "none"}), (200, {"data": []})])
async def test_a_server_that_lists_nothing(client: httpx2.AsyncClient, reply: Reply) -> None:
    """Whatever it says instead of models, the check is made and says so."""
    with served(lambda path, key: reply, lambda path, key, body: reply) as url:
        check = await check_models(vllm(f"{url}/v1"), client)
    assert check.state == "wrong"
    assert check.mend


async def test_a_server_that_ignores_schemas(model_server: ModelServer, client: httpx2.AsyncClient) -> None:
    """A warning; missing logprobs are only told."""
    model_server.has_structure = model_server.has_logprobs = False
    check = await check_answers(vllm(f"{model_server.url}/v1"), client)
    assert check.state == "warning"
    assert "JSON schema ignored; no logprobs" in check.found
    model_server.has_structure = True
    assert (await check_answers(vllm(f"{model_server.url}/v1"), client)).state == "ok"


async def test_a_server_that_refuses_options(model_server: ModelServer, client: httpx2.AsyncClient) -> None:
    """What a server refuses is what it does not have; the newer name of a field is tried."""
    model_server.refused = ("max_tokens", "response_format", "logprobs")
    check = await check_answers(vllm(f"{model_server.url}/v1"), client)
    assert check.state == "warning"
    assert "JSON schema ignored; no logprobs" in check.found


async def test_a_server_that_is_late(model_server: ModelServer, client: httpx2.AsyncClient) -> None:
    """No token within the request's budget: the service would never use the model."""
    model_server.delay_s = 0.5
    check = await check_answers(vllm(f"{model_server.url}/v1"), client, budget_s=0.1)
    assert check.state == "wrong"
    assert "REQUEST_BUDGET_S" in check.mend


async def test_a_server_that_cannot_chat(model_server: ModelServer, client: httpx2.AsyncClient) -> None:
    """A model without a chat template lists well and completes nothing."""
    with served(model_server.get, lambda path, key, body: (400, {"error": "no chat template"})) as url:
        check = await check_answers(vllm(f"{url}/v1"), client)
    assert check.state == "wrong"
    assert "no chat template" in check.found


def test_answers_that_are_slow() -> None:
    """Half the budget for one token, or probes that came too late: warnings."""
    assert judge_answers(Answers(600, True, True), 1.0).state == "warning"
    assert judge_answers(Answers(400, True, True), 1.0).state == "ok"
    assert judge_answers(Answers(10, None, True), 1.0).state == "warning"
    assert judge_answers(Answers(10, True, None), 1.0).state == "warning"


def test_the_built_in_model(tmp_path: Path) -> None:
    """A file that is not there is named with what to do; a file that is there is named with its size."""
    pytest.importorskip("xllamacpp")
    check = check_builtin(settings_of(slm_impl="builtin", builtin_model=tmp_path / "no.gguf"))
    assert (check.state, "make install-builtin" in check.mend) == ("wrong", True)
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + bytes(2_000_000))
    check = check_builtin(settings_of(slm_impl="builtin", builtin_model=tmp_path / "a.gguf"))
    assert (check.state, "2 MB" in check.found) == ("ok", True)


# The reranker


def cohere(*scores: float) -> Callable[[str, str | None, Any], Reply]:
    def post(path: str, key: str | None, body: dict[str, Any]) -> Reply:
        assert len(body["documents"]) == len(scores)
        results = [{"index": index, "relevance_score": score} for index, score in enumerate(scores)]
        return (200, {"results": results[::-1]}) if path in ("/rerank", "/v1/rerank") else (404, {})

    return post


async def rerank_check(client: httpx2.AsyncClient, **values: Any) -> Check:
    return await guarded("reranker", 10, check_reranker(settings_of(**values), client))


@pytest.mark.parametrize("path", ["", "/", "/v1", "/rerank"])
async def test_a_reranker_that_is_fine(client: httpx2.AsyncClient, path: str) -> None:
    """With the server's address or the whole one; results may come in any order."""
    with served(lambda path, key: (404, {}), cohere(0.1, 0.9)) as url:
        check = await rerank_check(client, vllm_rerank_url=url + path)
    assert check.state == "ok", check
    assert "0.90" in check.found


async def test_rerankers_that_are_not(client: httpx2.AsyncClient) -> None:
    """Scores the wrong way round are a warning; no scores and no server are wrong."""
    with served(lambda path, key: (404, {}), cohere(0.9, 0.1)) as url:
        assert (await rerank_check(client, vllm_rerank_url=url)).state == "warning"
        assert (await rerank_check(client, vllm_rerank_url=f"{url}/nowhere")).state == "wrong"
    with served(lambda path, key: (404, {}), lambda path, key, body: (200, {"results": [{"index": 5}, 3]})) as url:
        assert (await rerank_check(client, vllm_rerank_url=url)).state == "wrong"
    check = await rerank_check(client, vllm_rerank_url=f"http://127.0.0.1:{closed_port()}")
    assert (check.state, "VLLM_RERANK_URL" in check.mend) == ("wrong", True)


async def test_a_reranker_in_a_folder(client: httpx2.AsyncClient, tmp_path: Path) -> None:
    """Weights and tokenizer have to be there; what is missing is named."""
    check = await rerank_check(client, rerank_model=tmp_path / "none")
    assert (check.state, "is no folder" in check.found) == ("wrong", True)
    (tmp_path / "model.safetensors").touch()
    check = await rerank_check(client, rerank_model=tmp_path)
    assert (check.state, "lacks config.json and tokenizer.json" in check.found) == ("wrong", True)
    (tmp_path / "tokenizer.json").touch()
    (tmp_path / "config.json").touch()
    assert (await rerank_check(client, rerank_model=tmp_path)).state == "ok"


async def test_the_rerankers_without_settings(client: httpx2.AsyncClient) -> None:
    """The chat model where there is one, else the local one."""
    assert "chat model" in (await rerank_check(client, slm_impl="vllm")).found
    assert "local" in (await rerank_check(client)).found


# The database

FACTS = DatabaseFacts(
    address="postgresql://a@db/x,",
    version="16.4",
    round_trip_ms=0.4,
    database="x",
    login="ordinary",
    is_superuser=False,
    can_bypass=False,
    may_create_role=False,
    may_create_tables=True,
    may_create_extension=False,
    pgvector="0.8.1",
    pgvector_offered="0.8.1",
    service_can_bypass=None,
    is_member=None,
    has_revision=True,
    revisions=("0002",),
    unconfined=(),
    keys=KeyCount(0, 0),
    spaces={},
)
ADMIN = replace(
    FACTS, is_superuser=True, can_bypass=True, may_create_role=True, may_create_extension=True, login="root"
)
KNOWN = Revisions(("0002",), frozenset({"0002", "0001"}))
BESIDE = Revisions(("0002", "0002_switch"), frozenset({"0002", "0002_switch", "0001"}))
"""Somebody's change of embedding space, made on the release before."""


def migrations(facts: DatabaseFacts) -> Check:
    return judge_migrations(facts, KNOWN)


def migrations_beside(facts: DatabaseFacts) -> Check:
    return judge_migrations(facts, BESIDE)


@pytest.mark.parametrize(
    ("judge", "facts", "state", "mend"),
    [
        (judge_database, FACTS, "ok", ""),
        (judge_database, replace(FACTS, version="14.9"), "wrong", "PostgreSQL 15"),
        (judge_database, replace(FACTS, version="19beta1"), "ok", ""),
        (judge_database, replace(FACTS, round_trip_ms=35.0), "warning", "near"),
        (migrations, FACTS, "ok", ""),
        (migrations, replace(FACTS, revisions=("0001",)), "warning", "alembic upgrade heads"),
        (migrations, replace(FACTS, revisions=("0009",)), "wrong", "newer release"),
        (migrations_beside, replace(FACTS, revisions=("0002", "0002_switch")), "ok", ""),
        (migrations_beside, replace(FACTS, revisions=("0002_switch",)), "warning", "alembic upgrade heads"),
        (migrations, replace(FACTS, revisions=(), has_revision=False), "ok", ""),
        (migrations, replace(FACTS, revisions=(), has_revision=False, may_create_tables=False), "wrong", "GRANT"),
        (judge_tenancy, FACTS, "ok", ""),
        (judge_tenancy, replace(FACTS, unconfined=("memories",)), "wrong", "ALTER TABLE memories ENABLE ROW LEVEL"),
        (judge_tenancy, ADMIN, "ok", ""),
        (judge_tenancy, replace(ADMIN, service_can_bypass=True), "wrong", "NOBYPASSRLS"),
        (judge_tenancy, replace(FACTS, can_bypass=True), "wrong", "CREATE ROLE embed_service"),
        (judge_tenancy, replace(FACTS, can_bypass=True, service_can_bypass=False, is_member=True), "ok", ""),
        (judge_pgvector, FACTS, "ok", ""),
        (judge_pgvector, replace(FACTS, pgvector="0.10.0"), "ok", ""),
        (judge_pgvector, replace(FACTS, pgvector="0.7.4"), "wrong", "ALTER EXTENSION vector UPDATE"),
        (judge_pgvector, replace(FACTS, pgvector=None), "wrong", 'psql x -c "CREATE EXTENSION vector"'),
        (judge_pgvector, replace(FACTS, pgvector=None, pgvector_offered=None), "wrong", "install pgvector"),
        (judge_pgvector, replace(ADMIN, pgvector=None), "ok", ""),
        (judge_pgvector, replace(ADMIN, pgvector=None, pgvector_offered="0.6.0"), "wrong", "install pgvector 0.8"),
    ],
)
def test_verdicts_on_a_database(
    judge: Callable[[DatabaseFacts], Check], facts: DatabaseFacts, state: str, mend: str
) -> None:
    """What is fine needs no mending; what is not names the command."""
    check = judge(facts)
    assert check.state == state, check
    assert mend in check.mend
    assert bool(check.mend) == bool(mend)


def test_verdicts_on_keys() -> None:
    """No key: this machine only. Beyond it, or when all are revoked: make one."""
    assert judge_keys(KeyCount(0, 0), "127.0.0.1").state == "ok"
    assert judge_keys(None, "localhost").state == "ok"
    assert judge_keys(KeyCount(0, 0), "0.0.0.0").mend == "embed-service keys create"
    assert judge_keys(KeyCount(2, 0), "127.0.0.1").state == "warning"
    assert judge_keys(KeyCount(3, 1), "0.0.0.0") == Check("keys", "ok", "1 key in use, 2 revoked")


def test_verdicts_on_stored_vectors() -> None:
    """Memories in another space need another model: a warning that counts them."""
    space = EmbeddingSpace("m", "r", 3)
    assert judge_vectors({}, space).state == "ok"
    assert judge_vectors({space.id: 1000}, space).found == "1,000 memories in the embedder's space"
    for spaces in ({"other": 5}, {space.id: 1, "other": 5}):
        check = judge_vectors(spaces, space)
        assert (check.state, "5 in other" in check.found) == ("warning", True)
    assert judge_vectors(None, space).state == "off"


# This machine


def test_verdicts_on_disks(tmp_path: Path) -> None:
    """The worst room counts, and its variable is named."""
    plenty = Room("DATA_DIR", tmp_path, 10**12)
    assert judge_disk([plenty, plenty]).state == "ok"
    for free, state in ((10**9, "warning"), (10**8, "wrong"), (None, "wrong")):
        check = judge_disk([plenty, Room("LOG_DIR", tmp_path / "logs", free)])
        assert (check.state, "LOG_DIR" in check.mend) == (state, True)


def test_room_is_measured_where_nothing_is_yet(tmp_path: Path) -> None:
    """A folder to be made has its parent's room; below a file there is none."""
    assert measure_room(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").touch()
    assert measure_room(tmp_path / "file" / "b") is None
    assert measure_room(tmp_path / "file") is None


def test_the_training_directory(tmp_path: Path) -> None:
    """Samples are counted; damaged lines are a warning; off is off."""
    settings = settings_of(training_data_dir=tmp_path / "t", enable_training_data_collection=True)
    assert check_training(settings).state == "ok"
    TrainingDataCollector(tmp_path / "t", is_enabled=True, max_bytes=10**6).log_preference_comparison(
        "u", "a", "b", "tie"
    )
    assert "preferences 1" in check_training(settings).found
    with (tmp_path / "t" / "preferences.jsonl").open("a") as file:
        file.write("{broken\n")
    check = check_training(settings)
    assert (check.state, "1 in preferences.jsonl" in check.found) == ("warning", True)
    assert check_training(settings_of(training_data_dir=tmp_path / "no")).state == "off"
    (tmp_path / "file").touch()
    blocked = settings_of(training_data_dir=tmp_path / "file" / "t", enable_training_data_collection=True)
    assert check_training(blocked).state == "wrong"


def test_the_environment_of_vllm(tmp_path: Path) -> None:
    """Missing or unfinished: a warning, unless a server listens anyway."""
    folder = tmp_path / "venv"
    assert find_venv(folder) == (False, False)
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/python").touch()
    assert find_venv(folder) == (True, True)
    (folder / ".setup-vllm-begun").touch()
    assert find_venv(folder) == (True, False)
    assert judge_venv(True, True, False, "H200, 141 GB").state == "ok"
    assert judge_venv(False, False, False, None).mend == "./setup_vllm.sh"
    assert judge_venv(True, False, False, None).mend == "./setup_vllm.sh"
    assert judge_venv(False, False, True, None).state == "ok"


async def test_the_port(client: httpx2.AsyncClient) -> None:
    """Free, held by an Embed Service, or held by something else, which may even answer."""
    assert (await check_port(settings_of(port=closed_port()), client)).state == "ok"

    pages = {"/healthz": {"status": "ok"}, "/info": {"name": "embed-service", "version": "9.9"}}
    with served(lambda path, key: (200, pages[path]), cohere()) as url:
        check = await check_port(settings_of(port=int(url.rpartition(":")[2])), client)
        assert (check.state, "Embed Service 9.9 answers" in check.found) == ("ok", True)
    with served(lambda path, key: (200, {"status": "ok"}), cohere()) as url:
        check = await check_port(settings_of(port=int(url.rpartition(":")[2])), client)
        assert (check.state, check.mend.startswith("PORT=")) == ("wrong", True)


def test_verdicts_on_ports() -> None:
    """A port of the administrator's and an address of another machine."""
    assert "1024" in judge_port("127.0.0.1", 80, OSError(errno.EACCES, "denied")).mend
    assert "HOST" in judge_port("10.9.9.9", 8080, OSError(errno.EADDRNOTAVAIL, "not here")).mend


# The whole


async def test_a_check_that_fails_unforeseen_is_a_check() -> None:
    """Errors of any kind and endless waiting end as a line of the table."""

    async def broken() -> Check:
        raise KeyError("x")

    async def endless() -> Check:
        await asyncio.sleep(60)
        raise AssertionError

    async def unfit() -> Check:
        raise Unfit("found", "mend")

    assert await guarded("a", 1, broken()) == Check("a", "wrong", "KeyError: 'x'")
    assert await guarded("a", 0.05, endless()) == Check("a", "wrong", "no answer within 0.05 s")
    assert await guarded("a", 1, unfit()) == Check("a", "wrong", "found", "mend")


def test_a_report_is_read_without_colour_and_by_programs() -> None:
    """Each state has a symbol and a word; brackets in what was found are kept; one document for programs."""
    checks = [
        Check("a", "ok", "[red]fine[/red]"),
        Check("b", "warning", "hm", "do"),
        Check("c", "wrong", "no", "mend"),
        Check("d", "off", ""),
    ]
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        console.print(table(checks))
    said = captured.get()
    for words in ("✓ ok", "! warning", "✗ wrong", "– off", "[red]fine[/red]", "1 wrong, 1 warning"):
        assert words in said
    with console.capture() as captured:
        console.print(table([*checks, Check("e", "ok", "data/ünï")], encoding="ascii"))
    assert "x wrong" in captured.get()
    assert "data/?n?" in captured.get()
    assert document(checks)["ok"] is False
    assert document(checks)["checks"][2] == {"part": "c", "state": "wrong", "found": "no", "mend": "mend"}
    assert document(checks[:2])["ok"] is True
    assert summary(checks[:1]) == "nothing is wrong, no warnings"
