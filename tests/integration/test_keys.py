"""API keys: shown once, stored as a hash, gone at once when revoked, each of one tenant."""

import pytest
from sqlalchemy import text

from app.api.deps import Services
from app.domain.errors import InvalidInput, NotFound
from app.services import keys
from app.services.keys import DEFAULT_TENANT, PREFIX, hash_key


async def test_a_key_stands_for_its_tenant_until_it_is_revoked(services: Services, tenant: str) -> None:
    """The secret authenticates, its neighbours do not, and after the revocation nothing does."""
    made = await services.keys.create(tenant, "front end", ["user"])
    holder = await services.keys.authenticate(made.secret)
    assert holder is not None
    assert (holder.tenant_id, holder.key_id, holder.scopes) == (tenant, made.key_id, frozenset({"user"}))
    assert await services.keys.has_any()
    for wrong in ("", PREFIX, made.secret[:-1], made.secret + "x", made.secret.upper(), made.key_id, "\ud800"):
        assert await services.keys.authenticate(wrong) is None
    await services.keys.revoke(tenant, made.key_id)
    assert await services.keys.authenticate(made.secret) is None
    with pytest.raises(NotFound):
        await services.keys.revoke(tenant, made.key_id)


async def test_the_secret_is_nowhere_in_the_database(services: Services, tenant: str) -> None:
    """Only the hash is stored, and the list shows neither."""
    made = await services.keys.create(tenant, "", ["user", "admin"])
    async with services.database.begin(tenant) as connection:
        (row,) = (await connection.execute(text("SELECT * FROM api_keys"))).all()
    assert row.key_hash == hash_key(made.secret)
    assert made.secret not in str(row)
    assert made.secret.removeprefix(PREFIX) not in str(row)
    (listed,) = await services.keys.list(tenant)
    assert set(listed._mapping) == {"key_id", "name", "scopes", "user_id", "created_at", "revoked_at"}


async def test_tenants_do_not_share_keys(services: Services, tenant: str, other_tenant: str) -> None:
    """A tenant sees and revokes its own keys only; a key makes its tenant where there is none yet."""
    mine = await services.keys.create(tenant, "mine", ["user"])
    theirs = await services.keys.create(other_tenant, "theirs", ["admin"])
    assert [row.key_id for row in await services.keys.list(tenant)] == [mine.key_id]
    with pytest.raises(NotFound):
        await services.keys.revoke(tenant, theirs.key_id)
    assert await services.keys.authenticate(theirs.secret) is not None
    newcomer = await services.keys.create(f"{tenant}-new", "", ["user"])
    await services.hypotheses.hypothesize(newcomer.tenant_id, "ada", "deploy my app")


@pytest.mark.parametrize(
    ("name", "scopes"), [("Ünï", ["user"]), ("", ["user"]), ("a" * 64, ["user"]), (None, ["root"]), (None, [])]
)
async def test_what_makes_no_key(services: Services, tenant: str, name: str | None, scopes: list[str]) -> None:
    """A tenant's name that no address could hold, an unknown scope or none: InvalidInput."""
    with pytest.raises(InvalidInput):
        await services.keys.create(tenant if name is None else name, "", scopes)


async def test_a_tenant_is_there_or_those_are_named_that_are(
    services: Services, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What makes one is said, too. The tenant of keyless callers always is there."""
    await services.keys.expect_tenant(tenant)
    await services.keys.expect_tenant(DEFAULT_TENANT)
    with pytest.raises(NotFound, match=r"there is no tenant 'typo' but .*: embed-service keys create --tenant typo$"):
        await services.keys.expect_tenant("typo")
    monkeypatch.setattr(keys, "_NAMED", 1)
    with pytest.raises(NotFound, match=r"but [^,]+ and \d+ more; a tenant is made"):
        await services.keys.expect_tenant("typo")


async def test_revoking_the_last_key_does_not_open_the_service(services: Services, tenant: str) -> None:
    """Who takes every key away wants nobody in, rather than everybody on the machine."""
    made = await services.keys.create(tenant, "only", ["user"])
    await services.keys.revoke(tenant, made.key_id)
    assert await services.keys.has_any()


async def test_a_key_may_be_bound_to_one_user(services: Services, tenant: str) -> None:
    """Whom it stands for says so, and so does the list; the user need not exist yet. A key without one is unbound."""
    bound = await services.keys.create(tenant, "", ["user"], "Zoë 🙂")
    unbound = await services.keys.create(tenant, "", ["user"])
    for made, user_id in ((bound, "Zoë 🙂"), (unbound, None)):
        holder = await services.keys.authenticate(made.secret)
        assert holder is not None
        assert holder.user_id == user_id
    assert [row.user_id for row in await services.keys.list(tenant)] == ["Zoë 🙂", None]


@pytest.mark.parametrize("user_id", ["", "a\nb", "a" * 257, "\ud800"], ids=ascii)
async def test_a_key_is_bound_to_no_impossible_user(services: Services, tenant: str, user_id: str) -> None:
    """InvalidInput, as for a request that names such a user."""
    with pytest.raises(InvalidInput):
        await services.keys.create(tenant, "", ["user"], user_id)


async def test_an_erased_user_s_keys_open_nothing_and_name_nobody(services: Services, tenant: str) -> None:
    """Whoever comes back under the same name is not met by an old key; another's key goes on."""
    await services.hypotheses.hypothesize(tenant, "ada", "deploy my app")
    hers = await services.keys.create(tenant, "ada's laptop", ["user"], "ada")
    other = await services.keys.create(tenant, "bob's laptop", ["user"], "bob")
    await services.transfer.erase(tenant, "ada")
    assert await services.keys.authenticate(hers.secret) is None
    assert await services.keys.authenticate(other.secret) is not None
    rows = await services.keys.list(tenant)
    assert [(row.name, row.user_id, row.revoked_at is None) for row in rows] == [
        ("", None, False),
        ("bob's laptop", "bob", True),
    ]
