"""Models of the hub, from a loopback one: resumed, checked, killed in the middle, and asked for by many at once."""

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub_server import COMMIT, Hub, hub_server
from tests.integration.provisioning.conftest import CALLERS, Managed, seen_to
from tests.model_files import safetensors

ROOT = Path(__file__).parents[3]
WEIGHTS = safetensors(100_000)
REPOSITORY = {
    "config.json": b'{"model_type": "tiny"}',
    "empty.txt": b"",
    "onnx/weights.bin": WEIGHTS[:5000],
    "model.safetensors": WEIGHTS,
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server({"org/tiny": REPOSITORY}) as running:
        yield running


def on_hub(**fields: Any) -> dict[str, Any]:
    return {"name": "org/tiny", "provider": "huggingface", **fields}


def cached(home: Path) -> Path:
    return home / "hf" / "hub" / "models--org--tiny"


def blob(home: Path) -> Path:
    return cached(home) / "blobs" / hashlib.sha256(WEIGHTS).hexdigest()


def partial(home: Path) -> Path:
    return blob(home).with_name(f"{blob(home).name}.partial")


def snapshot(home: Path) -> dict[str, bytes]:
    """What a reader of the cache finds under the commit."""
    folder = cached(home) / "snapshots" / COMMIT
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


async def test_a_repository_comes_into_the_hubs_cache_whole(hub: Hub, managed: Managed, tmp_path: Path) -> None:
    models = managed(on_hub(), hf_endpoint=hub.url)

    first = await seen_to(models)
    second = await seen_to(models, force=True)

    assert (first.action, second.action) == ("downloaded", "present")
    assert first.provisioned is not None
    assert first.provisioned.downloaded_bytes == sum(map(len, REPOSITORY.values()))
    assert snapshot(tmp_path) == REPOSITORY
    assert (cached(tmp_path) / "refs" / "main").read_text() == COMMIT
    assert len(hub.large_requests()) == 2


async def test_only_the_files_that_the_manifest_names_come(hub: Hub, managed: Managed, tmp_path: Path) -> None:
    wanted = {"config.json": hashlib.sha256(REPOSITORY["config.json"]).hexdigest(), "onnx/weights.bin": None}

    report = await seen_to(managed(on_hub(files=wanted, revision="v1"), hf_endpoint=hub.url))

    assert report.action == "downloaded"
    assert set(snapshot(tmp_path)) == set(wanted)


async def test_a_download_that_breaks_off_goes_on_where_it_was(hub: Hub, managed: Managed, tmp_path: Path) -> None:
    hub.break_after = [5000, 100_000, 20_000, 0, 200_000]

    report = await seen_to(managed(on_hub(), hf_endpoint=hub.url))

    assert report.action == "downloaded", report.detail
    assert snapshot(tmp_path) == REPOSITORY
    ranges = [each.range for each in hub.large_requests() if each.path.endswith(blob(tmp_path).name)]
    assert ranges == sorted(ranges)
    assert len(set(ranges)) >= 4
    assert report.provisioned is not None
    assert report.provisioned.downloaded_bytes == sum(map(len, REPOSITORY.values())), "no byte came twice"


async def test_a_hub_that_is_gone_leaves_what_came_for_the_next_time(
    hub: Hub, managed: Managed, tmp_path: Path
) -> None:
    only = on_hub(files={"model.safetensors": None})
    hub.break_after = [150_000, 0, 0, 0, 0, 0, 0]
    models = managed(only, hf_endpoint=hub.url)

    failed = await seen_to(models)

    assert failed.action == "failed"
    assert "150,000 bytes of it are kept for the next time" in failed.detail
    assert not blob(tmp_path).exists()
    assert not snapshot(tmp_path)
    assert partial(tmp_path).stat().st_size == 150_000
    hub.break_after = []
    again = await seen_to(models)
    assert again.provisioned is not None
    assert again.provisioned.downloaded_bytes == len(WEIGHTS) - 150_000
    assert hub.large_requests()[-1].range == 150_000
    assert blob(tmp_path).read_bytes() == WEIGHTS
    assert not partial(tmp_path).exists()


async def test_what_another_download_left_is_checked_and_begun_anew(hub: Hub, managed: Managed, tmp_path: Path) -> None:
    partial(tmp_path).parent.mkdir(parents=True)
    partial(tmp_path).write_bytes(b"something else" * 1000)

    report = await seen_to(managed(on_hub(), hf_endpoint=hub.url))

    assert report.action == "downloaded"
    assert blob(tmp_path).read_bytes() == WEIGHTS


@pytest.mark.parametrize("size", [len(WEIGHTS), len(WEIGHTS) + 5])
async def test_a_partial_file_that_is_as_long_or_longer_is_no_trap(
    hub: Hub, managed: Managed, tmp_path: Path, size: int
) -> None:
    partial(tmp_path).parent.mkdir(parents=True)
    partial(tmp_path).write_bytes(bytes(size))

    assert (await seen_to(managed(on_hub(), hf_endpoint=hub.url))).action == "downloaded"
    assert blob(tmp_path).read_bytes() == WEIGHTS


async def test_a_server_that_knows_no_range_starts_anew(hub: Hub, managed: Managed, tmp_path: Path) -> None:
    hub.ignores_range = True
    hub.break_after = [5000, 150_000]

    assert (await seen_to(managed(on_hub(), hf_endpoint=hub.url))).action == "downloaded"
    assert blob(tmp_path).read_bytes() == WEIGHTS


HUB_FAULTS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no such repository": ({}, on_hub(name="org/other"), "the hub has no org/other at the revision main"),
    "no such revision": ({}, on_hub(revision="v9"), "the hub has no org/tiny at the revision v9"),
    "a token is wanted": ({"token": "t"}, on_hub(), "the hub does not show org/tiny to everybody: set HF_TOKEN"),
    "no such file": ({}, on_hub(files={"x": None}), "org/tiny has no file x"),
    "another hash is pinned": (
        {},
        on_hub(files={"model.safetensors": "0" * 64}),
        "model.safetensors has the SHA-256",
    ),
    "another hash of a small file": ({}, on_hub(files={"config.json": "0" * 64}), "config.json has the SHA-256"),
    "damaged on its way": ({"corrupts": True}, on_hub(), "onnx/weights.bin from the hub has another hash"),
    "changed meanwhile": ({"linked_etag": "f" * 64}, on_hub(), "onnx/weights.bin was changed at the hub meanwhile"),
    "never downloaded": ({}, on_hub(auto_download=False), "org/tiny lacks 4 files, and auto_download is false"),
    "it stumbles": ({"stumbles": 99}, on_hub(), "the hub answered 503 and no list of files: check HF_ENDPOINT"),
    "a path that leads elsewhere": (
        {"repositories": {"org/tiny": {"../../x": b"x"}}},
        on_hub(),
        "the hub lists a file of org/tiny whose path leads elsewhere",
    ),
    "weights that are cut off at the hub": (
        {"repositories": {"org/tiny": {"model.safetensors": WEIGHTS[:-1]}}},
        on_hub(),
        "model.safetensors is cut off",
    ),
}


