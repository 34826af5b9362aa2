"""What conversations leave behind: statements that are worth keeping, and what is set apart or is only an echo."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from prometheus_client import REGISTRY

from app.api.deps import Services
from app.domain.errors import ModelUnavailable, NotFound
from app.domain.hypotheses import Turn
from app.domain.memory import Draft, Evidence, Memory, MemoryType
from app.domain.turns import Stated, Utterance
from app.services.choices import ExecuteRequest
from app.services.feedback import Feedback
from app.services.ranking import SearchRequest
from app.services.remembering import Remembering
from app.services.turns import TurnService
from tests.integration.test_hypotheses import BrokenSLM

USER = "ada"
AT = datetime(2026, 3, 1, 9, tzinfo=UTC)


def utterances(*texts: str) -> list[Utterance]:
    return [Utterance("user", each, AT) for each in texts]


def counted(verdict: str) -> float:
    return REGISTRY.get_sample_value("embed_service_statements_total", {"verdict": verdict}) or 0.0


async def held(services: Services, tenant: str) -> dict[str, Memory]:
    """What is remembered beside the turns themselves."""
    found = await services.memories.page(tenant, USER, limit=1000)
    return {each.content: each for each in found if each.type is not MemoryType.HISTORY}


async def test_statements_are_kept_with_the_words_that_make_them(services: Services, tenant: str) -> None:
    """What is told again is one memory that was told twice; dates are told as dates."""
    await services.turns.take(tenant, USER, utterances("Hello. I moved to Lyon last week!"), "one")
    await services.turns.take(
        tenant, USER, utterances("Anyway. I like green tea, as I said.", "I like green tea, as I said!"), "two"
    )
    kept = await held(services, tenant)
    tea = "I like green tea, as I said"
    assert set(kept) == {"I moved to Lyon last week (2026-02-16 to 2026-02-22)", tea}
    assert (kept[tea].proof_count, kept[tea].quote) == (2, tea)
    assert kept[tea].evidence == (Evidence("turn:two:1", tea), Evidence("turn:two:2", tea))


async def test_what_is_not_worth_keeping_is_set_apart(services: Services, tenant: str) -> None:
    """It can be read, and let through after all; the turns themselves are kept."""
    junk = ["I like it.", "I need to buy milk today."]
    before = counted("unspecific"), counted("perishable"), counted("kept")
    taken = await services.turns.take(tenant, USER, utterances("I like hiking.", *junk), "one")
    assert (taken.set_apart, taken.memories) == (2, 4)
    assert (counted("unspecific"), counted("perishable"), counted("kept")) == (
        before[0] + 1,
        before[1] + 1,
        before[2] + 1,
    )
    assert set(await held(services, tenant)) == {"I like hiking"}
    found = await services.gate.page(tenant, USER)
    assert {(each.content, each.reason) for each in found} == {
        ("I like it", "unspecific"),
        ("I need to buy milk today (2026-03-01)", "perishable"),
    }
    milk = next(each for each in found if each.reason == "perishable")
    await services.gate.release(tenant, milk.item_id)
    kept = await held(services, tenant)
    assert kept[milk.content].quote == "I need to buy milk today"
    assert len(await services.gate.page(tenant, USER)) == 1
    with pytest.raises(NotFound):
        await services.gate.release(tenant, milk.item_id)
    with pytest.raises(NotFound):
        await services.gate.get(tenant, uuid4())
    assert await services.gate.page(tenant, USER, limit=1, after=(found[-1].created_at, found[-1].item_id)) == []


async def test_an_echo_of_what_was_recalled_is_no_proof(services: Services, tenant: str) -> None:
    """A frontend that puts recalled memories into the conversation would have them proved by themselves."""
    await services.memories.add(tenant, USER, [Draft(MemoryType.PREFERENCE, "I like green tea")])
    await services.turns.take(tenant, USER, utterances("I like green tea."), "one")
    assert (await held(services, tenant))["I like green tea"].proof_count == 2
    await recalled(services, tenant, "what do I drink?")
    before = counted("recalled")
    await services.turns.take(tenant, USER, utterances("I like green tea."), "two")
    assert counted("recalled") == before + 1
    assert (await held(services, tenant))["I like green tea"].proof_count == 2


async def test_chats_pass_the_same_gate(services: Services, tenant: str) -> None:
    remembering = Remembering(services.gate)
    await remembering.remember(tenant, USER, [Turn("user", "I like it. I work as a nurse.")])
    await remembering.remember(tenant, "nobody yet", [Turn("user", "I like it.")])
    assert set(await held(services, tenant)) == {"I work as a nurse"}
    assert [each.content for each in await services.gate.page(tenant, USER)] == ["I like it"]
    assert [each.content for each in await services.gate.page(tenant, "nobody yet")] == ["I like it"]


async def recalled(services: Services, tenant: str, query: str) -> None:
    """Have what a search finds written down as recalled."""
    await services.ranking.search(tenant, USER, SearchRequest(query))
    await services.recalls.log.aclose()


@pytest.mark.parametrize("is_at_once", [False, True], ids=["one by one", "at once"])
async def test_what_was_recalled_and_is_over_is_news(services: Services, tenant: str, is_at_once: bool) -> None:
    """Whoever says again what a later memory replaced since takes that back; it is no echo."""
    paris, lyon = (Draft(MemoryType.PROFILE, f"I live in {city}") for city in ("Paris", "Lyon"))
    await services.memories.add(tenant, USER, [replace(paris, valid_from=AT)])
    await recalled(services, tenant, "where do I live?")
    now = datetime.now(UTC)
    told = [
        Utterance("user", f"{each.content}.", now - timedelta(seconds=ago)) for each, ago in ((lyon, 9), (paris, 8))
    ]
    for number, batch in enumerate([told] if is_at_once else [[each] for each in told]):
        await services.turns.take(tenant, USER, batch, f"session {number}")
    current = [each for each in (await held(services, tenant)).values() if each.superseded_by is None]
    assert [each.content for each in current] == ["I live in Paris"]


CORRECTION = "Sorry, I meant Lyon, not Paris."


async def test_what_is_set_right_replaces_what_was_wrong(services: Services, tenant: str) -> None:
    """Whatever attribute it is of; it points to the turn that says so, and what has the word in it by chance stays."""
    told = utterances("I use Java for servers.", "I prefer JavaScript.", "I meant Kotlin, not Java.")
    taken = await services.turns.take(tenant, USER, told, "one")
    assert taken.superseded == 1
    kept = await held(services, tenant)
    assert set(kept) == {"I use Kotlin for servers", "I prefer JavaScript"}
    right = kept["I use Kotlin for servers"]
    assert (right.source, right.quote, right.is_set_right) == ("turn:one:3", "I meant Kotlin, not Java.", True)


async def test_a_correction_passes_the_gate(services: Services, tenant: str) -> None:
    """Where it makes a statement that says nothing, it is set apart."""
    told = utterances("I like hiking.", "I meant it, not hiking.")
    taken = await services.turns.take(tenant, USER, told, "one")
    assert (taken.superseded, taken.set_apart) == (0, 1)
    assert set(await held(services, tenant)) == {"I like hiking"}


async def test_chats_set_right_too(services: Services, tenant: str) -> None:
    remembering = Remembering(services.gate)
    await remembering.remember(tenant, USER, [Turn("user", "I live in Paris.")])
    await remembering.remember(tenant, USER, [Turn("user", CORRECTION)])
    kept = await held(services, tenant)
    assert set(kept) == {"I live in Lyon"}
    assert kept["I live in Lyon"].quote == CORRECTION


@pytest.mark.parametrize("way", ["corrected", "changed"])
async def test_what_is_inferred_stands_back_behind_what_was_set_right(
    services: Services, tenant: str, way: str
) -> None:
    """A model that guesses the wrong home again does not bring it back; the user who says so does."""
    await services.turns.take(tenant, USER, utterances("I live in Paris."), "one")
    if way == "corrected":
        await services.turns.take(tenant, USER, utterances(CORRECTION), "two")
    else:
        home = (await held(services, tenant))["I live in Paris"]
        await services.memories.update(tenant, home.memory_id, {"content": "I live in Lyon"})
    later = [replace(each, said_at=datetime.now(UTC)) for each in utterances("Paris again, home at last.")]
    guessed = FindingSLM(Stated(0, MemoryType.PROFILE, "I live in Paris", "Paris again, home at last", 0.7))
    taken = await TurnService(services.memories, services.gate, guessed).take(tenant, USER, later, "three")
    assert (taken.memories, taken.superseded) == (1, 0)
    assert set(await held(services, tenant)) == {"I live in Lyon"}
    moved = [replace(each, said_at=datetime.now(UTC)) for each in utterances("I moved to Berlin.")]
    await services.turns.take(tenant, USER, moved, "four")
    assert set(await held(services, tenant)) == {"I moved to Berlin"}


async def test_every_turn_that_told_a_memory_stays_with_it(services: Services, tenant: str) -> None:
    """Through a later conversation, an import, and a search by which it is found."""
    await services.turns.take(tenant, USER, utterances("I like green tea."), "one")
    await services.turns.take(tenant, USER, utterances("Hello!", "Right. I  like green tea!"), "two")
    told = (Evidence("turn:one:1", "I like green tea"), Evidence("turn:two:2", "I like green tea"))
    assert (await held(services, tenant))["I like green tea"].evidence == told
    lines = [line async for line in services.transfer.export(tenant, USER)]
    await services.transfer.erase(tenant, USER)
    await services.transfer.import_(tenant, lines)
    request = SearchRequest("what do I drink?", 1, [MemoryType.PREFERENCE])
    (found,) = (await services.ranking.search(tenant, USER, request)).ranked
    assert found.memory.evidence == told


async def test_comments_and_own_answers_pass_the_same_gate(services: Services, tenant: str) -> None:
    """With the sentence that says so; what a choice itself tells quotes what was asked."""
    executed = await services.context.execute(tenant, USER, ExecuteRequest("deploy it", custom_answer="I like it."))
    comment = "Hm. I prefer bullet points. I like this thing."
    await services.feedback.give(tenant, USER, Feedback(executed.execution_id, comment=comment))
    await services.context.execute(tenant, USER, ExecuteRequest("deploy it", custom_answer="on Heroku"))
    kept = await held(services, tenant)
    assert set(kept) == {"I prefer bullet points", "deploy it. on Heroku"}
    assert (kept["I prefer bullet points"].quote, kept["deploy it. on Heroku"].quote) == (
        "I prefer bullet points",
        "on Heroku",
    )
    assert {each.content for each in await services.gate.page(tenant, USER)} == {"I like it", "I like this thing"}


class FindingSLM(BrokenSLM):
    """A model that finds what it was told to."""

    def __init__(self, *found: Stated) -> None:
        self.found = found

    async def extract(self, said: Sequence[Utterance]) -> Sequence[Stated]:
        return self.found


async def test_what_a_model_makes_up_is_set_apart(services: Services, tenant: str) -> None:
    """Its own wording is kept where the turn supports it, and names that nobody said are not."""
    said = utterances("We opened a second bakery in Porto.")
    quote = "We opened a second bakery in Porto"
    slm = FindingSLM(
        Stated(0, MemoryType.ARTIFACT, "I opened my second bakery in Porto", quote, 0.9),
        Stated(0, MemoryType.PROFILE, "I live in Lisbon with my family", quote, 0.9),
    )
    taken = await TurnService(services.memories, services.gate, slm).take(tenant, USER, said, "one")
    assert taken.set_apart == 1
    kept = (await held(services, tenant))["I opened my second bakery in Porto"]
    assert (kept.quote, kept.source) == (quote, "turn:one:1")
    assert [each.reason for each in await services.gate.page(tenant, USER)] == ["unsupported"]


class Judge:
    """A reranker that finds everything as relevant as it was told to."""

    model = "judge"

    def __init__(self, relevance: float | None) -> None:
        self.relevance = relevance

    async def rerank(self, query: str, documents: Sequence[str]) -> Sequence[float]:
        if self.relevance is None:
            raise ModelUnavailable("away")
        return [self.relevance] * len(documents)

    async def aclose(self) -> None:
        """Nothing to let go of."""


@pytest.mark.parametrize(("relevance", "is_kept"), [(0.9, True), (0.1, False), (None, False)])
async def test_a_model_that_reads_both_may_know_better(
    services: Services, tenant: str, relevance: float | None, is_kept: bool
) -> None:
    gate = replace(services.gate, reranker=Judge(relevance))
    slm = FindingSLM(Stated(0, MemoryType.ARTIFACT, "I run several pastry shops", "Two bakeries keep me going", 0.9))
    await TurnService(services.memories, gate, slm).take(tenant, USER, utterances("Two bakeries keep me going."), "one")
    assert bool(await held(services, tenant)) == is_kept


@pytest.mark.parametrize(("relevance", "is_kept"), [(0.2, True), (0.01, False), (None, True)])
async def test_a_model_that_reads_both_may_find_nothing_of_it(
    services: Services, tenant: str, relevance: float | None, is_kept: bool
) -> None:
    gate = replace(services.gate, reranker=Judge(relevance))
    slm = FindingSLM(Stated(0, MemoryType.ARTIFACT, "I run two bakeries", "Two bakeries keep me running", 0.9))
    await TurnService(services.memories, gate, slm).take(tenant, USER, utterances("Two bakeries keep me running."), "x")
    assert bool(await held(services, tenant)) == is_kept


async def test_a_statement_may_rest_on_the_turns_before_its_batch(services: Services, tenant: str) -> None:
    """The last three of its conversation, and of no other."""
    await services.turns.take(tenant, USER, utterances("Porto, as ever.", "I bake.", "All day.", "And more."), "one")
    stated = Stated(0, MemoryType.ARTIFACT, "I opened my second bakery in Porto", "the second bakery is open", 0.9)
    service = TurnService(services.memories, services.gate, FindingSLM(stated))
    said = utterances("Well, the second bakery is open.")
    for session, turn in (("two", 4), ("one", 5)):
        assert (await service.take(tenant, USER, said, session, turn)).set_apart == 1
    await services.turns.take(tenant, USER, utterances("It is in Porto, of course."), "three", 1)
    assert (await service.take(tenant, USER, said, "three", 2)).set_apart == 0


async def test_without_the_model_rules_find_what_they_can(services: Services, tenant: str) -> None:
    service = TurnService(services.memories, services.gate, BrokenSLM())
    await service.take(tenant, USER, utterances("I like hiking."), "one")
    assert set(await held(services, tenant)) == {"I like hiking"}


async def test_a_turn_is_kept_once_a_conversation(services: Services, tenant: str) -> None:
    """Said in two conversations it was said twice; a conversation that is handed in again says nothing new."""
    for session in ("one", "two", "one"):
        await services.turns.take(tenant, USER, utterances("Thanks a lot!", "What time is it?"), session)
    found = await services.memories.page(tenant, USER, limit=100)
    assert sorted((each.content, each.session) for each in found) == [
        ("Thanks a lot!", "one"),
        ("Thanks a lot!", "two"),
        ("What time is it?", "one"),
        ("What time is it?", "two"),
    ]
