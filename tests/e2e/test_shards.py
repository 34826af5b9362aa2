"""One database becomes three, each with its own users: nobody is lost, and a request needs its user's shard alone."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from app.domain.errors import StoreUnavailable
from app.domain.shards import WHOLE, shard_of
from app.main import create_app
from app.services.shards import ShardService
from app.settings import Settings
from app.store.embedded import find_binaries, find_identity, spawn_postgres
from app.store.engine import Database, open_database
from app.store.shards import ShardStore
from app.store.users import UserStore
from app.wiring import open_keys, open_services
from app.wiring_jobs import open_worker
from app.wiring_shards import open_shard_service, open_shards
from tests.e2e.running import RunningService
from tests.jobs import until
from tests.servers import TcpServer, open_folder, start_replica, start_tcp_server

pytestmark = pytest.mark.slow

COUNT = 3
TENANTS = ("acme", "globex")
USERS = tuple(f"user-{number}" for number in range(6))
SETS_OF = "SELECT count(*) FROM hypothesis_sets WHERE tenant_id = '{}'"
NDJSON = {"Content-Type": "application/x-ndjson"}
OF_USERS = """
SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'user_id'
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relnamespace = 'public'::regnamespace AND attnum > 0
"""


@dataclass
class Cluster:
    """Three servers, an application on them, and what each user had when they were one."""

    servers: list[TcpServer]
    folders: list[Path]
    settings: Settings
    client: httpx.AsyncClient
    headers: dict[str, dict[str, str]]
    before: dict[tuple[str, str], bytes]
    memory_ids: dict[tuple[str, str], str]

    @property
    def urls(self) -> list[str]:
        return [server.url("ordinary", "embed") for server in self.servers]

    async def ask(self, tenant: str, method: str, path: str, **arguments: Any) -> httpx.Response:
        headers = self.headers[tenant] | arguments.pop("headers", {})
        return await self.client.request(method, path, headers=headers, **arguments)

    async def say(self, tenant: str, path: str, **body: Any) -> Any:
        """The answer to a POST that has to succeed."""
        answer = await self.ask(tenant, "POST", path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def export(self, tenant: str, user: str) -> bytes:
        answer = await self.ask(tenant, "GET", "/v1/memory/export", params={"user_id": user})
        assert answer.status_code == 200, answer.text
        return answer.content

    async def rows(self, index: int, query: str) -> list[Any]:
        """What the superuser of a shard sees."""
        connection = await asyncpg.connect(self.servers[index].url("postgres", "embed"))
        try:
            return await connection.fetch(query)
        finally:
            await connection.close()

    def statements(self, index: int) -> int:
        """How many statements of the service a shard has logged so far."""
        log = (self.folders[index] / "server.log").read_text(errors="replace")
        return len(re.findall(r"LOG:  (?:statement|execute)", log))


PLACED = 'SELECT DISTINCT tenant_id, user_id FROM "{}" WHERE user_id IS NOT NULL'
"""A key that is bound to nobody is about the whole tenant."""


def settings_for(folder: Path, url: str) -> Settings:
    return Settings(_env_file=None, data_dir=folder, database_url=url, worker_inside=False)


def user_in(index: int, tenant: str, start: str = "fresh") -> str:
    """The name of a user whom nobody knows yet and shard `index` is to have."""
    return next(name for n in range(1000) if shard_of(tenant, name := f"{start}-{n}", COUNT) == index)


@pytest.fixture(scope="module")
def folders() -> Iterator[list[Path]]:
    with open_folder() as a, open_folder() as b, open_folder() as c:
        yield [a, b, c]


@pytest.fixture(scope="module")
async def cluster(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """Users of two tenants on one server, which is then split in three as docs/shards.md says."""
    async with AsyncExitStack() as stack:
        servers = [await start_tcp_server(folders[0])]
        stack.callback(lambda: [server.stop() for server in servers if server.process.poll() is None])
        await servers[0].execute("embed", "ALTER ROLE ordinary SET log_statement = 'all'")
        settings = settings_for(tmp_path_factory.mktemp("shards"), servers[0].url("ordinary", "embed"))
        app = create_app()
        client = await stack.enter_async_context(
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")
        )
        made = Cluster(servers, folders, settings, client, {}, {}, {})
        home = await stack.enter_async_context(open_services(settings))
        app.state.services = home
        for tenant in TENANTS:
            key = await home.keys.create(tenant, "test", ["user", "admin"])
            made.headers[tenant] = {"Authorization": f"Bearer {key.secret}"}
        async with open_shards(settings, home, ()) as shards:
            shards.install(app)
            for tenant in TENANTS:
                for user in USERS:
                    memory = {"type": "PREFERENCE", "content": f"{user} of {tenant} likes green tea"}
                    added = await made.say(tenant, "/v1/memories", user_id=user, memories=[memory])
                    made.memory_ids[tenant, user] = added["ids"][0]
                    await made.say(tenant, "/v1/hypothesize", user_id=user, input_text="build api")
                    made.before[tenant, user] = await made.export(tenant, user)
        for folder in folders[1:]:
            servers.append(await start_replica(folder, servers[0]))
            await servers[-1].execute("postgres", "SELECT pg_promote()")
        shards = await stack.enter_async_context(open_shards(settings, home, made.urls[1:]))
        shards.install(app)
        yield made


@asynccontextmanager
async def stopped(cluster: Cluster, index: int) -> AsyncGenerator[None]:
    """While a shard is down; it is up again afterwards."""
    server, folder = cluster.servers[index], cluster.folders[index]
    server.stop()
    try:
        yield
    finally:
        settings = {"listen_addresses": "127.0.0.1", "port": str(server.port), "unix_socket_directories": ""}
        cluster_dir = folder / "data"
        process = spawn_postgres(
            find_binaries(), find_identity(cluster_dir), cluster_dir, settings, folder / "server.log"
        )
        cluster.servers[index] = TcpServer(server.port, process)
        await until_up(cluster.servers[index])


async def until_up(server: TcpServer) -> None:
    for _ in range(500):
        try:
            return await server.execute("embed", "SELECT 1")
        except (OSError, asyncpg.CannotConnectNowError):
            await asyncio.sleep(0.02)
    raise AssertionError("the server does not answer")


async def test_splitting_and_tidying_lose_nobody_and_leave_every_row_in_its_users_shard(cluster: Cluster) -> None:
    after_split = {each: await cluster.export(*each) for each in cluster.before}
    async with open_shard_service(cluster.settings, cluster.urls[1:]) as service:
        strays = [shard.strays for shard in await service.status()]
        told: list[tuple[int, int]] = []
        deleted = await service.tidy(lambda done, total: told.append((done, total)))
        status = await service.status()

    assert told == [(done, sum(strays)) for done in range(1, sum(strays) + 1)]
    assert after_split == cluster.before
    assert deleted == strays
    assert sum(strays) == (COUNT - 1) * len(TENANTS) * len(USERS)
    assert [shard.strays for shard in status] == [0, 0, 0]
    assert sum(shard.users for shard in status) == len(TENANTS) * len(USERS)
    assert {each: await cluster.export(*each) for each in cluster.before} == cluster.before
    held: set[tuple[int, str]] = set()
    for index in range(COUNT):
        for (table,) in await cluster.rows(index, OF_USERS):
            for tenant, user in await cluster.rows(index, PLACED.format(table)):
                assert shard_of(tenant, user, COUNT) == index, table
                held.add((index, table))
    for table in ("users", "memories", "memory_vectors_1", "hypothesis_sets", "input_vectors_1"):
        assert {(index, table) for index in range(COUNT)} <= held


@pytest.fixture(scope="module")
def process(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> RunningService:
    """Commands and services of other processes, on the same databases; none is started yet."""
    urls = {"DATABASE_URL": cluster.urls[0], "DATABASE_SHARD_URLS": " ".join(cluster.urls[1:])}
    return RunningService(tmp_path_factory.mktemp("process"), {**urls, "WORKER_INSIDE": "false"})


async def shards_of(cluster: Cluster, tenant: str, user: str) -> dict[str, set[int]]:
    """For each table that has rows of a user, the shards that have them."""
    held: dict[str, set[int]] = {}
    for index in range(COUNT):
        for (table,) in await cluster.rows(index, OF_USERS):
            if (tenant, user) in {tuple(row) for row in await cluster.rows(index, PLACED.format(table))}:
                held.setdefault(table, set()).add(index)
    return held


async def test_commands_go_to_the_shard_of_their_user(cluster: Cluster, process: RunningService) -> None:
    """Whatever they do: what is written lies there and nowhere else, and is found again."""
    tenant = TENANTS[0]
    users = [user_in(index, tenant, "typed") for index in range(COUNT)]
    user = users[1]

    def run(*words: str) -> Any:
        return json.loads(process.run_command(*words, "--tenant", tenant, "--json").stdout)

    process.folder.joinpath("theirs.json").write_text(json.dumps([{"id": "1", "memory": "Likes to swim"}]))
    added = [run("memory", "add", each, "My editor is Emacs", "--type", "preference")["ids"][0] for each in users]
    assert run("memory", "search", user, "which editor")["results"][0]["memory"]["id"] == added[1]
    assert run("memory", "import", "theirs.json", "--from", "mem0", "--user", user)["written"] == 1
    assert len(run("memory", "list", user)) == 2
    assert run("persona", "set", user, "concise=0.9")["facets"] == run("persona", "show", user)["facets"]
    assert len(run("persona", "history", user)["changes"]) == 1
    run("users", "export", user, "--out", "user.ndjson")
    held = [await shards_of(cluster, tenant, each) for each in users]
    exported = await cluster.export(tenant, user)
    assert run("users", "erase", user, "--yes")["erased"]["users"] == 1
    erased = await shards_of(cluster, tenant, user)
    assert run("users", "import", "user.ndjson")["imported"]["memories"] == 2

    for index, each in enumerate(held):
        assert {"users", "memories"} <= each.keys()
        assert set(map(frozenset, each.values())) == {frozenset({index})}
    assert erased == {}
    assert process.folder.joinpath("user.ndjson").read_bytes() == exported
    assert await shards_of(cluster, tenant, user) == held[1]
    assert await cluster.export(tenant, user) == exported


async def test_a_command_that_does_not_know_all_shards_or_would_be_about_several_does_nothing(
    cluster: Cluster, process: RunningService
) -> None:
    tenant = TENANTS[0]
    process.folder.joinpath("users.ndjson").write_bytes(b"".join(cluster.before[tenant, user] for user in USERS))
    alone = RunningService(process.folder, {"DATABASE_URL": cluster.urls[1]})
    user = user_in(0, tenant, "nowhere")

    lost = alone.run_command("memory", "add", user, "x", "--type", "goal", "--tenant", tenant, check=False)
    several = process.run_command("users", "import", "users.ndjson", "--tenant", tenant, check=False)

    assert lost.stderr == (
        "error: a database that is shard 1 of 3 is listed as shard 0 of 1: put DATABASE_URL (the first one) and "
        "DATABASE_SHARD_URLS in order, all of them; embed-service doctor says what is wrong\n"
    )
    assert several.stderr == (
        "error: the stream has users of several shards: import the export of one user at a time\n"
    )
    assert (lost.returncode, several.returncode) == (1, 1)
    assert await shards_of(cluster, tenant, user) == {}


@asynccontextmanager
async def working(cluster: Cluster, index: int) -> AsyncGenerator[None]:
    """While a worker runs that knows this one shard, as `embed-service worker` does."""
    settings = cluster.settings.model_copy(update={"database_url": cluster.urls[index]})
    async with open_worker(settings, 1) as worker:
        task = asyncio.create_task(worker.run())
        try:
            yield
        finally:
            worker.stop()
            await task


async def hand_in(cluster: Cluster, tenant: str, user: str) -> str:
    """A conversation; its job."""
    said = [{"role": "user", "content": f"{text}, said {user}."} for text in ("I moved to Lyon", "I like the river")]
    begun = await cluster.ask(tenant, "POST", "/v1/memories/ingest", json={"user_id": user, "messages": said})
    assert begun.status_code == 202, begun.text
    return begun.json()["job_id"]


async def test_a_conversation_is_remembered_by_the_workers_of_its_users_shard(
    cluster: Cluster, process: RunningService
) -> None:
    """By no other shard's, and its job is found by its id alone, through every process."""
    tenant = TENANTS[0]
    users = [user_in(index, tenant, "told") for index in range(COUNT)]
    jobs = [await hand_in(cluster, tenant, user) for user in users]

    async def states() -> list[str]:
        answers = [await cluster.ask(tenant, "GET", f"/v1/jobs/{job}") for job in jobs]
        assert [answer.status_code for answer in answers] == [200] * COUNT
        return [answer.json()["state"] for answer in answers]

    assert await states() == ["waiting"] * COUNT
    for index in range(COUNT):
        async with working(cluster, index):
            await until(lambda index=index: _is_done(states, index))
        assert await states() == ["done"] * (index + 1) + ["waiting"] * (COUNT - 1 - index)
    for index, user in enumerate(users):
        held = await shards_of(cluster, tenant, user)
        assert {"users", "memories", "ingests"} <= held.keys()
        assert set(map(frozenset, held.values())) == {frozenset({index})}

    async with open_keys(cluster.settings) as keys:
        bound = [await keys.create(tenant, "bound", ["user"], user) for user in users]
    process.start()
    try:
        with process.client() as http:
            for index, (user, job) in enumerate(zip(users, jobs, strict=True)):
                found = http.get(f"/v1/jobs/{job}", headers=cluster.headers[tenant])
                assert (found.status_code, found.json()["user_id"], found.json()["taken"]) == (200, user, 2)
                seen = [http.get(f"/v1/jobs/{job}", headers={"Authorization": f"Bearer {key.secret}"}) for key in bound]
                assert [each.status_code for each in seen] == [200 if own == index else 404 for own in range(COUNT)]
                other = http.get(f"/v1/jobs/{job}", headers=cluster.headers[TENANTS[1]])
                assert other.status_code == 404
    finally:
        process.stop()


