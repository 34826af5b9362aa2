"""Whatever the model server does, every request is answered, in time, and the log says why it is a lesser answer.

A real service process talks to a real socket (`tests/slm_server.py`). The tables below are what is promised.
"""

import contextlib
import json
import math
import re
import signal
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.e2e.running import RunningService, open_service
from tests.slm_server import MODEL, ModelServer, model_server

pytestmark = pytest.mark.slow

INPUT = "deploy my app to the cloud"
BUDGET_S = 3.0
"""Long enough that 10 % of it is more than a busy machine's hiccups."""
RESET_S = 1.0
FAILURES = 5


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and the one word that log and metrics have for it."""

    name: str
    cause: str
    does_hang: bool = False

    def begin(self, server: ModelServer) -> None:
        """Make the server behave so."""
        if self.name == "down":
            server.go_down()
        elif self.name == "wrong_model_name":
            server.model = "another-model"
        else:
            server.fault = self.name


PROMISED = [
    Fault("down", "unreachable"),
    Fault("dies", "unreachable"),  # in the middle of an answer; the second try finds nobody
    Fault("hung", "timeout", does_hang=True),
    Fault("429", "busy"),
    Fault("500", "failed"),
    Fault("half_json", "broken_answer"),
    Fault("wrong_shape", "wrong_shape"),
    Fault("ten_megabytes", "too_large"),
    Fault("other_language", "wrong_language"),
    Fault("wrong_model_name", "unknown_model"),
    Fault("reset", "reset"),
]
BEYOND = [
    Fault("broken_off", "reset"),
    Fault("hung_after_head", "timeout", does_hang=True),
    Fault("trickle", "timeout", does_hang=True),
    Fault("429_late", "busy"),
    Fault("401", "unauthorised"),
    Fault("endless_line", "too_large"),
    Fault("html", "broken_answer"),
    Fault("json_instead", "broken_answer"),
    Fault("not_utf8", "broken_answer"),
    Fault("error_event", "failed"),
    Fault("no_choices", "reset"),
    Fault("tool_calls", "broken_answer"),
    Fault("gzip_bomb", "broken_answer"),
    Fault("silence", "broken_answer"),
    Fault("nested", "broken_answer"),
    Fault("unclosed_fence", "broken_answer"),
    Fault("odd_chunk", "broken_answer"),
    Fault("deep_chunk", "broken_answer"),
]
BEARABLE = ["nan_logprobs", "infinite_logprobs", "odd_logprobs", "odd_usage", "nul_characters"]
"""Oddities that do no harm: the model's answer counts."""


