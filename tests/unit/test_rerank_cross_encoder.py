"""A cross-encoder in this process: its scores are transformers', whatever it was made from, and its queue is fair."""

import asyncio
import json
import shutil
import threading
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnxruntime.quantization import quantize_dynamic
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, processors

from app.clients.embeddings.batching import Pieces
from app.clients.rerank import graph
from app.clients.rerank.cross_encoder import CrossEncoderReranker
from app.clients.rerank.model import CrossEncoder, _max_pieces_in, kept_lengths
from app.domain.embeddings import Vectors
from app.domain.errors import ModelUnavailable
from app.request import budget
from scripts.make_reference_reranks import write_cross_encoder
from tests.weights import MINILM

DATA = Path(__file__).parents[1] / "data"
TINY = DATA / "tiny_cross_encoder"


@pytest.fixture(scope="module")
def minilm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BertForSequenceClassification as transformers saves it."""
    folder = tmp_path_factory.mktemp("weights") / "minilm-cross"
    write_cross_encoder(MINILM, folder)
    return folder


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    """The tiny export, to be changed."""
    return Path(shutil.copytree(TINY, tmp_path / "tiny"))


def tiny_weights(folder: Path, **changes: Any) -> Path:
    """A folder with the export's own weights under the names that transformers gives them, instead of the graph."""
    dice = np.random.default_rng(1)
    config = json.loads((folder / "config.json").read_text())
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], hidden),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], hidden),
        "embeddings.token_type_embeddings.weight": (2, hidden),
        "embeddings.LayerNorm.weight": (hidden,),
        "embeddings.LayerNorm.bias": (hidden,),
        "pooler.dense.weight": (hidden, hidden),
        "pooler.dense.bias": (hidden,),
    }
    for layer in range(config["num_hidden_layers"]):
        for name, shape in {
            **{f"attention.self.{part}.weight": (hidden, hidden) for part in ("query", "key", "value")},
            **{f"attention.self.{part}.bias": (hidden,) for part in ("query", "key", "value")},
            "attention.output.dense.weight": (hidden, hidden),
            "attention.output.dense.bias": (hidden,),
            "attention.output.LayerNorm.weight": (hidden,),
            "attention.output.LayerNorm.bias": (hidden,),
            "intermediate.dense.weight": (wide, hidden),
            "intermediate.dense.bias": (wide,),
            "output.dense.weight": (hidden, wide),
            "output.dense.bias": (hidden,),
            "output.LayerNorm.weight": (hidden,),
            "output.LayerNorm.bias": (hidden,),
        }.items():
            shapes[f"encoder.layer.{layer}.{name}"] = shape
    weights = {f"bert.{name}": dice.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    weights["classifier.weight"] = dice.normal(0, 0.3, (1, hidden)).astype(np.float32)
    weights["classifier.bias"] = np.zeros(1, np.float32)
    weights |= changes
    save_file({name: value for name, value in weights.items() if value is not None}, folder / "model.safetensors")
    (folder / "model.onnx").unlink(missing_ok=True)
    return folder


def reference(name: str) -> tuple[list[tuple[str, str]], list[float]]:
    """The pairs and what transformers says of them."""
    found = json.loads((DATA / "reference_reranks.json").read_text("utf8"))
    texts = json.loads((DATA / "reference_sentences.json").read_text("utf8"))
    return [(texts[query], texts[document]) for query, document in found["pairs"]], found[name]


# --- scores


@pytest.mark.parametrize("name", ["minilm", "tiny"])
def test_logits_are_those_of_transformers(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """30 real pairs, many of them longer than the model reads: made from weights (`minilm`) and exported (`tiny`)."""
    folder = request.getfixturevalue("minilm_folder") if name == "minilm" else TINY
    model = CrossEncoder.load(folder, tmp_path)
    pairs, expected = reference(name)

    logits = [model.logits_of(model.pairs_of(query, [document])).item() for query, document in pairs]

    assert np.ptp(expected) > 2, "a reference that is nearly constant proves nothing"
    difference = np.abs(np.array(logits) - expected).max()
    print(f"{name}: the largest difference of a logit is {difference:.1e}")
    assert difference <= 1e-4


@pytest.mark.parametrize("name", ["minilm", "tiny"])
async def test_relevances_do_not_depend_on_the_batch(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Documents of all lengths at once, in two orders, and alone."""
    folder = request.getfixturevalue("minilm_folder") if name == "minilm" else TINY
    reranker = CrossEncoderReranker.load(folder, tmp_path)
    pairs, _ = reference(name)
    query, documents = pairs[0][0], [document for _, document in pairs if len(document) < 600][:10]

    together = np.array(await reranker.rerank(query, documents))
    backwards = np.array(await reranker.rerank(query, documents[::-1]))
    alone = np.array([(await reranker.rerank(query, [document]))[0] for document in documents])

    assert np.abs(together - alone).max() <= 1e-5
    assert np.abs(together - backwards[::-1]).max() <= 1e-5
    await reranker.aclose()


async def test_a_model_whose_batches_mix_runs_pair_by_pair(tiny_folder: Path, tmp_path: Path) -> None:
    """Eight-bit products are scaled by the largest number of the whole run: found out when the model is loaded."""
    quantize_dynamic(tiny_folder / "model.onnx", tiny_folder / "small.onnx")
    (tiny_folder / "small.onnx").replace(tiny_folder / "model.onnx")
    model = CrossEncoder.load(tiny_folder, tmp_path)
    assert not model.is_batchable
    pairs, _ = reference("tiny")
    documents = [document for _, document in pairs]
    reranker = CrossEncoderReranker(model)

    together = await reranker.rerank(pairs[0][0], documents)

    assert together == [(await reranker.rerank(pairs[0][0], [document]))[0] for document in documents]
    await reranker.aclose()


@dataclass
class Argument:
    """An input or output, as ONNX Runtime describes it."""

    name: str
    type: str = "tensor(int64)"


class FixedSession:
    """A model that answers every pair alike."""

    def __init__(self, row: Sequence[float], *inputs: Argument) -> None:
        self.row = row
        self.inputs = inputs or (Argument("input_ids"), Argument("attention_mask"))

    def get_inputs(self) -> list[Argument]:
        return list(self.inputs)

    def get_outputs(self) -> list[Argument]:
        return [Argument("scores", "tensor(float)")]

    def run(self, _: list[str], feeds: dict[str, Any]) -> list[Any]:
        return [np.array([self.row] * len(feeds["input_ids"]))]


def encoder_on(session: FixedSession) -> CrossEncoder:
    tokenizer = Tokenizer.from_file(str(TINY / "tokenizer.json"))
    return CrossEncoder(session, tokenizer, "fixed", 64)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("row", "relevance"),
    [([0.0], 0.5), ([2.0], 0.8807971), ([-800.0], 0.0), ([1.0, 3.0], 0.8807971), ([3.0, 1.0], 0.1192029)],
    ids=str,
)
async def test_one_label_is_logistic_and_two_are_softmax(row: list[float], relevance: float) -> None:
    reranker = CrossEncoderReranker(encoder_on(FixedSession(row)))

    assert await reranker.rerank("a", ["b", "c"]) == pytest.approx([relevance] * 2, abs=1e-6)
    await reranker.aclose()


@pytest.mark.parametrize("row", [[1.0, 2.0, 3.0], [float("nan")], [float("inf")], []], ids=str)
def test_other_answers_are_no_scores(row: list[float]) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        encoder_on(FixedSession(row))
    assert caught.value.cause == "wrong_shape"


@pytest.mark.parametrize(
    "inputs",
    [
        (Argument("attention_mask"),),
        (Argument("input_ids"), Argument("decoder_input_ids")),
        (Argument("input_ids", "tensor(float)"),),
    ],
    ids=str,
)
def test_other_inputs_are_no_cross_encoder(inputs: tuple[Argument, ...]) -> None:
    with pytest.raises(ModelUnavailable, match="other inputs"):
        encoder_on(FixedSession([1.0], *inputs))


# --- pairs


def test_pairs_are_put_together_as_the_library_does(tiny_folder: Path, tmp_path: Path) -> None:
    """Every length around the limit, with BERT's marks and with RoBERTa's doubled ones: same pieces, same segments."""
    for processor in (None, processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2))):
        tokenizer = Tokenizer.from_file(str(tiny_folder / "tokenizer.json"))
        if processor is not None:
            tokenizer.post_processor = processor
            tokenizer.save(str(tiny_folder / "tokenizer.json"))
        model = CrossEncoder.load(tiny_folder, tmp_path)
        tokenizer.enable_truncation(128, strategy="longest_first")
        for first in (0, 1, 5, 61, 62, 63, 64, 124, 125, 126, 300):
            for second in (0, 1, 60, 61, 62, 63, 64, 65, 120, 124, 125, 126, 200):
                query, document = "a " * first, "b " * second
                expected = tokenizer.encode(query, document)
                (pair,) = model.pairs_of(query, [document])
                assert pair[:, 0].tolist() == expected.ids, (first, second)
                assert pair[:, 1].tolist() == expected.type_ids, (first, second)


@pytest.mark.parametrize("room", [10, 11])
def test_the_longer_text_gives_way(room: int) -> None:
    for first in range(15):
        for second in range(15):
            kept = kept_lengths(first, second, room)
            assert sum(kept) == min(room, first + second)
            assert kept[0] <= first
            assert kept[1] <= second
            if first + second > room:
                assert min(kept) == min(first, second, room // 2)


async def test_two_endless_texts_cost_no_more_than_long_ones(tmp_path: Path) -> None:
    """The library would make a pair of every two parts that it cuts off: seconds for one document."""
    reranker = CrossEncoderReranker.load(TINY, tmp_path)
    started = time.monotonic()

    await reranker.rerank("word " * 6400, ["text " * 6400])

    assert time.monotonic() - started < 2
    await reranker.aclose()


@pytest.mark.parametrize(
    ("config", "tokenizer", "pieces"),
    [
        ({}, {}, 512),
        ({"max_position_embeddings": 512}, {"model_max_length": 256}, 256),
        ({"max_position_embeddings": 514, "model_type": "xlm-roberta"}, {"model_max_length": 10**30}, 512),
        ({"max_position_embeddings": 130, "model_type": "roberta"}, {}, 128),
        ({"max_position_embeddings": 8192}, {}, 512),
        ("not an object", "not an object", 512),
    ],
)
def test_pairs_are_as_long_as_the_model_reads(tmp_path: Path, config: Any, tokenizer: Any, pieces: int) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer))

    assert _max_pieces_in(tmp_path) == pieces


# --- files


def test_a_graph_is_made_once_and_again_when_it_or_the_weights_change(tiny_folder: Path, tmp_path: Path) -> None:
    source = tiny_weights(tiny_folder)
    made = graph.ensure_graph(source, tmp_path / "models")
    stamp = made.stat().st_mtime_ns
    assert graph.ensure_graph(source, tmp_path / "models") == made
    assert made.stat().st_mtime_ns == stamp
    assert {file.name for file in made.parent.iterdir()} == {"model.onnx", "weights.bin", "SHA256SUMS"}

    (made.parent / "weights.bin").write_bytes(b"damaged")
    assert graph.ensure_graph(source, tmp_path / "models") == made
    assert (made.parent / "weights.bin").stat().st_size > 1000

    tiny_weights(tiny_folder, **{"classifier.bias": np.ones(1, np.float32)})
    other = graph.ensure_graph(source, tmp_path / "models")
    assert other != made
    assert {folder.name for folder in (tmp_path / "models").iterdir()} == {made.parent.name, other.parent.name}


def test_half_precision_and_two_labels_are_read(tiny_folder: Path, tmp_path: Path) -> None:
    """float16 weights give the scores of the same numbers in float32; two labels one logit, what is between them."""
    model = CrossEncoder.load(tiny_weights(tiny_folder), tmp_path)
    pairs = model.pairs_of("a b c", ["d e f", "g"])
    expected = model.logits_of(pairs)
    weights = load_file(tiny_folder / "model.safetensors")
    save_file({name: value.astype(np.float16) for name, value in weights.items()}, tiny_folder / "model.safetensors")
    np.testing.assert_allclose(CrossEncoder.load(tiny_folder, tmp_path).logits_of(pairs), expected, atol=0.02)

    two = np.concatenate([np.zeros_like(weights["classifier.weight"]), weights["classifier.weight"]])
    tiny_weights(tiny_folder, **{"classifier.weight": two, "classifier.bias": np.zeros(2, np.float32)})
    np.testing.assert_allclose(CrossEncoder.load(tiny_folder, tmp_path).logits_of(pairs), expected, atol=1e-5)


def test_an_export_in_a_folder_of_its_own_is_found(tiny_folder: Path, tmp_path: Path) -> None:
    (tiny_folder / "onnx").mkdir()
    (tiny_folder / "model.onnx").rename(tiny_folder / "onnx" / "model.onnx")

    assert CrossEncoder.load(tiny_folder, tmp_path).is_batchable


BROKEN: dict[str, tuple[str, bytes | None]] = {
    "no tokenizer": ("tokenizer.json", None),
    "a broken tokenizer": ("tokenizer.json", b"{}"),
    "no weights": ("model.safetensors", None),
    "broken weights": ("model.safetensors", b"\x00" * 100),
    "no configuration": ("config.json", None),
    "a broken configuration": ("config.json", b"["),
    "another architecture": (
        "config.json",
        b'{"model_type": "roberta", "num_hidden_layers": 2, "num_attention_heads": 4}',
    ),
    "more layers than weights": (
        "config.json",
        b'{"model_type": "bert", "num_hidden_layers": 9, "num_attention_heads": 4}',
    ),
    "a broken graph": ("model.onnx", b"\x00" * 100),
}


@pytest.mark.parametrize(("name", "content"), BROKEN.values(), ids=BROKEN)
def test_a_folder_that_holds_no_model_is_named(
    tiny_folder: Path, tmp_path: Path, name: str, content: bytes | None
) -> None:
    """What is wrong is said with the path, and nothing half made stays behind."""
    tiny_weights(tiny_folder)
    if content is None:
        (tiny_folder / name).unlink()
    else:
        (tiny_folder / name).write_bytes(content)

    with pytest.raises(ModelUnavailable, match=str(tiny_folder)):
        CrossEncoder.load(tiny_folder, tmp_path / "made")
    assert list((tmp_path / "made").glob("models/*")) == []


def test_a_model_that_is_no_classifier_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    tiny_weights(tiny_folder, **{"classifier.weight": None})

    with pytest.raises(ModelUnavailable, match="lacks weights"):
        CrossEncoder.load(tiny_folder, tmp_path)


# --- the queue, with a stand-in for the model that waits until it is told to go on


class GatedEncoder:
    """Answers each run when the gate is open; a logit is the number of the document's characters."""

    name = "gated"
    is_batchable = True

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()
        self.takes_s = 0.0
        self.error: BaseException | None = None
        self.runs: list[list[int]] = []

    def pairs_of(self, query: str, documents: Sequence[str]) -> list[Pieces]:
        return [np.zeros((len(document), 2), np.int32) for document in documents]

    def logits_of(self, pairs: Sequence[Pieces]) -> Vectors:
        self.runs.append([len(pieces) for pieces in pairs])
        self.started.set()
        self.gate.wait(10)
        time.sleep(self.takes_s)
        if self.error is not None:
            raise self.error
        return np.array([[len(pieces)] for pieces in pairs], np.float32)


@pytest.fixture
def encoder() -> GatedEncoder:
    return GatedEncoder()


@pytest.fixture
async def reranker(encoder: GatedEncoder) -> AsyncIterator[CrossEncoderReranker]:
    made = CrossEncoderReranker(encoder, max_queued_pieces=100)  # type: ignore[arg-type]
    yield made
    encoder.gate.set()
    await made.aclose()


async def hold(encoder: GatedEncoder, reranker: CrossEncoderReranker) -> "asyncio.Task[Any]":
    """A call that is in the model now and stays there."""
    encoder.gate.clear()
    held: asyncio.Task[Any] = asyncio.create_task(reranker.rerank("q", ["xx"]))  # type: ignore[arg-type]
    await asyncio.to_thread(encoder.started.wait, 10)
    return held


def relevance(length: int) -> float:
    return float(1 / (1 + np.exp(-length)))


async def test_a_full_queue_is_busy_and_recovers(encoder: GatedEncoder, reranker: CrossEncoderReranker) -> None:
    held = await hold(encoder, reranker)

    with pytest.raises(ModelUnavailable) as caught:
        await reranker.rerank("q", ["x" * 50, "x" * 49])
    assert caught.value.cause == "busy"

    encoder.gate.set()
    assert await held == pytest.approx([relevance(2)])
    assert await reranker.rerank("q", ["x" * 50, "x"]) == pytest.approx([1.0, relevance(1)])


async def test_a_used_up_budget_is_a_timeout(encoder: GatedEncoder, reranker: CrossEncoderReranker) -> None:
    held = await hold(encoder, reranker)
    started = time.monotonic()

    with budget(0.2), pytest.raises(ModelUnavailable) as caught:
        await reranker.rerank("q", ["x"])
    assert caught.value.cause == "timeout"
    assert time.monotonic() - started < 0.5

    encoder.gate.set()
    await held
    await reranker.rerank("q", ["xxx"])
    assert [1] not in encoder.runs, "nobody waits for it any more"


async def test_what_cannot_be_done_in_time_is_not_begun(encoder: GatedEncoder, reranker: CrossEncoderReranker) -> None:
    """Once the speed is known, a call that needs longer than is left fails at once, and the model stays free."""
    reranker._learn_speed(80, 2.0)
    started = time.monotonic()

    with budget(0.5), pytest.raises(ModelUnavailable) as caught:
        await reranker.rerank("q", ["x" * 90])

    assert caught.value.cause == "timeout"
    assert time.monotonic() - started < 0.3
    assert encoder.runs == []
    with budget(0.5):
        assert len(await reranker.rerank("q", ["x" * 20])) == 1
        reranker._learn_speed(80, 0.01)
        assert len(await reranker.rerank("q", ["x" * 90])) == 1


async def test_cancelled_documents_leave_the_queue_unread(
    encoder: GatedEncoder, reranker: CrossEncoderReranker
) -> None:
    held = await hold(encoder, reranker)
    cancelled = asyncio.create_task(reranker.rerank("q", ["xxx"]))  # type: ignore[arg-type]
    await asyncio.sleep(0.05)
    cancelled.cancel()
    await asyncio.wait([cancelled])

    encoder.gate.set()
    await held
    await reranker.rerank("q", ["xxxx", "xxxx"])

    assert encoder.runs == [[2], [4, 4]]


async def test_a_failed_run_fails_its_callers_only(encoder: GatedEncoder, reranker: CrossEncoderReranker) -> None:
    encoder.error = RuntimeError("out of memory")
    with pytest.raises(ModelUnavailable, match="failed"):
        await reranker.rerank("q", ["x"])

    encoder.error = None
    assert await reranker.rerank("q", ["x"]) == pytest.approx([relevance(1)])


async def test_an_unforeseen_error_leaves_nobody_waiting(encoder: GatedEncoder, reranker: CrossEncoderReranker) -> None:
    held = await hold(encoder, reranker)
    queued = asyncio.create_task(reranker.rerank("q", ["x" * 90]))  # type: ignore[arg-type]
    await asyncio.sleep(0.05)
    encoder.error = ZeroDivisionError()
    encoder.gate.set()

    for call in (held, queued):
        with pytest.raises(ModelUnavailable):
            await call
    encoder.error = None
    assert len(await reranker.rerank("q", ["x"])) == 1


async def test_closing_ends_the_run_and_refuses_the_rest(encoder: GatedEncoder, reranker: CrossEncoderReranker) -> None:
    held = await hold(encoder, reranker)
    queued = asyncio.create_task(reranker.rerank("q", ["x" * 90]))  # type: ignore[arg-type]
    await asyncio.sleep(0.05)
    closing = asyncio.create_task(reranker.aclose())
    await asyncio.sleep(0.01)
    encoder.gate.set()

    assert await held == pytest.approx([relevance(2)])
    await closing
    with pytest.raises(ModelUnavailable):
        await queued
    with pytest.raises(ModelUnavailable):
        await reranker.rerank("q", ["late"])
    await reranker.aclose()


async def test_many_documents_do_not_hold_up_one(encoder: GatedEncoder) -> None:
    """A call of one document that comes after 40 is answered long before they are."""
    reranker = CrossEncoderReranker(encoder)  # type: ignore[arg-type]
    encoder.takes_s = 0.01
    held = await hold(encoder, reranker)
    many = asyncio.create_task(reranker.rerank("q", ["x" * 100] * 40))  # type: ignore[arg-type]
    await asyncio.sleep(0.05)
    one = asyncio.create_task(reranker.rerank("q", ["x" * 70]))  # type: ignore[arg-type]
    await asyncio.sleep(0.05)

    encoder.gate.set()
    await asyncio.gather(held, many, one)

    assert encoder.runs.index([70]) < 25
    await reranker.aclose()
