"""What every route needs: the services, and who is calling."""

import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from inspect import isawaitable
from typing import Annotated, Any
from urllib.parse import unquote_to_bytes

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.domain.errors import Forbidden, InvalidInput, Unauthenticated
from app.domain.users import check_user_id
from app.ports import SLM, Embedder
from app.services.afterwards import Afterwards
from app.services.answers import AnswerService
from app.services.catalogues import CatalogueService
from app.services.chat import ChatService
from app.services.consent import ConsentService
from app.services.context import ContextService
from app.services.deployments import DeploymentService
from app.services.feedback import FeedbackService
from app.services.gate import GateService
from app.services.hypotheses import HypothesisService
from app.services.ingest import IngestService
from app.services.keys import DEFAULT_TENANT, SCOPES, KeyService
from app.services.memories import MemoryService
from app.services.models import LLMModelManager
from app.services.persona import PersonaService
from app.services.ranking import RankingService
from app.services.recalls import RecallService
from app.services.reflection import ReflectionService
from app.services.spaces import Spaces
from app.services.telemetry import TelemetryReports
from app.services.training import ModelTrainer, TrainingDataCollector
from app.services.training.preparations import DatasetPreparations
from app.services.training.runs import RunService
from app.services.transfer import TransferService
from app.services.trial_spaces import TrialSpaces
from app.services.turns import TurnService
from app.settings import Settings
from app.store.engine import Database

USER_HEADER = "X-User-ID"


@dataclass(frozen=True)
class Services:
    """Every use case, plugged together."""

    settings: Settings
    database: Database
    embedder: Embedder
    keys: KeyService
    catalogues: CatalogueService
    memories: MemoryService
    ingest: IngestService
    turns: TurnService
    gate: GateService
    recalls: RecallService
    spaces: Spaces
    trials: TrialSpaces
    ranking: RankingService
    hypotheses: HypothesisService
    answers: AnswerService
    reflection: ReflectionService
    context: ContextService
    chat: ChatService
    feedback: FeedbackService
    personas: PersonaService
    transfer: TransferService
    consent: ConsentService
    telemetry: TelemetryReports
    collector: TrainingDataCollector
    slm: SLM
    afterwards: Afterwards
    deployments: DeploymentService
    trainer: ModelTrainer
    runs: RunService
    preparations: DatasetPreparations
    models: LLMModelManager


@dataclass(frozen=True)
class Caller:
    """Who is calling: for which tenant, with which scopes, and for which user alone, if the key is bound to one."""

    tenant_id: str
    scopes: frozenset[str]
    user_id: str | None = None


bearer = HTTPBearer(
    auto_error=False, scheme_name="key", description="An API key made with `embed-service keys create`."
)


def get_services(request: Request) -> Services:
    """The services of this application."""
    return request.app.state.services


async def services_of(request: Request) -> Services:
    """The services that a request's route works with: those of its user's shard, where there are several."""
    chosen: Callable[[Request], Any] = request.app.dependency_overrides.get(get_services, get_services)
    found = chosen(request)
    return await found if isawaitable(found) else found


async def services_of_user(request: Request, tenant_id: str, user_id: str) -> Services:
    """The services that have a user, where the request itself does not name them."""
    find: Callable[[str, str], Awaitable[Services]] | None = getattr(request.app.state, "services_of_user", None)
    return await find(tenant_id, user_id) if find is not None else get_services(request)


