"""Fixtures of the end-to-end tests. A service starts when the first test asks for it, once per session."""

from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.running import RunningService, open_service
from tests.upstream_server import UpstreamServer, upstream_server


@pytest.fixture(scope="session")
def running_service() -> Iterator[RunningService]:
    """The session's service: an embedded database, no keys. Tests keep apart by using users of their own."""
    with open_service() as service:
        yield service


@pytest.fixture(scope="module")
def upstream() -> Iterator[UpstreamServer]:
    """A chat model's server that records what it is asked, and answers as a test says."""
    with upstream_server() as server:
        yield server


@pytest.fixture
def client(running_service: RunningService) -> Iterator[httpx.Client]:
    """A client of the session's service, without a key."""
    with running_service.client() as opened:
        yield opened
