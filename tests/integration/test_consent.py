"""Who opted out leaves no training sample; who opted in again leaves them from then on."""

import asyncio
from collections import Counter

import pytest

from app.api.deps import Services
from app.domain.errors import NotFound
from app.domain.training import FILES
from app.services.feedback import Feedback
from app.services.training.erasure import Erasure
from tests.integration.conftest import choose, facts


def kept(services: Services, tenant: str) -> Counter[tuple[str, str]]:
    """Samples by user and file."""
    found: Counter[tuple[str, str]] = Counter()
    for file in FILES:
        found.update((one["user_id"], file) for one in services.collector.read(file) if one["tenant_id"] == tenant)
    return found


async def do_everything(services: Services, tenant: str, user: str, text: str = "deploy my app") -> None:
    """What leaves a sample in each of the five files."""
    await services.memories.add(tenant, user, facts("I write Python and deploy with Docker on AWS"))
    _, executed = await choose(services, tenant, user, text)
    await services.feedback.give(tenant, user, Feedback(executed.execution_id, comment="too long"))
    await services.feedback.prefer(
        tenant, user, hypothesis_a="a?", hypothesis_b="b?", preferred="hypothesis_a", reward=None
    )


async def test_everybody_consents_until_they_say_otherwise(services: Services, tenant: str) -> None:
    await do_everything(services, tenant, "ada")
    assert await services.consent.get(tenant, "ada")
    assert {file for _, file in kept(services, tenant)} == set(FILES)
    with pytest.raises(NotFound):
        await services.consent.get(tenant, "nobody")


async def test_opting_out_erases_and_keeps_nothing_more(services: Services, tenant: str) -> None:
    for user in ("ada", "bob"):
        await do_everything(services, tenant, user)
    of_bob = {key: count for key, count in kept(services, tenant).items() if key[0] == "bob"}
    is_kept, left = await services.consent.set(tenant, "ada", has_consent=False)
    assert (is_kept, set(left.erased)) == (False, set(FILES))
    assert all(count > 0 for count in left.erased.values())
    await do_everything(services, tenant, "ada")
    assert kept(services, tenant) == of_bob
    assert await services.consent.set(tenant, "ada", has_consent=True) == (True, Erasure())
    await do_everything(services, tenant, "ada", "build api")
    assert {file for user, file in kept(services, tenant) if user == "ada"} == set(FILES)


async def test_a_stranger_can_opt_out_before_the_first_word(services: Services, tenant: str) -> None:
    assert await services.consent.set(tenant, "eve", has_consent=False) == (False, Erasure(dict.fromkeys(FILES, 0)))
    await do_everything(services, tenant, "eve")
    assert not kept(services, tenant)


async def test_a_tenant_opts_out_for_all_its_users(services: Services, tenant: str, other_tenant: str) -> None:
    await services.catalogues.save_document(tenant, {"collect_training_data": False})
    for name in (tenant, other_tenant):
        await do_everything(services, name, "ada")
    assert not kept(services, tenant)
    assert {file for _, file in kept(services, other_tenant)} == set(FILES)
    assert await services.consent.set(tenant, "ada", has_consent=True) == (False, Erasure()), "the tenant's word counts"


async def test_no_sample_slips_in_while_a_user_opts_out(services: Services, tenant: str) -> None:
    """Twenty choices race with the opting out: whichever comes first, nothing is left."""
    await services.memories.add(tenant, "ada", facts("I write Python"))
    work = [do_everything(services, tenant, "ada") for _ in range(20)]
    await asyncio.gather(*work[:10], services.consent.set(tenant, "ada", has_consent=False), *work[10:])
    assert not kept(services, tenant)
