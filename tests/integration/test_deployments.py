"""Which adapter answers whom: promoted, tried by some, by all, rolled back; nobody sees it but by better readings."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import insert, text
from structlog.testing import capture_logs

from app.api.deps import Services
from app.clients.embeddings.onnx import OnnxEmbedder
from app.clients.slm.local import LocalSLM
from app.clients.tokenizer import SentencePieceTokenizer
from app.domain.calibration import label_features
from app.domain.deployments import Arm, Route
from app.domain.errors import AdapterRefused, InvalidInput, ModelUnavailable, NotFound, NotReady
from app.domain.hypotheses import HypothesisContext, Reading
from app.ports import SystemClock
from app.services.choices import ExecuteRequest
from app.services.deployments import DeploymentService
from app.services.feedback import Feedback
from app.settings import Settings
from app.store.engine import Database
from app.store.tables import hypothesis_sets
from app.store.training import DeploymentStore, RunStore
from app.store.users import UserStore
from app.wiring import build_services
from tests.fakes import FakeAdapterServer
from tests.lora_routes import write_adapter

DEPLOY = "deploy my app"
USERS = [f"user-{number}" for number in range(40)]


class AdapterSLM(LocalSLM):
    """The rules, in the place of a vLLM: asked for an adapter that its server does not have, it says so."""

    name = "vllm"  # type: ignore[assignment]
    model = "tiny-chat"  # type: ignore[assignment]

    def __init__(self, server: FakeAdapterServer) -> None:
        super().__init__(SentencePieceTokenizer())
        self.server = server
        self.is_down = False
        self.fault: str | None = None
        """The cause of an adapter's failures; its base model is free of it."""

    async def propose_readings(self, context: HypothesisContext, adapter: str | None = None) -> Sequence[Reading]:
        if self.is_down:
            raise ModelUnavailable("nobody there", "unreachable")
        if adapter is not None and adapter not in self.server.folders:
            raise ModelUnavailable("no such adapter", "unknown_adapter")
        if adapter is not None and self.fault is not None:
            raise ModelUnavailable("it went wrong", self.fault)
        readings = await super().propose_readings(context)
        return [replace(reading, features=label_features(0.6)) for reading in readings]


@pytest.fixture(scope="module")
def shared_server() -> FakeAdapterServer:
    return FakeAdapterServer()


@pytest.fixture(scope="module")
async def served(
    settings: Settings, database: Database, embedder: OnnxEmbedder, shared_server: FakeAdapterServer
) -> AsyncIterator[Services]:
    """Every use case, with a model server that takes adapters."""
    built = build_services(settings, database, embedder, AdapterSLM(shared_server), adapters=shared_server)
    await built.catalogues.warm()
    yield built
    await built.afterwards.aclose()


@pytest.fixture
def server(shared_server: FakeAdapterServer) -> FakeAdapterServer:
    """The server, well and empty."""
    shared_server.folders.clear()
    shared_server.loads.clear()
    shared_server.error = None
    shared_server.is_taking.set()
    shared_server.is_open.set()
    return shared_server


@pytest.fixture
def deployments(served: Services, server: FakeAdapterServer) -> DeploymentService:
    return served.deployments


async def make_run(database: Database, tenant: str, runs: Path, **values: Any) -> str:
    """A run that was accepted, with an adapter in its folder; its name."""
    run_id = f"sft-{uuid4().hex[:10]}"
    write_adapter(runs / run_id / "adapter")
    row = {
        "tenant_id": tenant,
        "run_id": run_id,
        "method": "sft",
        "base_model": "tiny-chat",
        "folder": str(runs / run_id),
        "status": "accepted",
        "created_at": SystemClock().now(),
        **values,
    }
    async with database.begin(tenant) as connection:
        await RunStore().insert(connection, row)
    return run_id