@dataclass(frozen=True)
class World:
    """A service, its model server, and a client."""

    service: RunningService
    server: ModelServer
    http: httpx.Client

    def post(self, path: str, headers: dict[str, str] | None = None, **body: object) -> httpx.Response:
        """One request; every one has to be answered with 200."""
        answer = self.http.post(path, json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer

    def hypothesize(
        self, user: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[httpx.Response, float]:
        """The answer to INPUT, by default for a user of its own, and the seconds it took."""
        started = time.monotonic()
        answer = self.post("/v1/hypothesize", headers, user_id=user or uuid4().hex, input_text=INPUT)
        return answer, time.monotonic() - started

    def events(self, answer: httpx.Response, name: str) -> list[dict[str, Any]]:
        """What the log says about one answer."""
        request_id = answer.headers["x-request-id"]
        return [event for event in self.service.log_events(name) if event.get("request_id") == request_id]

    def metric(self, name: str, **labels: str) -> float:
        """A figure of `/metrics`; 0 where there is none yet."""
        for line in self.http.get("/metrics").text.splitlines():
            if line.startswith(f"{name}{{") and all(f'{key}="{value}"' in line for key, value in labels.items()):
                return float(line.split()[-1])
        return 0.0

    def failures(self, call: str, cause: str) -> float:
        """How many calls a model did not answer, for a cause."""
        return self.metric("embed_service_slm_unavailable_total", call=call, cause=cause)

    def ready(self) -> tuple[str, str]:
        """(`status`, state of the breaker) as `/readyz` has them; the metric has to agree."""
        document = self.http.get("/readyz").json()
        state = document["parts"]["slm_breaker"]
        if state != "open":  # which becomes half open by time alone
            figure = self.metric("embed_service_slm_breaker_state", slm="vllm")
            assert figure == {"closed": 0, "half_open": 1}[state]
        return document["status"], state

    def recover(self) -> None:
        """End the fault, and wait until the breaker has noticed."""
        self.server.heal()
        until(lambda: self.ready()[1] != "open", RESET_S + 2)
        if self.ready()[1] == "half_open":
            self.hypothesize()
        assert self.ready() == ("ready", "closed")


def until(holds: Callable[[], bool], timeout_s: float) -> float:
    """Wait until something holds; the seconds it took."""
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < timeout_s, "it never came true"
        time.sleep(0.02)
    return time.monotonic() - started


def environment(server: ModelServer, **others: str) -> dict[str, str]:
    return {
        "SLM_IMPL": "vllm",
        "VLLM_BASE_URL": server.base_url,
        "VLLM_MODEL_NAME": MODEL,
        "SLM_BREAKER_RESET_S": str(RESET_S),
        "REQUEST_BUDGET_S": str(BUDGET_S),
        **others,
    }


@contextlib.contextmanager
def open_world(*, is_down: bool = False) -> Iterator[World]:
    with (
        model_server(is_down=is_down) as server,
        open_service(environment(server)) as service,
        service.client() as http,
    ):
        yield World(service, server, http)


@pytest.fixture(scope="module")
def shared_world() -> Iterator[World]:
    with open_world() as opened:
        opened.hypothesize()
        yield opened


@pytest.fixture
def world(shared_world: World) -> Iterator[World]:
    """A service whose model is well."""
    shared_world.recover()
    yield shared_world
    shared_world.recover()


@pytest.fixture(scope="module")
def by_rules(running_service: RunningService) -> list[dict[str, Any]]:
    """What the local rules make of INPUT: a service that has no model says it."""
    with running_service.client() as http:
        made = http.post("/v1/hypothesize", json={"user_id": uuid4().hex, "input_text": INPUT}).json()
    assert (made["source"], made["degraded"]) == ("local", False)
    return made["hypotheses"]


@pytest.mark.parametrize("fault", [*PROMISED, *BEYOND], ids=lambda fault: fault.name)
def test_a_fault_is_borne_named_and_got_over(world: World, by_rules: list[dict[str, Any]], fault: Fault) -> None:
    """The rules answer with 200 and `degraded`; log and metric name the cause, once; after five failures the breaker
    opens and answers come at once; when the fault ends the model answers again, without a restart."""
    assert world.ready() == ("ready", "closed")
    counted = world.failures("hypotheses", fault.cause)
    fault.begin(world.server)

    first = world.hypothesize()
    with ThreadPoolExecutor(FAILURES) as pool:
        answers = [first, *pool.map(lambda _: world.hypothesize(), range(FAILURES - 1))]

    assert world.http.get("/readyz").json()["parts"]["slm_breaker"] in {"open", "half_open"}
    assert world.http.get("/readyz").json()["status"] == "degraded"
    assert world.http.get("/readyz").status_code == 200
    assert world.failures("hypotheses", fault.cause) == counted + FAILURES
    for answer, seconds in answers:
        made = answer.json()
        assert (made["source"], made["degraded"]) == ("local", True)
        assert made["hypotheses"] == by_rules
        assert [event["cause"] for event in world.events(answer, "hypotheses_degraded")] == [fault.cause]
        assert [event["status"] for event in world.events(answer, "request_answered")] == [200]
        assert seconds < 1.25 * BUDGET_S
    if fault.does_hang:
        print(f"{fault.name}: {first[1]:.3f} s")
        assert first[1] == pytest.approx(BUDGET_S, rel=0.1)

    world.server.heal()
    until(lambda: world.ready() == ("degraded", "half_open"), RESET_S + 2)
    made = world.hypothesize()[0].json()
    assert (made["source"], made["degraded"]) == ("vllm", False)
    assert made["hypotheses"] != by_rules
    assert world.ready() == ("ready", "closed")


def test_an_open_breaker_answers_at_once_and_asks_nobody(world: World) -> None:
    """Also when the server hangs, the service has its answer in a fraction of the budget."""
    Fault("hung", "timeout").begin(world.server)
    with ThreadPoolExecutor(FAILURES) as pool:
        list(pool.map(lambda _: world.hypothesize(), range(FAILURES)))
    asked = len(world.server.chats())
    counted = world.failures("hypotheses", "breaker_open")

    answer, seconds = world.hypothesize()

    assert world.metric("embed_service_slm_breaker_state", slm="vllm") == 2
    assert seconds < 0.5
    assert (answer.json()["source"], answer.json()["degraded"]) == ("local", True)
    assert [event["cause"] for event in world.events(answer, "hypotheses_degraded")] == ["breaker_open"]
    assert world.failures("hypotheses", "breaker_open") == counted + 1
    assert len(world.server.chats()) == asked


def test_a_half_open_breaker_sends_one_call_and_opens_again(world: World) -> None:
    """Of many requests at that moment one waits for the server; the others have their answer at once."""
    Fault("hung", "timeout").begin(world.server)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: world.hypothesize(), range(FAILURES)))
        until(lambda: world.ready()[1] == "half_open", RESET_S + 2)
        asked = len(world.server.chats())

        seconds = sorted(seconds for _, seconds in pool.map(lambda _: world.hypothesize(), range(8)))

    assert len(world.server.chats()) == asked + 1
    assert seconds[-1] == pytest.approx(BUDGET_S, rel=0.1)
    assert seconds[-2] < 0.5 * BUDGET_S
    assert world.http.get("/readyz").json()["parts"]["slm_breaker"] == "open"


