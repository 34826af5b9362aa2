"""Which vectors belong to one space: what a model tells of itself, what a person says of it, and its fingerprint."""

from dataclasses import replace

import numpy as np
import pytest

from app.domain.embeddings import AS_TOLD, EmbeddingSpace, Labels, address_of
from app.domain.errors import InvalidInput
from app.domain.spaces import SAME_MODEL, Fingerprint, is_told_by, likeness

TOLD = EmbeddingSpace("m", "http", 3)


def test_nothing_said_changes_nothing() -> None:
    assert AS_TOLD.of(TOLD) == TOLD


def test_what_is_said_makes_a_space_of_its_own() -> None:
    said = [AS_TOLD, Labels(revision="2"), Labels(pooling="cls"), Labels(prefix="query: "), Labels(prefix="passage: ")]
    spaces = [labels.of(TOLD) for labels in said]
    assert len({space.id for space in spaces}) == len(said)
    assert (spaces[1].id, spaces[2].id) == ("m@2:3:mean:l2", "m@http:3:cls:l2")
    assert spaces[3].prefix == "query: "


def test_what_is_told_holds_where_nothing_is_said() -> None:
    assert Labels(prefix="x").of(replace(TOLD, revision="abc")).revision == "abc"
    assert Labels(revision="2").of(replace(TOLD, revision="abc")).revision == "2"


@pytest.mark.parametrize("wrong", ["", "a b", "a:b", "a@b", "x" * 65])
def test_what_a_spaces_name_cannot_hold_is_refused(wrong: str) -> None:
    for name in ("revision", "pooling"):
        with pytest.raises(InvalidInput, match=name) as caught:
            Labels(**{name: wrong})
        assert caught.value.field == name


def test_a_space_is_of_a_model_whatever_is_said_of_it() -> None:
    assert is_told_by(Labels("2", "cls", "query: ").of(TOLD), TOLD)
    for other in (replace(TOLD, model="n"), replace(TOLD, dimension=4), replace(TOLD, is_normalised=False)):
        assert not is_told_by(TOLD, other)


def test_a_model_is_known_by_its_name_and_its_vector() -> None:
    held = Fingerprint(TOLD.id, np.array([1, 0, 0], np.float32))
    assert likeness(held, replace(held, vector=np.array([2, 0, 0], np.float32))) == pytest.approx(1)
    assert likeness(held, replace(held, told="m@2:3:mean:l2")) is None
    rounded = likeness(held, replace(held, vector=np.array([1, 0.1, 0], np.float32)))
    another = likeness(held, replace(held, vector=np.array([1, 0.2, 0], np.float32)))
    assert rounded is not None
    assert another is not None
    assert rounded > SAME_MODEL > another


def test_an_address_is_shown_without_secrets() -> None:
    assert address_of("http://user:secret@host:1/a/?key=secret#x") == "http://host:1/a"
