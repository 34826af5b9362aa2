"""What an input implies: goals, experience, and the questions it leaves open."""

import pytest

from app.domain.enrichment import enrich, expertise_level, followup_questions
from app.domain.memory import MemoryType
from tests.unit.test_readings import GOAL, PROFILE, context, fact


def test_own_goals_come_before_what_readings_aim_at() -> None:
    goal = fact("I want to launch the shop in May. Mail me at jane@example.com", GOAL)
    far = fact("I want to learn the violin", GOAL, similarity=0.1)
    implied = enrich(context("deploy my app", "deploy", [far, goal]))
    goals = implied["implicit_goals"]
    assert isinstance(goals, list)
    assert goals[0] == "I want to launch the shop in May. Mail me at [EMAIL]"
    assert len(goals) == 3
    assert "I want to learn the violin" not in goals
    assert implied["inferred_expertise_level"] == "intermediate"


@pytest.mark.parametrize(
    ("said", "level"),
    [
        ("I am a senior engineer", "expert"),
        ("I have 10 years of experience", "expert"),
        ("I am new to this", "beginner"),
        ("I just started programming", "beginner"),
        ("I like tea", "intermediate"),
        ("A senior engineer who is new to Rust", "intermediate"),
    ],
)
def test_experience_is_what_the_user_says_of_it(said: str, level: str) -> None:
    assert expertise_level(context("help me", None, [fact(said, PROFILE)])) == level
    assert expertise_level(context(said)) == level


def test_a_goal_of_others_says_nothing_about_experience() -> None:
    assert expertise_level(context("help me", None, [fact("Find an expert", GOAL)])) == "intermediate"


def test_questions_go_to_open_slots_by_importance_and_offer_what_is_known() -> None:
    memories = [
        fact("I don't use Ansible, I use Docker"),
        fact("We run on Azure", PROFILE, similarity=0.0),
        fact("Go is nice", MemoryType.HISTORY),
    ]
    asked = followup_questions("deploy it", context("deploy it", "deploy", memories), 3)
    assert asked == [
        "Where should it run or appear?",
        "With which tools — with Docker, as before?",
        "What exactly is it for?",
    ]
    assert followup_questions("deploy it on AWS", context("x", "deploy"), 1) == ["With which tools?"]


def test_an_unknown_kind_of_request_gets_the_general_questions() -> None:
    asked = followup_questions("hm", context("hm"), 9)
    assert asked[0] == "What do you want to achieve?"
    assert len(asked) == 4
