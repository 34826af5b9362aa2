"""Simulated people: what each tends to mean, how they like to be answered, and their dice.

Nobody tells what they mean: it is drawn from tastes of their own, which lie around those of one of a few kinds of
people. So there is something to learn of a person, and something of all of them together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from benchmarks.simulated_users.office import Goal, Intent, Office

KINDS = 4
"""Kinds of people."""

KIND_SHARES = (0.5, 0.2, 0.1, 0.05)
"""What one kind means by an intent: the first goal so often, the second, …; the rest is shared by all others."""

LIKENESS = 2.0
"""The sum of the Dirichlet distribution's parameters by which a person's tastes lie around those of their kind: the
greater, the more people of a kind are alike."""

INTENT_LIKENESS = 3.0
"""The same of how often each intent comes, around equal shares: people ask for some things much more often."""

FACETS = ("concise", "formal", "code_first", "step_by_step")
NEUTRAL_SHARE = 0.4
"""How many people do not care about a facet."""


@dataclass(frozen=True)
class Person:
    """How often they ask for what, what they mean by it (shares by intent, over its goals), and which way each facet
    should go: 1, -1, or 0 for either."""

    number: int
    intents: tuple[float, ...]
    tastes: Mapping[str, tuple[float, ...]]
    style: Mapping[str, int]

    @property
    def name(self) -> str:
        """Who they are to the service."""
        return f"person-{self.number:03d}"


@dataclass(frozen=True)
class Dice:
    """Numbers in 0..1, the same for the same question however often and in whatever order it is asked: what a person
    does about the same thing does not depend on what the service did before."""

    seed: int
    person: int
    session: int

    def roll(self, *what: object) -> float:
        """The number for a question."""
        return Random(f"{self.seed}/{self.person}/{self.session}/{'/'.join(map(str, what))}").random()


@dataclass(frozen=True)
class Task:
    """What a person wants in a session, the first being 1."""

    person: Person
    session: int
    intent: Intent
    goal: Goal
    input_text: str
    dice: Dice


def people(office: Office, count: int, seed: int) -> list[Person]:
    """So many people, the same for the same seed."""
    random = np.random.default_rng(seed)
    kinds = [{intent.name: _kind(len(intent.goals), random) for intent in office.intents} for _ in range(KINDS)]
    made: list[Person] = []
    for number in range(count):
        kind = kinds[int(random.integers(KINDS))]
        often = random.dirichlet(np.full(len(office.intents), INTENT_LIKENESS / len(office.intents)))
        tastes = {name: tuple(random.dirichlet(LIKENESS * shares).tolist()) for name, shares in kind.items()}
        style = {name: _leaning(random.random()) for name in FACETS}
        made.append(Person(number, tuple(often.tolist()), tastes, style))
    return made


def _kind(goals: int, random: np.random.Generator) -> np.ndarray:
    """What one kind of people means by an intent: shares (goals,)."""
    shares = np.full(goals, (1.0 - sum(KIND_SHARES)) / (goals - len(KIND_SHARES)))
    shares[random.permutation(goals)[: len(KIND_SHARES)]] = KIND_SHARES
    return shares


def _leaning(dice: float) -> int:
    if dice < NEUTRAL_SHARE:
        return 0
    return 1 if dice < (1.0 + NEUTRAL_SHARE) / 2 else -1


def task(office: Office, person: Person, session: int, seed: int) -> Task:
    """What a person wants in a session, and how they say it."""
    dice = Dice(seed, person.number, session)
    intent = office.intents[_drawn(person.intents, dice.roll("intent"))]
    goal = intent.goals[_drawn(person.tastes[intent.name], dice.roll("goal"))]
    return Task(person, session, intent, goal, intent.inputs[int(dice.roll("input") * len(intent.inputs))], dice)


def _drawn(shares: Sequence[float], dice: float) -> int:
    """Which of several, by their shares."""
    return min(int(np.searchsorted(np.cumsum(shares), dice, side="right")), len(shares) - 1)


def knowing(task: Task, count: int) -> float:
    """How probable it is that `count` guesses have what is meant, by somebody who knows the person's tastes and the
    intent, and not what is meant today: nobody can learn more from choices."""
    return float(np.sort(task.person.tastes[task.intent.name])[-count:].sum())