def test_the_caller_may_give_less_time(world: World) -> None:
    """`X-Request-Timeout: 1` holds as the budget does: the middle of three is within a tenth. Their hurry is not held
    against the server."""
    Fault("hung", "timeout").begin(world.server)
    taken: list[float] = []
    for _ in range(FAILURES + 1):
        answer, seconds = world.hypothesize(headers={"X-Request-Timeout": "1"})
        assert answer.json()["degraded"]
        assert [event["cause"] for event in world.events(answer, "hypotheses_degraded")] == ["timeout"]
        taken.append(seconds)

    print(f"given 1 s: {min(taken):.3f} to {max(taken):.3f} s")
    assert statistics.median(taken) == pytest.approx(1.0, rel=0.1)
    assert world.ready() == ("ready", "closed")


def test_one_retry_when_a_busy_server_says_when(world: World) -> None:
    """429 with `Retry-After: 0.3`: asked again after that time, once, and the model's answer counts."""
    world.server.fault, world.server.faults_left = "429_soon", 1
    before = len(world.server.chats())

    made = world.hypothesize()[0].json()

    first, second = world.server.chats()[before:]
    assert 0.3 <= second.at - first.at < 1.0
    assert (made["source"], made["degraded"]) == ("vllm", False)


def test_no_waiting_for_a_server_that_wants_longer_than_there_is(world: World) -> None:
    """429 with `Retry-After: 60`: the rules answer at once."""
    world.server.fault = "429_late"

    answer, seconds = world.hypothesize()

    assert seconds < 0.5 * BUDGET_S
    assert [event["cause"] for event in world.events(answer, "hypotheses_degraded")] == ["busy"]


@pytest.mark.parametrize("fault", ["400", "redirect"])
def test_a_refused_request_is_no_broken_server(world: World, fault: str) -> None:
    """A server refuses at once, and maybe because of what one user wrote: the rules answer, and the breaker stays
    closed for the others."""
    world.server.fault = fault
    for _ in range(FAILURES + 1):
        answer, seconds = world.hypothesize()
        assert answer.json()["degraded"]
        assert [event["cause"] for event in world.events(answer, "hypotheses_degraded")] == ["refused"]
        assert seconds < 0.5 * BUDGET_S

    assert world.ready() == ("ready", "closed")


