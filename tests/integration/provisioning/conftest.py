"""A manager with the real providers, and the servers that they ask."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.clients.provisioning import downloads, ollama
from app.domain.manifest import Model
from app.ports import Progress
from app.services.models import LLMModelManager
from app.services.models.manager import RoleReport
from app.settings import Settings
from app.wiring_models import build_models

Managed = Callable[..., LLMModelManager]
CALLERS = 50


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "PAUSE_S", 0.01)
    monkeypatch.setattr(ollama, "PAUSE_S", 0.01)


@pytest.fixture
async def managed(tmp_path: Path) -> AsyncIterator[Managed]:
    """A manager with the real providers, on a manifest whose role `a` is given; `settings` go beside."""
    async with AsyncExitStack() as stack:

        def make(
            role: Any, on_progress: Callable[[Model, Progress], None] | None = None, **settings: Any
        ) -> LLMModelManager:
            file = tmp_path / "llm_models.json"
            file.write_text(json.dumps({"profiles": {"default": {"models": {"a": role}}}}))
            own = {"llm_models_manifest": file, "hf_home": tmp_path / "hf", "local_models_dir": tmp_path}
            manager = build_models(Settings(_env_file=None, **{**own, **settings}), on_progress)
            stack.push_async_callback(manager.aclose)
            return manager

        yield make


async def seen_to(manager: LLMModelManager, *, force: bool = False) -> RoleReport:
    """The report of the role `a`."""
    made = await manager.provision(["a"], force=force)
    return made.reports[0]
