"""The catalogue: the built-in file holds together, a tenant extends it, a wrong one is refused with its reason."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from app.domain import catalogue as module
from app.domain.catalogue import Catalogue, merge_documents, parse_catalogue, phrase
from app.domain.errors import InvalidInput

DOCUMENT: dict[str, Any] = yaml.safe_load(Path(module.__file__).with_name("intents.yaml").read_text("utf-8"))
SMALL: dict[str, Any] = {
    "slots": {"tools": {"phrase": "with {value}", "question": "With what?"}},
    "vocabulary": {"tools": ["Docker", "Docker Compose", "Go"]},
    "case_sensitive": ["Go"],
    "aliases": {"compose": "Docker Compose", "golang": "Go"},
    "intents": {
        "deploy": {"examples": ["ship it", "go live"], "slots": ["tools"]},
        "cook": {"examples": ["dinner"], "slots": []},
    },
}


@pytest.fixture(scope="module")
def built_in() -> Catalogue:
    return parse_catalogue(DOCUMENT)


def changed(**keys: object) -> dict[str, Any]:
    return {**SMALL, **keys}


def test_every_option_of_the_built_in_file_uses_its_own_words(built_in: Catalogue) -> None:
    for intent in built_in.intents:
        for option in intent.options:
            for slot, value in option.slots.items():
                assert built_in.is_known(slot, value), (intent.name, option.text, value)


def test_every_alias_and_value_of_the_built_in_file_is_found_in_a_sentence(built_in: Catalogue) -> None:
    for spelling, value in {**{each: each for each in built_in.vocabulary}, **built_in.aliases}.items():
        assert value in built_in.values_in(f"we talked about {spelling} there")[built_in.vocabulary[value]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("DOCKER compose, please", {"tools": ("Docker Compose",)}),
        ("docker and compose", {"tools": ("Docker", "Docker Compose")}),
        ("docker, Docker, DOCKER", {"tools": ("Docker",)}),
        ("dockers or predocker or docker_x", {}),
        ("docker-based", {"tools": ("Docker",)}),
        ("we go home. Go home", {}),
        ("we write Go", {"tools": ("Go",)}),
        ("golang", {"tools": ("Go",)}),
        ("docſer doc\u212aer", {"tools": ("Docker",)}),
        ("", {}),
    ],
)
def test_values_are_whole_words_and_everyday_words_count_as_names_only(text: str, expected: dict[str, Any]) -> None:
    assert parse_catalogue(SMALL).values_in(text) == expected


@pytest.mark.parametrize("text", ["AWſ", "LınkedIn", "DİGİTALOCEAN", "\ud800 docker", "ﬁgma"])
def test_letters_that_look_alike_do_no_harm(built_in: Catalogue, text: str) -> None:
    built_in.values_in(text)
    built_in.spelled(text)


def test_a_text_is_spelled_as_the_vocabulary_is(built_in: Catalogue) -> None:
    assert built_in.spelled("build an api in python, go and postgres") == "build an API in Python, go and postgres"


def test_values_read_as_a_list(built_in: Catalogue) -> None:
    assert phrase(built_in, "tools", ["Docker"]) == "with Docker"
    assert phrase(built_in, "tools", ["A", "B", "C"]) == "with A, B and C"


def test_an_extension_adds_and_overrides_and_leaves_the_rest() -> None:
    extension = {
        "slots": {"tools": {"question": "Which tool?"}, "mood": {"phrase": "feeling {value}", "question": "How?"}},
        "vocabulary": {"tools": ["Docker", "Podman"], "mood": ["calm"]},
        "intents": {"deploy": {"examples": ["roll it out"]}, "sing": {"examples": ["la la"], "slots": ["mood"]}},
    }
    merged = parse_catalogue(merge_documents(SMALL, extension))
    assert merged.slots["tools"].question == "Which tool?"
    assert merged.slots["tools"].phrase == "with {value}"
    assert [intent.name for intent in merged.intents] == ["deploy", "cook", "sing"]
    deploy = merged.intent("deploy")
    assert deploy is not None
    assert deploy.examples == ("ship it", "go live", "roll it out")
    assert merged.values_in("calm docker podman") == {"mood": ("calm",), "tools": ("Docker", "Podman")}
    assert SMALL["vocabulary"]["tools"] == ["Docker", "Docker Compose", "Go"]


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({}, "slots"),
        (changed(slots=None), "shape"),
        (changed(slots={"tools": {"question": "?"}}), "phrase"),
        (changed(slots={"tools": {"phrase": "with it", "question": "?"}}), "{value}"),
        (changed(vocabulary={"tools": "Docker"}), "'Docker'"),
        (changed(vocabulary={"colour": ["red"]}), "colour"),
        (changed(vocabulary={"tools": [""]}, aliases={}), "empty"),
        (changed(aliases={"x": "Nothing"}), "Nothing"),
        (changed(case_sensitive="Go"), "'Go'"),
        (changed(intents={"a": {"slots": []}}), "examples"),
        (changed(intents={"a": {"examples": "one", "slots": []}}), "'one'"),
        (changed(intents={"a": {"examples": [], "slots": ["size"]}}), "size"),
        (
            changed(intents={"a": {"examples": [], "slots": [], "options": [{"text": "x", "slots": {"hue": "red"}}]}}),
            "hue",
        ),
        (changed(intents={"a": {"examples": [], "slots": [], "options": [{}]}}), "text"),
        (changed(intents=["a"]), "shape"),
    ],
)
def test_a_wrong_file_is_refused_with_what_is_wrong(document: Mapping[str, Any], named: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_catalogue(document)
    assert named in str(caught.value)
    assert caught.value.field == "intents_file"


def test_an_input_belongs_to_the_intent_it_is_nearest_to_or_to_none() -> None:
    catalogue = parse_catalogue(SMALL)
    assert catalogue.examples == (("deploy", "ship it"), ("deploy", "go live"), ("cook", "dinner"))
    examples = np.eye(3, dtype=np.float32)
    match = catalogue.match(np.array([0.8, 0.6, 0.65], np.float32), examples)
    assert match is not None
    assert (match.intent.name, match.similarity) == ("deploy", pytest.approx(0.7))
    assert catalogue.match(np.array([0.3, 0.3, 0.3], np.float32), examples) is None
