"""Generated histories: what someone says over two years about what changes, among what does not matter.

The wordings are split: `seen` are those that the service's rules were written beside, `held` were written afterwards
and are for the figure alone. A history is of one kind: three moves, changed jobs, a change of tools, or a mistake that
is corrected.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Literal

Wording = Literal["seen", "held"]
BEGIN = datetime(2024, 1, 10, 9, tzinfo=UTC)

VALUES: Mapping[str, Sequence[str]] = {
    "residence": "Paris Lyon Berlin Oslo Madrid Porto Turin Dublin Prague Vienna Utrecht Ghent Bergen Leeds".split(),
    "employer": "Initech Globex Hooli Umbrella Acme Vandelay Soylent Wonka Cyberdyne Tyrell Stark Dunder".split(),
    "car": "Tesla Volvo Skoda Fiat Toyota Renault Honda Mazda Peugeot Kia".split(),
    "editor": "Vim Emacs Helix Zed Sublime Neovim Kakoune Nano".split(),
}

TOLD: Mapping[Wording, Mapping[str, Sequence[str]]] = {
    "seen": {
        "residence": (
            "I live in {}.",
            "I moved to {} last week.",
            "I'm living in {} now.",
            "We've just relocated to {} for my wife's work.",
            "My new place is in {}.",
            "{} is home now.",
        ),
        "employer": (
            "I work for {}.",
            "I got a job at {}.",
            "I just started at {} on Monday.",
            "I've joined {} as an engineer.",
            "{} hired me.",
        ),
        "car": ("I drive a {}.", "My car is a {}.", "I bought a {} yesterday.", "I've switched to a {}."),
        "editor": ("My editor is {}.", "I code in {} now.", "My main editor is {} these days."),
    },
    "held": {
        "residence": (
            "Big news: we finally made the move to {}!",
            "Boxes everywhere, but I am officially settled in {}.",
            "I've been based in {} since the first of the month.",
            "After a lot of back and forth I packed up and moved to {}.",
            "So I got a flat in {}, the view is great.",
            "I'm writing this from {}, where I live these days.",
        ),
        "employer": (
            "Today was my first day at {}.",
            "I handed in my notice, from next week I'm with {}.",
            "I accepted an offer from {}, the team seems lovely.",
            "These days I'm employed by {}.",
            "I ended up taking a position at {}.",
        ),
        "car": (
            "We traded the old car for a {}.",
            "Picked up my {} today, it is so quiet.",
            "I now drive a {} to the office.",
        ),
        "editor": (
            "I've moved all my work over to {} as my editor.",
            "These days I write code in {}.",
            "{} is my editor now.",
        ),
    },
}

CORRECTED: Mapping[Wording, Sequence[str]] = {
    "seen": ("Sorry, I meant {new}, not {old}.", "Correction: it's {new}, not {old}."),
    "held": (
        "Oops, I said {old} earlier, I meant {new}.",
        "Wait, that was wrong: not {old}, it's {new}.",
        "My mistake, it's actually {new}, not {old}.",
    ),
}

ASKED: Mapping[Wording, Mapping[str, Sequence[str]]] = {
    "seen": {
        "residence": ("Where do I live?",),
        "employer": ("Who do I work for?",),
        "car": ("What car do I drive?",),
        "editor": ("Which editor do I use?",),
    },
    "held": {
        "residence": ("Which city am I living in at the moment?", "Where is my home?"),
        "employer": ("Which company am I working at?", "Where is my job these days?"),
        "car": ("What kind of car do I have?", "Which car is mine?"),
        "editor": ("What do I write my code in?", "Which code editor am I using?"),
    },
}

CHATTER = (
    "The weather was awful today.",
    "I had a lovely soup for lunch.",
    "Can you recommend a good thriller?",
    "My sister called about the garden.",
    "I slept badly, the neighbours were loud.",
    "We watched a film about penguins.",
    "I need to buy stamps.",
    "The train was late again.",
    "I finished the book you told me about.",
    "My back hurts from all the sitting.",
    "We are planning a trip to the mountains in autumn.",
    "The cat knocked over a plant.",
)

ATTRIBUTES = ("residence", "employer", "car", "editor")


@dataclass(frozen=True)
class Stated:
    """What was said when; and the value it tells, from when it holds, None for chatter."""

    text: str
    at: datetime
    value: str | None = None


@dataclass(frozen=True)
class History:
    """A user's messages in order, and what is asked: the values that held, each with since when, the last one now."""

    user: str
    kind: str
    messages: Sequence[Stated]
    question: str
    values: Sequence[tuple[datetime, str]]
    wrong: Sequence[str]
    """Values that never held: said by mistake."""

    @property
    def current(self) -> str:
        """What holds now."""
        return self.values[-1][1]

    def at(self, moment: datetime) -> str:
        """What held at a moment."""
        return [value for since, value in self.values if since <= moment][-1]


def generate(count: int, wording: Wording, seed: int = 0) -> list[History]:
    """Histories of one kind of wording, the same for the same seed."""
    random = Random(f"{seed}/{wording}")
    return [_history(random, number, wording) for number in range(count)]


def _history(random: Random, number: int, wording: Wording) -> History:
    attribute = ATTRIBUTES[number % len(ATTRIBUTES)]
    is_mistake = number % 5 == 4
    changes = 2 if is_mistake else random.choice((3, 4))
    chosen = random.sample(VALUES[attribute], changes + 1)
    at = BEGIN + timedelta(days=random.randint(0, 20))
    messages: list[Stated] = []
    values: list[tuple[datetime, str]] = []
    templates = TOLD[wording][attribute]
    for value in chosen[:changes]:
        for _ in range(random.randint(1, 4)):
            messages.append(Stated(random.choice(CHATTER), at))
            at += timedelta(days=random.randint(1, 9), minutes=random.randint(1, 600))
        messages.append(Stated(random.choice(templates).format(value), at, value))
        values.append((at, value))
        at += timedelta(days=random.randint(20, 90))
    wrong: list[str] = []
    if is_mistake:
        since, old = values[-1]
        new = chosen[-1]
        at = since + timedelta(minutes=random.choice((2, 30, 3000)))
        messages.append(Stated(random.choice(CORRECTED[wording]).format(old=old, new=new), at, new))
        values[-1] = (since, new)
        wrong.append(old)
        at += timedelta(days=20)
    messages += [Stated(random.choice(CHATTER), at + timedelta(days=day)) for day in range(random.randint(1, 4))]
    kind = "mistake" if is_mistake else attribute
    question = random.choice(ASKED[wording][attribute])
    return History(f"{wording}-{number:03d}", kind, messages, question, values, wrong)