@pytest.mark.parametrize("oddity", BEARABLE)
def test_an_oddity_does_no_harm(world: World, oddity: str) -> None:
    """The model's hypotheses are shown with confidences that are probabilities, and can be executed."""
    world.server.fault = oddity
    user = uuid4().hex

    made = world.hypothesize(user)[0].json()
    chosen = {"hypothesis_set_id": made["hypothesis_set_id"], "hypothesis_id": "h1"}
    executed = world.post("/v1/execute", user_id=user, input_text=INPUT, **chosen).json()

    assert (made["source"], made["degraded"]) == ("vllm", False)
    confidences = [one["confidence"] for one in made["hypotheses"]]
    assert all(math.isfinite(confidence) and 0 < confidence < 1 for confidence in confidences)
    assert not re.search(r"[\x00-\x08]", executed["enriched_prompt"])


def test_down_at_the_start(by_rules: list[dict[str, Any]]) -> None:
    """The service starts and answers without its model, and with it as soon as it is there."""
    with open_world(is_down=True) as world:
        answer, _ = world.hypothesize()
        made = answer.json()
        assert (made["source"], made["degraded"], made["hypotheses"]) == ("local", True, by_rules)
        assert [event["cause"] for event in world.events(answer, "hypotheses_degraded")] == ["unreachable"]
        assert world.failures("hypotheses", "unreachable") == 1

        world.server.come_up()

        made = world.hypothesize()[0].json()
        assert (made["source"], made["degraded"]) == ("vllm", False)


def test_a_restarted_server_is_found_at_once(world: World) -> None:
    """Its old connections are dead; that costs no request its answer."""
    world.hypothesize()
    world.server.go_down()
    world.server.come_up()

    made = world.hypothesize()[0].json()

    assert (made["source"], made["degraded"]) == ("vllm", False)


def test_it_stops_in_the_middle_of_a_hanging_call() -> None:
    """The request under way is answered, what it taught is kept, and the process ends by itself."""
    with open_world() as world, ThreadPoolExecutor(1) as pool:
        world.server.fault = "hung"
        body = {"user_id": uuid4().hex, "input_text": INPUT, "custom_answer": "with Docker"}
        sent = pool.submit(world.post, "/v1/execute", **body)
        until(lambda: bool(world.server.chats()), BUDGET_S)
        started = time.monotonic()

        assert world.service.stop() in {0, -signal.SIGTERM}  # uvicorn ends by the signal, once all is done

        assert time.monotonic() - started < 3 * BUDGET_S
        assert sent.result().status_code == 200
        assert world.events(sent.result(), "facet_updates_degraded")


@dataclass(frozen=True)
class Use:
    """A request that asks the model something, and the events that say it had to do without."""

    path: str
    events: tuple[str, ...]
    is_marked: bool = True
    """Whether the answer has the field `degraded`."""


USES = [
    Use("/v1/hypothesize", ("hypotheses_degraded",)),
    Use("/v1/enrich", ("enrichment_degraded",)),
    Use("/v1/followups", ("followups_degraded",)),
    Use("/v1/execute", ("reranking_degraded", "summary_degraded", "facet_updates_degraded")),
    Use("/v1/feedback", ("facet_updates_degraded",), is_marked=False),
    Use("/v1/memories/search", ("reranking_degraded",)),
]


def body_of(world: World, path: str, user: str) -> dict[str, Any]:
    """What to send, for a user with more memories than a prompt of 700 tokens holds."""
    notes = [
        f"I deploy app number {number} to the cloud with Docker, and its logs go to the place called bucket {number}"
        for number in range(30)
    ]
    world.post("/v1/memories", user_id=user, memories=[{"type": "HISTORY", "content": note} for note in notes])
    own_words = {"user_id": user, "input_text": INPUT, "custom_answer": "with Docker", "token_budget": 700}
    match path:
        case "/v1/followups":
            return {"user_id": user, "conversation_context": INPUT}
        case "/v1/execute":
            shown = world.hypothesize(user)[0].json()
            return {**own_words, "hypothesis_set_id": shown["hypothesis_set_id"], "hypothesis_id": "h1"}
        case "/v1/feedback":
            executed = world.post("/v1/execute", **own_words).json()
            return {"user_id": user, "execution_id": executed["execution_id"], "comment": "too long", "rating": -0.5}
        case "/v1/memories/search":
            return {"user_id": user, "query": INPUT, "rerank": True}
        case _:
            return {"user_id": user, "input_text": INPUT}


