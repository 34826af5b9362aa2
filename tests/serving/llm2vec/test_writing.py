"""How an answer is drawn and where it stops, on numbers of our own."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import LLMRuntimeError
from serving.llm2vec.writing import Sampling, Stopped, Writing
from tests.serving.llm2vec.fakes import CONTEXT, COUNT, POISON, FakeWeights, fake_plan, write_fake


@pytest.fixture
def weights(tmp_path: Path) -> FakeWeights:
    from serving.llm2vec.manifest import read_manifest

    folder = write_fake(tmp_path)
    return FakeWeights(folder, read_manifest(folder), fake_plan(), 1)


def test_an_answer_ends_with_the_end_token_which_is_no_text(weights: FakeWeights) -> None:
    writing = Writing(weights, [COUNT + 56], Sampling(max_new_tokens=CONTEXT))

    assert "".join(writing).split() == ["57", "58", "59"]
    assert (writing.finish_reason, writing.completion_tokens) == ("stop", 4)


def test_a_failing_step_ends_the_answer(weights: FakeWeights) -> None:
    with pytest.raises(LLMRuntimeError):
        "".join(Writing(weights, [POISON], Sampling(max_new_tokens=4)))


@pytest.mark.parametrize(("top_p", "drawn"), [(0.0, 1), (0.05, 4), (1.0, 90)])
def test_the_nucleus_holds_the_fewest_tokens_with_so_much_probability(
    weights: FakeWeights, top_p: float, drawn: int
) -> None:
    # The expected token weighs e^2 = 7.4 of 106.4 in all, every other one 1.
    found = Counter(
        "".join(Writing(weights, [COUNT], Sampling(max_new_tokens=1, temperature=1, top_p=top_p, seed=seed)))
        for seed in range(400)
    )

    assert found.most_common(1)[0][0] == "1"
    if top_p < 0.069:
        assert len(found) == 1
    else:
        assert len(found) >= drawn


@given(st.text("ab", max_size=40), st.text("ab", min_size=1, max_size=4), st.integers(1, 5))
def test_a_text_in_pieces_stops_where_the_whole_would(text: str, stop: str, size: int) -> None:
    stopped = Stopped([stop])
    said = "".join(stopped.add(text[start : start + size]) for start in range(0, len(text), size)) + stopped.rest()

    assert said == text.partition(stop)[0]
    assert stopped.is_stopped == (stop in text)


def test_of_several_stops_the_first_that_is_complete_ends_the_text() -> None:
    stopped = Stopped(["four", "three"])

    assert "".join(stopped.add(piece) for piece in ("one tw", "o th", "re", "e four")) + stopped.rest() == "one two "


def test_a_temperature_spreads_what_is_drawn(weights: FakeWeights) -> None:
    def surprises(temperature: float) -> int:
        sampling = [Sampling(max_new_tokens=1, temperature=temperature, seed=seed) for seed in range(200)]
        return sum("".join(Writing(weights, [COUNT], each)) != "1" for each in sampling)

    assert surprises(0) == 0
    assert surprises(0.3) < surprises(1.0) < 200
    assert np.isfinite(surprises(1e-6))
