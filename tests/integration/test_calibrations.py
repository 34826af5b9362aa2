"""Calibrations in the database: by the form of their features, around a prior that tenants share."""

from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import text

from app.api.deps import Services
from app.domain.calibration import MODEL_PRIOR, PRIOR, Calibration, prior_of
from app.domain.position import PRIOR_EXAMINATION
from app.domain.shared_prior import LEAST_TENANTS
from app.ports import SystemClock
from app.services.calibrations import POOLED_FOR, REFIT_EVERY, CalibrationService
from app.store.calibrations import CalibrationStore
from app.store.engine import Database
from app.store.tenants import TenantStore
from app.store.users import UserStore
from tests.integration.conftest import choose

DEPLOY = "deploy my app"
STORE = CalibrationStore()


async def new_tenant(database: Database) -> str:
    name = f"t-{uuid4().hex[:12]}"
    async with database.begin(name) as connection:
        await TenantStore().ensure(connection, name)
    return name


async def save(database: Database, tenant: str, source: str, fitted: Calibration) -> None:
    async with database.begin(tenant) as connection:
        await STORE.save(connection, tenant, source, fitted, SystemClock().now())


async def test_what_was_fitted_on_what_a_model_wrote_is_no_calibration_any_more(
    services: Services, database: Database, tenant: str
) -> None:
    """Its version is not used again, neither by the store nor by what an input is read with."""
    async with database.begin(tenant) as connection:
        await connection.execute(
            text(
                "INSERT INTO calibrations (tenant_id, source, version, weights, none_score, outcomes, fitted_at) "
                """VALUES (:tenant, 'vllm', 6, '{"stated": 0.4, "likelihood": 2}', -1, 50, now())"""
            ),
            {"tenant": tenant},
        )
        held = await STORE.held(connection, tenant, "vllm")
    assert held.calibration == MODEL_PRIOR
    assert held.next_version == 7
    async with database.transact(tenant) as statements:
        background = await services.hypotheses.hypotheses.background(statements, tenant, "ada")
    assert background.calibration("vllm") == MODEL_PRIOR
    fitted = Calibration({"label": 0.5, "nearness": 4.0}, 0.1, 7, 20)
    await save(database, tenant, "vllm", fitted)
    async with database.transact(tenant) as statements:
        background = await services.hypotheses.hypotheses.background(statements, tenant, "ada")
    assert background.calibration("vllm") == fitted
    assert await services.hypotheses.calibrations.calibration(tenant, "vllm") == fitted


async def test_choices_of_sets_with_other_features_teach_nothing(database: Database, tenant: str) -> None:
    """They are left out of a fit, which is not made where there is nothing else."""
    shown = '[{"id": "h1", "score": 0, "features": {"stated": 1.2, "likelihood": 0.1}}]'
    async with database.begin(tenant) as connection:
        await UserStore().ensure(connection, tenant, "ada", SystemClock().now(), known_since=None)
        for _ in range(REFIT_EVERY):
            await connection.execute(
                text(
                    "INSERT INTO hypothesis_sets (tenant_id, set_id, user_id, input_text, decision, source,"
                    " is_degraded, clarification_need, hypotheses, calibration_version, created_at, outcome,"
                    " chosen_id, answered_at) VALUES (:tenant, :set, 'ada', 'x', 'ask', 'vllm', false, 0.5,"
                    " CAST(:shown AS jsonb), 0, now(), 'selected', 'h1', now())"
                ),
                {"tenant": tenant, "set": uuid4(), "shown": shown},
            )
        now = SystemClock().now()
        assert await STORE.outcomes(connection, tenant, "vllm", PRIOR_EXAMINATION, now) == []
    service = CalibrationService(database, STORE, SystemClock())
    await service.recalibrate(tenant)
    assert (await service.calibration(tenant, "vllm")).version == 0


async def test_a_set_carries_what_its_confidences_rest_on(services: Services, database: Database, tenant: str) -> None:
    made = await services.hypotheses.hypothesize(tenant, "ada", DEPLOY)
    async with database.begin(tenant) as connection:
        row = await services.hypotheses.hypotheses.get_set(connection, tenant, "ada", made.set_id)
    assert row is not None
    assert row.basis["evidence"] == "score"
    assert row.basis["calibration"] == {
        "form": 1,
        "version": 0,
        "prior": 0,
        "weights": dict(PRIOR.weights),
        "none_score": PRIOR.none_score,
    }


