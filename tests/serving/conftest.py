"""Folders of real models, written once per session, and applications around fakes."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from serving.settings import ServeSettings
from tests.serving.fakes import FakeBackend
from tests.serving.folders import write_minilm
from tests.serving.running import open_client


@pytest.fixture(scope="session")
def minilm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """all-MiniLM-L6-v2 with an ONNX graph of token vectors. Not to be changed: link it (`link_folder`)."""
    return write_minilm(tmp_path_factory.mktemp("models") / "minilm")


@pytest.fixture
def backend() -> FakeBackend:
    """A fake model, its gate open."""
    return FakeBackend()


@pytest.fixture
async def client(backend: FakeBackend) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server of the fake model."""
    async with open_client(lambda: backend, ServeSettings(_env_file=None)) as opened:
        yield opened