async def _is_done(states: Callable[[], Awaitable[list[str]]], index: int) -> bool:
    return (await states())[index] == "done"


async def test_a_job_may_be_in_a_shard_that_is_down(cluster: Cluster) -> None:
    tenant = TENANTS[0]
    lost = await hand_in(cluster, tenant, user_in(2, tenant, "waits"))
    kept = await hand_in(cluster, tenant, user_in(1, tenant, "waits"))

    async with stopped(cluster, 2):
        answers = [await cluster.ask(tenant, "GET", f"/v1/jobs/{job}") for job in (lost, kept)]

    assert [answer.status_code for answer in answers] == [503, 200]  # and not 404: it may be there
    assert (await cluster.ask(tenant, "GET", f"/v1/jobs/{lost}")).json()["state"] == "waiting"


async def live(cluster: Cluster, tenant: str, user: str) -> None:
    """Every use case of a user, from the first word to the last."""
    memories = [{"type": "PREFERENCE", "content": text} for text in ("I write Python", "My editor is Emacs")]
    added = await cluster.say(tenant, "/v1/memories", user_id=user, memories=memories)
    found = await cluster.say(tenant, "/v1/memories/search", user_id=user, query="which editor")
    assert found["results"][0]["memory"]["id"] == added["ids"][1]
    made = await cluster.say(tenant, "/v1/hypothesize", user_id=user, input_text="deploy my app")
    executed = await cluster.say(
        tenant,
        "/v1/execute",
        user_id=user,
        input_text="deploy my app",
        hypothesis_set_id=made["hypothesis_set_id"],
        hypothesis_id="h1",
    )
    feedback = {"user_id": user, "execution_id": executed["execution_id"], "rating": -0.5, "comment": "too long"}
    assert (await cluster.say(tenant, "/v1/feedback", **feedback))["accepted"]
    persona = await cluster.ask(tenant, "GET", f"/v1/persona/{user}")
    assert persona.status_code == 200
    exported = await cluster.export(tenant, user)
    assert b"Emacs" in exported
    erased = await cluster.ask(tenant, "DELETE", f"/v1/users/{user}")
    assert erased.json()["erased"]["users"] == 1
    taken = await cluster.ask(tenant, "POST", "/v1/memory/import", content=exported, headers=NDJSON)
    assert taken.json()["imported"]["users"] == 1
    assert await cluster.export(tenant, user) == exported


