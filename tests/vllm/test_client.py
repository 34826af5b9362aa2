"""The client, and the service, on a real vLLM: every judgement, a hundred times in the right shape."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise

import httpx
import orjson
import pytest

from app.clients.slm.resilience import Limits
from app.clients.slm.vllm import VLLMClient
from app.domain.instructions import PROMPT_VERSION
from app.request import set_tenant
from tests.e2e.running import RunningService
from tests.servers import open_folder
from tests.vllm_server import VllmServer

VERBS = ("build", "plan", "write", "fix", "compare", "learn", "deploy", "design", "explain", "improve")
THINGS = ("api", "trip", "report", "login", "tests", "course", "budget", "garden", "website", "team")
AT_ONCE = 8
CONTEXT = {
    "persona_facets": {"code_first": 0.8, "concise": 0.7},
    "recent_goals": ["deploy microservices"],
    "preferences": ["Python", "FastAPI"],
    "memories": [{"type": "HISTORY", "content": "I built the billing service with FastAPI", "date": "2026-05-02"}],
}


@pytest.fixture
async def client(vllm_server: VllmServer) -> AsyncIterator[VLLMClient]:
    made = VLLMClient(vllm_server.base_url, vllm_server.model, limits=Limits(budget_s=300.0))
    yield made
    await made.aclose()


def metric(server: VllmServer, name: str) -> float:
    """The sum of a metric of vLLM over its labels."""
    text = httpx.get(f"{server.root_url}/metrics", timeout=30).text
    return sum(float(value) for value in re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))


async def running(server: VllmServer, count: int) -> None:
    """Wait until so many requests are being worked on, ten seconds at most."""
    for _ in range(100):
        if metric(server, "vllm:num_requests_running") == count:
            return
        await asyncio.sleep(0.1)
    pytest.fail(f"vLLM never worked on {count} requests")


async def test_all_six_judgements(client: VLLMClient) -> None:
    """Each answers in the shape the guide shows."""
    hypotheses = await client.generate_hypotheses("build api", CONTEXT, 2)
    assert 1 <= len(hypotheses) <= 2
    for one in hypotheses:
        assert one.question
        assert 0 < one.confidence < 1
        assert one.mean_logprob, "the server gives log-probabilities"
    updates = await client.compute_facet_updates({"selected_hypothesis_id": "h2", "feedback": "too brief"})
    assert set(updates) <= {"concise", "formal", "code_first", "step_by_step"}
    assert all(-0.2 <= value <= 0.2 for value in updates.values())
    assert await client.summarize(["I deploy with Docker on AWS", "I write Python"], 24)
    enriched = await client.enrich_context("build authentication system", {"preferences": ["JWT", "OAuth"]})
    assert set(enriched["enrichment"]) == {"implicit_goals", "inferred_expertise_level", "next_steps"}
    questions = await client.generate_followup_questions("User wants to deploy to AWS", {"step_by_step": 0.9}, 2)
    assert 1 <= len(questions) <= 2
    memories = ["I like tea", "Logins use JWT", "It rained"]
    assert sorted(await client.rerank_by_relevance("user authentication", memories)) == sorted(memories)


async def test_a_hundred_of_a_hundred_answers_have_the_shape(client: VLLMClient) -> None:
    """A hundred different inputs, each answered with a list of hypotheses at the first try."""
    inputs = [f"{verb} {thing}" for verb in VERBS for thing in THINGS]
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(text: str) -> int:
        async with slots:
            return len(await client.generate_hypotheses(text, CONTEXT, 3))

    counts = await asyncio.gather(*(one(text) for text in inputs))
    assert len(counts) == 100
    assert all(1 <= count <= 3 for count in counts)


async def test_the_prefix_is_computed_once(client: VLLMClient, vllm_server: VllmServer) -> None:
    """Over ten requests of one tenant the server's cache-hit metric rises with each after the first."""
    set_tenant(f"tenant-{time.monotonic_ns()}")
    hits = [metric(vllm_server, "vllm:prefix_cache_hits_total")]
    for number in range(10):
        await client.generate_hypotheses(f"plan number {number}", CONTEXT, 1)
        hits.append(metric(vllm_server, "vllm:prefix_cache_hits_total"))
    rises = [after - before for before, after in pairwise(hits)]
    assert all(rise > 100 for rise in rises[1:]), rises


