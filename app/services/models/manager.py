"""Which model plays which role, and that it is there: looked for or brought once, however many ask."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import structlog

from app import request
from app.domain.errors import ProvisionFailed
from app.domain.manifest import Model, Profile, Provider, Role
from app.domain.sampling import Sampling
from app.ports import ModelProvider, Progress, Provisioned
from app.services.models.manifest_file import ManifestFile

log = structlog.get_logger("scripts.models.provision")
"""The namespace that operators forward, whoever asks: the command, HTTP, or the service's start."""

Action = Literal["present", "downloaded", "failed", "provisioning"]

GENERAL = "general"
ROLE_OF_CALL: Mapping[str, str] = {"relevance": "rerank"}
"""Which role's parameters a call to the language model takes; `general`'s where it is not said, or the profile has no
such role."""


@dataclass(frozen=True)
class RoleReport:
    """How it stands with a role's model. `seconds` are those it took; `is_cached`: this process has seen to it before,
    and nothing was looked at again."""

    role: str
    model: str
    provider: Provider
    action: Action
    detail: str
    seconds: float = 0.0
    is_cached: bool = False
    progress: Progress | None = None
    provisioned: Provisioned | None = None


@dataclass(frozen=True)
class Provision:
    """What was done for each role; `problem` says why the manifest's file is not the one in force."""

    profile: str
    reports: tuple[RoleReport, ...]
    problem: str | None = None

    @property
    def status(self) -> Literal["provisioned", "provisioning", "failed"]:
        """`failed` where some model is not there, `provisioning` where some is still being brought."""
        actions = {report.action for report in self.reports}
        if "failed" in actions:
            return "failed"
        return "provisioning" if "provisioning" in actions else "provisioned"


@dataclass(frozen=True)
class Listing:
    """The active profile, what is known of its models, and the names of all profiles."""

    active: Profile
    profiles: tuple[str, ...]
    reports: Mapping[str, RoleReport] = field(default_factory=dict[str, RoleReport])
    problem: str | None = None


