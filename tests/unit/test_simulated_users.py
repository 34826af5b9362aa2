"""The simulated people: their dice, what they do with what they are shown, and what the figures make of it."""

from dataclasses import replace

import numpy as np
import pytest

from app.domain.catalogue import merge_documents, parse_catalogue
from app.services.catalogues import BUILT_IN, read_document
from benchmarks.simulated_users import findings, manners
from benchmarks.simulated_users.decision_cost import DECIDING
from benchmarks.simulated_users.office import office
from benchmarks.simulated_users.people import KIND_SHARES, Dice, knowing, people, task
from benchmarks.simulated_users.sessions import Done

SOMEBODY = people(office(), 30, 1)
TASK = task(office(), SOMEBODY[0], 1, 1)
RIGHT = f"Shall it be {' with '.join(TASK.goal.values)}?"
WRONG = [f"Shall it be {' with '.join(goal.values)}?" for goal in TASK.intent.goals if goal != TASK.goal]


def dice_that(**asked: float) -> Dice:
    """Dice that show these numbers for the questions named, and one half for all others."""

    class Loaded(Dice):
        def roll(self, *what: object) -> float:
            return asked.get(str(what[0]).replace(" ", "_"), 0.5)

    return Loaded(1, 1, 1)


def test_people_their_tasks_and_their_dice_are_the_same_for_a_seed_and_differ_for_another() -> None:
    again = people(office(), 30, 1)

    assert again == SOMEBODY
    assert [task(office(), each, 3, 1) for each in again] == [task(office(), each, 3, 1) for each in SOMEBODY]
    assert people(office(), 30, 2) != SOMEBODY
    assert Dice(1, 2, 3).roll("read", 0, 1) == Dice(1, 2, 3).roll("read", 0, 1) != Dice(1, 2, 3).roll("read", 0, 2)


def test_goals_come_as_often_as_the_person_means_them() -> None:
    person = SOMEBODY[0]
    drawn = [task(office(), person, session, 1) for session in range(4000)]
    for intent, share in zip(office().intents, person.intents, strict=True):
        own = [each.goal for each in drawn if each.intent == intent]
        assert len(own) / len(drawn) == pytest.approx(share, abs=0.03)
        for goal, taste in zip(intent.goals, person.tastes[intent.name], strict=True):
            assert own.count(goal) / max(1, len(own)) == pytest.approx(taste, abs=0.03 + 0.6 / max(1, len(own)) ** 0.5)


def test_there_is_something_to_learn_of_a_person_and_something_that_cannot_be() -> None:
    best = np.mean([knowing(task(office(), person, 1, 1), 1) for person in SOMEBODY])

    assert KIND_SHARES[0] < best < 0.9
    assert knowing(TASK, len(TASK.intent.goals)) == pytest.approx(1.0)


def test_the_catalogue_fits_beside_the_built_in_one_and_no_input_says_what_is_meant() -> None:
    built_in = read_document(BUILT_IN)
    before, catalogue = parse_catalogue(built_in), parse_catalogue(merge_documents(built_in, office().catalogue))
    for intent in office().intents:
        known = catalogue.intent(intent.name)
        assert known is not None
        assert not {value for value in intent.values if value in before.vocabulary}
        assert all(not catalogue.values_in(text).keys() & set(known.slots) for text in intent.inputs)
        assert not set(intent.inputs) & set(known.examples)
        assert len(set(intent.goals)) == len(intent.goals)


def test_a_text_names_a_goal_by_all_its_values_and_no_other() -> None:
    first, second = TASK.goal.values
    other = next(value for value in TASK.intent.values if value not in TASK.goal.values)

    assert manners.names(f"with {first.upper()}, {second}", TASK.intent, TASK.goal)
    assert not manners.names(f"with {first}", TASK.intent, TASK.goal)
    assert not manners.names(f"with {first}, {second} or {other}", TASK.intent, TASK.goal)


