"""The models of roles over HTTP: listed, provisioned once for many callers, reloaded, brought at the start."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.running import RunningService
from tests.hub_server import Hub, hub_server
from tests.model_files import safetensors
from tests.ollama_server import Ollama, ollama_server
from tests.servers import open_folder
from tests.slm_server import MODEL, ModelServer, model_server

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CALLERS = 50
GENERAL = {"name": "dolphin-x1", "provider": "ollama", "parameters": {"temperature": 0.25, "num_predict": 200}}
EMBEDDING = {"name": "org/tiny", "provider": "huggingface", "description": "for search"}
PROFILES = {"default": {"models": {"general": GENERAL, "coding": "general", "embedding": EMBEDDING}}}


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with hub_server({"org/tiny": {"config.json": b"{}", "model.safetensors": safetensors(50_000)}}) as running:
        yield running


@pytest.fixture(scope="module")
def ollama() -> Iterator[Ollama]:
    with ollama_server({"dolphin-x1": [5000], "at-start": [3000], "by-hand": [1]}) as running:
        yield running


@pytest.fixture(scope="module")
def slm() -> Iterator[ModelServer]:
    with model_server() as running:
        yield running


@pytest.fixture(scope="module")
def service(hub: Hub, ollama: Ollama, slm: ModelServer) -> Iterator[RunningService]:
    """A service with a manifest of its own, and a language model."""
    with open_folder() as folder:
        manifest = folder / "llm_models.json"
        spare = {"models": {"general": {"name": MODEL, "provider": "vllm"}}}
        manifest.write_text(json.dumps({"profiles": {**PROFILES, "spare": spare}}))
        running = RunningService(
            folder,
            {
                "LLM_MODELS_MANIFEST": str(manifest),
                "LLM_MODELS_OVERRIDES": json.dumps({"general": {"parameters": {"top_p": 0.5}}}),
                "OLLAMA_BASE_URL": ollama.url,
                "HF_ENDPOINT": hub.url,
                "HF_HOME": str(folder / "hf"),
                "SLM_IMPL": "openai",
                "SLM_BASE_URL": slm.base_url,
                "SLM_MODEL": MODEL,
            },
        )
        running.start()
        yield running
        running.stop()


@pytest.fixture
def client(service: RunningService) -> Iterator[httpx.Client]:
    with service.client() as opened:
        yield opened


def manifest_of(service: RunningService) -> Path:
    return service.folder / "llm_models.json"


def listed(client: httpx.Client) -> dict[str, Any]:
    response = client.get("/api/v1/models")
    assert response.status_code == 200, response.text
    return response.json()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_active_profile_is_listed_with_its_overrides(client: httpx.Client) -> None:
    document = listed(client)

    assert (document["active_profile"], document["profiles"]) == ("default", ["default", "spare"])
    assert document["overrides"] == {"general": {"parameters": {"top_p": 0.5}}}
    roles = {role["role"]: role for role in document["profile"]["roles"]}
    assert list(roles) == ["general", "coding", "embedding"]
    assert roles["coding"]["alias_of"] == "general"
    assert roles["coding"]["name"] == roles["general"]["name"] == "dolphin-x1"
    parameters = {name: value for name, value in roles["general"]["parameters"].items() if value is not None}
    assert parameters == {"temperature": 0.25, "top_p": 0.5, "max_tokens": 200}
    assert roles["general"]["overridden"] == ["parameters.top_p"]
    assert roles["embedding"]["report"] is None


def test_a_roles_parameters_are_in_what_the_language_model_is_asked(client: httpx.Client, slm: ModelServer) -> None:
    client.post("/v1/hypothesize", json={"user_id": "ada", "input_text": "build api"})

    body = next(each.body for each in slm.chats() if each.call == "hypotheses")
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.25, 0.5, 200)


async def test_fifty_callers_and_those_who_hang_up_are_one_download(service: RunningService, hub: Hub) -> None:
    hub.gate = threading.Event()
    question = {"roles": ["embedding"], "force": False}
    async with httpx.AsyncClient(base_url=service.base_url, timeout=60) as client:
        url = "/api/v1/models/provision"
        with pytest.raises(httpx.ReadTimeout):
            await client.post(url, json=question, timeout=1.0)
        assert await asyncio.to_thread(hub.began.wait, 30)
        hasty = await client.post(url, json=question, headers={"X-Request-Timeout": "0.2"})
        assert (hasty.status_code, hasty.json()["status"]) == (202, "provisioning")
        assert hasty.json()["roles"][0]["progress"]["total"] == sum(
            len(content) for content in hub.repositories["org/tiny"].values()
        )
        asked = [asyncio.create_task(client.post(url, json=question)) for _ in range(CALLERS)]
        await asyncio.sleep(0.5)
        hub.gate.set()
        answers = await asyncio.gather(*asked)

    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["roles"][0]["action"] for answer in answers} == {"downloaded"}
    assert len(hub.large_requests()) == 1
    with service.client() as client:
        again = client.post("/api/v1/models/provision", json=question).json()
        report = next(role["report"] for role in listed(client)["profile"]["roles"] if role["role"] == "embedding")
    assert again["roles"][0]["cached"] is True
    assert report["action"] == "downloaded"
    provisioned = [event for event in service.log_events("model_provisioned") if event["model"] == "org/tiny"]
    assert len(provisioned) == 1
    assert provisioned[0]["logger"] == "scripts.models.provision"


def test_each_role_gets_its_action_and_a_failure_is_said(
    client: httpx.Client, service: RunningService, ollama: Ollama
) -> None:
    first = client.post("/api/v1/models/provision", json={"roles": ["coding", "general"]})
    ollama.cannot_show = True
    forced = client.post("/api/v1/models/provision", json={"roles": ["general"], "force": True})
    ollama.cannot_show = False

    assert (first.status_code, first.json()["status"]) == (200, "provisioned")
    assert {role["role"]: role["action"] for role in first.json()["roles"]} == {
        "coding": "downloaded",
        "general": "downloaded",
    }
    assert (forced.status_code, forced.json()["status"]) == (200, "failed")
    assert forced.json()["roles"][0]["detail"].startswith("Ollama lists the model, and cannot show it")
    assert ollama.pulls() == 2
    said = service.log_events("models_provisioned")[-1]
    assert (said["roles"], said["actions"], said["force"]) == (["general"], {"general": "failed"}, True)


def test_an_unknown_role_is_a_problem(client: httpx.Client) -> None:
    response = client.post("/api/v1/models/provision", json={"roles": ["general", "nope"]})

    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["detail"] == "the profile default has no such role; it has general, coding, embedding"


def test_a_bad_manifest_leaves_the_old_one_and_is_named(client: httpx.Client, service: RunningService) -> None:
    good = manifest_of(service).read_text()
    manifest_of(service).write_text(good.replace('"parameters"', '"paramters"'))
    try:
        document = listed(client)
        made = client.post("/api/v1/models/provision", json={"roles": ["embedding"]}).json()
    finally:
        manifest_of(service).write_text(good)

    line = "llm_models.json: profiles.default.models.general.paramters is not known; did you mean parameters?"
    assert (document["problem"], made["problem"]) == (line, line)
    assert len(document["profile"]["roles"]) == 3
    assert made["status"] == "provisioned"
    assert listed(client)["problem"] is None
    assert service.log_events("models_manifest_refused")[-1]["reason"] == line


def test_the_command_says_by_its_status_whether_all_is_there(service: RunningService, ollama: Ollama) -> None:
    done = command(service, "--roles", "general", "coding", "--force", "--json")
    ollama.library.pop("dolphin-x1:latest")
    held = ollama.held.pop("dolphin-x1:latest")
    failed = command(service, "--roles", "general", "--json")
    ollama.library["dolphin-x1:latest"], ollama.held["dolphin-x1:latest"] = [5000], held
    unknown, wrong = command(service, "--roles", "nope"), command(service, "--rolls")
    plain = command(service)

    assert done.returncode == 0, done.stderr
    assert [role["role"] for role in json.loads(done.stdout)["roles"]] == ["general", "coding"]
    assert failed.returncode == 1
    assert json.loads(failed.stdout)["status"] == "failed"
    assert failed.stderr == "error: general: Ollama cannot pull dolphin-x1: pull model manifest: file does not exist\n"
    assert (unknown.returncode, wrong.returncode) == (2, 2)
    assert unknown.stderr == "error: the profile default has no such role; it has general, coding, embedding\n"
    assert plain.returncode == 0
    assert "embedding" in plain.stdout


def command(service: RunningService, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m scripts.provision_models` with the service's settings."""
    return subprocess.run(
        [sys.executable, "-m", "scripts.provision_models", *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **service.environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )


def test_a_start_brings_what_wants_to_be_there_and_waits_for_nothing(ollama: Ollama) -> None:
    ollama.gate = threading.Event()
    wanted = {"name": "at-start", "auto_download": True}
    roles = {"general": wanted, "other": {"name": "by-hand"}, "gone": {"name": "nowhere", "auto_download": True}}
    with open_folder() as folder:
        manifest = folder / "llm_models.json"
        manifest.write_text(json.dumps({"profiles": {"mine": {"models": roles}}}))
        own = {"LLM_MODELS_MANIFEST": str(manifest), "LLM_MODELS_PROFILE": "mine", "OLLAMA_BASE_URL": ollama.url}
        service = RunningService(folder, own)
        service.start()  # which waits until it is ready, while the pull waits at the gate
        try:
            until(lambda: ollama.asked[-1][0] == "/api/pull")
            with service.client() as client:
                roles_out = listed(client)["profile"]["roles"]
                assert {role["role"]: (role["report"] or {}).get("action") for role in roles_out} == {
                    "general": "provisioning",
                    "other": None,
                    "gone": "provisioning",
                }
            ollama.gate.set()
            until(lambda: "at-start:latest" in ollama.held)
            until(lambda: bool(service.log_events("model_provision_failed")))
        finally:
            service.stop()
        assert "by-hand:latest" not in ollama.held
        assert service.log_events("model_provision_failed")[0]["model"] == "nowhere"


@pytest.mark.parametrize(
    ("content", "profile", "line"),
    [
        ("{", "default", "llm_models.json: is not JSON"),
        (
            json.dumps({"profiles": PROFILES}),
            "mine",
            "llm_models.json: there is no profile mine: LLM_MODELS_PROFILE is",
        ),
    ],
)
def test_a_start_with_a_manifest_that_cannot_be_used_is_refused(content: str, profile: str, line: str) -> None:
    with open_folder() as folder:
        (folder / "llm_models.json").write_text(content)
        own = {"LLM_MODELS_MANIFEST": str(folder / "llm_models.json"), "LLM_MODELS_PROFILE": profile}
        with pytest.raises(AssertionError, match="the service ended"):
            RunningService(folder, own).start()
        assert f"cannot start: {line}" in (folder / "output.txt").read_text()
