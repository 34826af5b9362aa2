"""Provisioning: once, however many ask; kept, unless it is forced; and nobody's leaving stops it."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.domain.errors import NotFound, ProvisionFailed
from app.domain.sampling import Sampling
from app.ports import Progress
from app.services.models import LLMModelManager
from app.services.models.manifest_file import ManifestFile
from tests.fake_provider import FakeProvider

CALLERS = 50


Opened = Callable[..., tuple[LLMModelManager, FakeProvider]]


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    """A manager on a manifest of these roles."""

    def make(**roles: Any) -> tuple[LLMModelManager, FakeProvider]:
        file = tmp_path / "llm_models.json"
        file.write_text(json.dumps({"profiles": {"default": {"models": roles}}}))
        provider = FakeProvider()
        return LLMModelManager(ManifestFile(file, "default"), {"ollama": provider}), provider

    return make


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("it did not come to that")


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("is_quick", [False, True])
async def test_fifty_at_once_are_one_download(opened: Opened, force: bool, is_quick: bool) -> None:
    """However quick: of those who ask at one moment some come to the model when it is there already."""
    models, provider = opened(general="m")
    callers = [asyncio.create_task(models.provision(force=force)) for _ in range(CALLERS)]
    if not is_quick:
        provider.gate.clear()
        await until(lambda: bool(provider.begun))
        provider.gate.set()

    made = await asyncio.gather(*callers)

    assert provider.begun == [("m", force)]
    assert {each.reports[0].action for each in made} == {"downloaded"}


async def test_what_was_seen_to_is_not_looked_at_again_unless_forced(opened: Opened) -> None:
    models, provider = opened(general="m")

    first, second = await models.provision(), await models.provision()
    third = await models.provision(force=True)

    assert provider.begun == [("m", False), ("m", True)]
    assert [each.reports[0].is_cached for each in (first, second, third)] == [False, True, False]


async def test_forced_and_unforced_never_work_on_a_model_together(opened: Opened) -> None:
    models, provider = opened(general="m")
    provider.gate.clear()
    callers = [asyncio.create_task(models.provision(force=number % 2 == 0)) for number in range(10)]
    await until(lambda: bool(provider.begun))
    provider.gate.set()
    await asyncio.gather(*callers)

    assert provider.most_at_once == 1
    assert len(provider.begun) <= 2


async def test_a_caller_that_leaves_does_not_stop_it(opened: Opened) -> None:
    models, provider = opened(general="m")
    provider.gate.clear()
    leaving = asyncio.create_task(models.provision())
    await until(lambda: bool(provider.begun))
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    staying = asyncio.create_task(models.provision())
    provider.gate.set()

    assert (await staying).status == "provisioned"
    assert len(provider.begun) == 1


async def test_whoever_does_not_wait_is_told_how_far_it_is(opened: Opened) -> None:
    models, provider = opened(general="m", coding="general")
    provider.gate.clear()

    made = await models.provision(wait_s=0.05)
    listed = (await models.list()).reports["coding"]

    assert made.status == "provisioning"
    assert {report.role for report in made.reports} == {"general", "coding"}
    assert listed.action == "provisioning"
    assert listed.progress == Progress("pulling", 1, 2)
    provider.gate.set()
    assert (await models.provision()).status == "provisioned"


async def test_roles_with_one_model_share_its_download(opened: Opened) -> None:
    models, provider = opened(general={"name": "m", "auto_download": True}, coding="general", chat={"name": "m"}, x="n")

    made = await models.provision()

    assert sorted(provider.begun) == [("m", False), ("n", False)]
    assert [report.role for report in made.reports] == ["general", "coding", "chat", "x"]


async def test_a_failure_is_told_to_all_and_tried_again_by_the_next(opened: Opened) -> None:
    models, provider = opened(general="m", coding="n")
    provider.error = ProvisionFailed("no such model")
    with capture_logs() as logs:
        failed = await models.provision(["general"])
    provider.error = None
    again = await models.provision(["general"])

    assert (failed.status, failed.reports[0].detail) == ("failed", "no such model")
    assert again.status == "provisioned"
    assert len(provider.begun) == 2
    assert {"event": "model_provision_failed", "model": "m", "provider": "ollama", "reason": "no such model"} in [
        {name: value for name, value in event.items() if name != "log_level"} for event in logs
    ]


async def test_a_forced_failure_forgets_what_was_known(opened: Opened) -> None:
    models, provider = opened(general="m")
    await models.provision()
    provider.error = ProvisionFailed("the file is damaged")

    await models.provision(force=True)

    assert (await models.list()).reports == {}
    assert (await models.provision()).status == "failed"


async def test_a_start_brings_what_wants_to_be_brought_in_the_background(opened: Opened) -> None:
    models, provider = opened(
        a={"name": "wanted", "auto_download": True},
        b={"name": "asked for"[:5]},
        c={"name": "never", "auto_download": False},
    )
    provider.gate.clear()
    with capture_logs():
        await models.ensure_models_installed()
        await until(lambda: bool(provider.begun))

    assert provider.begun == [("wanted", False)]
    assert (await models.list()).reports["a"].action == "provisioning"
    await models.aclose()


async def test_closing_breaks_off_what_is_under_way(opened: Opened) -> None:
    models, provider = opened(general="m")
    provider.gate.clear()
    waiting = asyncio.create_task(models.provision(wait_s=60))
    await until(lambda: bool(provider.begun))

    await models.aclose()

    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_an_unknown_role_is_said_before_anything_is_done(opened: Opened) -> None:
    models, provider = opened(general="m")

    with pytest.raises(NotFound):
        await models.provision(["general", "nope"])
    assert provider.begun == []


async def test_the_log_names_roles_and_actions(opened: Opened) -> None:
    models, _ = opened(general="m", coding="general")
    with capture_logs() as logs:
        await models.provision()

    said = next(event for event in logs if event["event"] == "models_provisioned")
    assert said["actions"] == {"general": "downloaded", "coding": "downloaded"}


def test_calls_take_the_parameters_of_their_role(opened: Opened) -> None:
    hot, cold = {"parameters": {"temperature": 1}}, {"parameters": {"temperature": 0}}
    models, _ = opened(general={"name": "m", **hot}, rerank={"name": "n", **cold})
    alone, _ = opened(general={"name": "m", **hot})
    none, _ = opened(coding="m")

    assert models.sampling("hypotheses") == alone.sampling("relevance") == Sampling(temperature=1)
    assert models.sampling("relevance") == Sampling(temperature=0)
    assert none.sampling("hypotheses") == Sampling()
