"""Attributes that are recognised by meaning, with the built-in model: what tells them, what asks for them."""

import numpy as np
import pytest

from app.clients.embeddings.onnx import OnnxEmbedder
from app.domain.attributes import AttributeVectors, attributes, examples, is_of_another
from app.domain.facts import fact_in
from app.services.examples import PACKAGED, file_name
from scripts.write_example_vectors import sets

TOLD = [
    ("residence", "We are done with the boxes and feel at home in Granada."),
    ("residence", "My new flat in Malmo has a balcony."),
    ("employer", "It is my third week at Danone, nice people."),
    ("employer", "I signed with Heineken and left the old place."),
    ("car", "The dealer gave us a good price for the Citroen, it is ours now."),
    ("editor", "After years of the other one I do my programming in Lapce."),
]
NOT_TOLD = [
    "I spent a weekend in Granada.",
    "The soup was too salty.",
    "My cousin applied at Heineken.",
    "Is there a car park near the station?",
    "We flew to Malmo for a wedding.",
    "A friend of mine drives a Citroen.",
    "The Heineken ad was funny.",
]
ASKED = [
    ("residence", "Which city should I write on the form as my home?"),
    ("employer", "Whose employee am I at the moment?"),
    ("car", "Which car do I own?"),
    ("editor", "What editor am I coding in?"),
]


@pytest.fixture(scope="module")
async def known(embedder: OnnxEmbedder) -> AttributeVectors:
    return AttributeVectors(await embedder.embed(examples()))


async def test_what_no_pattern_reads_is_recognised(known: AttributeVectors, embedder: OnnxEmbedder) -> None:
    vectors = await embedder.embed([text for _, text in TOLD])
    told = {name: known.told(name, vectors).tolist() for name, _ in TOLD}
    assert [told[name][at] for at, (name, _) in enumerate(TOLD)] == [True] * len(TOLD)
    read = [fact.attribute if (fact := fact_in(text)) else None for _, text in TOLD]
    assert read != [name for name, _ in TOLD]


async def test_what_only_looks_like_it_is_not(known: AttributeVectors, embedder: OnnxEmbedder) -> None:
    vectors = await embedder.embed(NOT_TOLD)
    own = np.array([not is_of_another(text) for text in NOT_TOLD])
    for name in ("residence", "employer", "car", "editor"):
        assert not (known.told(name, vectors) & own).any(), name
    assert not any(is_of_another(text) for _, text in TOLD)


async def test_what_is_asked_for(known: AttributeVectors, embedder: OnnxEmbedder) -> None:
    for name, text in ASKED:
        assert known.asked_for((await embedder.embed([text]))[0]) == name, text
    assert known.asked_for((await embedder.embed(["How do I cook rice?"]))[0]) is None


async def test_corrections_are_recognised(known: AttributeVectors, embedder: OnnxEmbedder) -> None:
    said = ["Ah no, scratch that, I confused the two: Ghent it is, not Bruges.", "I like Bruges and Ghent."]
    assert known.corrects(await embedder.embed(said)).tolist() == [True, False]


def test_examples_are_all_different() -> None:
    assert len(set(examples())) == len(examples()) == sum(len(each.asked) + len(each.told) for each in attributes())


async def test_the_vectors_that_come_with_the_service_are_the_models(embedder: OnnxEmbedder) -> None:
    """`python scripts/write_example_vectors.py` renews them."""
    names = {file_name(texts, embedder.space.id) for texts in sets()}
    assert {file.name for file in PACKAGED.glob("*.npy")} == names, "run: python scripts/write_example_vectors.py"
    for texts in sets():
        kept = np.load(PACKAGED / file_name(texts, embedder.space.id)).astype(np.float32)
        some = list(range(0, len(texts), 40))
        made = await embedder.embed([texts[at] for at in some])
        assert np.einsum("ij,ij->i", kept[some], made).min() > 0.999
