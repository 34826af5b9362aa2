"""The catalogue of intents of each tenant: the built-in one, and what the tenant added to it."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

import orjson
import structlog
import yaml

from app.domain.attributes import AttributeVectors, examples
from app.domain.catalogue import Catalogue, IntentMatch, merge_documents, parse_catalogue
from app.domain.embeddings import Vector
from app.domain.errors import InvalidInput, ModelUnavailable, OtherSpace, Overloaded
from app.domain.ranker import Ranker
from app.domain.ranking import Weights
from app.domain.relevance import Fusion, fusion_of
from app.domain.spaces import Embedded, StoredSpace
from app.ports import Clock
from app.services.examples import ExampleVectors
from app.services.spaces import Spaces
from app.store.engine import Database
from app.store.tenants import TenantStore

log = structlog.get_logger(__name__)

BUILT_IN = Path(__file__).resolve().parents[1] / "domain" / "intents.yaml"
MAX_CACHED = 64
_ATTRIBUTES = b"attributes"
"""The key of their examples, beside those of catalogues."""

READY_S = 2.0
"""How long an input waits for the examples of intents to be embedded."""

LEARNED = ("fusion", "ranker")
"""Settings that are promoted (`embed-service policy`), not set."""

SETTINGS_TTL = timedelta(seconds=5)
"""How long a process may act on settings that another process has changed."""


@dataclass(frozen=True)
class TenantSettings:
    """What a tenant decided for itself; None where the service's own setting holds."""

    weights: Weights | None = None
    token_budget: int | None = None
    auto_advance_confidence: float | None = None
    question_cost: float | None = None
    order_shuffle: float | None = None
    ranker: Ranker | None = None
    intents: Mapping[str, Any] | None = None
    fusion: Fusion | None = None


def read_document(path: Path) -> dict[str, Any]:
    """The YAML document at `path`. Raises InvalidInput when it is not one."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise InvalidInput(f"cannot read {path}: {error}", "intents_file") from error
    if not isinstance(document, dict):
        raise InvalidInput(f"{path} holds no mapping", "intents_file")
    return cast(dict[str, Any], document)


def parse_tenant_settings(document: Mapping[str, Any]) -> TenantSettings:
    """A tenant's stored settings as values."""
    weights, fusion, ranker = document.get("weights"), document.get("fusion"), document.get("ranker")
    return TenantSettings(
        weights=Weights(**weights) if weights else None,
        token_budget=document.get("token_budget"),
        auto_advance_confidence=document.get("auto_advance_confidence"),
        question_cost=document.get("question_cost"),
        order_shuffle=document.get("order_shuffle"),
        ranker=ranker["weights"] if ranker else None,
        intents=document.get("intents"),
        fusion=fusion_of(fusion["weights"]) if fusion else None,
    )


