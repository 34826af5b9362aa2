"""How the local model reads an input: from evidence, with its source, the same way every time."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
import yaml

from app.domain import catalogue as module
from app.domain.catalogue import IntentMatch, parse_catalogue
from app.domain.hypotheses import CohortChoice, HypothesisContext, PastChoice, Reading, Turn
from app.domain.memory import Memory, MemoryType
from app.domain.ranking import Ranked, recency
from app.domain.readings import local_readings

NOW = datetime(2026, 1, 10, tzinfo=UTC)
CATALOGUE = parse_catalogue(yaml.safe_load(Path(module.__file__).with_name("intents.yaml").read_text("utf-8")))
PREFERENCE, GOAL, PROFILE = MemoryType.PREFERENCE, MemoryType.GOAL, MemoryType.PROFILE


def fact(
    content: str, kind: MemoryType = PREFERENCE, *, similarity: float = 0.4, days: float = 1, confidence: float = 0.8
) -> Ranked:
    at = NOW - timedelta(days=days)
    number = int.from_bytes(f"{kind}{content}".encode("utf-8", "replace")[:12])
    memory = Memory(UUID(int=number), "u", kind, content, confidence, (), "api", at, at, at)
    return Ranked(memory, similarity, similarity, recency(memory, NOW), confidence)


def context(
    text: str,
    intent: str | None = None,
    memories: Sequence[Ranked] = (),
    *,
    past: Sequence[PastChoice] = (),
    cohort: Sequence[CohortChoice] = (),
    count: int = 3,
) -> HypothesisContext:
    found = CATALOGUE.intent(intent) if intent else None
    match = IntentMatch(found, 0.7) if found else None
    return HypothesisContext(text, NOW, CATALOGUE, match, memories, past, cohort, count=count)


def past(
    slots: dict[str, str] | None = None,
    *,
    chosen: bool = True,
    answer: str = "",
    near: float = 0.9,
    evidence: tuple[UUID, ...] = (),
    request: str = "",
) -> PastChoice:
    return PastChoice("deploy", slots or {}, answer, "ship the shop", evidence, near, chosen, request)


def questions(readings: Sequence[Reading]) -> list[str]:
    return [reading.question for reading in readings]


def score_of(question: str, readings: Sequence[Reading]) -> float:
    [score] = [reading.score for reading in readings if reading.question == question]
    return score


def test_what_the_user_works_with_fills_what_the_input_leaves_open() -> None:
    docker = fact("I use Docker and Terraform for deployments")
    azure = fact("We run on Azure", PROFILE, days=90)
    best = local_readings(context("deploy my app", "deploy", [docker, azure]))[0]
    assert best.question == "Deploy your app on Azure with Docker and Terraform?"
    assert best.request == "deploy my app on Azure with Docker and Terraform"
    assert best.slots == {"platform": "Azure", "tools": "Docker, Terraform"}
    assert set(best.evidence) == {docker.memory.memory_id, azure.memory.memory_id}
    assert "“We run on Azure”" in best.rationale


def test_what_the_input_says_is_not_asked_again() -> None:
    readings = local_readings(context("deploy my app on AWS with Docker", "deploy", [fact("I use Heroku and Ansible")]))
    assert all("Heroku" not in each.question or "“I use Heroku" in each.question for each in readings)
    assert all(each.slots.get("platform", "AWS") == "AWS" for each in readings)


def test_what_was_denied_is_not_offered_by_anyone() -> None:
    memories = [fact("I don't use AWS, I use Azure", days=2), fact("I host on AWS", days=9)]
    choices = [past({"platform": "AWS"})]
    peers = [CohortChoice({"platform": "AWS"}, 9, 0.9)]
    readings = local_readings(context("deploy my app", "deploy", memories, past=choices, cohort=peers))
    assert readings[0].slots == {"platform": "Azure"}
    assert all("AWS" not in str(each.slots) for each in readings)


def test_a_change_of_mind_counts_from_when_it_was_said() -> None:
    memories = [fact("I don't use AWS", days=30), fact("I use AWS now", days=1)]
    assert local_readings(context("deploy my app", "deploy", memories))[0].slots == {"platform": "AWS"}


def test_of_two_values_the_better_supported_leads_and_the_other_is_the_runner_up() -> None:
    memories = [fact("I host on Heroku", days=200, confidence=0.5), fact("We host on Azure", days=2)]
    readings = [each for each in local_readings(context("deploy it", "deploy", memories)) if each.slots]
    assert [each.slots for each in readings[:2]] == [{"platform": "Azure"}, {"platform": "Heroku"}]
    assert readings[0].score > readings[1].score + 0.5


def test_tools_of_another_world_are_not_carried_over() -> None:
    far = fact("I use Docker and Terraform for deployments", similarity=0.02)
    assert all("Docker" not in each.question for each in local_readings(context("cook dinner", "cook", [far])))


def test_a_question_fills_four_slots_at_most() -> None:
    rich = fact("I write Python with FastAPI on AWS with Docker, PostgreSQL and a REST API for developers")
    best = local_readings(context("build api", "build", [rich]))[0]
    assert len(best.slots) == 4
    assert best.question.startswith("Build an API in Python using FastAPI")


def test_a_near_memory_is_quoted_in_both_voices() -> None:
    goal = fact("I want to open a bakery by May", GOAL, similarity=0.6)
    [reading] = [each for each in local_readings(context("plan my budget", None, [goal])) if each.evidence]
    assert reading.question == "Plan your budget, towards your goal “I want to open a bakery by May”?"
    assert reading.request == "plan my budget, towards my goal “I want to open a bakery by May”"
    assert reading.evidence == (goal.memory.memory_id,)


def test_secrets_in_memories_are_not_quoted() -> None:
    secret = fact("My mail is jane@example.com and I use Docker", similarity=0.9)
    for each in local_readings(context("deploy my app", "deploy", [secret])):
        assert "jane@" not in each.question + each.request + each.rationale


def test_an_earlier_choice_is_offered_again_and_named() -> None:
    readings = local_readings(
        context("deploy my app", "deploy", past=[past({"platform": "Azure", "tools": "Helm, Git"})])
    )
    assert readings[0].question == "Deploy your app on Azure with Helm and Git, as you chose for “ship the shop”?"
    assert readings[0].origin == "choice"


def test_an_own_answer_is_offered_again() -> None:
    [first, *_] = local_readings(context("deploy my app", "deploy", past=[past(answer="to my NAS at home")]))
    assert first.request == "deploy my app: “to my NAS at home”"


def test_an_own_answer_that_names_values_only_is_a_choice_of_them() -> None:
    """Once, however it was said: two readings of one meaning would share its probability."""
    told = [past(answer="Azure, with Helm"), past({"platform": "Azure", "tools": "Helm"})]
    readings = local_readings(context("deploy my app", "deploy", past=told))
    once = local_readings(context("deploy my app", "deploy", past=told[1:]))

    assert [each.slots for each in readings].count({"platform": "Azure", "tools": "Helm"}) == 1
    assert readings[0].slots == {"platform": "Azure", "tools": "Helm"}
    assert readings[0].score > once[0].score


def test_what_is_chosen_again_and_again_goes_before_what_was_meant_between() -> None:
    """Its questions were refused when something else was meant: that says little against what is chosen most."""
    often = [past({"platform": "Azure"})] * 4 + [past({"platform": "Azure"}, chosen=False)] * 4
    rarely = [past({"platform": "Heroku"})]
    readings = local_readings(context("deploy my app", "deploy", past=[*often, *rarely]))

    assert [each.slots for each in readings[:2]] == [{"platform": "Azure"}, {"platform": "Heroku"}]


@pytest.mark.parametrize("near", [0.56, 0.95])
def test_choices_raise_and_refusals_lower_the_same_reading(near: float) -> None:
    memories = [fact("I use Docker")]
    plain = local_readings(context("deploy it", "deploy", memories))
    asked = plain[0].question

    def with_history(*choices: PastChoice) -> float:
        return score_of(asked, local_readings(context("deploy it", "deploy", memories, past=choices)))

    chosen, refused = past({"tools": "Docker"}, near=near), past({"tools": "Docker"}, near=near, chosen=False)
    assert with_history(chosen) > plain[0].score > with_history(refused)
    assert with_history(refused, refused) < with_history(refused)
    assert with_history(past({"tools": "Docker"}, near=0.5)) == plain[0].score
    assert with_history(past({"tools": "Git"}, near=near)) == plain[0].score


def test_readings_without_slots_are_known_again_by_their_memory_or_their_wording() -> None:
    style = fact("Keep it simple", MemoryType.STYLE, similarity=0.5)
    plain = local_readings(context("fix it", "debug", [style]))
    quoted = next(each for each in plain if each.evidence)
    option = next(each for each in plain if each.origin == "option" and not each.slots)
    history = [
        past(chosen=False, evidence=quoted.evidence),
        past(chosen=False, request=option.request),
    ]
    after = local_readings(context("fix it", "debug", [style], past=history))
    assert score_of(quoted.question, after) < quoted.score
    assert score_of(option.question, after) < option.score


def test_peers_are_heard_in_words_of_the_vocabulary_only() -> None:
    peers = [
        CohortChoice({"platform": "Azure", "tools": "Docker, Helm"}, 7, 0.5),
        CohortChoice({"platform": "the server of Jane Doe"}, 9, 0.9),
        CohortChoice({"no_such_slot": "Azure"}, 9, 0.9),
    ]
    readings = local_readings(context("deploy my app", "deploy", cohort=peers))
    [heard] = [each for each in readings if each.origin == "cohort"]
    assert heard.question == "Deploy your app on Azure with Docker and Helm?"
    assert heard.rationale == "7 others chose this for similar requests."
    assert heard.evidence == ()
    assert "Jane" not in str(readings)


def test_a_choice_from_a_former_catalogue_does_no_harm() -> None:
    local_readings(context("deploy my app", "deploy", past=[past({"gone": "x"}), past({"gone": "x"}, chosen=False)]))


def test_common_readings_do_not_contradict_the_input() -> None:
    readings = local_readings(context("translate this into German", "translate"))
    assert {each.slots.get("tongue", "German") for each in readings} == {"German"}


def test_questions_speak_to_the_user_and_requests_for_them() -> None:
    readings = local_readings(context("write an email to my boss", "message"))
    assert readings[0].question == "Draft a short email to your boss in a professional style?"
    assert readings[0].request == "Draft a short email to my boss in a professional style"


INPUTS = [
    *(
        "deploy my app",
        "?",
        ".",
        "-",
        "привет, помоги с кодом",
        "帮我写一个网站",
        "🙂🙂",
        "\u202e abc",
        "{value} {}",
        "(((",
        "%s",
    ),
    *("I don't know", "What is love?", "a" * 5000, "word " * 5000, "“quoted” text", "x\x00y", "\ud800", "AWſ", "  \n "),
]


@pytest.mark.parametrize("intent", [None, "deploy", "message", "find"])
@pytest.mark.parametrize("text", INPUTS)
def test_any_input_has_enough_readings_with_their_reasons(text: str, intent: str | None) -> None:
    memories = [fact("I use Docker {value}"), fact("🙂", GOAL, similarity=0.9), fact("Я люблю чай", similarity=0.3)]
    for known in ([], memories):
        given = context(text, intent, known, count=5)
        readings = local_readings(given)
        assert len(readings) >= 5
        assert len(set(questions(readings))) == len(readings)
        assert [each.score for each in readings] == sorted([each.score for each in readings], reverse=True)
        for each in readings:
            assert each.rationale
            assert each.request.strip()
            assert each.question.endswith("?")
            assert set(each.evidence) <= {item.memory.memory_id for item in known}
            assert each.evidence or each.origin != "memory"
        assert readings == local_readings(given)


def test_no_reading_repeats_a_phrase() -> None:
    memories = [fact("I use Docker"), fact("We use Docker and Docker Compose"), fact("I write Python"), fact("PYTHON!")]
    for each in local_readings(context("build api", "build", memories)):
        parts = each.question.split(",")[0].removesuffix("?").split(" with ")
        assert len(parts) == len(set(parts))
        assert each.question.count("in Python") <= 1


def test_the_conversation_fills_what_the_input_leaves_open_before_older_memories_do() -> None:
    azure = fact("We run on Azure", PROFILE)
    asked = context("deploy my app", "deploy", [azure])
    turns = (Turn("user", "We are on Google Cloud these days"), Turn("assistant", "Have you thought of Heroku?"))
    best = local_readings(replace(asked, conversation=turns))[0]
    assert "Google Cloud" in best.question
    assert "Azure" not in best.question
    assert "Google Cloud these days" in best.rationale
    assert not any("Heroku" in reading.question for reading in local_readings(replace(asked, conversation=turns)))


def test_what_is_denied_in_the_conversation_is_not_offered() -> None:
    azure = fact("We run on Azure", PROFILE)
    turns = (Turn("user", "We don't use Azure any more"),)
    readings = local_readings(replace(context("deploy my app", "deploy", [azure]), conversation=turns))
    assert not any("on Azure" in question.split("“")[0] for question in questions(readings))