@pytest.mark.parametrize("use", USES, ids=lambda use: use.path)
@pytest.mark.parametrize("fault", ["down", "hung"])
def test_every_use_of_the_model_can_do_without(world: World, use: Use, fault: str) -> None:
    """With the model: not degraded. Without it: 200 all the same, within the budget, `degraded` where the answer has
    that field, and each part of the work that went without says so in the log."""
    body = body_of(world, use.path, uuid4().hex)
    with_model = world.post(use.path, **body)
    assert with_model.json().get("degraded", False) is False
    for name in use.events:
        assert world.events(with_model, name) == []

    Fault(fault, "").begin(world.server)
    body = body | ({"comment": "too short"} if use.path == "/v1/feedback" else {})
    started = time.monotonic()
    without = world.post(use.path, **body)
    seconds = time.monotonic() - started

    assert without.json().get("degraded", False) is use.is_marked
    assert seconds < (1.1 * BUDGET_S if fault == "hung" else 0.8 * BUDGET_S)
    for name in use.events:  # learning from a choice may come after the answer
        until(lambda name=name: bool(world.events(without, name)), 2 * BUDGET_S)


def test_an_execution_is_learned_from_after_the_answer(world: World) -> None:
    """While the model hangs the answer does not wait for it, and the rules move the facets afterwards."""
    user = uuid4().hex
    shown = world.hypothesize(user)[0].json()
    world.server.fault = "hung"

    world.post(
        "/v1/execute",
        user_id=user,
        input_text=INPUT,
        hypothesis_set_id=shown["hypothesis_set_id"],
        custom_answer="just show me the code, step by step",
    )
    version = world.http.get(f"/v1/persona/{user}").json()["version"]

    until(lambda: world.http.get(f"/v1/persona/{user}").json()["version"] > version, 3 * BUDGET_S)


def hang_up(world: World, body: dict[str, Any], request_id: str) -> float:
    """Ask for hypotheses and hang up once the model server has been asked; the moment of hanging up."""
    before = len(world.server.chats())
    content = json.dumps(body).encode()
    head = [
        "POST /v1/hypothesize HTTP/1.1",
        f"Host: 127.0.0.1:{world.service.port}",
        "Content-Type: application/json",
        f"Content-Length: {len(content)}",
        f"X-Request-ID: {request_id}",
    ]
    with socket.create_connection(("127.0.0.1", world.service.port)) as connection:
        connection.sendall("\r\n".join([*head, "", ""]).encode() + content)
        until(lambda: len(world.server.chats()) > before, BUDGET_S)
    return time.monotonic()


@pytest.mark.parametrize("fault", ["hung", "hung_after_head"])
def test_a_caller_that_hangs_up_ends_the_models_work(world: World, fault: str) -> None:
    """The connection to the model closes within a second, the request is logged with 499, nothing is stored, and no
    number of such callers opens the breaker."""
    world.server.fault = fault
    sets = world.http.get("/v1/telemetry").json()["sets"]
    for _ in range(FAILURES + 1):
        user, request_id = uuid4().hex, uuid4().hex
        gone = len(world.server.hung_up_at)

        closed_at = hang_up(world, {"user_id": user, "input_text": INPUT}, request_id)

        until(lambda gone=gone: len(world.server.hung_up_at) > gone, 1.0)
        assert world.server.hung_up_at[gone] - closed_at < 1.0
        until(lambda request_id=request_id: bool(statuses(world, request_id)), 2.0)
        assert statuses(world, request_id) == [499]
        assert world.http.get("/v1/memory/export", params={"user_id": user}).status_code == 404
    assert world.http.get("/v1/telemetry").json()["sets"] == sets
    assert world.ready() == ("ready", "closed")


def statuses(world: World, request_id: str) -> list[int]:
    """The statuses that were logged for a request."""
    events = world.service.log_events("request_answered")
    return [event["status"] for event in events if event.get("request_id") == request_id]


def test_no_log_line_quotes_a_user(world: World) -> None:
    """Not even when the server quotes the prompt in its error."""
    secret = f"zanzibar-{uuid4().hex}"
    for fault in (None, "400", "500", "half_json", "wrong_shape", "other_language", "not_utf8"):
        world.server.fault = fault
        world.post("/v1/hypothesize", user_id=uuid4().hex, input_text=f"deploy {secret}")

    assert secret not in world.service.log_text()
