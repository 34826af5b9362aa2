"""The catalogue of intents and slots: what people ask for, and what they tend to leave out.

It is data (`intents.yaml`, and whatever a tenant adds to it), matched by meaning: an input is compared
with each intent's example sentences as vectors. Slot values are words of a vocabulary.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from app.domain.embeddings import Vector, Vectors
from app.domain.errors import InvalidInput

SlotValues = Mapping[str, tuple[str, ...]]
"""Slot name -> the values found for it, in order of appearance, each once."""

MOST_LOSS = 100.0

MIN_INTENT_COSINE = 0.35
"""An input further than this from every example has no intent we know."""


@dataclass(frozen=True)
class Slot:
    """Something a request may leave open. `phrase` holds `{value}`; `question` asks for it.

    `is_carried` says whether an earlier value is likely to hold again: the language someone writes in is,
    the thing they once asked for is not.
    """

    name: str
    phrase: str
    question: str
    is_carried: bool = True


@dataclass(frozen=True)
class Option:
    """A common reading of an intent, for someone we know nothing about."""

    text: str
    slots: Mapping[str, str]


@dataclass(frozen=True)
class Intent:
    """Something people ask for: example sentences, its slots by importance, which of them it needs."""

    name: str
    examples: tuple[str, ...]
    slots: tuple[str, ...]
    required: tuple[str, ...]
    options: tuple[Option, ...]
    loss: float = 0.0
    """What a wrong act loses beyond what a right one gains."""


@dataclass(frozen=True)
class IntentMatch:
    """The intent whose examples are nearest to an input, and how near (cosine, -1..1)."""

    intent: Intent
    similarity: float


@dataclass(frozen=True)
class Catalogue:
    """All intents, slots and the vocabulary: display value -> slot, aliases -> display value."""

    slots: Mapping[str, Slot]
    intents: tuple[Intent, ...]
    vocabulary: Mapping[str, str]
    aliases: Mapping[str, str] = field(default_factory=dict[str, str])
    case_sensitive: frozenset[str] = frozenset()

    @cached_property
    def examples(self) -> tuple[tuple[str, str], ...]:
        """(intent name, example) pairs, in a fixed order: the rows of the matrix `match` takes."""
        return tuple((intent.name, example) for intent in self.intents for example in intent.examples)

    @cached_property
    def _by_name(self) -> Mapping[str, Intent]:
        return {intent.name: intent for intent in self.intents}

    @cached_property
    def _forms(self) -> Mapping[str, str]:
        """Lower-cased spelling -> display value."""
        forms = {value.lower(): value for value in self.vocabulary}
        return forms | {alias.lower(): value for alias, value in self.aliases.items()}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        by_letter: dict[str, list[str]] = {}
        for spelling in sorted(self._forms, key=len, reverse=True):
            by_letter.setdefault(spelling[0], []).append(re.escape(spelling[1:]))
        joined = "|".join(f"{re.escape(letter)}(?:{'|'.join(rest)})" for letter, rest in by_letter.items()) or "(?!)"
        return re.compile(rf"(?<!\w)(?:{joined})(?!\w)", re.IGNORECASE)

    def intent(self, name: str) -> Intent | None:
        """The intent called `name`, if there is one."""
        return self._by_name.get(name)

    def match(self, vector: Vector, example_vectors: Vectors) -> IntentMatch | None:
        """The intent nearest to `vector` (dimension,), given the vectors of `examples` (rows, dimension).

        An intent is as near as the mean of its two nearest examples: one lucky sentence is not enough.
        """
        cosines = example_vectors @ vector
        best: IntentMatch | None = None
        at = 0
        for intent in self.intents:
            own = np.sort(cosines[at : at + len(intent.examples)])[-2:]
            at += len(intent.examples)
            similarity = float(own.mean()) if len(own) else -1.0
            if best is None or similarity > best.similarity:
                best = IntentMatch(intent, similarity)
        return best if best and best.similarity >= MIN_INTENT_COSINE else None

    def values_in(self, text: str) -> SlotValues:
        """The vocabulary's values named in `text`, by slot."""
        found: dict[str, dict[str, None]] = {}
        for match in self._pattern.finditer(text):
            value = self._forms.get(match.group().lower())
            if value is None:  # letters that only the pattern takes for one another, such as a long s
                continue
            if value in self.case_sensitive and not self._is_meant(match, value, text):
                continue
            found.setdefault(self.vocabulary[value], {}).setdefault(value)
        return {slot: tuple(values) for slot, values in found.items()}

    def spelled(self, text: str) -> str:
        """`text` with the vocabulary's values as they are displayed: `build api` gives `build API`."""

        def displayed(match: re.Match[str]) -> str:
            value = self._forms.get(match.group().lower(), "")
            is_value = value.lower() == match.group().lower() and value not in self.case_sensitive
            return value if is_value else match.group()

        return self._pattern.sub(displayed, text)

    def is_known(self, slot: str, value: str) -> bool:
        """Whether `value` is one of the vocabulary's for `slot`."""
        return self.vocabulary.get(value) == slot

    def _is_meant(self, match: re.Match[str], value: str, text: str) -> bool:
        """Whether an everyday word is used as a name: in its own capitalisation, not as a sentence opener."""
        if match.group().lower() in self.aliases:
            return True
        is_opening = not text[: match.start()].strip() or text[: match.start()].rstrip().endswith((".", "!", "?"))
        return match.group() == value and not is_opening


