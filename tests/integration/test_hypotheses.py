"""From a vague input to hypotheses: read from the user's own memories and choices, from peers only in numbers."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from sqlalchemy import text

from app.api.deps import Services
from app.clients.embeddings.onnx import OnnxEmbedder
from app.domain.errors import InvalidInput, ModelUnavailable
from app.domain.hypotheses import HypothesisContext, Reading, Turn
from app.domain.labels import Weighed
from app.domain.leanings import leanings_of
from app.domain.memory import MemoryType
from app.domain.persona import Signal
from app.domain.turns import Stated, Utterance
from app.services.choices import ExecuteRequest
from app.services.feedback import Feedback
from app.settings import Settings
from app.store import calibrations as calibration_store
from app.store.engine import Database
from app.wiring import build_services
from tests.integration.conftest import FaultyEmbedder, choose, facts

DEPLOY = "deploy my app"


class BrokenSLM:
    """A language model that never answers."""

    name = "broken"
    model = "none"
    prompt_version = "0"
    state = "closed"

    async def propose_readings(self, context: HypothesisContext, adapter: str | None = None) -> Sequence[Reading]:
        raise ModelUnavailable("no answer in time")

    async def weigh_readings(self, context: HypothesisContext, readings: Sequence[Reading]) -> Weighed | None:
        raise ModelUnavailable("no answer in time")

    async def compute_facet_updates(self, signal: Signal) -> Mapping[str, float]:
        raise ModelUnavailable("no answer in time")

    async def summarize(self, texts: Sequence[str], max_tokens: int) -> str:
        raise ModelUnavailable("no answer in time")

    async def enrich_context(self, context: HypothesisContext) -> Mapping[str, object]:
        raise ModelUnavailable("no answer in time")

    async def generate_followup_questions(
        self, conversation_context: str, context: HypothesisContext, count: int
    ) -> Sequence[str]:
        raise ModelUnavailable("no answer in time")

    async def extract(self, said: Sequence[Utterance]) -> Sequence[Stated]:
        raise ModelUnavailable("no answer in time")

    async def aclose(self) -> None:
        """Nothing to let go of."""


async def stored_sets(services: Services, tenant: str, user: str) -> list[Any]:
    query = text("SELECT * FROM hypothesis_sets WHERE user_id = :user ORDER BY created_at")
    async with services.database.begin(tenant) as connection:
        return list((await connection.execute(query, {"user": user})).all())


async def test_the_same_words_mean_what_each_user_told(services: Services, tenant: str) -> None:
    """`deploy my app` is read with Python, Docker and AWS for one user and with Kotlin and Google Cloud for
    another; each hypothesis names the memory it comes from, and all are one distribution."""
    told = {
        "ada": ("I write Python and deploy with Docker on AWS", ("Python", "Docker", "AWS")),
        "bob": ("I write Kotlin and deploy on Google Cloud", ("Kotlin", "Google Cloud")),
    }
    for user, (statement, values) in told.items():
        (memory,) = (await services.memories.add(tenant, user, facts(statement))).ids
        made = await services.hypotheses.hypothesize(tenant, user, DEPLOY)
        best = made.hypotheses[0]
        assert all(value in best.question for value in values)
        assert best.evidence == (memory,)
        assert statement in best.rationale
        assert (made.source, made.is_degraded, made.calibration_version) == ("local", False, 0)
        confidences = [one.confidence for one in made.hypotheses]
        assert confidences == sorted(confidences, reverse=True)
        assert 0 < sum(confidences) <= 1
        assert [one.id for one in made.hypotheses] == ["h1", "h2", "h3"]
        others = {value for _, each in told.values() for value in each if value not in values} - {"AWS", "Docker"}
        assert not any(value in one.question + one.rationale for one in made.hypotheses for value in others)


async def test_the_shown_set_is_stored_with_scores_and_propensities(services: Services, tenant: str) -> None:
    """What was shown can be read back as it was: every text, score, confidence, evidence and propensity."""
    await services.memories.add(tenant, "ada", facts("I write Python and deploy with Docker on AWS"))
    made = await services.hypotheses.hypothesize(tenant, "ada", DEPLOY, conversation=[Turn("user", "hi")], count=5)
    (stored,) = await stored_sets(services, tenant, "ada")
    assert (stored.set_id, stored.input_text, stored.decision) == (made.set_id, DEPLOY, made.decision)
    assert (stored.intent, stored.outcome, stored.clarification_need) == ("deploy", None, made.clarification_need)
    assert len(stored.hypotheses) == len(made.hypotheses) == 5
    for place, (kept, shown) in enumerate(zip(stored.hypotheses, made.hypotheses, strict=True), start=1):
        assert kept == {
            "id": shown.id,
            "question": shown.question,
            "request": shown.request,
            "rationale": shown.rationale,
            "confidence": shown.confidence,
            "score": shown.score,
            "features": {"score": shown.score},
            "origin": shown.origin,
            "slots": dict(shown.slots),
            "evidence": [str(one) for one in shown.evidence],
            "rank": place,
            "leanings": leanings_of(shown.request),
            "propensity": 1.0,
        }


async def test_a_cold_user_is_asked_about_what_is_common(services: Services, tenant: str) -> None:
    """Someone never heard of gets options without evidence, is asked, and exists from then on."""
    made = await services.hypotheses.hypothesize(tenant, "cold", DEPLOY)
    assert made.decision == "ask"
    assert [(one.origin, one.evidence) for one in made.hypotheses] == [("option", ())] * 3
    assert (await services.personas.get(tenant, "cold")).vector is not None
    for vague in ("hm", "🙂", "?", "a" * 5000):
        assert (await services.hypotheses.hypothesize(tenant, "cold", vague)).hypotheses


async def test_peers_count_only_from_k_of_them(services: Services, settings: Settings, tenant: str) -> None:
    """k - 1 peers say nothing, the k-th makes it a hypothesis, the asking user is not one of them, and what
    peers wrote is not in it."""
    k = settings.k_anonymity
    for number in range(k):
        user = f"peer-{number}"
        await services.memories.add(tenant, user, facts(f"secretword{number} is my hobby"))
        made = await services.hypotheses.hypothesize(tenant, user, "deploy my application")
        chosen = next(one for one in made.hypotheses if one.slots.get("platform") == "Vercel")
        request = ExecuteRequest(DEPLOY, made.set_id, chosen.id, custom_answer=f"secretword{number} comes with it")
        await services.context.execute(tenant, user, request)
        before = [one.origin for one in (await services.hypotheses.hypothesize(tenant, "new", DEPLOY)).hypotheses]
        own = [one.origin for one in (await services.hypotheses.hypothesize(tenant, user, DEPLOY)).hypotheses]
        assert "cohort" not in own
        assert ("cohort" in before) == (number == k - 1)
    made = await services.hypotheses.hypothesize(tenant, "new", DEPLOY)
    peers = next(one for one in made.hypotheses if one.origin == "cohort")
    assert peers.slots == {"platform": "Vercel", "budget": "free-tier"}
    assert "Vercel" in peers.question
    assert peers.evidence == ()
    said = " ".join(one.question + one.request + one.rationale for one in made.hypotheses)
    assert not any(f"secretword{number}" in said or f"peer-{number}" in said for number in range(k))


async def test_one_keen_user_is_one_voice(services: Services, settings: Settings, tenant: str) -> None:
    """The same user choosing k times, and k users of another tenant, are no cohort."""
    for _ in range(settings.k_anonymity + 1):
        await choose(services, tenant, "keen", DEPLOY)
    made = await services.hypotheses.hypothesize(tenant, "new", DEPLOY)
    assert "cohort" not in [one.origin for one in made.hypotheses]


async def test_choosing_the_same_again_and_again_is_learned(services: Services, tenant: str) -> None:
    """After some choices of one hypothesis the service is sure enough to go ahead; the list still comes,
    and the calibration is fitted anew and says which one it is."""
    await services.memories.add(tenant, "ada", facts("I write Python and deploy with Docker on AWS"))
    versions, decisions, confidences = [], [], []
    for _ in range(10):
        made, execution = await choose(services, tenant, "ada", DEPLOY)
        content = Feedback(execution_id=execution.execution_id, is_success=True)
        await services.feedback.give(tenant, "ada", content)
        assert "Python" in made.hypotheses[0].question
        assert len(made.hypotheses) == 3
        versions.append(made.calibration_version)
        decisions.append(made.decision)
        confidences.append(made.hypotheses[0].confidence)
    assert decisions[0] == "ask"
    assert decisions[-1] == "auto_advance"
    assert confidences[-1] > 0.86 > confidences[0]
    assert versions[0] == 0
    assert versions[-1] >= 1
    assert versions == sorted(versions)
    stored = (await stored_sets(services, tenant, "ada"))[-1]
    assert stored.calibration_version == versions[-1]


async def test_a_calibration_is_fitted_anew_however_many_outcomes_there_are(
    services: Services, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once there are more outcomes than a fit looks at, new ones still count."""
    monkeypatch.setattr(calibration_store, "FIT_WINDOW", 5)
    versions = []
    for number in range(11):
        made, _ = await choose(services, tenant, f"user-{number}", DEPLOY)
        versions.append(made.calibration_version)
    assert versions == [number // 5 for number in range(11)]


async def test_a_refused_reading_loses(services: Services, tenant: str) -> None:
    """What the user turns down for an input is less likely the next time; another user's list is as before."""
    first = await services.hypotheses.hypothesize(tenant, "ada", DEPLOY)
    refused = first.hypotheses[0]
    await services.feedback.give(tenant, "ada", Feedback(set_id=first.set_id, rejected_ids=(refused.id,)))
    again = await services.hypotheses.hypothesize(tenant, "ada", DEPLOY)
    assert again.hypotheses[0].question != refused.question
    fresh = await services.hypotheses.hypothesize(tenant, "bob", DEPLOY)
    assert fresh.hypotheses[0].question == refused.question


async def test_many_questions_of_one_user_at_once(services: Services, tenant: str) -> None:
    """32 inputs of a user nobody knew are all answered and stored, and all move the persona vector."""
    made = await asyncio.gather(
        *(services.hypotheses.hypothesize(tenant, "busy", f"deploy app {number}") for number in range(32))
    )
    assert len({one.set_id for one in made}) == len(await stored_sets(services, tenant, "busy")) == 32
    async with services.database.begin(tenant) as connection:
        weight = (await connection.execute(text("SELECT vector_weight FROM users"))).scalar_one()
    assert weight == pytest.approx(32, abs=0.01)


async def test_without_the_language_model_the_local_one_answers(
    settings: Settings, database: Database, embedder: OnnxEmbedder, tenant: str
) -> None:
    """Every use of the model falls back: the answer says `local` and degraded, and choices teach as ever."""
    services = build_services(settings, database, embedder, BrokenSLM())
    assert services.slm.name == "broken"
    await services.memories.add(tenant, "ada", facts("I write Python and deploy with Docker on AWS"))
    made, executed = await choose(services, tenant, "ada", DEPLOY)
    assert (made.source, made.is_degraded) == ("local", True)
    assert "Python" in made.hypotheses[0].question
    (stored,) = await stored_sets(services, tenant, "ada")
    assert (stored.source, stored.is_degraded) == ("local", True)
    deltas = await services.feedback.give(tenant, "ada", Feedback(executed.execution_id, comment="too long"))
    assert deltas["concise"] > 0
    enrichment, is_degraded = await services.reflection.enrich(tenant, "ada", DEPLOY)
    assert enrichment["next_steps"]
    assert is_degraded
    questions, is_degraded = await services.reflection.followups(tenant, "ada", DEPLOY, 2)
    assert questions
    assert is_degraded


async def test_without_the_embedding_model_words_still_read(
    settings: Settings, database: Database, embedder: OnnxEmbedder, tenant: str
) -> None:
    """With the embedder out of service an input is read by its words: degraded, not failed."""
    faulty = FaultyEmbedder(embedder)
    services = build_services(settings, database, faulty)
    await services.memories.add(tenant, "ada", facts("I deploy my app to Heroku", kind=MemoryType.HISTORY))
    faulty.is_down = True
    made = await services.hypotheses.hypothesize(tenant, "ada", DEPLOY)
    assert made.is_degraded
    assert "Heroku" in " ".join(one.question for one in made.hypotheses)
    assert (await services.context.execute(tenant, "ada", ExecuteRequest(DEPLOY))).prompt.uses


async def test_a_tenant_has_its_own_threshold_and_intents(services: Services, tenant: str) -> None:
    """A tenant's threshold and vocabulary hold for it alone, and what makes no catalogue is refused."""
    await services.catalogues.save_document(
        tenant,
        {
            "auto_advance_confidence": 0.5,
            "question_cost": 0.5,
            "intents": {"vocabulary": {"platform": ["Zeppelin Cloud"]}},
        },
    )
    await services.memories.add(tenant, "ada", facts("I always deploy on Zeppelin Cloud"))
    made = await services.hypotheses.hypothesize(tenant, "ada", DEPLOY)
    assert made.hypotheses[0].slots == {"platform": "Zeppelin Cloud"}
    assert made.decision == "auto_advance"
    with pytest.raises(InvalidInput):
        await services.catalogues.save_document(tenant, {"intents": {"vocabulary": {"no such slot": ["x"]}}})