async def test_another_tenant_shares_no_prefix(client: VLLMClient, vllm_server: VllmServer) -> None:
    """The same prompt of another tenant hits nothing."""
    set_tenant(f"one-{time.monotonic_ns()}")
    await client.generate_hypotheses("plan a party", CONTEXT, 1)
    before = metric(vllm_server, "vllm:prefix_cache_hits_total")
    set_tenant(f"other-{time.monotonic_ns()}")
    await client.generate_hypotheses("plan a party", CONTEXT, 1)
    assert metric(vllm_server, "vllm:prefix_cache_hits_total") == before


async def test_a_cancelled_call_stops_on_the_server(client: VLLMClient, vllm_server: VllmServer) -> None:
    """Cancelling the caller frees the server within seconds."""
    task = asyncio.create_task(client.summarize(["Tell everything about the sea. " * 20], 1500))
    await running(vllm_server, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await running(vllm_server, 0)
    assert client.state == "closed"


@pytest.fixture(scope="module")
def service(vllm_server: VllmServer) -> Iterator[RunningService]:
    settings = {
        "SLM_IMPL": "vllm",
        "VLLM_BASE_URL": vllm_server.base_url,
        "VLLM_MODEL_NAME": vllm_server.model,
        "REQUEST_BUDGET_S": "300",
        "ENABLE_TRAINING_DATA_COLLECTION": "true",
    }
    with open_folder() as folder:
        running = RunningService(folder, settings)
        running.start()
        yield running
        running.stop()


def test_the_service_on_vllm(service: RunningService) -> None:
    """From remembering to feedback, every judgement is the model's; its events are in the log as the guide has
    them, and its name and the prompts' version in the samples."""
    statements = ["I write Python with FastAPI", "I deploy with Docker on AWS", "Logins use JWT"]
    memories = [{"type": "PREFERENCE", "content": content} for content in statements]
    with service.client(timeout_s=300) as http:
        assert http.post("/v1/memories", json={"user_id": "ada", "memories": memories}).status_code == 200
        said = {"user_id": "ada", "input_text": "build api"}
        # So small a model now and then says nothing about the input, and the rules stand in.
        tries = (http.post("/v1/hypothesize", json=said).json() for _ in range(5))
        shown = next(answer for answer in tries if answer["source"] == "vllm")
        assert shown["degraded"] is False
        chosen = {"hypothesis_set_id": shown["hypothesis_set_id"], "custom_answer": "with FastAPI"}
        executed = http.post("/v1/execute", json={**said, **chosen}).json()
        search = {"user_id": "ada", "query": "authentication"}
        found = http.post("/v1/memories/search", json=search).json()
        judged = {"user_id": "ada", "execution_id": executed["execution_id"], "comment": "too brief"}
        assert http.post("/v1/feedback", json=judged).status_code == 200
        assert http.get("/readyz").json()["parts"]["slm_breaker"] == "closed"
    assert executed["degraded"] is False
    assert found["degraded"] is False
    names = {event["event"] for event in service.log_events()}
    assert {"vllm_hypotheses_generated", "vllm_reranking", "vllm_facets_computed", "llm_generate"} <= names
    (line,) = (service.data_dir / "training" / "hypotheses_data.jsonl").read_bytes().splitlines()
    sample = orjson.loads(line)
    assert sample["model"] == "./local-models/smollm2-135m-instruct"
    assert sample["prompt_version"] == PROMPT_VERSION
