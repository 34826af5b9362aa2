"""The floor below which memory must not fall, on generated data: turns that answer, and facts that change."""

from datetime import UTC, datetime, timedelta

import numpy as np

from app.api.deps import Services
from app.clients.embeddings.onnx import OnnxEmbedder
from app.domain.memory import Draft, MemoryType
from app.domain.turns import Utterance
from app.services.ranking import SearchRequest
from benchmarks.memory_quality.histories import generate
from tests.integration.conftest import create_tenant

TENANT = "tenant-of-quality"
BEGIN = datetime(2025, 3, 3, 9, tzinfo=UTC)
TALKS = (
    ("How was the pottery class?", "It was messy, the bowl came out crooked."),
    ("Did the marathon training go well?", "My knee hurts, so the doctor told me to rest for a month."),
    ("What happened with the violin?", "A string broke right before the concert."),
    ("Have you finished the shelf?", "Almost, the left side still needs varnish."),
    ("How is your sister's bakery?", "They sold out by ten in the morning."),
    ("Any news about the passport?", "It will take six weeks, they lost the photo."),
)
FILLER = ("Good to hear from you!", "Wow, that is great.", "Haha, same here.", "Talk to you soon!")


async def test_the_answering_turn_is_found_by_the_words_of_the_question_before_it(
    services: Services, embedder: OnnxEmbedder
) -> None:
    """Where an answer shares no word with what is asked later, the turn before it does: nearly all are among the first
    three, and far more than by vector alone."""
    await create_tenant(services.database, TENANT)
    drafts, answers = [], []
    for day, (asked, answered) in enumerate(TALKS):
        for turn, text in enumerate((FILLER[day % 4], asked, answered, FILLER[(day + 1) % 4]), 1):
            drafts.append(
                Draft(MemoryType.HISTORY, text, valid_from=BEGIN + timedelta(days=day), session=str(day), turn=turn)
            )
        answers.append(answered)
    await services.memories.add(TENANT, "talker", drafts)
    queries = ("pottery", "marathon training", "the violin", "the shelf", "sister's bakery", "the passport")
    found = 0
    for query, answer in zip(queries, answers, strict=True):
        ranked = (await services.ranking.search(TENANT, "talker", SearchRequest(query, 3))).ranked
        found += answer in [item.memory.content for item in ranked]
    texts = [draft.content for draft in drafts]
    near = np.argsort(-(await embedder.embed(queries) @ (await embedder.embed(texts)).T), axis=1)[:, :3]
    by_vector = sum(answer in [texts[at] for at in row] for row, answer in zip(near, answers, strict=True))
    assert found >= 5
    assert found > by_vector


async def test_what_holds_comes_before_what_held(services: Services) -> None:
    """Of generated histories nearly all: the current fact first, and as of a moment the one that held then."""
    await create_tenant(services.database, f"{TENANT}-2")
    turns = services.turns
    histories = generate(20, "seen", seed=3)
    right = 0
    for history in histories:
        for day, each in enumerate(history.messages):
            await turns.take(f"{TENANT}-2", history.user, [Utterance("user", each.text, each.at)], f"day-{day}")
        values = {value for _, value in history.values} | set(history.wrong)
        asked = SearchRequest(history.question)
        ranked = (await services.ranking.search(f"{TENANT}-2", history.user, asked)).ranked
        telling = [item.memory.content for item in ranked if any(value in item.memory.content for value in values)]
        right += history.current in telling[0]
    assert right >= 17