@pytest.mark.parametrize("index", range(COUNT))
async def test_a_users_requests_are_statements_of_one_shard(cluster: Cluster, index: int) -> None:
    tenant = TENANTS[0]
    user = user_in(index, tenant, "alone")
    await cluster.say(tenant, "/v1/memories", user_id=user, memories=[{"type": "GOAL", "content": "learn to swim"}])
    elsewhere = [other for other in range(1, COUNT) if other != index]
    before = {each: cluster.statements(each) for each in range(COUNT)}

    await live(cluster, tenant, user)

    assert {each: cluster.statements(each) for each in elsewhere} == {each: before[each] for each in elsewhere}
    assert cluster.statements(index) > before[index] + 20


async def test_home_answers_for_keys_and_settings_and_not_for_another_shards_user(cluster: Cluster) -> None:
    tenant = TENANTS[1]
    user = user_in(1, tenant, "away")
    await live(cluster, tenant, user)
    log = cluster.folders[0] / "server.log"
    size = log.stat().st_size

    await live(cluster, tenant, user)

    with log.open(errors="replace") as lines:
        lines.seek(size)
        said = lines.read()
    assert "api_keys" in said
    for table in ("memories", "users", "memory_vectors_1", "hypothesis_sets", "executions", "signals"):
        assert not re.search(rf"\b{table}\b", said), table


