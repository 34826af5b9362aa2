"""The embedding deployment on two nodes: more load brings a replica, and neither a dead node nor another model fails a
request."""

import asyncio
import time
from typing import Any

import httpx
import pytest

from benchmarks.ray_serve.cluster import LocalCluster
from benchmarks.ray_serve.load import Load, ask_all
from benchmarks.ray_serve.versions import Versions

REQUESTS = 1000

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def address(cluster: LocalCluster) -> str:
    """Where the deployment answers."""
    done = cluster.app("up", "embedding")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{cluster.base_url}/embedding\n"
    return f"{cluster.base_url}/embedding"


async def replicas_of(cluster: LocalCluster, count: int) -> list[dict[str, Any]]:
    """What the replicas say, as soon as there are so many."""
    return await asyncio.to_thread(cluster.wait_for_replicas, "embedding", count)


async def test_load_brings_a_second_replica_on_the_other_node(
    cluster: LocalCluster, versions: Versions, address: str
) -> None:
    (first,) = await replicas_of(cluster, 1)
    load, is_over = Load(), asyncio.Event()
    asking = asyncio.create_task(ask_all(address, versions, lambda _: is_over.is_set(), load))
    both = await replicas_of(cluster, 2)
    is_over.set()
    await asking

    assert first in both
    assert len({each["node"] for each in both}) == 2
    assert (load.failed, load.torn, load.models_since(0)) == ([], [], {"run-a"})


async def test_routes_answer_under_the_deployments_address(address: str) -> None:
    async with httpx.AsyncClient(base_url=address, headers={"X-Request-ID": "mine"}) as client:
        for path in ("/healthz", "/readyz", "/metrics"):
            assert (await client.get(path)).status_code == 200, path
        listed = await client.get("/v1/models")
        wrong = await client.post("/v1/embeddings", json={"input": "a", "model": "another"})

    assert listed.json()["data"][0]["id"] == "run-a"
    assert listed.headers.get_list("X-Request-ID") == ["mine"]
    assert (wrong.status_code, wrong.json()["detail"]) == (404, "the model served here is run-a")


async def test_a_node_is_killed_and_the_model_switched_amid_a_thousand_requests(
    cluster: LocalCluster, versions: Versions, address: str
) -> None:
    load, switched_at = Load(), 0.0

    def is_over(answered: int) -> bool:
        return answered >= REQUESTS and 0 < switched_at < time.monotonic() - 1

    async def switch() -> str:
        versions.point_at("run-b")
        return (await asyncio.to_thread(cluster.app, "switch")).stdout

    asking = asyncio.create_task(ask_all(address, versions, is_over, load))
    await load.reached(REQUESTS // 4)
    switching = asyncio.create_task(switch())
    await load.reached(REQUESTS // 2)
    cluster.kill_node(cluster.nodes[1])
    said, switched_at = await switching, time.monotonic()
    await asking
    print(f"{load.answered} answered, sent again: {dict(load.retries)}; {said}")

    assert load.failed == []
    assert load.torn == []
    assert load.models_since(0) == {"run-a", "run-b"}
    assert load.models_since(switched_at) == {"run-b"}


async def test_a_new_node_takes_the_place_of_the_dead_one(cluster: LocalCluster, address: str) -> None:
    node = await asyncio.to_thread(cluster.add_node)
    both = await replicas_of(cluster, 2)

    assert {each["model"] for each in both} == {"run-b"}
    assert any("ServeReplica" in each.name() for each in node.processes())
