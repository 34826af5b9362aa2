"""API keys: made once, shown once, stored as hashes."""

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from app.domain.errors import InvalidInput, NotFound
from app.domain.users import check_user_id
from app.ports import Clock
from app.store.engine import Database
from app.store.tables import AnyRow
from app.store.tenants import KeyHolder, KeyStore, TenantStore, every_tenant

log = structlog.get_logger(__name__)

DEFAULT_TENANT = "default"
SCOPES = ("user", "admin")
PREFIX = "es_"
_TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_NAMED = 10
"""Tenants that are told to somebody who asked for one that is not there."""


@dataclass(frozen=True)
class CreatedKey:
    """A new key. `secret` is in no other place: who loses it makes another."""

    key_id: str
    secret: str
    tenant_id: str
    scopes: tuple[str, ...]
    user_id: str | None = None


def check_tenant(name: str) -> str:
    """`name`, where a tenant can be called so. Raises InvalidInput."""
    if not _TENANT.fullmatch(name):
        raise InvalidInput(
            f"{name!r} is no name of a tenant: 1 to 63 lower-case letters, digits, - and _, of which the first is a "
            "letter or a digit",
            "tenant",
        )
    return name


def hash_key(secret: str) -> str:
    """SHA-256 of a key, in hex. A key has 256 random bits, so no slow hash is needed to protect it."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class KeyService:
    """The use cases about API keys."""

    database: Database
    clock: Clock
    tenants: TenantStore
    keys: KeyStore

    async def create(self, tenant_id: str, name: str, scopes: Sequence[str], user_id: str | None = None) -> CreatedKey:
        """A new key for a tenant, which is created with its first key. With `user_id` it opens this user alone, who may
        come later."""
        check_tenant(tenant_id)
        if not scopes or set(scopes) - set(SCOPES):
            raise InvalidInput(f"scopes are among {', '.join(SCOPES)}", "scopes")
        if user_id is not None:
            check_user_id(user_id)
        key_id = secrets.token_hex(6)
        secret = f"{PREFIX}{secrets.token_urlsafe(32)}"
        async with self.database.begin(tenant_id) as connection:
            await self.tenants.ensure(connection, tenant_id)
            await self.keys.insert(
                connection,
                tenant_id=tenant_id,
                key_id=key_id,
                name=name,
                key_hash=hash_key(secret),
                scopes=scopes,
                user_id=user_id,
                now=self.clock.now(),
            )
        log.info("key_created", key_id=key_id, scopes=list(scopes), is_bound=user_id is not None)
        return CreatedKey(key_id, secret, tenant_id, tuple(scopes), user_id)

    async def list(self, tenant_id: str) -> Sequence[AnyRow]:
        """The tenant's keys without their secrets."""
        async with self.database.begin(tenant_id) as connection:
            return await self.keys.list(connection, tenant_id)

    async def revoke(self, tenant_id: str, key_id: str) -> None:
        """Make a key useless at once. Raises NotFound when the tenant has no such live key."""
        async with self.database.begin(tenant_id) as connection:
            is_revoked = await self.keys.revoke(connection, tenant_id, key_id, self.clock.now())
        if not is_revoked:
            raise NotFound(f"tenant {tenant_id} has no live key {key_id}")
        log.info("key_revoked", key_id=key_id)

    async def authenticate(self, secret: str) -> KeyHolder | None:
        """Whom a key stands for, or None."""
        async with self.database.begin_authentication() as connection:
            return await self.keys.find(connection, hash_key(secret))

    async def has_any(self) -> bool:
        """Whether a key was ever made; until then the service serves only its own machine, without one."""
        async with self.database.begin_authentication() as connection:
            return await self.keys.has_any(connection)

    async def ensure_default_tenant(self) -> None:
        """Create the tenant that keyless callers on this machine work in."""
        async with self.database.begin(DEFAULT_TENANT) as connection:
            await self.tenants.ensure(connection, DEFAULT_TENANT)

    async def expect_tenant(self, tenant_id: str) -> None:
        """Raise NotFound, which names those there are, unless there is this tenant. The one of keyless callers always
        is."""
        async with self.database.transact_jobs() as statements:
            known = await every_tenant(statements)
        if tenant_id in known:
            return
        if tenant_id == DEFAULT_TENANT:
            await self.ensure_default_tenant()
            return
        names = sorted({*known, DEFAULT_TENANT})
        others = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        raise NotFound(
            f"there is no tenant {tenant_id!r} but {', '.join(names[:_NAMED])}{others}; "
            f"a tenant is made with its first key: embed-service keys create --tenant {tenant_id}"
        )
