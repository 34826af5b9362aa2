"""Fixtures that many tests share. The servers start when the first test asks for one, once per session."""

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest

from app.settings import Settings
from app.store.engine import Database, open_database
from tests.servers import TcpServer, open_folder, start_tcp_server

hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def embedded_dir() -> Iterator[Path]:
    """The data folder of the session's embedded server."""
    with open_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
async def database(embedded_dir: Path) -> AsyncIterator[Database]:
    """The session's embedded database, migrated; tests keep apart by using tenants of their own."""
    database = await open_database(Settings(_env_file=None, data_dir=embedded_dir, database_url=None))
    yield database
    await database.aclose()


@pytest.fixture(scope="session")
async def tcp_server() -> AsyncIterator[TcpServer]:
    """A second server, outside the service: over TCP, with passwords."""
    with open_folder() as folder:
        server = await start_tcp_server(folder)
        yield server
        server.stop()


@pytest.fixture(scope="session")
def tcp_database_url(tcp_server: TcpServer) -> str:
    """An empty database on it, with pgvector, as the ordinary role that owns it."""
    return tcp_server.url("ordinary", "embed")


@pytest.fixture
def tenant() -> str:
    """The name of a tenant that no other test uses; its row is the test's to insert."""
    return f"tenant-{uuid.uuid4().hex[:12]}"