async def plant(database: Database, tenant: str, adapter: str | None, answered: int, selected: int) -> None:
    """Sets of an adapter that users answered, so many with a selection."""
    now = SystemClock().now()
    async with database.begin(tenant) as connection:
        await UserStore().ensure(connection, tenant, "planted", now)
        row = {
            "tenant_id": tenant,
            "user_id": "planted",
            "input_text": DEPLOY,
            "hypotheses": [],
            "decision": "ask",
            "clarification_need": 0.5,
            "source": "vllm",
            "is_degraded": False,
            "calibration_version": 0,
            "created_at": now,
            "answered_at": now,
            "adapter": adapter,
        }
        outcomes = ["selected"] * selected + ["none"] * (answered - selected)
        await connection.execute(
            insert(hypothesis_sets), [row | {"set_id": uuid4(), "outcome": outcome} for outcome in outcomes]
        )


async def answered_by(services: Services, tenant: str, user: str) -> str | None:
    """The adapter that reads an input of a user."""
    made = await services.hypotheses.hypothesize(tenant, user, DEPLOY)
    assert (made.source, made.is_degraded) == ("vllm", False)
    return made.adapter


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(500):
        if holds():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it never came true")


async def test_on_trial_then_for_all_then_back(
    served: Services, deployments: DeploymentService, database: Database, tenant: str, tmp_path: Path
) -> None:
    """A share of the users is answered by the adapter, always the same ones and more when it grows; then all; and
    after the rollback none."""
    run = await make_run(database, tenant, tmp_path)

    await deployments.promote(tenant, run)
    assert (await deployments.status(tenant)).route == Route((), run, 0.1)
    await deployments.promote(tenant, run, 0.3)
    first = {user for user in USERS if await answered_by(served, tenant, user) == run}
    again = {user for user in USERS if await answered_by(served, tenant, user) == run}
    await deployments.promote(tenant, run, 0.6)
    grown = {user for user in USERS if await answered_by(served, tenant, user) == run}

    assert first == again
    assert 4 <= len(first) <= 20
    assert first < grown < set(USERS)
    await deployments.promote(tenant, run, 1)
    assert {await answered_by(served, tenant, user) for user in USERS[:5]} == {run}
    await deployments.rollback(tenant, run, "worse than it looked")
    assert {await answered_by(served, tenant, user) for user in USERS[:5]} == {None}
    history = await deployments.history(tenant, 10)
    assert [(one.number, one.action, one.adapter) for one in history] == [
        (5, "rollback", run),
        *[(number, "promote", run) for number in (4, 3, 2, 1)],
    ]
    assert history[0].reason == "worse than it looked"


async def test_the_set_says_who_made_it(
    served: Services, deployments: DeploymentService, database: Database, tenant: str, tmp_path: Path
) -> None:
    """In the answer, in the row, in the training samples, and in the figures of its arm."""
    run = await make_run(database, tenant, tmp_path)
    await deployments.promote(tenant, run, 1)

    made = await served.hypotheses.hypothesize(tenant, "ada", DEPLOY)
    await served.context.execute(tenant, "ada", ExecuteRequest(DEPLOY, made.set_id, "h1", "with Docker"))

    assert (made.adapter, made.model) == (run, "tiny-chat")
    async with database.begin(tenant) as connection:
        query = text("SELECT adapter, model FROM hypothesis_sets WHERE set_id = :id")
        assert (await connection.execute(query, {"id": made.set_id})).one() == (run, "tiny-chat")
    lines = (served.settings.training_dir / "hypotheses_data.jsonl").read_text().splitlines()
    (sample,) = [line for line in lines if str(made.set_id) in line]
    assert f'"adapter":"{run}"' in sample
    assert (await deployments.status(tenant)).serving == Arm(1, 1)


async def test_a_rollback_goes_back_to_the_one_before(
    deployments: DeploymentService, database: Database, tenant: str, tmp_path: Path
) -> None:
    first, second = [await make_run(database, tenant, tmp_path) for _ in range(2)]
    await deployments.promote(tenant, first, 1)
    await deployments.promote(tenant, second)
    await deployments.promote(tenant, second, 1)

    made = await deployments.rollback(tenant, second, "no")

    assert made.route == Route((first,))
    with pytest.raises(InvalidInput, match="serves nobody"):
        await deployments.rollback(tenant, second, "again")


