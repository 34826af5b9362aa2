"""Deployments: which trained adapter answers a tenant's users, on trial, for all, or no more."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.deployments import Arm, Route, chance_of_drop
from app.domain.errors import DomainError, NotFound, NotReady
from app.domain.promotion import Canary
from app.ports import AdapterServer, Clock
from app.services.adapters import AdapterLoader
from app.services.afterwards import Afterwards
from app.services.training.registry import AdapterRegistry, publish_route
from app.services.training.run_files import RunFolder
from app.store.engine import Database
from app.store.tables import AnyRow
from app.store.training import Deployment, DeploymentStore, RunStore

log = structlog.get_logger(__name__)

CANARY_SHARE, CANARY_ALPHA = Canary().share, Canary().alpha
"""The policy's own, for whoever has none."""

SOURCE = "vllm"
"""The source of the sets that adapters make."""

WRITE_TRIES = 5


@dataclass(frozen=True)
class DeploymentStatus:
    """Who answers whom, and how it goes: `serving` and `canary` are what users did with the sets of either since
    `since`, the moment the trial began; without a trial the moment of the last change, None before the first."""

    route: Route
    since: datetime | None
    serving: Arm
    canary: Arm
    chance_of_drop: float


class DeploymentService:
    """The use cases about deployments. A change is one row in the database, read with every request: it holds for
    every process from its next request on.

    Only hypotheses are routed. The other judgements (facets, summaries, enrichment, follow-ups, relevances) are the
    base model's: adapters are trained and judged on hypotheses alone.
    """

    def __init__(
        self,
        database: Database,
        server: AdapterServer | None,
        runs: RunStore,
        deployments: DeploymentStore,
        clock: Clock,
        afterwards: Afterwards,
        *,
        canary_share: float = CANARY_SHARE,
        canary_alpha: float = CANARY_ALPHA,
        registry: AdapterRegistry | None = None,
    ) -> None:
        """`server` None: the service has no model that takes adapters. It can roll back and show; no more. `registry`
        is the file that every change of a route goes to as well."""
        self._database = database
        self._server = server
        self._runs = runs
        self._deployments = deployments
        self._clock = clock
        self._afterwards = afterwards
        self._loader = AdapterLoader(server, database, runs, afterwards)
        self._canary_share = canary_share
        self._canary_alpha = canary_alpha
        self._registry = registry

    @property
    def has_adapters(self) -> bool:
        """Whether requests can be answered by adapters at all."""
        return self._server is not None

    async def promote(self, tenant_id: str, run_id: str, share: float | None = None) -> Deployment:
        """Have a run's adapter answer a share of the users, all of them at 1; by default the canary's share.

        The adapter is loaded first, the row that says so is written last: whatever ends this half-way, the route of
        before holds. Raises NotFound, NotReady (not accepted, of another base model, no vLLM), InvalidInput (serves
        already, another one is being tried), AdapterRefused and ModelUnavailable."""
        wanted = self._canary_share if share is None else share
        server = self._server
        if server is None:
            raise NotReady("Adapters are served by vLLM: start the service with SLM_IMPL=vllm.")
        async with self._database.begin(tenant_id) as connection:
            run = await self._promotable(connection, tenant_id, run_id, server.base_model)
            held = await self._deployments.latest(connection, tenant_id)
        _route_of(held).promoted(run_id, wanted)  # nothing is loaded for what cannot be
        await server.load(run_id, RunFolder(Path(run.folder)).adapter)

        async def change(connection: AsyncConnection, route: Route) -> Route:
            await self._promotable(connection, tenant_id, run_id, server.base_model, lock=True)
            is_done = wanted == 1 and route.stable == run_id
            return route if is_done else route.promoted(run_id, wanted)

        made, is_new = await self._write(tenant_id, "promote", run_id, f"for {100 * wanted:g} % of the users", change)
        if is_new:
            log.info("adapter_promoted", adapter=run_id, share=wanted, stable=made.route.stable, number=made.number)
        await self._unload_unneeded(server, tenant_id, made.route)
        return made

    async def rollback(self, tenant_id: str, run_id: str, reason: str) -> Deployment:
        """Take an adapter out of the route, which is then what it was before; needs no model server. Raises
        InvalidInput where it serves nobody."""

        async def change(_: AsyncConnection, route: Route) -> Route:
            return route.rolled_back(run_id)

        made, _ = await self._write(tenant_id, "rollback", run_id, reason, change)
        log.warning("adapter_rolled_back", adapter=run_id, reason=reason, stable=made.route.stable, number=made.number)
        return made

    async def watch(self, tenant_id: str) -> Deployment | None:
        """Roll the candidate back when users choose its readings less often than those of the adapter it is to
        replace; the rollback, if there was one. To be called after every outcome; it costs one indexed query where
        nothing is being tried, and nothing where no adapter can be served."""
        if self._server is None:
            return None
        async with self._database.begin(tenant_id) as connection:
            held = await self._deployments.latest(connection, tenant_id)
            if held is None or held.route.candidate is None:
                return None
            now = await self._compared(connection, tenant_id, held)
        if now.chance_of_drop >= self._canary_alpha:
            return None
        candidate = held.route.candidate
        reason = _figures(now)

        async def change(_: AsyncConnection, route: Route) -> Route:
            return route.rolled_back(candidate) if route.candidate == candidate else route

        made, is_new = await self._write(tenant_id, "rollback", candidate, reason, change)
        if not is_new:
            return None
        log.warning(
            "adapter_rolled_back",
            adapter=candidate,
            reason=reason,
            stable=made.route.stable,
            number=made.number,
            canary_selected=now.canary.selected,
            canary_answered=now.canary.answered,
            serving_selected=now.serving.selected,
            serving_answered=now.serving.answered,
            chance_of_drop=now.chance_of_drop,
        )
        return made

    async def status(self, tenant_id: str) -> DeploymentStatus:
        """The route of the moment and both arms' figures."""
        async with self._database.begin(tenant_id) as connection:
            held = await self._deployments.latest(connection, tenant_id)
            if held is None:
                return DeploymentStatus(Route(), None, Arm(), Arm(), 1.0)
            return await self._compared(connection, tenant_id, held)

    async def history(self, tenant_id: str, limit: int = 20) -> list[Deployment]:
        """The changes, newest first."""
        async with self._database.begin(tenant_id) as connection:
            return await self._deployments.history(connection, tenant_id, limit)

    async def ensure_loaded(self, tenant_id: str, adapter: str) -> bool:
        """As `AdapterLoader.ensure_loaded`."""
        return await self._loader.ensure_loaded(tenant_id, adapter)

    async def begin_loading(self, tenant_id: str, adapter: str) -> None:
        """As `AdapterLoader.begin`: for a request that missed the adapter and does not wait for it."""
        await self._loader.begin(tenant_id, adapter)

    async def publish(self, tenant_id: str) -> None:
        """Have the registry's file say what the tenant's route says. Where it cannot be written the route holds all
        the same, and the next change or start of the service writes it."""
        if self._registry is None:
            return
        try:
            await publish_route(
                self._registry, self._database, self._runs, self._deployments, tenant_id, self._clock.now()
            )
        except (DomainError, OSError) as error:
            log.warning("adapter_registry_failed", reason=str(error))

    async def begin_loading_served(self, tenant_id: str) -> None:
        """Start loading, in the background, what the tenant's route needs."""
        if self._server is not None:
            await self._afterwards.give(self._load_served(tenant_id), 0.0)

    async def _load_served(self, tenant_id: str) -> None:
        route = (await self.status(tenant_id)).route
        for adapter in (route.stable, route.candidate):
            if adapter is not None:
                await self._loader.ensure_loaded(tenant_id, adapter)

    async def _compared(self, connection: AsyncConnection, tenant_id: str, held: Deployment) -> DeploymentStatus:
        route, since, canary = held.route, held.deployed_at, Arm()
        if route.candidate is not None:
            since = await self._deployments.tried_since(connection, tenant_id, route.candidate) or since
            canary = await self._deployments.arm(connection, tenant_id, SOURCE, route.candidate, since)
        serving = await self._deployments.arm(connection, tenant_id, SOURCE, route.stable, since)
        return DeploymentStatus(route, since, serving, canary, chance_of_drop(serving, canary))

    async def _promotable(
        self, connection: AsyncConnection, tenant_id: str, run_id: str, base_model: str, *, lock: bool = False
    ) -> AnyRow:
        run = await self._runs.get(connection, tenant_id, run_id, lock=lock)
        if run is None:
            raise NotFound("no such training run")
        check_promotable(run, base_model)
        return run

    async def _write(
        self,
        tenant_id: str,
        action: str,
        adapter: str,
        reason: str,
        change: Callable[[AsyncConnection, Route], Awaitable[Route]],
    ) -> tuple[Deployment, bool]:
        """Write what `change` makes of the route, in one transaction, and whether anything had to be written; from the
        newest route again where another process was first. Raises NotReady where others are first every time."""
        for _ in range(WRITE_TRIES):
            async with self._database.begin(tenant_id) as connection:
                held = await self._deployments.latest(connection, tenant_id)
                route = await change(connection, _route_of(held))
                if held is not None and route == held.route:
                    return held, False
                number = held.number + 1 if held is not None else 1
                made = Deployment(number, action, adapter, route, reason, self._clock.now())
                is_written = await self._deployments.insert(connection, tenant_id, made)
            if is_written:
                await self.publish(tenant_id)
                return made, True
        raise NotReady("The route is being changed by others at this moment: look at it, then try again.")

    async def _unload_unneeded(self, server: AdapterServer, tenant_id: str, route: Route) -> None:
        """Let go of what the tenant deployed once and no rollback can come back to; what cannot be let go stays."""
        needed = {*route.stack, route.candidate}
        try:
            async with self._database.begin(tenant_id) as connection:
                deployed = await self._deployments.adapters(connection, tenant_id)
            for adapter in sorted((deployed - needed) & await server.loaded()):
                await server.unload(adapter)
        except DomainError:
            return


