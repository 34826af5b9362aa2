"""Models of an Ollama's stand-in, a vLLM's protocol, a real llama.cpp, and of folders with real weights."""

import asyncio
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.clients.slm.builtin import BuiltinServer, find_model
from app.ports import Progress
from tests.integration.provisioning.conftest import CALLERS, Managed, seen_to
from tests.ollama_server import Ollama, ollama_server
from tests.slm_server import MODEL, ModelServer, model_server
from tests.weights import MINILM


@pytest.fixture
def held() -> Iterator[Ollama]:
    with ollama_server({"dolphin-x1": [5000, 300], "small:1b": [10]}) as running:
        yield running


@pytest.fixture(scope="module")
def vllm() -> Iterator[ModelServer]:
    with model_server() as running:
        yield running


async def test_a_model_is_pulled_by_ollama_with_its_progress(held: Ollama, managed: Managed) -> None:
    seen: list[tuple[str, int, int | None]] = []

    def hear(_: object, progress: Progress) -> None:
        seen.append((progress.stage, progress.done, progress.total))

    models = managed("dolphin-x1", hear, ollama_base_url=held.url)

    first, second = await seen_to(models), await seen_to(models)

    assert (first.action, second.is_cached) == ("downloaded", True)
    assert first.detail == "Ollama has it (llama, 8.0B, Q4_0)"
    assert first.provisioned is not None
    assert first.provisioned.downloaded_bytes == 5300
    assert ("success", 5300, 5300) in seen
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert ("/api/pull", {"model": "dolphin-x1", "stream": True}) in held.asked


async def test_a_pull_that_breaks_off_goes_on(held: Ollama, managed: Managed) -> None:
    held.break_after = [2, 1, 2]

    report = await seen_to(managed("dolphin-x1", ollama_base_url=held.url))

    assert report.action == "downloaded", report.detail
    assert held.pulls() == 4
    assert held.brought == 5300


async def test_a_model_that_ollama_has_is_only_pulled_again_by_force(held: Ollama, managed: Managed) -> None:
    held.held["small:1b"] = "sha256:of another time"
    models = managed("small:1b", ollama_base_url=held.url)

    first, newer, same = await seen_to(models), await seen_to(models, force=True), await seen_to(models, force=True)

    assert [each.action for each in (first, newer, same)] == ["present", "downloaded", "present"]
    assert same.detail.endswith("unchanged")
    assert held.pulls() == 2


async def test_fifty_callers_pull_once(held: Ollama, managed: Managed) -> None:
    models = managed("dolphin-x1", ollama_base_url=held.url)

    await asyncio.gather(*(models.provision() for _ in range(CALLERS)))

    assert held.pulls() == 1


OLLAMA_FAULTS: dict[str, tuple[dict[str, Any], Any, str]] = {
    "no such model": ({}, "nope", "Ollama cannot pull nope: pull model manifest: file does not exist"),
    "never pulled": (
        {},
        {"name": "dolphin-x1", "auto_download": False},
        "Ollama does not have it, and auto_download is false: ollama pull dolphin-x1",
    ),
    "listed and broken": (
        {"held": {"dolphin-x1:latest": "sha256:x"}, "cannot_show": True},
        "dolphin-x1",
        "Ollama lists the model, and cannot show it: model 'dolphin-x1' not found",
    ),
    "it breaks off each time": (
        {"break_after": [0] * 99},
        "dolphin-x1",
        "the connection to Ollama was lost (RemoteProtocolError); Ollama keeps what it has",
    ),
}


@pytest.mark.parametrize("fault", OLLAMA_FAULTS)
async def test_an_ollama_that_fails_is_one_line(held: Ollama, managed: Managed, fault: str) -> None:
    state, role, line = OLLAMA_FAULTS[fault]
    for name, value in state.items():
        setattr(held, name, value)

    report = await seen_to(managed(role, ollama_base_url=held.url))

    assert (report.action, report.detail[: len(line)]) == ("failed", line)
    assert "\n" not in report.detail