def test_what_is_meant_is_picked_where_it_is_read_and_now_and_then_missed() -> None:
    options = [WRONG[0], RIGHT, WRONG[1]]

    def answer(**asked: float) -> manners.Reply:
        return manners.reply(options, TASK.intent, TASK.goal, dice_that(**asked), 0)

    assert answer() == manners.Reply(1)
    assert answer(slip=0.01, slip_to=0.9) == manners.Reply(2)
    assert answer(read=0.95, speak=0.9) == manners.Reply()
    assert answer(read=0.95, speak=0.1, say_all=0.1) == manners.Reply(words=TASK.goal.words)
    assert answer(read=0.95, speak=0.1, say_all=0.9, say=0.9).words == f"something with {TASK.goal.values[1]}"


def test_an_assistant_left_alone_takes_the_first_reading_every_other_time_or_any() -> None:
    at = TASK.intent.goals.index(TASK.goal) / len(TASK.intent.goals) + 0.01

    assert manners.guess([RIGHT], TASK.intent, TASK.goal, dice_that(guess=0.1))
    assert not manners.guess([WRONG[0]], TASK.intent, TASK.goal, dice_that(guess=0.1, guess_of_any=at))
    assert manners.guess([WRONG[0]], TASK.intent, TASK.goal, dice_that(guess=0.9, guess_of_any=at))
    assert manners.guess([], TASK.intent, TASK.goal, dice_that(guess=0.1, guess_of_any=at))


def done(person: int, session: int, utility: float, questions: int = 1, picks: int = 1) -> Done:
    return Done(person, session, "any", "ask", (0.5, 0.2), 0, questions, picks, "picked", 0.5, True, utility)


def test_regret_is_what_an_all_knowing_assistant_would_have_done_better() -> None:
    records = [done(0, 1, 0.9), done(0, 1, -0.6), done(1, 1, 0.8), done(1, 1, 0.8)]
    value, half = findings.ratio(findings.sums(records, findings.regret, 2))

    assert value == pytest.approx((0.1 + 1.6 + 0.2 + 0.2) / 4)
    assert half == pytest.approx(1.96 * np.std([0.85, 0.2], ddof=1) / 2**0.5)


def test_selections_are_counted_over_questions_and_nothing_comes_of_none() -> None:
    records = [done(0, 1, 0.9, questions=3, picks=1), done(1, 1, 0.9, questions=1, picks=1)]

    assert findings.ratio(findings.sums(records, findings.selection, 2))[0] == pytest.approx(2 / 4)
    none = [replace(each, questions=0, picks=0) for each in records]
    assert findings.ratio(findings.sums(none, findings.selection, 2)) == (0.0, 0.0)


def test_intervals_between_people_hold_what_they_should() -> None:
    random = np.random.default_rng(1)
    inside = 0
    for _ in range(500):
        held = np.column_stack([random.normal(0.3, 0.2, 60), np.ones(60)])
        value, half = findings.ratio(held)
        inside += abs(value - 0.3) <= half
    assert 0.91 <= inside / 500 <= 0.98


def test_what_both_arms_share_cancels_in_their_difference() -> None:
    hard = np.random.default_rng(1).normal(0.5, 0.3, 50)
    ours, theirs = np.column_stack([hard - 0.1, np.ones(50)]), np.column_stack([hard, np.ones(50)])
    value, half = findings.difference(ours, theirs)

    assert value == pytest.approx(-0.1)
    assert half == pytest.approx(0.0, abs=1e-9)


def test_sessions_are_parted_without_gap_or_overlap() -> None:
    assert findings.blocks(20) == [(1, 5), (6, 10), (11, 15), (16, 20)]
    assert findings.blocks(3) == [(1, 1), (2, 2), (3, 3)]
    for sessions in range(1, 30):
        parts = findings.blocks(sessions)
        assert [each for low, high in parts for each in range(low, high + 1)] == list(range(1, sessions + 1))


def test_confidences_are_held_against_what_was_meant() -> None:
    records = [
        replace(done(0, 1, 1.0), confidences=(0.9, 0.1), act="auto_advance", sure=0.9, is_right=each)
        for each in (True, False)
    ]
    said = {each.path: each.value for each in findings.truth("learning", records)}

    assert said["learning/advanced/right"] == 0.5
    assert said["learning/advanced/gap"] == pytest.approx(0.4)
    assert said["learning/calibration_error"] == pytest.approx((2 * 0.1 + 2 * 0.1) / 4)


def test_what_is_timed_as_deciding_is_what_the_service_calls() -> None:
    from app.services import hypotheses

    assert all(callable(getattr(hypotheses, name)) for name in DECIDING)