@pytest.mark.parametrize("fault", HUB_FAULTS)
async def test_a_hub_that_fails_is_one_line(hub: Hub, managed: Managed, tmp_path: Path, fault: str) -> None:
    state, role, line = HUB_FAULTS[fault]
    for name, value in state.items():
        setattr(hub, name, value)

    report = await seen_to(managed(role, hf_endpoint=hub.url))

    assert report.action == "failed"
    assert report.detail.startswith(line), report.detail
    assert "\n" not in report.detail
    assert not (cached(tmp_path) / "refs").exists(), "the revision names nothing that is not whole"


async def test_the_token_goes_to_the_hub_and_not_to_its_storage(hub: Hub, managed: Managed) -> None:
    hub.token = "secret"

    assert (await seen_to(managed(on_hub(), hf_endpoint=hub.url, hf_token="secret"))).action == "downloaded"
    assert {each.token for each in hub.asked if not each.is_storage} == {"Bearer secret"}
    assert {each.token for each in hub.large_requests()} == {None}


async def test_force_finds_content_that_rotted(hub: Hub, managed: Managed, tmp_path: Path) -> None:
    models = managed(on_hub(), hf_endpoint=hub.url)
    await seen_to(models)
    blob(tmp_path).write_bytes(WEIGHTS[:-1] + b"x")

    report = await seen_to(models, force=True)

    assert report.action == "downloaded"
    assert blob(tmp_path).read_bytes() == WEIGHTS