async def test_a_rollback_needs_no_model_server(
    served: Services,
    deployments: DeploymentService,
    server: FakeAdapterServer,
    database: Database,
    tenant: str,
    tmp_path: Path,
) -> None:
    """Not with vLLM down, and not in a process that has none."""
    run, other = [await make_run(database, tenant, tmp_path) for _ in range(2)]
    await deployments.promote(tenant, run, 1)
    await deployments.promote(tenant, other, 1)
    server.error = ModelUnavailable("nobody there", "unreachable")

    await deployments.rollback(tenant, other, "down")
    elsewhere = build_services(served.settings, database, served.embedder)
    made = await elsewhere.deployments.rollback(tenant, run, "down")

    assert made.route == Route()
    assert (await deployments.status(tenant)).route == Route()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"status": "trained"}, r"is trained, not accepted: `embed-service train judge sft-\w+` first"),
        (
            {"status": "refused", "judgement": {"refusals": ["Brier 0.31 above 0.25"]}},
            r"refused: Brier 0\.31 above 0\.25",
        ),
        ({"method": "reward"}, "reward model"),
        ({"base_model": "another"}, r"on another .* has tiny-chat.*VLLM_MODEL_NAME=\./local-models/NAME"),
    ],
)
async def test_what_may_not_be_promoted(
    deployments: DeploymentService,
    server: FakeAdapterServer,
    database: Database,
    tenant: str,
    tmp_path: Path,
    values: dict[str, Any],
    said: str,
) -> None:
    run = await make_run(database, tenant, tmp_path, **values)

    with pytest.raises(NotReady, match=said):
        await deployments.promote(tenant, run)

    assert server.loads == []
    assert await deployments.history(tenant) == []


async def test_no_promotion_without_vllm(services: Services, database: Database, tenant: str, tmp_path: Path) -> None:
    run = await make_run(database, tenant, tmp_path)

    with pytest.raises(NotReady, match="SLM_IMPL=vllm"):
        await services.deployments.promote(tenant, run)


async def test_what_cannot_be_loaded_is_not_deployed(
    deployments: DeploymentService, server: FakeAdapterServer, database: Database, tenant: str, tmp_path: Path
) -> None:
    run = await make_run(database, tenant, tmp_path, folder=str(tmp_path / "nowhere"))
    with pytest.raises(AdapterRefused):
        await deployments.promote(tenant, run)
    server.error = ModelUnavailable("nobody there", "unreachable")
    with pytest.raises(ModelUnavailable):
        await deployments.promote(tenant, run)

    assert await deployments.history(tenant) == []


async def test_ended_between_loading_and_writing(
    served: Services,
    deployments: DeploymentService,
    server: FakeAdapterServer,
    database: Database,
    tenant: str,
    tmp_path: Path,
) -> None:
    """The old route holds, users are answered by it, and the same promotion can be made again."""
    old, new = [await make_run(database, tenant, tmp_path) for _ in range(2)]
    await deployments.promote(tenant, old, 1)
    server.is_open.clear()
    promotion = asyncio.create_task(deployments.promote(tenant, new, 1))
    await until(lambda: new in server.folders)

    promotion.cancel()
    await asyncio.wait([promotion])

    assert promotion.cancelled()
    assert (await deployments.status(tenant)).route == Route((old,))
    assert await answered_by(served, tenant, "ada") == old
    server.is_open.set()
    assert (await deployments.promote(tenant, new, 1)).route == Route((old, new))


async def test_a_run_that_changes_while_it_is_loaded_is_not_deployed(
    deployments: DeploymentService, server: FakeAdapterServer, database: Database, tenant: str, tmp_path: Path
) -> None:
    run = await make_run(database, tenant, tmp_path)
    server.is_open.clear()
    promotion = asyncio.create_task(deployments.promote(tenant, run))
    await until(lambda: run in server.folders)
    async with database.begin(tenant) as connection:
        await RunStore().change(connection, tenant, run, status="refused")
    server.is_open.set()

    with pytest.raises(NotReady, match="refused"):
        await promotion

    assert await deployments.history(tenant) == []