async def test_a_tenant_begins_where_the_others_are_and_its_own_fit_does_not_count_twice(
    database: Database, tenant: str
) -> None:
    """A source of its own, so that no other test's tenants matter."""
    source = f"model-{uuid4().hex[:8]}"
    names = [await new_tenant(database) for _ in range(LEAST_TENANTS + 1)]
    far = Calibration({"label": 0.2, "nearness": 4.0}, 1.0, 1, 100_000)
    for name in names[:LEAST_TENANTS]:
        await save(database, name, source, far)
    service = CalibrationService(database, STORE, SystemClock())
    now = SystemClock().now()

    inside = await service._prior(names[0], source, now)
    outside = await service._prior(names[-1], source, now)

    assert inside == prior_of(source), "without its own fit the others are too few"
    assert outside.prior == 1
    assert 0.2 < outside.weights["label"] < MODEL_PRIOR.weights["label"]
    assert MODEL_PRIOR.none_score < outside.none_score < 1.0
    async with database.transact(names[-1]) as statements:
        rows = await statements.fetch("SELECT tenants, version FROM shared_priors WHERE source = $1::text", source)
    assert [(row["tenants"], row["version"]) for row in rows] == [(LEAST_TENANTS, 1)]
    held = await service.calibration(names[-1], source)
    assert (held.version, held.prior, held.weights) == (0, 1, outside.weights)


async def test_a_shared_prior_is_written_again_when_it_moved(database: Database, tenant: str) -> None:
    source = f"model-{uuid4().hex[:8]}"
    names = [await new_tenant(database) for _ in range(LEAST_TENANTS)]
    for name in names:
        await save(database, name, source, Calibration({"label": 0.2, "nearness": 4.0}, 1.0, 1, 1000))
    service = CalibrationService(database, STORE, SystemClock())
    now = SystemClock().now()
    assert (await service._prior(tenant, source, now)).prior == 1
    assert (await service._prior(tenant, source, now + POOLED_FOR)).prior == 1, "nothing moved"
    for name in names:
        await save(database, name, source, Calibration({"label": 2.0, "nearness": 4.0}, 1.0, 2, 1000))
    assert (await service._prior(tenant, source, now + POOLED_FOR / 2)).prior == 1, "it is not looked at yet"
    moved = await service._prior(tenant, source, now + 2 * POOLED_FOR + timedelta(seconds=1))
    assert moved.prior == 2
    assert moved.weights["label"] > MODEL_PRIOR.weights["label"]


async def test_pooling_sees_calibrations_and_nothing_else_of_tenants(database: Database, tenant: str) -> None:
    await save(database, tenant, "local", Calibration(version=1, outcomes=5))
    async with database.begin_pooling() as connection:
        assert tenant in await STORE.fits(connection, "local")
        for table in ("users", "hypothesis_sets", "memories", "api_keys", "tenants"):
            assert (await connection.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one() == 0, table
    async with database.begin(tenant) as connection:
        await STORE.save(connection, tenant, "other", Calibration(version=1), SystemClock().now())
        rows = await connection.execute(text("SELECT DISTINCT tenant_id FROM calibrations"))
        assert rows.scalars().all() == [tenant]


async def test_no_tenant_writes_the_prior_of_all(database: Database, tenant: str) -> None:
    async with database.begin(tenant) as connection:
        with pytest.raises(Exception, match="row-level security"):
            await STORE.save_shared(connection, "local", PRIOR, 9, SystemClock().now())


async def test_choices_move_the_calibration_of_their_tenant(services: Services, tenant: str) -> None:
    before = await services.hypotheses.calibrations.calibration(tenant, "local")
    for number in range(REFIT_EVERY):
        await choose(services, tenant, f"user-{number}", DEPLOY, "h3")
    await services.context.afterwards.aclose()
    after = await services.hypotheses.calibrations.calibration(tenant, "local")
    assert (before.version, after.version) == (0, 1)
    assert after.outcomes == REFIT_EVERY
