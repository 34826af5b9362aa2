"""A cluster of two nodes on this machine, and the models that it serves; tests in a file share it, in their order."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.ray_serve.cluster import LocalCluster, local_cluster
from benchmarks.ray_serve.versions import Versions, write_versions
from tests.serving.folders import write_minilm

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs Ray."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.ray)


@pytest.fixture(scope="session")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Versions:
    """Two checkpoints in a registry, of which `run-a` is current."""
    folder = tmp_path_factory.mktemp("versions")
    return write_versions(folder, write_minilm(folder / "weights"))


@pytest.fixture(scope="session")
def cluster(versions: Versions) -> Iterator[LocalCluster]:
    """Two nodes with a place each for a replica of the embedding deployment; the runtime needs none."""
    settings = {
        "LLM_ADAPTER_REGISTRY_PATH": str(versions.registry),
        "SERVE_THREADS": "1",
        "RAY_WATCH_S": "0.5",
        "RAY_EMBEDDING__TARGET_ONGOING_REQUESTS": "1",
        "RAY_EMBEDDING__UPSCALE_DELAY_S": "0.5",
        "RAY_RUNTIME__CPUS": "0",
    }
    with local_cluster(settings) as running:
        yield running