async def test_users_of_the_other_shards_are_served_while_one_is_down(cluster: Cluster) -> None:
    tenant = TENANTS[0]
    users = [user_in(index, tenant, "during") for index in range(COUNT)]
    for user in users:
        await live(cluster, tenant, user)
    of_lost = next(user for user in USERS if shard_of(tenant, user, COUNT) == 2)
    of_home = next(user for user in USERS if shard_of(tenant, user, COUNT) == 0)

    async with stopped(cluster, 2):
        for user in users[:2]:
            await live(cluster, tenant, user)
        refused = await cluster.ask(
            tenant, "POST", "/v1/memories/search", json={"user_id": users[2], "query": "which editor"}
        )
        by_id = await cluster.ask(tenant, "GET", f"/v1/memories/{cluster.memory_ids[tenant, of_home]}")
        unsure = await cluster.ask(tenant, "GET", f"/v1/memories/{cluster.memory_ids[tenant, of_lost]}")

    assert refused.status_code == 503
    assert refused.headers["content-type"] == "application/problem+json"
    assert by_id.status_code == 200
    assert unsure.status_code == 503  # and not 404: it may be there
    await live(cluster, tenant, users[2])


async def test_tenants_stay_apart_in_every_shard(cluster: Cluster) -> None:
    mine, theirs = TENANTS
    for user in USERS:
        found = await cluster.say(mine, "/v1/memories/search", user_id=user, query="green tea")
        assert {item["memory"]["content"] for item in found["results"]} == {f"{user} of {mine} likes green tea"}
        for method, body in (("GET", None), ("PATCH", {"content": "x"}), ("DELETE", None)):
            path = f"/v1/memories/{cluster.memory_ids[theirs, user]}"
            assert (await cluster.ask(mine, method, path, json=body)).status_code == 404
    assert {user: await cluster.export(theirs, user) for user in USERS} == {
        user: cluster.before[theirs, user] for user in USERS
    }


