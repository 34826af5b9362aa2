"""Generated histories: what someone says over two years about what changes, among what does not matter.

A history is of one kind: three moves, changed jobs, a change of tools, or a mistake that is corrected; in wordings that
were seen, or were held back (`wordings`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random

from benchmarks.memory_quality.wordings import Wording, wordings

BEGIN = datetime(2024, 1, 10, 9, tzinfo=UTC)

VALUES: Mapping[str, Sequence[str]] = {
    "residence": "Paris Lyon Berlin Oslo Madrid Porto Turin Dublin Prague Vienna Utrecht Ghent Bergen Leeds".split(),
    "employer": "Initech Globex Hooli Umbrella Acme Vandelay Soylent Wonka Cyberdyne Tyrell Stark Dunder".split(),
    "car": "Tesla Volvo Skoda Fiat Toyota Renault Honda Mazda Peugeot Kia".split(),
    "editor": "Vim Emacs Helix Zed Sublime Neovim Kakoune Nano".split(),
}

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
    said = wordings(wording)
    attribute = ATTRIBUTES[number % len(ATTRIBUTES)]
    is_mistake = number % 5 == 4
    changes = 2 if is_mistake else random.choice((3, 4))
    chosen = random.sample(VALUES[attribute], changes + 1)
    at = BEGIN + timedelta(days=random.randint(0, 20))
    messages: list[Stated] = []
    values: list[tuple[datetime, str]] = []
    templates = said.told[attribute]
    for value in chosen[:changes]:
        for _ in range(random.randint(1, 4)):
            messages.append(Stated(random.choice(said.chatter), at))
            at += timedelta(days=random.randint(1, 9), minutes=random.randint(1, 600))
        messages.append(Stated(random.choice(templates).format(value), at, value))
        values.append((at, value))
        at += timedelta(days=random.randint(20, 90))
    wrong: list[str] = []
    if is_mistake:
        since, old = values[-1]
        new = chosen[-1]
        at = since + timedelta(minutes=random.choice((2, 30, 3000)))
        messages.append(Stated(random.choice(said.corrected).format(old=old, new=new), at, new))
        values[-1] = (since, new)
        wrong.append(old)
        at += timedelta(days=20)
    messages += [Stated(random.choice(said.chatter), at + timedelta(days=day)) for day in range(random.randint(1, 4))]
    kind = "mistake" if is_mistake else attribute
    question = random.choice(said.asked[attribute])
    return History(f"{wording}-{number:03d}", kind, messages, question, values, wrong)