class LLMModelManager:
    """Resolves roles and provisions their models. Reports are kept while the process lives."""

    def __init__(
        self,
        manifest: ManifestFile,
        providers: Mapping[Provider, ModelProvider],
        on_progress: Callable[[Model, Progress], None] | None = None,
    ) -> None:
        """`on_progress` hears of every step of every model."""
        self.manifest = manifest
        self._providers = providers
        self._on_progress = on_progress
        self._done: dict[Model, RoleReport] = {}
        self._done_at: dict[Model, float] = {}
        self._progress: dict[Model, Progress] = {}
        self._tasks: dict[tuple[Model, bool], asyncio.Task[RoleReport]] = {}
        self._locks: defaultdict[Model, asyncio.Lock] = defaultdict(asyncio.Lock)

    def resolve(self, role: str) -> Role:
        """A role of the active profile. Raises NotFound."""
        return self.manifest.active.role(role)

    def sampling(self, call: str) -> Sampling:
        """The parameters for a call to the language model."""
        roles = self.manifest.active.roles
        role = roles.get(ROLE_OF_CALL.get(call, GENERAL)) or roles.get(GENERAL)
        return role.sampling if role else Sampling()

    async def list(self) -> Listing:
        """The active profile and how it stands with its models, without looking for any. Reads the manifest again
        where it changed."""
        loaded = await asyncio.to_thread(self.manifest.current)
        active = loaded.manifest.active
        known = {name: self._known(role) for name, role in active.roles.items()}
        reports = {name: report for name, report in known.items() if report is not None}
        return Listing(active, loaded.manifest.profiles, reports, loaded.problem)

    async def ensure_models_installed(self) -> None:
        """Begin to bring what the active profile wants at the start (`auto_download`), in the background."""
        loaded = await asyncio.to_thread(self.manifest.current)
        for role in loaded.manifest.active.roles.values():
            if role.model.auto_download:
                self._begun(role.model, force=False)

    async def provision(
        self, roles: Sequence[str] | None = None, *, force: bool = False, wait_s: float | None = None
    ) -> Provision:
        """See that the models of `roles` (None: all of the active profile) are there, and bring those that are not.

        A model that this process has seen to is not looked at again unless with `force`. Whoever asks while it is
        brought waits for that, `wait_s` at most (None: to its end), and may leave: it goes on. Reads the manifest again
        where it changed. Raises NotFound for a role that the profile does not have.
        """
        asked_at = time.monotonic()
        loaded = await asyncio.to_thread(self.manifest.current)
        active = loaded.manifest.active
        wanted = [active.role(name) for name in dict.fromkeys(active.roles if roles is None else roles)]
        # What was seen to since this was asked for was looked at anew, for somebody else who asked as well.
        since = asked_at if force else None
        kept = {role.name: report for role in wanted if (report := self._kept(role, since)) is not None}
        tasks = {role.name: self._begun(role.model, force=force) for role in wanted if role.name not in kept}
        if tasks:
            await asyncio.wait(set(tasks.values()), timeout=wait_s)
        reports = [kept.get(role.name) or self._report(role, tasks[role.name]) for role in wanted]
        actions = {report.role: report.action for report in reports}
        log.info("models_provisioned", profile=active.name, roles=list(actions), actions=actions, force=force)
        return Provision(active.name, tuple(reports), loaded.problem)

    async def aclose(self) -> None:
        """Break off what is under way: the next process goes on where it is. Then let go of the providers."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for provider in self._providers.values():
            await provider.aclose()

    def _begun(self, model: Model, *, force: bool) -> "asyncio.Task[RoleReport]":
        """The task that sees to a model; the one that is at it already, where there is one."""
        key = _identity(model), force
        task = self._tasks.get(key)
        if task is None:
            task = asyncio.create_task(self._see_to(key[0], force))
            self._tasks[key] = task
            task.add_done_callback(lambda ended: self._forget(key, ended))
        return task

    def _forget(self, key: tuple[Model, bool], task: "asyncio.Task[RoleReport]") -> None:
        del self._tasks[key]
        if not task.cancelled() and task.exception() is not None:
            log.error("model_provision_broke", model=key[0].name, error=type(task.exception()).__name__)

    async def _see_to(self, model: Model, force: bool) -> RoleReport:
        """One look at a model, or one download of it; two at once wait for each other."""
        request.lift_deadline()
        async with self._locks[model]:
            if not force and model in self._done:
                return replace(self._done[model], is_cached=True)
            started = time.monotonic()
            report = RoleReport("", model.name, model.provider, "failed", "")
            try:
                found = await self._providers[model.provider].provision(
                    model, lambda progress: self._tell(model, progress), force=force
                )
            except (ProvisionFailed, OSError) as error:
                reason = str(error) if isinstance(error, ProvisionFailed) else f"{error.strerror or error}"
                self._done.pop(model, None)
                log.warning("model_provision_failed", model=model.name, provider=model.provider, reason=reason)
                return replace(report, detail=reason, seconds=time.monotonic() - started)
            finally:
                self._progress.pop(model, None)
            report = replace(
                report,
                action=found.action,
                detail=found.detail,
                seconds=time.monotonic() - started,
                provisioned=found,
            )
            self._done[model] = report
            self._done_at[model] = time.monotonic()
        log.info(
            "model_provisioned",
            model=model.name,
            provider=model.provider,
            action=found.action,
            downloaded_bytes=found.downloaded_bytes,
            seconds=round(report.seconds, 3),
        )
        return report

    def _tell(self, model: Model, progress: Progress) -> None:
        self._progress[model] = progress
        if self._on_progress is not None:
            self._on_progress(model, progress)

    def _kept(self, role: Role, since: float | None = None) -> RoleReport | None:
        """What this process found out about a role's model; with `since` only what is newer than that moment."""
        identity = _identity(role.model)
        report = self._done.get(identity)
        if report is None or (since is not None and self._done_at[identity] < since):
            return None
        return replace(report, role=role.name, is_cached=since is None)

    def _known(self, role: Role) -> RoleReport | None:
        """What is known of a role's model; None where nobody has looked yet."""
        identity = _identity(role.model)
        if (identity, False) in self._tasks or (identity, True) in self._tasks:
            return self._under_way(role)
        return self._kept(role)

    def _report(self, role: Role, task: "asyncio.Task[RoleReport]") -> RoleReport:
        return replace(task.result(), role=role.name) if task.done() else self._under_way(role)

    def _under_way(self, role: Role) -> RoleReport:
        progress = self._progress.get(_identity(role.model), Progress("waiting"))
        detail = f"{progress.stage}: look again later"
        return RoleReport(role.name, role.model.name, role.model.provider, "provisioning", detail, progress=progress)


def _identity(model: Model) -> Model:
    """What makes two roles' models one: everything but when they are brought."""
    return replace(model, auto_download=False if model.auto_download is False else None)