def merge_documents(*documents: Mapping[str, Any]) -> dict[str, Any]:
    """The built-in document with a tenant's on top: new keys are added, lists are joined, the rest replaced."""
    merged: dict[str, Any] = {}
    for document in documents:
        for key, value in document.items():
            held = merged.get(key)
            if isinstance(held, dict) and isinstance(value, Mapping):
                merged[key] = merge_documents(held, value)  # pyright: ignore[reportUnknownArgumentType]
            elif isinstance(held, list) and isinstance(value, list):
                merged[key] = [*held, *(item for item in value if item not in held)]  # pyright: ignore[reportUnknownVariableType]
            else:
                merged[key] = value
    return merged


def parse_catalogue(document: Mapping[str, Any]) -> Catalogue:
    """A catalogue out of the YAML's document. Raises InvalidInput naming what is wrong in it."""
    try:
        slots = {
            str(name): Slot(str(name), str(body["phrase"]), str(body["question"]), bool(body.get("carried", True)))
            for name, body in document["slots"].items()
        }
        intents = tuple(_parse_intent(str(name), body) for name, body in document["intents"].items())
        vocabulary = {
            str(value): str(slot) for slot, values in document["vocabulary"].items() for value in _strings(values)
        }
        aliases = {str(alias).lower(): str(value) for alias, value in document.get("aliases", {}).items()}
        case_sensitive = frozenset(_strings(document.get("case_sensitive", ())))
    except KeyError as error:
        raise InvalidInput(f"the intents file lacks {error}", "intents_file") from error
    except (TypeError, AttributeError) as error:
        raise InvalidInput(f"something in the intents file has the wrong shape: {error}", "intents_file") from error
    _check_known("vocabulary", set(vocabulary.values()), slots)
    for slot in slots.values():
        if "{value}" not in slot.phrase:
            raise InvalidInput(f"slot {slot.name}: its phrase has no {{value}}", "intents_file")
    for intent in intents:
        used = {slot for option in intent.options for slot in option.slots}
        _check_known(f"intent {intent.name}", {*intent.slots, *intent.required, *used}, slots)
    if "" in vocabulary or "" in aliases:
        raise InvalidInput("the vocabulary and the aliases hold no empty words", "intents_file")
    _check_known("aliases", set(aliases.values()), vocabulary)
    return Catalogue(slots, intents, vocabulary, aliases, case_sensitive)


def _parse_intent(name: str, body: Mapping[str, Any]) -> Intent:
    return Intent(
        name=name,
        examples=_strings(body["examples"]),
        slots=_strings(body["slots"]),
        required=_strings(body.get("required", ())),
        options=tuple(
            Option(str(option["text"]), {str(k): str(v) for k, v in option.get("slots", {}).items()})
            for option in body.get("options", ())
        ),
        loss=_loss(name, body.get("loss", 0.0)),
    )


def _loss(name: str, given: object) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= MOST_LOSS:
        raise InvalidInput(f"intent {name}: its loss is a number from 0 to {MOST_LOSS:g}", "intents_file")
    return float(given)


def _strings(items: Iterable[object]) -> tuple[str, ...]:
    if isinstance(items, str):
        raise TypeError(f"a list was expected, not {items!r}")
    return tuple(str(item) for item in items)


def _check_known(where: str, used: set[str], known: Mapping[str, object]) -> None:
    unknown = sorted(used - set(known))
    if unknown:
        raise InvalidInput(f"{where} uses what is not defined: {', '.join(unknown)}", "intents_file")


def phrase(catalogue: Catalogue, slot: str, values: Sequence[str]) -> str:
    """`values` of one slot worded as part of a request, e.g. `with Docker and Terraform`."""
    joined = values[0] if len(values) == 1 else f"{', '.join(values[:-1])} and {values[-1]}"
    return catalogue.slots[slot].phrase.replace("{value}", joined)
