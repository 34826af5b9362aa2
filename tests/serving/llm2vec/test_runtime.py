"""What the unified runtime promises: the same suite on fake weights, a tiny random model and a small real one."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import serving.runtime
from serving.errors import InvalidInput, LLMRuntimeError
from serving.llm2vec.settings import RuntimeSettings, load_runtime_settings
from serving.runtime import UnifiedLLMRuntime

TEXTS = [
    "The lamp is on the table.",
    "A lamp stands on a table",
    "Interest rates rose by half a point in March, and the bank expects two more rises this year.",
    "naïve café, 東京タワー, 🎉",
    "word " * 150,
    "?",
]
HELLO = [{"role": "user", "content": "Count from one to a hundred, in words."}]
REAL = [pytest.param(name, marks=pytest.mark.fine_tuning) for name in ("tiny", "smollm2")]


def settings_for(**model: object) -> RuntimeSettings:
    return load_runtime_settings(device="cpu", threads=1, **model)


@pytest.fixture(params=["fake", *REAL])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(f"{request.param}_folder")


@pytest.fixture
def runtime(folder: Path) -> Iterator[UnifiedLLMRuntime]:
    made = UnifiedLLMRuntime(folder, settings_for(max_new_tokens=14))
    yield made
    made.close()


def test_texts_become_unit_vectors_in_their_order(runtime: UnifiedLLMRuntime) -> None:
    vectors = runtime.embed(TEXTS)

    assert (vectors.shape, vectors.dtype) == ((len(TEXTS), runtime.manifest.embedding.dimension), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(runtime.embed(TEXTS[::-1]), vectors[::-1], atol=1e-5)
    assert runtime.embed([]).shape == (0, vectors.shape[1])


def test_normalise_is_a_toggle(runtime: UnifiedLLMRuntime) -> None:
    raw, unit = runtime.embed(TEXTS, normalise=False), runtime.embed(TEXTS, normalise=True)

    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    assert np.abs(lengths - 1).min() > 1e-3
    np.testing.assert_allclose(raw / lengths, unit, atol=1e-5)


def test_a_vector_does_not_depend_on_its_batch(runtime: UnifiedLLMRuntime) -> None:
    together = runtime.embed(TEXTS)

    alone = np.concatenate([runtime.embed([text]) for text in TEXTS])

    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_the_same_call_gives_the_same_numbers(runtime: UnifiedLLMRuntime) -> None:
    np.testing.assert_array_equal(runtime.embed(TEXTS), runtime.embed(TEXTS))


def test_two_loads_give_the_same_numbers(runtime: UnifiedLLMRuntime, folder: Path) -> None:
    first = runtime.embed(TEXTS)
    runtime.close()
    again = UnifiedLLMRuntime(folder, settings_for())

    np.testing.assert_array_equal(again.embed(TEXTS), first)
    again.close()


def test_an_answer_is_the_sum_of_its_pieces(runtime: UnifiedLLMRuntime) -> None:
    answer = runtime.stream(HELLO, temperature=0, max_new_tokens=12)
    before = answer.finish_reason
    text = "".join(answer)
    whole = runtime.generate(HELLO, temperature=0, max_new_tokens=12)

    assert (before, answer.finish_reason) == (None, "length")
    assert (whole.text, whole.prompt_tokens, whole.completion_tokens) == (text, answer.prompt_tokens, 12)
    assert text


def test_a_text_is_read_as_it_is_and_messages_in_the_model_s_template(runtime: UnifiedLLMRuntime) -> None:
    content = HELLO[0]["content"]

    plain = runtime.generate(content, temperature=0, max_new_tokens=1).prompt_tokens

    assert runtime.generate(HELLO, temperature=0, max_new_tokens=1).prompt_tokens > plain


def test_a_seed_draws_the_same_answer_again(runtime: UnifiedLLMRuntime) -> None:
    drawn = [runtime.generate(HELLO, temperature=1.5, top_p=1, max_new_tokens=12, seed=s).text for s in (1, 1, 2)]

    assert drawn[0] == drawn[1] != drawn[2]


def test_the_settings_bound_every_answer(runtime: UnifiedLLMRuntime) -> None:
    asked = runtime.generate(HELLO, temperature=0, max_new_tokens=1000)

    assert (asked.completion_tokens, asked.finish_reason) == (14, "length")


def test_a_stop_text_ends_the_answer_and_is_not_in_it(runtime: UnifiedLLMRuntime) -> None:
    whole = runtime.generate(HELLO, temperature=0, max_new_tokens=12)
    stop = whole.text[3:6]

    cut = runtime.generate(HELLO, temperature=0, max_new_tokens=12, stop=[stop])

    assert (cut.text, cut.finish_reason) == (whole.text[: whole.text.index(stop)], "stop")


def test_a_conversation_longer_than_the_context_is_refused(folder: Path) -> None:
    runtime = UnifiedLLMRuntime(folder, settings_for())
    with pytest.raises(InvalidInput, match=r"has \d+ tokens and the model reads \d+"):
        runtime.stream("lamp " * 9000)
    with pytest.raises(InvalidInput, match="is empty"):
        runtime.stream("")
    runtime.close()


def test_an_answer_ends_where_the_context_does(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = UnifiedLLMRuntime(folder, settings_for())
    runtime.load()
    assert runtime._shared is not None
    monkeypatch.setattr(runtime._shared.weights, "context", 20)

    answer = runtime.generate("lamp lamp lamp", temperature=0, max_new_tokens=500)

    assert answer.prompt_tokens + answer.completion_tokens == 20
    runtime.close()


def test_vectors_are_made_while_an_answer_is_being_written(runtime: UnifiedLLMRuntime) -> None:
    before = runtime.embed(TEXTS)
    whole = runtime.generate(HELLO, temperature=0)

    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(runtime.generate, HELLO, temperature=0) for _ in range(2)]
        during = runtime.embed(TEXTS)
        assert [each.result() for each in answers] == [whole, whole]

    np.testing.assert_array_equal(during, before)


def test_concurrent_first_calls_share_one_load(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[int] = []
    real = serving.runtime.Weights

    def counted(*arguments: object) -> object:
        loads.append(threading.get_ident())
        return real(*arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(serving.runtime, "Weights", counted)
    runtimes = [UnifiedLLMRuntime(folder, settings_for()) for _ in range(2)]

    with ThreadPoolExecutor(8) as pool:
        vectors = list(pool.map(lambda n: runtimes[n % 2].embed(["the lamp"]), range(8)))

    assert len(loads) == 1
    assert all(np.array_equal(each, vectors[0]) for each in vectors)
    for each in runtimes:
        each.close()


def test_the_weights_are_freed_by_the_last_runtime_that_closes(folder: Path) -> None:
    first, second = (UnifiedLLMRuntime(folder, settings_for()) for _ in range(2))
    first.embed(["the lamp"])
    second.load()

    first.close()
    first.close()
    second.embed(["the lamp"])
    with pytest.raises(LLMRuntimeError, match="shut down"):
        first.embed(["the lamp"])
    second.close()

    assert not serving.runtime._loaded


def test_an_answer_that_nobody_reads_on_is_logged_as_broken_off(
    runtime: UnifiedLLMRuntime, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = runtime.stream(HELLO, temperature=0, request_id="r-1")
    while not answer.completion_tokens:
        next(answer)
    answer.close()
    answer.close()

    lines = [line for line in capsys.readouterr().out.splitlines() if "llm_generate" in line]
    assert len(lines) == 1
    assert "broken_off" in lines[0]
    assert "r-1" in lines[0]
    assert "Count from" not in lines[0]