async def test_without_the_hub_the_cache_is_enough_as_long_as_it_is_right(
    hub: Hub, managed: Managed, tmp_path: Path
) -> None:
    await seen_to(managed(on_hub(), hf_endpoint=hub.url))
    nobody = {"hf_endpoint": "http://127.0.0.1:9"}

    kept = await seen_to(managed(on_hub(), **nobody))
    forced = await seen_to(managed(on_hub(), **nobody), force=True)
    more = await seen_to(managed(on_hub(files={"other.bin": None}), **nobody))
    blob(tmp_path).write_bytes(WEIGHTS[:-1] + b"x")
    rotten = await seen_to(managed(on_hub(), **nobody))

    assert (kept.action, kept.detail) == (
        "present",
        "in the cache: 4 files at commit 0123456789ab; the hub cannot be reached",
    )
    for failed in (forced, more, rotten):
        assert failed.detail == "the hub at http://127.0.0.1:9 cannot be reached: is it running?"


async def test_fifty_callers_and_two_processes_bring_one_copy(hub: Hub, managed: Managed, tmp_path: Path) -> None:
    models, beside = (managed(on_hub(), hf_endpoint=hub.url) for _ in range(2))

    made = await asyncio.gather(*(each.provision() for each in (models, beside) for _ in range(CALLERS)))

    assert {each.status for each in made} == {"provisioned"}
    assert len(hub.large_requests()) == 2, "one for each large file"
    assert snapshot(tmp_path) == REPOSITORY


def command(hub: Hub, folder: Path) -> dict[str, Any]:
    """How the command is started on a manifest with a model of the hub."""
    manifest = folder / "llm_models.json"
    manifest.write_text(json.dumps({"profiles": {"default": {"models": {"a": on_hub()}}}}))
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "LLM_MODELS_MANIFEST": str(manifest)}
    env = {"PATH": os.environ["PATH"], "LOG_DIR": str(folder / "logs"), **own}
    arguments = [sys.executable, "-m", "scripts.provision_models", "--json"]
    return {"args": arguments, "cwd": ROOT, "env": env, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_leaves_whole_files_and_the_next_goes_on(
    hub: Hub, tmp_path: Path, end: signal.Signals
) -> None:
    content = WEIGHTS * 20
    hub.repositories["org/tiny"] = {"config.json": b"{}", "big.bin": content}
    hub.gate, hub.gate_after = threading.Event(), len(content) // 2
    process = subprocess.Popen(**command(hub, tmp_path))
    assert hub.began.wait(30)
    blobs = cached(tmp_path) / "blobs"
    while sum(path.stat().st_size for path in blobs.glob("*.partial")) < len(content) // 4:
        assert process.poll() is None
    process.send_signal(end)

    assert process.wait(30) == (130 if end == signal.SIGTERM else -signal.SIGKILL)
    whole = [path for path in blobs.iterdir() if not path.name.endswith(".partial")]
    assert [path.read_bytes() for path in whole] == [b"{}"]
    hub.gate.set()
    hub.gate = None
    done = subprocess.run(**command(hub, tmp_path), check=False)
    assert done.returncode == 0, done.stderr
    assert snapshot(tmp_path) == {"config.json": b"{}", "big.bin": content}
    assert hub.large_requests()[-1].range >= len(content) // 4
    brought = json.loads(done.stdout)["roles"][0]["downloaded_bytes"]
    assert brought == len(content) - hub.large_requests()[-1].range
