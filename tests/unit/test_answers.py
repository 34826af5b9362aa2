"""Model text becomes a checked value or a named error, in one place."""

import json
import time
from typing import Any

import pytest
from pydantic import BaseModel

from app.clients.slm import answers
from app.clients.slm.answers import Enrichment, Proposals, Questions, Relevances, Wishes, cleaned, parse
from app.domain.errors import ModelUnavailable
from app.domain.instructions import MAX_LINE
from tests.model_answers import SERVERS, reading, recorded, said

GOOD = json.dumps({"hypotheses": [reading("Do you want a REST API?", 1)]})


def cause_of(text: str, kind: type[BaseModel] = Proposals) -> str:
    with pytest.raises(ModelUnavailable) as caught:
        parse(text, kind)
    return caught.value.cause


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize(
    ("case", "kind"),
    [
        ("hypotheses", Proposals),
        ("hypotheses_french", Proposals),
        ("facets", Wishes),
        ("enrichment", Enrichment),
        ("followups", Questions),
        ("relevance", Relevances),
    ],
)
def test_what_real_servers_answer_has_the_shape(server: str, case: str, kind: type[BaseModel]) -> None:
    text = said(recorded(server, case))

    assert parse(text, kind).model_dump(exclude_unset=True).keys() == json.loads(text).keys()


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"\n  {GOOD}\n",
        f"```json\n{GOOD}\n```",
        f"```\n{GOOD}```",
        f"Sure! Here are the readings:\n```json\n{GOOD}\n```\nAnything else?",
        f"Here you are: {GOOD} I hope this helps.",
        f"<think>first, consider</think>{GOOD}",
        f"```python\nprint()\n``` and\n```json\n{GOOD}\n```",
    ],
)
def test_json_is_found_among_other_words(text: str) -> None:
    assert parse(text, Proposals).hypotheses[0].question == "Do you want a REST API?"


@pytest.mark.parametrize(
    "text",
    ["", "   ", "I cannot help with that.", GOOD[:-1], GOOD[: len(GOOD) // 2], "{", "}{", "[" * 5000, "```json\n```",
     '{"hypotheses": NaN}', "\x00", '{"hypotheses": "\ud800"}'],
)  # fmt: skip
def test_what_is_no_json_is_a_broken_answer(text: str) -> None:
    assert cause_of(text) == "broken_answer"


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        7,
        None,
        "text",
        {"answers": []},
        {"hypotheses": []},
        {"hypotheses": {}},
        {"hypotheses": [{}]},
        {"hypotheses": ["Do you want a REST API?"]},
        {"hypotheses": [reading("Do you?")] * 21},
        {"hypotheses": [{"question": "Do you?"}]},
        {"hypotheses": [{"question": 7, "request": "x"}]},
        {"hypotheses": [{"question": "ab", "request": "abc"}]},
        {"hypotheses": [{"question": " \n\u0000 ", "request": "abc"}]},
        {"hypotheses": [{**reading("Do you?"), "memories": "1"}]},
        {"hypotheses": [{**reading("Do you?"), "memories": [[1]]}]},
        {"hypotheses": [{**reading("Do you?"), "confidence": 101}]},
        {"hypotheses": [{**reading("Do you?"), "confidence": -1}]},
        {"hypotheses": [{**reading("Do you?"), "confidence": "sure"}]},
    ],
)
def test_json_that_says_something_else_has_the_wrong_shape(document: Any) -> None:
    assert cause_of(json.dumps(document)) == "wrong_shape"


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        (Wishes, {"facets": {"concise": "a bit"}}),
        (Wishes, {"facets": ["more"]}),
        (Enrichment, {"implicit_goals": [], "inferred_expertise_level": "wizard", "next_steps": []}),
        (Questions, {"questions": []}),
        (Relevances, {"relevance": [11]}),
        (Relevances, {"relevance": [-1]}),
        (Relevances, {"relevance": [None]}),
    ],
)
def test_values_outside_their_range_have_the_wrong_shape(kind: type[BaseModel], document: Any) -> None:
    assert cause_of(json.dumps(document), kind) == "wrong_shape"


def test_an_error_counts_the_faults_and_quotes_nothing() -> None:
    with pytest.raises(ModelUnavailable, match=r"another shape \(2 faults\)") as caught:
        parse(json.dumps({"hypotheses": [{"zanzibar": 1}]}), Proposals)

    assert "zanzibar" not in str(caught.value)


def test_texts_become_one_line_of_bounded_length() -> None:
    long = " word\n\tword " * 200
    document = {"hypotheses": [{"question": long, "request": "a\u0000b\u001b[31m\u0085c"}]}

    proposal = parse(json.dumps(document), Proposals).hypotheses[0]

    assert len(proposal.question) == MAX_LINE
    assert proposal.question.startswith("word word word")
    assert proposal.request == "a b [31m c"
    assert (proposal.memories, proposal.confidence) == ([], 50.0)


def test_cleaned_keeps_lines_and_what_people_write() -> None:
    text = "one\ntwo\tthree\r\n नमस्ते 👩‍👩‍👧 é"

    assert cleaned(text) == text
    assert cleaned("a\x00b\x7fc\x9bd") == "a b c d"


@pytest.mark.parametrize(
    "text", ["```" + " " * 100_000, "```json" * 15_000, "{" * 100_000, "[" * 100_000, "`" * 100_000, "```\n" * 25_000]
)
def test_no_text_takes_long_to_refuse(text: str) -> None:
    """A model may ramble to the limit; reading that has to stay linear, for it holds up every other request."""
    started = time.perf_counter()

    assert cause_of(text) == "broken_answer"

    assert time.perf_counter() - started < 2.0


@pytest.mark.parametrize("count", [1, 3, 5])
def test_schemas_ask_for_what_parse_accepts(count: int) -> None:
    schema: Any = answers.hypotheses_schema(count)
    items = schema["properties"]["hypotheses"]

    assert (items["minItems"], items["maxItems"]) == (count, count)
    assert items["items"]["required"] == ["request", "question", "memories", "confidence"]
    assert set(items["items"]["properties"]) == set(answers.Proposal.model_fields)
    assert items["items"]["additionalProperties"] is False
    assert json.loads(answers.as_text(schema)) == schema


def test_every_schema_names_the_fields_of_its_answer() -> None:
    pairs: list[tuple[Any, type[BaseModel]]] = [
        (answers.hypotheses_schema(3), Proposals),
        (answers.enrichment_schema(), Enrichment),
        (answers.questions_schema(3), Questions),
        (answers.relevances_schema(3), Relevances),
        (answers.wishes_schema(["concise"]), Wishes),
    ]
    for schema, kind in pairs:
        assert schema["required"] == list(kind.model_fields)
        assert schema["additionalProperties"] is False
