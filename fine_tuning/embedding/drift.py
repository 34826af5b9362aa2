"""How far a quantized model is from its original, and what it gains: measured on both in processes of their own.

    python -m fine_tuning.embedding.drift FOLDER TEXTS.json VECTORS.npy DEVICE

is such a process: it loads FOLDER as the server does, reads the texts, leaves their vectors and prints its figures.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from fine_tuning.embedding.encoding import ALONE, encode, open_model
from fine_tuning.embedding.errors import FineTuningError
from fine_tuning.embedding.evaluate import Interval
from serving.backend import RunLimits
from serving.pooling import Vectors, normalised

ROUNDS = 2
"""Processes a model is timed in, in turn with the other's; the better figure of each counts."""

_PASSES = 3
_SHORT_TEXTS = 64
_TOGETHER = RunLimits(texts=16, tokens=100_000, padding=100_000)
"""Short and long texts in one run, which the server would not do: what neighbours can do to a vector shows most."""

_PACKAGE_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Measures:
    """One model on its own."""

    backend: str
    precision: str
    is_batchable: bool
    """Whether the server lets texts share runs."""
    least_cosine_together: float
    """Of a vector made in a run with others to that of its text alone, at worst."""
    texts_per_s: float
    """In runs as the server fills them."""
    p50_ms: float
    """One short text alone."""
    peak_rss_mb: float
    """The most resident memory of a process that loads the model and reads the texts, in MiB."""
    size_mb: float
    """Of what is loaded of the folder to serve it: graph or weights, in 10^6 bytes."""


@dataclass(frozen=True)
class MrrChange:
    """The MRR of both models on the same rows, and the difference with its 95 % interval."""

    before: float
    after: float
    difference: Interval
    queries: int


@dataclass(frozen=True)
class Drift:
    """A quantized model beside its original."""

    mean_cosine: float
    worst_cosine: float
    before: Measures
    after: Measures
    texts: int
    mrr: MrrChange | None = None
    """None where there was nothing to evaluate on."""

    @property
    def size_ratio(self) -> float:
        """Size over the original's."""
        return self.after.size_mb / self.before.size_mb

    @property
    def speed_ratio(self) -> float:
        """Texts a second over the original's."""
        return self.after.texts_per_s / self.before.texts_per_s

    def document(self) -> dict[str, Any]:
        """For `quantization.json`."""
        return {**asdict(self), "size_ratio": self.size_ratio, "speed_ratio": self.speed_ratio}


def measure_drift(original: Path, quantized: Path, texts: Sequence[str], device: str = "cpu") -> tuple[Drift, Vectors]:
    """Compare two folders on `texts`; also the original's vectors of them, shape (texts, dimension), at unit length.
    Raises FineTuningError where one of them does not load."""
    with tempfile.TemporaryDirectory() as scratch:
        runs = [
            _in_process(folder, texts, Path(scratch), device) for _ in range(ROUNDS) for folder in (original, quantized)
        ]
    before, after = (_best([measures for measures, _ in runs[number::2]]) for number in (0, 1))
    expected, found = runs[0][1], runs[1][1]
    cosines = (expected * found).sum(axis=1)
    return Drift(float(cosines.mean()), float(cosines.min()), before, after, len(texts)), expected


def _best(runs: Sequence[Measures]) -> Measures:
    """Of several runs of one model the best speed and the most memory."""
    first = asdict(runs[0])
    first["texts_per_s"] = max(run.texts_per_s for run in runs)
    first["p50_ms"] = min(run.p50_ms for run in runs)
    first["peak_rss_mb"] = max(run.peak_rss_mb for run in runs)
    return Measures(**first)


def _in_process(folder: Path, texts: Sequence[str], scratch: Path, device: str) -> tuple[Measures, Vectors]:
    """The figures and the unit vectors of a model, by a fresh process."""
    listed, vectors = scratch / "texts.json", scratch / "vectors.npy"
    listed.write_text(json.dumps(list(texts)), "utf8")
    command = [sys.executable, "-m", __spec__.name, str(folder.resolve()), str(listed), str(vectors), device]
    run = subprocess.run(command, cwd=_PACKAGE_ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    if run.returncode:
        last = (run.stderr.strip() or "it said nothing").splitlines()[-1]
        raise FineTuningError(f"{folder} cannot be measured: {last}")
    return Measures(**json.loads(run.stdout.splitlines()[-1])), np.load(vectors)


def measure(folder: Path, texts: Sequence[str], device: str) -> tuple[Measures, Vectors]:
    """What this process finds of the model in `folder`; call it in a fresh one."""
    backend = open_model(folder, device=device)
    alone = normalised(encode(backend, texts, ALONE))
    together = normalised(encode(backend, texts, _TOGETHER))
    passes = [_seconds(lambda: encode(backend, texts)) for _ in range(_PASSES)]
    short = sorted(texts, key=len)[:_SHORT_TEXTS]
    singles = [_seconds(lambda text=text: encode(backend, [text])) for text in short]
    measures = Measures(
        backend=backend.info.backend,
        precision=backend.info.precision,
        is_batchable=backend.info.is_batchable,
        least_cosine_together=float((alone * together).sum(axis=1).min()),
        texts_per_s=len(texts) / min(passes),
        p50_ms=1000 * median(singles),
        peak_rss_mb=peak_memory_mb(),
        size_mb=_served_bytes(folder, backend.info.backend) / 1e6,
    )
    return measures, alone


def _seconds(work: Any) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def peak_memory_mb() -> float:
    """The most resident memory of this process so far, in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():  # what getrusage says there may be the parent's
        line = next(line for line in status.read_text("utf8").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _served_bytes(folder: Path, backend: str) -> int:
    """The bytes of the graph or the weights."""
    places = {"onnx": "onnx/*", "openvino": "openvino/*"}
    files = list(folder.glob(places.get(backend, "*.safetensors"))) or list(folder.glob("*.onnx"))
    return sum(file.stat().st_size for file in files)


if __name__ == "__main__":
    _folder, _texts, _vectors, _device = sys.argv[1:]
    try:
        found, made = measure(Path(_folder), json.loads(Path(_texts).read_text("utf8")), _device)
    except FineTuningError as problem:
        raise SystemExit(str(problem)) from None
    np.save(_vectors, made)
    print(json.dumps(asdict(found)))
