"""The shapes of requests and answers about the models of roles."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints

from app.api.schemas import Request, Response
from app.domain.manifest import Provider, Role
from app.services.models.manager import Action, Listing, Provision, RoleReport

RoleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$")]


class ProvisionIn(Request):
    """Which roles' models; all of the active profile where null. `force`: also what this process has seen to is looked
    at again."""

    roles: Annotated[list[RoleName], Field(min_length=1, max_length=1000)] | None = None
    force: bool = False


class ProgressOut(Response):
    """How far a model is: bytes done, of how many where that is known."""

    stage: str
    done: int
    total: int | None


class ReportOut(Response):
    """What was done for a role's model. `cached`: it was seen to before, and not looked at again."""

    role: str
    model: str
    provider: Provider
    action: Action
    detail: str
    downloaded_bytes: int
    seconds: float
    cached: bool
    progress: ProgressOut | None

    @classmethod
    def of(cls, report: RoleReport) -> Self:
        """Of a report, without its place on this machine."""
        progress, found = report.progress, report.provisioned
        return cls(
            role=report.role,
            model=report.model,
            provider=report.provider,
            action=report.action,
            detail=report.detail,
            downloaded_bytes=found.downloaded_bytes if found else 0,
            seconds=round(report.seconds, 3),
            cached=report.is_cached,
            progress=ProgressOut(stage=progress.stage, done=progress.done, total=progress.total) if progress else None,
        )


class ParametersOut(Response):
    """What a role's calls are made with; null is left to the call or the server."""

    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    presence_penalty: float | None
    frequency_penalty: float | None
    seed: int | None


class RoleOut(Response):
    """A role as it holds: its model, resolved and with the settings' overrides; `overridden` names the fields that
    these set, `alias_of` the role it borrows. `report` is null until somebody has looked for the model."""

    role: str
    name: str
    provider: Provider
    auto_download: bool | None
    parameters: ParametersOut
    description: str
    alias_of: str | None
    overridden: list[str]
    url: str | None
    path: str | None
    revision: str | None
    sha256: str | None
    files: dict[str, str | None]
    report: ReportOut | None

    @classmethod
    def of(cls, role: Role, report: RoleReport | None) -> Self:
        """Of a role and what is known of it."""
        model, sampling = role.model, role.sampling
        return cls(
            role=role.name,
            name=model.name,
            provider=model.provider,
            auto_download=model.auto_download,
            parameters=ParametersOut(**{name: getattr(sampling, name) for name in ParametersOut.model_fields}),
            description=role.description,
            alias_of=role.alias_of,
            overridden=list(role.overridden),
            url=model.url,
            path=model.path,
            revision=model.revision,
            sha256=model.sha256,
            files=dict(model.files),
            report=ReportOut.of(report) if report else None,
        )


class ProfileOut(Response):
    """A profile's roles."""

    name: str
    description: str
    roles: list[RoleOut]


class ModelsOut(Response):
    """The active profile, what LLM_MODELS_OVERRIDES changes in it, and the names of all profiles. `problem`: why the
    manifest's file, as it is now, is not the one in force."""

    active_profile: str
    profile: ProfileOut
    overrides: dict[str, Any]
    profiles: list[str]
    problem: str | None

    @classmethod
    def of(cls, listing: Listing, overrides: Mapping[str, Any]) -> Self:
        """Of a listing."""
        active = listing.active
        roles = [RoleOut.of(role, listing.reports.get(role.name)) for role in active.roles.values()]
        return cls(
            active_profile=active.name,
            profile=ProfileOut(name=active.name, description=active.description, roles=roles),
            overrides=dict(overrides),
            profiles=list(listing.profiles),
            problem=listing.problem,
        )


class ProvisionOut(Response):
    """What was done for each role. `failed`: some model is not there; `provisioning`: some is still being brought."""

    status: Literal["provisioned", "provisioning", "failed"]
    profile: str
    roles: list[ReportOut]
    problem: str | None

    @classmethod
    def of(cls, made: Provision) -> Self:
        """Of a provision."""
        reports = [ReportOut.of(report) for report in made.reports]
        return cls(status=made.status, profile=made.profile, roles=reports, problem=made.problem)
