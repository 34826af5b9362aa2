"""The pure parts of the benchmarks of language models: what they measure is what they say they measure."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import orjson
import pytest

from app.clients.slm import answers
from app.domain.hypotheses import Hypothesis
from benchmarks import slm_comparison as comparison
from benchmarks import vllm_overhead as overhead
from benchmarks.model_servers import (
    Exchange,
    Reply,
    Tap,
    Usage,
    body_of,
    covered_s,
    stub_answer,
    stub_events,
    usage_of,
)

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"


def test_a_chunked_body_is_put_together_whatever_the_frames_cut_apart() -> None:
    framed = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"5\r\nhello\r\n3;x=1\r\n wo\r\n3\r\nrld\r\n0\r\n\r\n"
    assert body_of(framed) == b"hello world"
    assert body_of(HEAD + b"content-length: 2\r\n\r\nhi") == b"hi"


def test_tokens_are_those_of_the_last_event_that_counts_them() -> None:
    body = b'data: {"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\ndata: {"usage":null}\n\n'
    body += b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\ndata: [DONE]\n\n'
    assert usage_of(body) == Usage(7, 3)
    assert usage_of(b"data: [DONE]\n\n") == Usage(0, 0)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_stub_answers_what_it_is_asked_in_the_asked_shape(count: int) -> None:
    schema = answers.hypotheses_schema(count)
    request = {
        "messages": [{"role": "user", "content": "<memory>x</memory>\n<input>build api</input>"}],
        "response_format": {"type": "json_schema", "json_schema": {"schema": schema}},
        "logprobs": True,
    }
    events = list(stub_events(request))
    documents = [orjson.loads(event[6:].partition(b"\n\n")[0]) for event in events]
    text = "".join(choice["delta"]["content"] for one in documents for choice in one["choices"])
    made = answers.parse(text, answers.Proposals).hypotheses
    assert text == stub_answer("build api", count)
    assert [("build api" in one.question) for one in made] == [True] * count
    assert usage_of(b"".join(events)).completion == len(documents) - 2
    assert documents[0]["choices"][0]["logprobs"]["content"][0]["token"] == text[:4]
    assert events[-1].endswith(b"data: [DONE]\n\n")


def test_the_tap_tells_exchanges_apart_and_leaves_out_what_asks_no_model() -> None:
    tap = Tap("http://127.0.0.1:1/v1")
    present: Exchange | None = None
    for request in (b"GET /v1/models HTTP/1.1\r\n\r\n", b"POST /v1/chat/completions HTTP/1.1\r\n\r\n{"):
        present = tap.saw_request(present, request)
        present = tap.saw_request(present, b"}")
        present.answered(b"one")
        present.answered(b"two")
    (taken,) = tap.taken()
    assert bytes(taken.request).endswith(b"{}")
    assert bytes(taken.answer) == b"onetwo"
    assert taken.ended >= taken.began
    assert tap.taken() == []


def test_the_model_s_time_is_that_of_any_of_its_answers() -> None:
    """Of orders that are asked about at once, it passes once."""
    began = [(0.0, 2.0), (2.5, 3.5), (2.6, 4.0), (2.7, 3.0)]
    assert covered_s([Exchange(one, ended) for one, ended in reversed(began)]) == pytest.approx(2.0 + 1.5)
    assert covered_s([]) == 0.0


def test_what_a_server_does_not_have_asked_no_model() -> None:
    refused, answered = Exchange(0.0), Exchange(0.0)
    for each, status in ((refused, b"404 Not Found"), (answered, b"200 OK")):
        each.request += b"POST /v1/decisions HTTP/1.1\r\n\r\n{}"
        each.answer += b"HTTP/1.1 " + status
    looked_up = Exchange(0.0, request=bytearray(b"POST /tokenize HTTP/1.1\r\n\r\n{}"))
    assert [refused.is_generation, answered.is_generation, looked_up.is_generation] == [False, True, False]


def test_the_stub_tells_labels() -> None:
    prompt = "<input>plan week</input>\nA: plan it\nB: plan another\nC: none"
    request = {"messages": [{"content": ""}, {"content": prompt}], "max_tokens": 1, "logprobs": True}
    (document,) = [orjson.loads(event[6:].partition(b"\n\n")[0]) for event in list(stub_events(request))[:1]]
    told = document["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    assert [each["token"] for each in told] == ["A", "B", "C"]


async def test_the_relay_passes_on_what_it_notes() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(2)
        writer.write(HEAD + b"content-length: 2\r\n\r\n" + body[::-1])
        assert b"host: 127.0.0.1" in head

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with Tap(f"http://127.0.0.1:{port}/v1").listening() as tap:
        wire = overhead.Wire(tap.base_url)
        reply = await wire.post("/x", {})
        await wire.aclose()
    server.close()
    assert reply.status == 200
    assert reply.body == b"}{"
    (exchange,) = tap.taken()
    assert 0 < exchange.seconds <= reply.seconds


def _served(total_s: float, model_s: float, written: int = 100) -> overhead.Served:
    return overhead.Served(total_s, model_s, 0.002, total_s - model_s - 0.002, Usage(500, written), False, True)


def _reply(seconds: float, written: int) -> tuple[Reply, float]:
    body = b'data: {"usage":{"prompt_tokens":500,"completion_tokens":%d}}\n\n' % written
    return Reply(HEAD, body, seconds), seconds - 0.001


def test_overhead_is_what_the_model_did_not_take_whatever_it_wrote() -> None:
    served = [_served(1.010, 1.0), _served(2.012, 2.0, 200), _served(3.014, 3.0, 300)]
    figures = {one.path: one for one in overhead.latency_figures(served, [_reply(1.0, 100)] * 3)}
    found = figures["hypothesize/overhead_ms/p50"]
    assert found.value == pytest.approx(12.0)
    assert found.target is not None
    assert found.target.value == pytest.approx(5 + 0.02 * 2000)
    assert found.is_met
    assert figures["direct/overhead_ms/p50"].value == pytest.approx(1.0)
    assert figures["hypothesize/per_token_ratio"].value == pytest.approx(1.006)


def test_a_server_that_counts_no_tokens_is_not_compared_by_tokens() -> None:
    figures = overhead.latency_figures([_served(1.01, 1.0, 0)] * 2, [_reply(1.0, 0)] * 2)
    assert not any("token" in one.path for one in figures)


def test_throughput_is_requests_by_time_of_all_passes() -> None:
    passes = {"service": [overhead.Pass(10.0, 90, 900.0)] * 2, "model": [overhead.Pass(10.0, 100, 900.0)] * 2}
    figures = {one.path: one for one in overhead.throughput_figures(passes)}
    assert figures["throughput_ratio/16"].value == pytest.approx(0.9)
    assert figures["throughput_ratio/16"].is_met is False
    assert figures["token_throughput_ratio/16"].value == pytest.approx(1.0)


def test_the_input_is_found_in_a_recorded_request() -> None:
    said = "<memory>x</memory>\n<input>a &amp; b\nc</input>\nGive 3 readings of this input."
    body = orjson.dumps({"messages": [{"content": "system"}, {"content": said}]})
    assert overhead.asked_in(b"POST / HTTP/1.1\r\nhost: x\r\n\r\n" + body) == "a & b\nc"


def test_tokens_written_are_read_from_the_services_metrics() -> None:
    text = (
        "# HELP x\n"
        'embed_service_slm_tokens_total{kind="prompt",slm="vllm"} 50.0\n'
        'embed_service_slm_tokens_total{kind="completion",slm="vllm"} 12.0\n'
        'embed_service_slm_tokens_created{kind="completion",slm="vllm"} 1.7e+09\n'
    )
    assert overhead.counted_tokens(text) == 12.0


def test_servers_are_named_by_kind_or_address() -> None:
    assert overhead.own_arguments([]) == (["vllm"], [])
    assert overhead.own_arguments(["--server", "stub", "--quick"]) == (["stub"], ["--quick"])
    assert overhead.own_arguments(["--server", "http://h/v1"])[0] == ["http://h/v1"]
    with pytest.raises(SystemExit, match="vllm, builtin, stub"):
        overhead.own_arguments(["--server", "ollama"])


def test_exchanges_know_their_time() -> None:
    assert Exchange(1.0, 3.5).seconds == 2.5


MEMORIES = ["I deploy the billing service on AWS in Frankfurt", "My sister Mia turns 30 in May", "I like it"]


@pytest.mark.parametrize(
    ("text", "said", "is_true"),
    [
        ("Deploy your app on AWS?", "deploy my app", True),  # a name
        ("Deploy the billing service?", "deploy my app", True),  # two specific words of one memory
        ("Deploy the service?", "deploy my app", False),  # one
        ("Do you want a service for your sister?", "help", False),  # two, of two memories
        ("A party for 30?", "plan a party", True),  # a number
        ("Deploy on AWS?", "deploy on AWS", False),  # the input says so itself
        ("Deploy your app on Azure?", "deploy my app", False),
    ],
)
def test_a_true_fact_is_a_value_or_two_words_of_one_memory(text: str, said: str, is_true: bool) -> None:
    assert comparison.Facts(MEMORIES).names_one(text, said) is is_true


@pytest.mark.parametrize(
    ("text", "said", "is_unsaid"),
    [
        ("Deploy your app on Azure?", "deploy my app", True),
        ("Azure for your app?", "deploy my app", False),  # what opens a sentence may be no name
        ("Deploy your app on aws in Frankfurt?", "deploy my app", False),
        ("Do you want 5 ideas?", "ideas", True),
        ("Do you want 5 ideas?", "five ideas", False),
    ],
)
def test_never_said_is_a_name_or_number_that_nobody_said(text: str, said: str, is_unsaid: bool) -> None:
    assert comparison.Facts(MEMORIES).names_unsaid(text, said) is is_unsaid


def test_what_repeats_the_prompts_example_is_found_unless_the_user_said_it() -> None:
    example = comparison.example_words(
        'A reading: {"request":"Write an ad for my bakery in Porto.","question":"An ad?"}'
    )
    facts = comparison.Facts(MEMORIES)
    assert facts.copies("Write a short ad for your bakery in Porto.", "help", example)
    assert not facts.copies("Write a letter?", "help", example)
    assert not comparison.Facts(["My bakery in Porto"]).copies("A bakery in Porto?", "an ad", example)


def test_common_words_tell_nothing() -> None:
    memories = {"a": [f"going number {each}" for each in range(200)], "b": ["the violin", "a cello"]}
    common = comparison.common_stems(memories)
    assert comparison.stem("going") in common
    assert "violin" not in common
    assert not comparison.Facts(["going to a number"], common).names_one("a number of goings", "")


def test_every_user_gets_the_nearest_inputs_that_are_free() -> None:
    nearness = {"a": [0.9, 0.5, 0.1], "b": [0.8, 0.1, 0.5], "c": [0.9, 0.8, 0.7]}
    pairs = comparison.assigned(nearness, ["x", "y", "z"], 100)
    assert pairs[:3] == [("a", "x"), ("b", "x"), ("c", "y")]
    assert len(pairs) == len(set(pairs)) == 6


def test_the_stranger_is_of_another_conversation() -> None:
    users = [comparison.User(name, name[0], []) for name in ("a1", "a2", "b1", "b2")]
    assert [comparison.stranger(user, users) for user in users] == ["b1", "b1", "a1", "a1"]
    assert comparison.stranger(users[0], users[:2]) == ""


def test_a_speakers_sessions_end_yesterday() -> None:
    (nora,) = comparison.read_users(None)
    assert nora.user_id.endswith("Nora")
    assert (datetime.now(UTC) - nora.sessions[-1][0]).days == 1
    assert len(nora.texts) > 20


def _answered(outcome: str, *true: bool) -> comparison.Answered:
    verdicts = [comparison.Verdict(each, False, not each, False, True) for each in true]
    return comparison.Answered(1.0, outcome, verdicts, 500, 100)


def test_the_table_counts_hypotheses_and_inputs() -> None:
    rows = [_answered("first", True, True, False), _answered("repaired", True), _answered("off_topic")]
    row = comparison.summarised("one", rows)
    assert row.metrics["true_fact_share"] == pytest.approx(0.75)
    assert row.metrics["never_said_share"] == pytest.approx(0.25)
    assert row.metrics["hypotheses_per_input"] == pytest.approx(4 / 3)
    assert row.metrics["failed_share"] == pytest.approx(1 / 3)
    assert len(row.cells) == len(comparison.HEADINGS)
    text = comparison.as_markdown("run it", [row], {"cpu": "two"}, "note")
    assert "| one | 3 | 1.3 | 75%" in text
    assert "off_topic 1" in text


def test_a_model_that_only_fails_has_no_share() -> None:
    assert comparison.summarised("none", [_answered("timeout")] * 3).metrics["true_fact_share"] == 0.0


def test_the_verdict_reads_the_question_and_the_request() -> None:
    one = Hypothesis("h1", "Is it this?", "deploy it on Heroku", "", 0.5, 0.0, "model", {}, (uuid4(),), {})
    verdict = comparison.judged(one, "deploy it", comparison.Facts(MEMORIES), comparison.Facts(["I use Heroku"]))
    assert verdict == comparison.Verdict(False, True, True, False, True)


def test_a_gguf_files_model_is_named_as_the_file_names_it() -> None:
    head = b"GGUF....general.name\x08\x00\x00\x00" + (5).to_bytes(8, "little") + b"Qwen2more"
    assert comparison.gguf_text(head, b"general.name") == "Qwen2"
    assert comparison.gguf_text(b"GGUF", b"general.name") == ""
    assert comparison.named_file("Qwen2=/a/b.gguf") == ("Qwen2", Path("/a/b.gguf"))
    assert comparison.named_file("/a/b.gguf") == ("", Path("/a/b.gguf"))
    assert comparison.slug("Qwen2.5 Coder 0.5B (x)") == "qwen2.5-coder-0.5b-x"