@pytest.mark.parametrize("index", range(COUNT))
async def test_a_memory_is_found_changed_and_deleted_by_its_id_alone(cluster: Cluster, index: int) -> None:
    tenant = TENANTS[0]
    user = user_in(index, tenant, "by-id")
    memory = {"type": "GOAL", "content": "learn to swim"}
    added = await cluster.say(tenant, "/v1/memories", user_id=user, memories=[memory])
    path = f"/v1/memories/{added['ids'][0]}"

    changed = await cluster.ask(tenant, "PATCH", path, json={"content": "learn to dive"})
    held = await cluster.ask(tenant, "GET", path)
    history = await cluster.ask(tenant, "GET", f"{path}/history")
    deleted = await cluster.ask(tenant, "DELETE", path)
    gone = await cluster.ask(tenant, "GET", path)

    assert changed.status_code == 200
    assert held.json()["content"] == "learn to dive"
    assert [version["content"] for version in history.json()["versions"]] == ["learn to swim", "learn to dive"]
    assert deleted.json() == {"deleted": 2}
    assert gone.status_code == 404


async def test_telemetry_counts_what_every_shard_has_shown(cluster: Cluster) -> None:
    tenant = TENANTS[0]
    async with open_shard_service(cluster.settings, cluster.urls[1:]) as service:
        await service.tidy()
    held = [(await cluster.rows(index, SETS_OF.format(tenant)))[0][0] for index in range(COUNT)]

    told = (await cluster.ask(tenant, "GET", "/v1/telemetry")).json()

    assert all(held)
    assert told["sets"] == sum(held)


