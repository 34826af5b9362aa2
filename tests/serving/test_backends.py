"""What every backend promises: the same suite on the fake and on real folders, whatever runs them."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.backend import Backend
from serving.backends import open_backend
from serving.engine import Engine
from serving.pooling import normalised
from serving.settings import ServeSettings
from tests.serving.fakes import FakeBackend
from tests.serving.folders import (
    CROSS_ENCODER,
    write_cross_encoder,
    write_dynamic_int8,
    write_openvino,
    write_static_int8,
)
from tests.weights import MINILM

TEXTS = [
    "The cat sat on the mat.",
    "A cat is on the mat",
    "Interest rates rose by half a point in March, and the bank expects two more rises this year.",
    "naïve café, 東京タワー, 🎉",
    "word " * 150,
    "?",
]
BATCHABLE = {"fake": True, "onnx": True, "static int8": True, "dynamic int8": False, "openvino": True, "torch": True}
EXACT = {"onnx", "openvino", "torch"}


def open_folder(path: Path, backend: str = "auto") -> Backend:
    return open_backend(ServeSettings(_env_file=None, model=path, threads=1, device="cpu", backend=backend))


SLOW = {"static int8", "dynamic int8", "openvino", "torch"}
KINDS = [pytest.param(kind, marks=[pytest.mark.slow] if kind in SLOW else []) for kind in BATCHABLE]


@pytest.fixture(scope="module", params=KINDS)
async def backend(
    request: pytest.FixtureRequest, minilm_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Backend]:
    folder = tmp_path_factory.mktemp("folders") / "model"
    match request.param:
        case "onnx":
            made = open_folder(minilm_folder)
        case "static int8":
            made = open_folder(write_static_int8(minilm_folder, folder))
        case "dynamic int8":
            made = open_folder(write_dynamic_int8(minilm_folder, folder))
        case "openvino":
            pytest.importorskip("openvino")
            made = open_folder(write_openvino(minilm_folder, folder))
        case "torch":
            pytest.importorskip("sentence_transformers")
            shutil.copytree(MINILM, folder)
            made = open_folder(folder)
        case _:
            made = FakeBackend()
    yield made
    made.close()


@pytest.fixture
async def engine(backend: Backend) -> AsyncIterator[Engine]:
    class Kept:
        """The backend, left open for the next test."""

        info, limits, split, run = backend.info, backend.limits, backend.split, backend.run

        def close(self) -> None:
            """Not yet."""

    made = Engine(Kept(), concurrency=64, queue_tokens=400_000)
    yield made
    await made.aclose()


def kind_of(request: pytest.FixtureRequest) -> str:
    return request.node.callspec.params["backend"]


async def test_rows_are_finite_vectors_in_order(engine: Engine) -> None:
    vectors = (await engine.read(TEXTS)).vectors

    assert vectors.shape == (len(TEXTS), engine.info.dimension)
    assert vectors.dtype == np.float32
    assert np.isfinite(vectors).all()
    backwards = (await engine.read(TEXTS[::-1])).vectors
    np.testing.assert_allclose(normalised(backwards[::-1]), normalised(vectors), rtol=0, atol=1e-6)


async def test_a_vector_does_not_depend_on_its_neighbours(engine: Engine) -> None:
    together = await asyncio.gather(*(engine.read([text, *TEXTS]) for text in TEXTS * 2))

    alone = np.concatenate([(await engine.read([text])).vectors for text in TEXTS])

    found = np.stack([reading.vectors[0] for reading in together])
    np.testing.assert_allclose(normalised(found), np.tile(normalised(alone), (2, 1)), rtol=0, atol=1e-6)


def test_texts_share_runs_unless_their_vectors_would_change(backend: Backend, request: pytest.FixtureRequest) -> None:
    assert backend.info.is_batchable is BATCHABLE[kind_of(request)]
    assert (backend.limits.texts > 1) is backend.info.is_batchable


def test_tokens_are_those_the_model_reads_and_what_is_cut_is_said(backend: Backend) -> None:
    short, long = backend.split("word"), backend.split("word " * 1000)

    assert 0 < len(short) < 10
    assert not short.is_truncated
    assert len(long) == backend.info.max_tokens
    assert long.is_truncated


def test_unit_vectors_where_the_folder_says_so(backend: Backend, request: pytest.FixtureRequest) -> None:
    vectors = np.concatenate([backend.run([backend.split(text).ids]) for text in TEXTS])

    if kind_of(request) == "fake":
        assert not backend.info.is_normalised
    else:
        assert backend.info.is_normalised
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_vectors_are_those_of_sentence_transformers(backend: Backend, request: pytest.FixtureRequest) -> None:
    if kind_of(request) not in EXACT:
        pytest.skip("quantized, or made up")
    data = Path(__file__).parents[1] / "data"
    texts = json.loads((data / "reference_sentences.json").read_text("utf8"))[::25]
    expected = np.load(data / "reference_vectors.npz")["vectors"][::25].astype(np.float32)

    found = np.concatenate([backend.run([backend.split(text).ids]) for text in texts])

    assert (normalised(found) * normalised(expected)).sum(axis=1).min() > 0.9999


words = st.text(alphabet="abcdefghij é?,", min_size=1, max_size=60)


@settings(max_examples=25, deadline=None)
@given(text=words, neighbours=st.lists(words, min_size=1, max_size=7))
def test_no_neighbours_move_a_vector_of_float32(minilm: Backend, text: str, neighbours: list[str]) -> None:
    own = minilm.split(text).ids

    alone = minilm.run([own])[0]
    together = minilm.run([own, *(minilm.split(each).ids for each in neighbours)])[0]

    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def minilm(minilm_folder: Path) -> Backend:
    return open_folder(minilm_folder)


def test_a_cross_encoder_scores_pairs() -> None:
    backend = open_folder(CROSS_ENCODER)

    logits = backend.run([backend.split(("a query", "a document")).ids, backend.split(("a", "b c d")).ids])

    assert backend.info.kind == "cross-encoder"
    assert logits.shape == (2, 1)
    assert logits[0] != logits[1]


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer_class", ["BertTokenizer", "PreTrainedTokenizerFast"])
def test_scores_of_weights_are_those_of_sentence_transformers(tmp_path: Path, tokenizer_class: str) -> None:
    library = pytest.importorskip("sentence_transformers")
    folder = write_cross_encoder(tmp_path / "model", tokenizer_class)
    pairs = [("a query", "a document"), ("who?", "me and you and them")]
    logits = pytest.importorskip("torch").nn.Identity()
    expected = library.CrossEncoder(str(folder), device="cpu", local_files_only=True).predict(
        pairs, activation_fn=logits
    )

    backend = open_folder(folder)

    assert (backend.info.backend, backend.info.kind) == ("sentence-transformers", "cross-encoder")
    found = backend.run([backend.split(pair).ids for pair in pairs])[:, 0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