async def test_two_candidates_at_once_one_is_tried(
    deployments: DeploymentService, server: FakeAdapterServer, database: Database, tenant: str, tmp_path: Path
) -> None:
    """The other promotion is told which, and the history has no gap."""
    runs = [await make_run(database, tenant, tmp_path) for _ in range(4)]
    server.is_open.clear()
    promotions = [asyncio.create_task(deployments.promote(tenant, run)) for run in runs]
    await until(lambda: set(runs) <= set(server.folders))
    server.is_open.set()

    made = await asyncio.gather(*promotions, return_exceptions=True)

    winners = [run for run, one in zip(runs, made, strict=True) if not isinstance(one, BaseException)]
    assert len(winners) == 1
    assert all(isinstance(one, InvalidInput) for one in made if isinstance(one, BaseException))
    assert [one.adapter for one in await deployments.history(tenant)] == winners


async def test_racing_promotions_of_one_run_write_one_row(
    deployments: DeploymentService, server: FakeAdapterServer, database: Database, tenant: str, tmp_path: Path
) -> None:
    run = await make_run(database, tenant, tmp_path)
    server.is_open.clear()
    promotions = [asyncio.create_task(deployments.promote(tenant, run, 1)) for _ in range(4)]
    await until(lambda: len(server.loads) == 4)
    server.is_open.set()

    made = await asyncio.gather(*promotions)

    assert {one.number for one in made} == {1}
    assert len(await deployments.history(tenant)) == 1