class CatalogueService:
    """Parses catalogues once and keeps the vectors of their examples."""

    def __init__(
        self,
        database: Database,
        tenants: TenantStore,
        spaces: Spaces,
        clock: Clock,
        extension: Path | None = None,
        folder: Path | None = None,
    ) -> None:
        """`extension`: a file with intents beside the built-in ones; `folder`: where vectors of examples are kept."""
        self._database = database
        self._tenants = tenants
        self._clock = clock
        self._settings: dict[str, tuple[datetime, TenantSettings]] = {}
        self._spaces = spaces
        self._base = merge_documents(read_document(BUILT_IN), read_document(extension) if extension else {})
        self._parsed: OrderedDict[bytes, Catalogue] = OrderedDict()
        self._examples = ExampleVectors(spaces, folder)
        self._attributes: dict[int, AttributeVectors] = {}
        parse_catalogue(self._base)

    async def settings(self, tenant_id: str) -> TenantSettings:
        """What the tenant decided for itself, at most SETTINGS_TTL old."""
        now = self._clock.now()
        held = self._settings.get(tenant_id)
        if held is None or not timedelta(0) <= now - held[0] < SETTINGS_TTL:
            async with self._database.begin(tenant_id) as connection:
                held = (now, parse_tenant_settings(await self._tenants.settings(connection, tenant_id)))
            self._settings[tenant_id] = held
        return held[1]

    async def document(self, tenant_id: str) -> Mapping[str, Any]:
        """The tenant's settings as stored."""
        async with self._database.begin(tenant_id) as connection:
            return await self._tenants.settings(connection, tenant_id)

    async def chosen(self, tenant_id: str) -> Mapping[str, Any]:
        """What the tenant set for itself, without what was learned for it."""
        document = await self.document(tenant_id)
        return {name: value for name, value in document.items() if name not in LEARNED}

    async def choose(self, tenant_id: str, document: Mapping[str, Any]) -> None:
        """Replace what the tenant set for itself; what was learned for it stays. Raises as `save_document`."""
        held = await self.document(tenant_id)
        await self.save_document(tenant_id, {**document, **{name: held[name] for name in LEARNED if name in held}})

    async def save_document(self, tenant_id: str, document: Mapping[str, Any]) -> None:
        """Replace the tenant's settings. Raises InvalidInput when its intents make no catalogue."""
        self.catalogue(parse_tenant_settings(document))
        async with self._database.begin(tenant_id) as connection:
            await self._tenants.save_settings(connection, tenant_id, document)
        self._settings.pop(tenant_id, None)

    def catalogue(self, settings: TenantSettings) -> Catalogue:
        """The built-in catalogue with the tenant's intents on top. Raises InvalidInput."""
        key = _key(settings)
        if key not in self._parsed:
            self._parsed[key] = parse_catalogue(merge_documents(self._base, settings.intents or {}))
            while len(self._parsed) > MAX_CACHED:
                self._parsed.popitem(last=False)
        self._parsed.move_to_end(key)
        return self._parsed[key]

    async def match(
        self, tenant_id: str, settings: TenantSettings, space: StoredSpace, vector: Vector
    ) -> IntentMatch | None:
        """The intent an input's vector in a space is nearest to, if any is near. In a space so new and so slow that its
        examples are not embedded within READY_S, none is."""
        catalogue, key = self.catalogue(settings), _key(settings)
        texts = _examples(catalogue)
        held = await self._ready(key, texts, space)
        if held is None:
            return None
        await self._prepare(tenant_id, key, texts)
        return catalogue.match(vector, held.vectors)

    async def attributes(self, tenant_id: str, space: StoredSpace) -> AttributeVectors | None:
        """The examples of attributes in a space; None where they are not embedded within READY_S."""
        try:
            held = await self._ready(_ATTRIBUTES, examples(), space)
        except (ModelUnavailable, Overloaded):
            return None
        if held is None:
            return None
        await self._prepare(tenant_id, _ATTRIBUTES, examples())
        known = self._attributes.get(space.number)
        if known is None:
            known = self._attributes[space.number] = await asyncio.to_thread(AttributeVectors, held.vectors)
        return known

    async def _prepare(self, tenant_id: str, key: bytes, texts: Sequence[str]) -> None:
        """Have examples ready in the spaces that may serve the tenant soon: nobody waits for them at the switch."""
        for soon in (await self._spaces.of(tenant_id)).of_role("filled", "kept"):
            self._examples.prepare(key, texts, soon)

    async def _ready(self, key: bytes, texts: Sequence[str], space: StoredSpace) -> Embedded | None:
        try:
            async with asyncio.timeout(READY_S):
                return await self._examples.of(key, texts, space)
        except TimeoutError:
            log.info("intents_not_ready", space=space.id)
            return None

    async def slots_in(self, tenant_id: str, texts: Sequence[str]) -> list[list[str]]:
        """For each text, the slots it names a value for."""
        catalogue = self.catalogue(await self.settings(tenant_id))
        return [sorted(catalogue.values_in(text)) for text in texts]

    async def warm(self) -> None:
        """Embed the built-in examples, so that the first request does not have to. What embeds may have another model
        by now, which nobody compares with: then there are none, and searches are by words."""
        settings = TenantSettings()
        own = await self._spaces.own()
        self._examples.prepare(_ATTRIBUTES, examples(), own)
        with suppress(OtherSpace):  # it is logged
            await self._examples.of(_key(settings), _examples(self.catalogue(settings)), own)


def _examples(catalogue: Catalogue) -> list[str]:
    return [example for _, example in catalogue.examples]


def _key(settings: TenantSettings) -> bytes:
    return orjson.dumps(settings.intents or {}, option=orjson.OPT_SORT_KEYS)