async def test_a_tenant_made_later_is_known_in_every_shard_with_its_settings(cluster: Cluster) -> None:
    async with open_keys(cluster.settings) as keys:
        key = await keys.create("later", "test", ["user", "admin"])
    cluster.headers["later"] = {"Authorization": f"Bearer {key.secret}"}
    put = await cluster.ask("later", "PUT", "/v1/settings", json={"token_budget": 777})
    for index in range(COUNT):
        await live(cluster, "later", user_in(index, "later"))

    held = [
        await cluster.rows(index, "SELECT settings FROM tenants WHERE tenant_id = 'later'") for index in range(COUNT)
    ]

    assert put.status_code == 200
    assert [row[0][0] for row in held] == ['{"token_budget": 777}'] * COUNT


async def test_erasing_a_user_of_a_shard_tells_of_the_training_runs_at_home(cluster: Cluster) -> None:
    tenant, run = TENANTS[0], "sft-20260131t120000-0123456789"
    user = user_in(1, tenant, "trained")
    await live(cluster, tenant, user)
    await cluster.rows(
        0,
        "INSERT INTO training_runs (tenant_id, run_id, method, base_model, folder, status, created_at) "
        f"VALUES ('{tenant}', '{run}', 'sft', 'tiny', '{cluster.settings.data_dir / run}', 'finished', now())",
    )

    erased = await cluster.ask(tenant, "DELETE", f"/v1/users/{user}")

    assert erased.json()["unsure_adapters"] == [run]  # there is no key that tells whose samples it had


async def test_an_import_of_users_of_several_shards_is_refused(cluster: Cluster) -> None:
    tenant = TENANTS[0]
    lines = b"".join(cluster.before[tenant, user] for user in USERS)

    refused = await cluster.ask(tenant, "POST", "/v1/memory/import", content=lines, headers=NDJSON)

    assert refused.status_code == 422
    assert "one user at a time" in refused.json()["detail"]


async def opening(databases: Sequence[Database]) -> str:
    """Why databases cannot be used as shards in this order."""
    with pytest.raises(StoreUnavailable) as error:
        await ShardService(databases, ShardStore(), UserStore()).take_places()
    return str(error.value)


async def test_a_list_that_would_lose_users_is_refused(cluster: Cluster) -> None:
    await cluster.servers[0].execute("postgres", "CREATE DATABASE empty OWNER ordinary")
    await cluster.servers[0].execute("postgres", "CREATE DATABASE other OWNER ordinary")
    for name in ("empty", "other"):
        await cluster.servers[0].execute(name, "CREATE EXTENSION vector")
    urls = [*cluster.urls, *(cluster.servers[0].url("ordinary", name) for name in ("empty", "other"))]
    async with AsyncExitStack() as stack:
        opened = [await open_database(settings_for(cluster.folders[0], url)) for url in urls]
        for database in opened:
            stack.push_async_callback(database.aclose)
        a, b, c, empty, other = opened
        async with empty.begin("acme") as connection:
            await ShardStore().write_tenant(connection, "acme", {})
            for user in USERS:
                await UserStore().ensure(connection, "acme", user, datetime.now(UTC))

        assert "a database that is shard 0 of 3 is listed as shard 0 of 1" in await opening([a])
        assert "is listed as shard 0 of 3: put DATABASE_URL" in await opening([b, a, c])
        assert "begins as a copy" in await opening([a, b, c, empty, empty, empty])
        assert "begins as a copy" in await opening([empty, other])
        assert await ShardStore().place(await stack.enter_async_context(other.begin("acme"))) == WHOLE