def check_promotable(run: AnyRow, base_model: str) -> None:
    """Raises NotReady unless a run's adapter was accepted and can be served beside `base_model`."""
    if run.method == "reward":
        raise NotReady(f"{run.run_id} is a reward model: it judges readings and makes none.")
    if run.status == "refused":
        judgement: Mapping[str, Any] = run.judgement or {}
        refusals: Sequence[str] = judgement.get("refusals") or ["its report says why"]
        raise NotReady(f"{run.run_id} was refused: {'; '.join(refusals)}.")
    if run.status != "accepted":
        raise NotReady(f"{run.run_id} is {run.status}, not accepted: `embed-service train judge {run.run_id}` first.")
    if run.base_model != base_model:
        raise NotReady(
            f"{run.run_id} was trained on {run.base_model} and the model server has {base_model}. A merged model is "
            "served with VLLM_MODEL_NAME=./local-models/NAME ./start_vllm.sh"
        )


def _route_of(held: Deployment | None) -> Route:
    return held.route if held is not None else Route()


def _figures(now: DeploymentStatus) -> str:
    """Both selection rates and the chance that it is one, in a sentence."""
    canary, serving = now.canary, now.serving
    return (
        f"users selected a reading in {canary.selected} of {canary.answered} sets ({canary.rate:.1%}), against "
        f"{serving.selected} of {serving.answered} ({serving.rate:.1%}) of the adapter that serves: "
        f"a chance of {now.chance_of_drop:.2g}"
    )