async def get_caller(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> Caller:
    """Whom the request's key stands for, settled before its body was read. Raises Unauthenticated."""
    settled: Caller | None = getattr(request.state, "caller", None)
    return settled or await authenticate(request)


async def authenticate(request: Request) -> Caller:
    """Whom the request's key stands for. Without any key in the database, callers on this machine stand for
    the default tenant. Raises Unauthenticated."""
    services = get_services(request)
    given = request.headers.get("authorization")
    if given is not None:
        scheme, _, secret = given.partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise Unauthenticated("the Authorization header has to be `Bearer <key>`")
        holder = await services.keys.authenticate(secret.strip())
        if holder is None:
            raise Unauthenticated("this API key is not known or was revoked")
        return Caller(holder.tenant_id, holder.scopes, holder.user_id)
    if not is_local(request):
        raise Unauthenticated(
            "an API key is needed: make one with `embed-service keys create`, send it as `Authorization: Bearer <key>`"
        )
    if await services.keys.has_any():
        raise Unauthenticated("an API key is needed, because keys exist: send one as `Authorization: Bearer <key>`")
    return Caller(DEFAULT_TENANT, frozenset(SCOPES))


def user_in_header(request: Request) -> str | None:
    """The user that X-User-ID names, or the header of the settings: UTF-8, what a header cannot hold percent-encoded
    as in a path. Raises InvalidInput."""
    headers = (USER_HEADER, get_services(request).settings.user_id_header)
    named = next((name for name in headers if name and name in request.headers), None)
    if named is None:
        return None
    try:
        return check_user_id(unquote_to_bytes(request.headers[named].encode("latin-1")).decode())
    except (UnicodeDecodeError, InvalidInput):
        raise InvalidInput(
            f"{named} has 1 to 256 characters, percent-encoded in UTF-8 where they are not ASCII", named
        ) from None


def find_user(request: Request, caller: Caller, named: str | None = None) -> str | None:
    """The user a front door works for: the key's, else the one a header names, else the one `named` in a field; None
    where nobody is. Raises Forbidden where the key is bound to a user and another one is named, InvalidInput for what
    is no user id."""
    in_header = user_in_header(request)
    if caller.user_id is None:
        return in_header if in_header is not None or named is None else check_user_id(named)
    for other in (in_header, named):
        if other is not None and other != caller.user_id:
            raise Forbidden("this key is bound to another user than the request names")
    return caller.user_id


def resolve_user(request: Request, caller: Caller, named: str | None = None) -> str:
    """As `find_user`. Raises InvalidInput, too, where nobody is named."""
    found = find_user(request, caller, named)
    if found is None:
        raise InvalidInput(
            f"whose memory? Name the user by {USER_HEADER}, or use a key that is bound to one", USER_HEADER
        )
    return found


def is_local(request: Request) -> bool:
    """Whether a request was made on this machine, to this machine, by a program of its own.

    A forwarded request came from elsewhere; a foreign Host or Origin means that a web page found on
    another site sends it through the user's browser.
    """
    headers = request.headers
    if any(name in headers for name in ("forwarded", "x-forwarded-for", "x-real-ip", "via")):
        return False
    peer = request.client.host if request.client else ""
    host = headers.get("host", "")
    origin = headers.get("origin")
    return _is_loopback(peer) and _is_loopback(_hostname(host)) and (origin is None or _is_loopback(_hostname(origin)))


def check_origin(request: Request) -> None:
    """Raise Forbidden where a web page of another site sends a request: its Origin is neither this machine nor the host
    that was asked. A key cannot be sent by such a page, but one on this machine needs none."""
    origin, host = request.headers.get("origin"), request.headers.get("host", "")
    if origin is not None and not _is_loopback(_hostname(origin)) and _hostname(origin) != _hostname(host):
        raise Forbidden("pages of other sites are not answered here: see the header Origin")


def _hostname(address: str) -> str:
    """The host of `host:port`, `[v6]:port` or an origin."""
    name = address.rsplit("//", 1)[-1]
    if name.startswith("["):
        return name[1:].split("]", 1)[0]
    return name.rsplit(":", 1)[0] if name.count(":") == 1 else name


def _is_loopback(name: str) -> bool:
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _needs(scope: str) -> Callable[[Caller], Caller]:
    def check(caller: Annotated[Caller, Depends(get_caller)]) -> Caller:
        if scope not in caller.scopes:
            raise Forbidden(f"this key lacks the scope `{scope}`")
        return caller

    return check


ServicesDep = Annotated[Services, Depends(get_services)]
UserCaller = Annotated[Caller, Depends(_needs("user"))]
AdminCaller = Annotated[Caller, Depends(_needs("admin"))]
