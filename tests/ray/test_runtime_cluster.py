"""The runtime deployment: chat and vectors of one checkpoint, under the name that the registry gives it. With fake
weights, as nothing here needs torch."""

import subprocess
import sys

import httpx
import pytest

from benchmarks.model_servers import ROOT
from benchmarks.ray_serve.cluster import LocalCluster
from benchmarks.ray_serve.versions import Versions

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def client(cluster: LocalCluster, versions: Versions) -> httpx.Client:
    """A client of the deployment, while `run-b` is current."""
    versions.point_at("run-b")
    command = [sys.executable, "-c", "from tests.ray.fake_runtime import main; main()"]
    subprocess.run(command, env=cluster.environment, cwd=ROOT, check=True, timeout=300)
    return httpx.Client(base_url=f"{cluster.base_url}/runtime", timeout=60)


def test_it_talks_and_embeds_and_both_have_the_adapters_name(client: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": "one 7"}], "max_tokens": 3, "temperature": 0}
    chat = client.post("/v1/chat/completions", json={**body, "model": "run-b"})
    streamed = client.post("/v1/chat/completions", json={**body, "stream": True})
    vectors = client.post("/v1/embeddings", json={"input": ["one 7"]})

    assert chat.status_code == 200, chat.text
    assert chat.json()["choices"][0]["message"]["content"].split() == ["8", "9", "10"]
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert {chat.json()["model"], vectors.json()["model"]} == {"run-b"}
    assert len(vectors.json()["data"][0]["embedding"]) == 16


def test_it_follows_the_registry_as_the_embedding_deployment_does(
    cluster: LocalCluster, versions: Versions, client: httpx.Client
) -> None:
    versions.point_at("run-a")
    told = cluster.app("switch")

    assert told.returncode == 0, told
    assert client.get("/v1/models").json()["data"][0]["id"] == "run-a"
    assert {each["model"] for replicas in cluster.replicas().values() for each in replicas} == {"run-a"}


def test_a_checkpoint_that_is_not_there_leaves_what_serves_and_is_told(
    cluster: LocalCluster, versions: Versions, client: httpx.Client
) -> None:
    (versions.folder / "run-b").rename(versions.folder / "moved")
    versions.point_at("run-b")
    told = cluster.app("switch")
    (versions.folder / "moved").rename(versions.folder / "run-b")

    assert told.returncode == 1
    assert "run-b" in told.stdout
    assert "is not a folder" in told.stdout
    assert client.get("/v1/models").json()["data"][0]["id"] == "run-a"


def test_nothing_is_left_when_the_cluster_has_stopped(cluster: LocalCluster, client: httpx.Client) -> None:
    client.close()

    assert cluster.stop() == []
