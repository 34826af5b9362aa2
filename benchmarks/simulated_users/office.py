"""What the simulated users ask for: `office.yaml`, read once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Goal:
    """What somebody means: an intent, and a value for each of its slots. `is_option` where the catalogue offers it."""

    intent: str
    values: tuple[str, ...]
    is_option: bool

    @property
    def words(self) -> str:
        """The goal in somebody's own words."""
        return f"{' and '.join(self.values)}, please"


@dataclass(frozen=True)
class Intent:
    """What people may mean by it, the catalogue's options first, how they say it without saying that, and all values
    of its slots."""

    name: str
    goals: tuple[Goal, ...]
    inputs: tuple[str, ...]
    values: tuple[str, ...]


@dataclass(frozen=True)
class Office:
    """What a tenant adds to the catalogue, as it is sent, and the intents of its users."""

    catalogue: Mapping[str, Any]
    intents: tuple[Intent, ...]


@cache
def office() -> Office:
    """The one there is."""
    document: Mapping[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    catalogue = document["catalogue"]
    return Office(catalogue, tuple(_intent(catalogue, name, people) for name, people in document["people"].items()))


def _intent(catalogue: Mapping[str, Any], name: str, people: Mapping[str, Any]) -> Intent:
    held = catalogue["intents"][name]
    slots: Sequence[str] = held["slots"]
    offered = [option["slots"] for option in held["options"]]
    goals = [Goal(name, tuple(slots_of[slot] for slot in slots), True) for slots_of in offered]
    goals += [Goal(name, tuple(slots_of[slot] for slot in slots), False) for slots_of in people["beyond"]]
    values = tuple(value for slot in slots for value in catalogue["vocabulary"][slot])
    return Intent(name, tuple(goals), tuple(people["inputs"]), values)
