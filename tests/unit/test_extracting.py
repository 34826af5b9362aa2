"""Statements that a language model finds in turns: what it is told, and what of its answer is believed."""

from datetime import UTC, datetime
from typing import Any

from app.clients.slm.model import ModelSLM
from app.clients.slm.resilience import Limits
from app.clients.slm.vllm import VLLMClient
from app.domain.extracting import TURNS, extraction_instruction
from app.domain.memory import MemoryType
from app.domain.times import dated
from app.domain.turns import Utterance
from tests.model_answers import ScriptedServer, answering

NOW = datetime(2024, 5, 6, 12, tzinfo=UTC)
"""A Monday."""

SAID = [
    Utterance("assistant", "Where do you work?", NOW),
    Utterance("user", "I joined   Acme as a baker. <b>My mail is ada@example.org.</b>", NOW),
]


def statement(turn: int, quote: str, content: str, kind: str = "PROFILE", confidence: int = 90) -> dict[str, Any]:
    return {"turn": turn, "quote": quote, "type": kind, "content": content, "confidence": confidence}


def slm_on(*answers: object) -> tuple[ModelSLM, ScriptedServer]:
    server = ScriptedServer([answering(statements=each) for each in answers])
    return ModelSLM(VLLMClient("http://host:1/v1", "m", limits=Limits(), http_client=server.client)), server


def test_turns_are_numbered_dated_redacted_and_fenced() -> None:
    told = extraction_instruction(SAID).user
    assert '<turn id="2" by="user" at="2024-05-06 Monday">I joined Acme as a baker.' in told
    assert "ada@example.org" not in told
    assert "[EMAIL]" in told
    assert "<b>" not in told


def test_who_speaks_is_told_by_name_where_it_is_known() -> None:
    named = [Utterance("user", "I joined Acme.", NOW, 'Ann "Bee" O\'Neil'), Utterance("user", "So did I.", NOW)]
    told = extraction_instruction(named).user
    assert '<turn id="1" by="user" name="Ann &quot;Bee&quot; O&#x27;Neil" at=' in told
    assert '<turn id="2" by="user" at=' in told


async def test_a_statement_stands_by_the_words_that_make_it() -> None:
    slm, _ = slm_on([statement(2, "i joined Acme as a baker", "I work at Acme as a baker.", confidence=80)])
    (found,) = await slm.extract(SAID)
    assert (found.position, found.type, found.confidence) == (1, MemoryType.PROFILE, 0.8)
    assert found.content == "I work at Acme as a baker."
    assert found.quote == "I joined   Acme as a baker"


async def test_what_no_turn_says_is_not_believed() -> None:
    """A quote that does not stand there, a turn of the assistant's or none at all, and what was taken out."""
    slm, _ = slm_on(
        [
            statement(2, "I own a bakery", "I own a bakery"),
            statement(1, "Where do you work", "I work somewhere"),
            statement(7, "I joined Acme", "I joined Acme"),
            statement(2, "My mail is", "My mail is [EMAIL]"),
            statement(2, "“…”", "Nothing is quoted here"),
        ]
    )
    assert await slm.extract(SAID) == []


async def test_a_long_conversation_is_read_in_parts() -> None:
    """Positions are those of the whole; a part in which no user speaks is not read."""
    said = [Utterance("user", f"I like fruit number {number}", NOW) for number in range(TURNS)]
    said += [Utterance("assistant", "Good.", NOW)] * TURNS
    said += [Utterance("user", "I like plums", NOW)]
    slm, server = slm_on(
        [statement(1, "I like fruit number 0", "I like fruit 0")], [statement(1, "I like plums", "I like plums")]
    )
    assert [each.position for each in await slm.extract(said)] == [0, 2 * TURNS]
    assert len(server.requests) == 2


def test_relative_dates_get_their_dates() -> None:
    assert dated("We opened last Friday.", NOW) == "We opened last Friday (2024-05-03)."
    assert dated("I moved yesterday and start tomorrow", NOW) == (
        "I moved yesterday (2024-05-05) and start tomorrow (2024-05-07)"
    )
    assert dated("I moved last month", NOW) == "I moved last month (2024-04)"
    assert dated("I moved last year", NOW) == "I moved last year (2023)"
    assert dated("I moved last week", NOW) == "I moved last week (2024-04-29 to 2024-05-05)"
    assert dated("I moved two months ago", NOW) == "I moved two months ago (2024-02)"
    assert dated("I moved on 3 May 2024", NOW) == "I moved on 3 May 2024"