async def test_a_loser_of_the_race_writes_on_the_newest_route(
    deployments: DeploymentService,
    database: Database,
    tenant: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another process takes the number after this one has read the route: both changes stand."""
    old, new = [await make_run(database, tenant, tmp_path) for _ in range(2)]
    await deployments.promote(tenant, old, 1)
    real, rivals = DeploymentStore.insert, [None]

    async def insert_second(self: DeploymentStore, connection: Any, tenant_id: str, made: Any) -> bool:
        if rivals:
            rivals.pop()
            async with database.begin(tenant) as other:
                await real(self, other, tenant, replace(made, adapter=old, action="rollback", route=Route()))
        return await real(self, connection, tenant_id, made)

    monkeypatch.setattr(DeploymentStore, "insert", insert_second)
    made = await deployments.promote(tenant, new, 1)

    assert (made.number, made.route) == (3, Route((new,)))


async def test_what_nobody_needs_is_unloaded(
    deployments: DeploymentService, server: FakeAdapterServer, database: Database, tenant: str, tmp_path: Path
) -> None:
    """At the next promotion: what was rolled back. What a rollback would come back to stays, and so does what is not
    the tenant's."""
    first, second, third = [await make_run(database, tenant, tmp_path) for _ in range(3)]
    server.folders["another-tenants"] = tmp_path
    await deployments.promote(tenant, first, 1)
    await deployments.promote(tenant, second)
    await deployments.rollback(tenant, second, "no")

    await deployments.promote(tenant, third, 1)

    assert set(server.folders) == {first, third, "another-tenants"}


async def test_bad_outcomes_roll_the_candidate_back(
    served: Services, deployments: DeploymentService, database: Database, tenant: str, tmp_path: Path
) -> None:
    """The next outcome of anyone ends the trial; the reason has the figures."""
    run = await make_run(database, tenant, tmp_path)
    made = await served.hypotheses.hypothesize(tenant, "ada", DEPLOY)
    await deployments.promote(tenant, run, 0.5)
    await plant(database, tenant, None, 150, 120)
    await plant(database, tenant, run, 100, 30)

    await served.context.execute(tenant, "ada", ExecuteRequest(DEPLOY, made.set_id, "h1", "with Docker"))
    await served.afterwards.aclose()

    last, *_ = await deployments.history(tenant)
    assert (last.action, last.adapter, last.route) == ("rollback", run, Route())
    assert "in 30 of 100 sets (30.0%), against 120 of 150 (80.0%)" in last.reason
    assert await answered_by(served, tenant, "ada") is None


async def test_feedback_is_an_outcome_too(
    served: Services, deployments: DeploymentService, database: Database, tenant: str, tmp_path: Path
) -> None:
    run = await make_run(database, tenant, tmp_path)
    made = await served.hypotheses.hypothesize(tenant, "ada", DEPLOY)
    await deployments.promote(tenant, run, 0.5)
    await plant(database, tenant, None, 150, 120)
    await plant(database, tenant, run, 100, 30)

    rejected = [one.id for one in made.hypotheses]
    await served.feedback.give(tenant, "ada", Feedback(set_id=made.set_id, rejected_ids=rejected))

    assert (await deployments.status(tenant)).route == Route()


@pytest.mark.parametrize("selected", [60, 90, 100])
async def test_as_good_or_better_stays(
    deployments: DeploymentService, database: Database, tenant: str, tmp_path: Path, selected: int
) -> None:
    run = await make_run(database, tenant, tmp_path)
    await deployments.promote(tenant, run, 0.5)
    await plant(database, tenant, None, 150, 90)
    await plant(database, tenant, run, 100, selected)

    assert await deployments.watch(tenant) is None

    now = await deployments.status(tenant)
    assert (now.route.candidate, now.serving, now.canary) == (run, Arm(150, 90), Arm(100, selected))
    assert now.chance_of_drop == 1


async def test_only_the_trials_own_time_counts(
    deployments: DeploymentService, database: Database, tenant: str, tmp_path: Path
) -> None:
    """Outcomes from before it, of an earlier trial of the same adapter, are not held against it."""
    run = await make_run(database, tenant, tmp_path)
    await deployments.promote(tenant, run)
    await plant(database, tenant, None, 150, 120)
    await plant(database, tenant, run, 100, 30)
    await deployments.rollback(tenant, run, "by hand")
    await deployments.promote(tenant, run)
    await deployments.promote(tenant, run, 0.5)

    assert await deployments.watch(tenant) is None

    now = await deployments.status(tenant)
    assert (now.serving, now.canary) == (Arm(), Arm())
    assert now.since == (await deployments.history(tenant))[1].deployed_at


async def test_two_watchers_write_one_rollback(
    deployments: DeploymentService, database: Database, tenant: str, tmp_path: Path
) -> None:
    run = await make_run(database, tenant, tmp_path)
    await deployments.promote(tenant, run, 0.5)
    await plant(database, tenant, None, 150, 120)
    await plant(database, tenant, run, 100, 30)

    made = await asyncio.gather(*(deployments.watch(tenant) for _ in range(4)))

    assert len([one for one in made if one is not None]) == 1
    assert [one.action for one in await deployments.history(tenant)] == ["rollback", "promote"]


async def test_a_restarted_server_gets_its_adapter_back(
    served: Services,
    deployments: DeploymentService,
    server: FakeAdapterServer,
    database: Database,
    tenant: str,
    tmp_path: Path,
) -> None:
    """The base model answers the requests that miss it; one load, however many they are; then it answers again."""
    run = await make_run(database, tenant, tmp_path)
    await deployments.promote(tenant, run, 1)
    server.folders.clear()
    server.loads.clear()
    server.is_taking.clear()

    with capture_logs() as events:
        missed = await asyncio.gather(*(answered_by(served, tenant, user) for user in USERS[:8]))
        server.is_taking.set()
        await served.afterwards.aclose()

    assert set(missed) == {None}
    assert server.loads == [run]
    named = [(one["event"], one["adapter"]) for one in events if str(one["event"]).startswith("adapter_")]
    assert named == [("adapter_missing", run), ("adapter_loaded", run)]
    assert {await answered_by(served, tenant, user) for user in USERS[:8]} == {run}


async def test_loading_at_once_is_one_load(
    deployments: DeploymentService, server: FakeAdapterServer, database: Database, tenant: str, tmp_path: Path
) -> None:
    run = await make_run(database, tenant, tmp_path)
    server.is_open.clear()
    loads = [asyncio.create_task(deployments.ensure_loaded(tenant, run)) for _ in range(4)]
    await until(lambda: run in server.folders)
    server.is_open.set()

    assert await asyncio.gather(*loads) == [True] * 4
    assert server.loads == [run]


async def test_an_adapter_that_cannot_be_loaded_is_left_alone_for_a_while(
    served: Services,
    deployments: DeploymentService,
    server: FakeAdapterServer,
    database: Database,
    tenant: str,
    tmp_path: Path,
) -> None:
    run = await make_run(database, tenant, tmp_path)
    await deployments.promote(tenant, run, 1)
    server.folders.clear()
    server.loads.clear()
    server.error = ModelUnavailable("not yet", "failed")

    for user in USERS[:5]:
        assert await answered_by(served, tenant, user) is None
        await served.afterwards.aclose()

    assert server.loads == [run]


async def test_a_start_loads_what_is_served(
    deployments: DeploymentService,
    server: FakeAdapterServer,
    served: Services,
    database: Database,
    tenant: str,
    tmp_path: Path,
) -> None:
    stable, candidate = [await make_run(database, tenant, tmp_path) for _ in range(2)]
    await deployments.promote(tenant, stable, 1)
    await deployments.promote(tenant, candidate)
    server.folders.clear()

    await deployments.begin_loading_served(tenant)
    await served.afterwards.aclose()

    assert set(server.folders) == {stable, candidate}


@pytest.mark.parametrize(
    ("fault", "source"), [("wrong_shape", "vllm"), ("off_topic", "vllm"), ("timeout", "local"), ("failed", "local")]
)
async def test_the_base_model_answers_for_an_adapter_that_makes_no_sense(
    served: Services,
    deployments: DeploymentService,
    database: Database,
    tenant: str,
    tmp_path: Path,
    fault: str,
    source: str,
) -> None:
    """Where the server is at fault, or the time is over, the base model would fail too."""
    run = await make_run(database, tenant, tmp_path)
    await deployments.promote(tenant, run, 1)
    slm = served.slm
    assert isinstance(slm, AdapterSLM)
    slm.fault = fault
    try:
        with capture_logs() as events:
            made = await served.hypotheses.hypothesize(tenant, "ada", DEPLOY)
    finally:
        slm.fault = None

    assert (made.source, made.adapter) == (source, None)
    blamed = [(one["adapter"], one["cause"]) for one in events if one["event"] == "adapter_failed"]
    assert blamed == ([(run, fault)] if source == "vllm" else [])


async def test_rules_answer_where_the_base_model_is_gone_too(
    served: Services, deployments: DeploymentService, database: Database, tenant: str, tmp_path: Path
) -> None:
    run = await make_run(database, tenant, tmp_path)
    await deployments.promote(tenant, run, 1)
    slm = served.slm
    assert isinstance(slm, AdapterSLM)
    slm.is_down = True
    try:
        made = await served.hypotheses.hypothesize(tenant, "ada", DEPLOY)
    finally:
        slm.is_down = False

    assert (made.source, made.adapter, made.model, made.is_degraded) == ("local", None, None, True)


async def test_a_service_without_adapters_ignores_the_route(
    services: Services, deployments: DeploymentService, database: Database, tenant: str, tmp_path: Path
) -> None:
    run = await make_run(database, tenant, tmp_path)
    await deployments.promote(tenant, run, 1)

    made = await services.hypotheses.hypothesize(tenant, "ada", DEPLOY)

    assert (made.source, made.adapter, made.model) == ("local", None, None)


async def test_tenants_do_not_see_each_other(
    served: Services,
    deployments: DeploymentService,
    database: Database,
    tenant: str,
    other_tenant: str,
    tmp_path: Path,
) -> None:
    """Neither run, nor route, nor history, nor outcomes."""
    run = await make_run(database, tenant, tmp_path)
    await deployments.promote(tenant, run, 1)

    assert (await deployments.status(other_tenant)).route == Route()
    assert await deployments.history(other_tenant) == []
    assert await answered_by(served, other_tenant, "ada") is None
    assert await answered_by(served, tenant, "ada") == run
    with pytest.raises(NotFound):
        await deployments.promote(other_tenant, run)
    with pytest.raises(InvalidInput):
        await deployments.rollback(other_tenant, run, "not mine")
    assert not await deployments.ensure_loaded(other_tenant, run)
    async with database.begin(other_tenant) as connection:
        for table in ("deployments", "training_runs"):
            assert (await connection.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one() == 0