@pytest.mark.parametrize(
    ("role", "line"),
    [
        ({"name": "m", "provider": "ollama"}, "Ollama at http://127.0.0.1:9 cannot be reached: is it running?"),
        ({"name": "m", "provider": "vllm"}, "vLLM at http://127.0.0.1:9 cannot be reached: is it running?"),
        ({"name": "m", "provider": "huggingface"}, "the hub at http://127.0.0.1:9 cannot be reached: is it running?"),
        (
            {"name": "m", "provider": "llamacpp", "url": "http://127.0.0.1:9"},
            "the llama.cpp server at http://127.0.0.1:9",
        ),
        ({"name": "m", "provider": "local"}, "m is no folder in"),
    ],
)
async def test_what_is_not_there_is_said_by_every_provider(managed: Managed, role: Any, line: str) -> None:
    nobody = "http://127.0.0.1:9"
    report = await seen_to(managed(role, ollama_base_url=nobody, vllm_base_url=f"{nobody}/v1", hf_endpoint=nobody))

    assert report.action == "failed"
    assert report.detail.startswith(line), report.detail


async def test_a_vllm_has_loaded_a_model_or_says_what_it_serves(vllm: ModelServer, managed: Managed) -> None:
    there = await seen_to(managed({"name": MODEL, "provider": "vllm"}, vllm_base_url=vllm.base_url))
    named = await seen_to(managed({"name": MODEL, "provider": "vllm", "url": vllm.base_url.removesuffix("/v1")}))
    other = await seen_to(managed({"name": "other", "provider": "vllm"}, vllm_base_url=vllm.base_url))

    assert (there.action, named.action, other.action) == ("present", "present", "failed")
    assert other.detail == f"vLLM serves {MODEL}: start it with --served-model-name other"


async def test_the_key_goes_only_where_the_settings_point(vllm: ModelServer, managed: Managed) -> None:
    vllm.asked.clear()
    own = {"vllm_base_url": vllm.base_url, "slm_api_key": "secret"}
    await seen_to(managed({"name": MODEL, "provider": "vllm"}, **own))
    foreign = vllm.base_url.replace("127.0.0.1", "localhost")
    await seen_to(managed({"name": MODEL, "provider": "vllm", "url": foreign}, **own))

    assert [each.headers.get("authorization") for each in vllm.asked] == ["Bearer secret", None]


async def test_a_running_llama_cpp_and_its_file_are_seen_to(managed: Managed, tmp_path: Path) -> None:
    packaged = find_model(None, tmp_path / "none")
    file = tmp_path / packaged.name
    shutil.copyfile(packaged, file)
    server = BuiltinServer(file, tmp_path / "llama.log")
    await server.start()
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        role = {"name": server.model, "provider": "llamacpp", "url": server.base_url}
        own = {"slm_base_url": server.base_url, "slm_api_key": server.api_key}
        both = await seen_to(managed({**role, "path": file.name, "sha256": digest}, **own))
        keyless = await seen_to(managed(role))
        other = await seen_to(managed({**role, "name": "other"}, **own))
    finally:
        await server.aclose()
    gone = await seen_to(managed(role, **own))
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 1)
    cut = await seen_to(managed({"name": "m", "provider": "llamacpp", "path": file.name}))

    assert both.action == "present", both.detail
    assert both.detail.endswith("; the llama.cpp server answers with it")
    assert (keyless.action, keyless.detail) == ("failed", "the llama.cpp server wants another API key: SLM_API_KEY")
    assert (other.action, other.detail) == ("failed", f"the llama.cpp server serves {server.model}")
    assert gone.action == "failed"
    assert "is cut off: it has" in cut.detail


async def test_a_real_folder_is_checked_file_by_file(managed: Managed, tmp_path: Path) -> None:
    shutil.copytree(MINILM, tmp_path / "minilm")
    digest = hashlib.sha256((MINILM / "model.safetensors").read_bytes()).hexdigest()
    role = {"name": "minilm", "provider": "local", "files": {"model.safetensors": digest, "tokenizer.json": None}}

    report = await seen_to(managed(role))

    assert report.action == "present", report.detail
    assert report.detail.endswith("bytes, checked against the manifest: 1")
    assert report.provisioned is not None
    assert report.provisioned.hashes["model.safetensors"] == digest
    files = {path.relative_to(MINILM).as_posix() for path in MINILM.rglob("*") if path.is_file()}
    assert set(report.provisioned.hashes) == files
