"""What benchmarks make of what they measured: where a graph begins to be quicker, latencies by phase, kills, ratios."""

from collections.abc import Sequence

import numpy as np
import pytest

from benchmarks.proxy_overhead import Stream, figures_of
from benchmarks.scale import crossover
from benchmarks.scale.__main__ import own_arguments
from benchmarks.scale.load import room_for_global
from benchmarks.space_switch.__main__ import change_figures
from benchmarks.space_switch.scenario import Outcome
from benchmarks.space_switch.stream import Request

SIZES = (1_000, 2_000, 4_000, 8_000)


@pytest.mark.parametrize(
    ("ratios", "at", "words"),
    [
        ((0.5, 0.8, 1.2, 2.0), 2_000 * 2**0.5, "from there on"),
        ((1.1, 0.9, 1.0001, 2.0), 4_000, "from there on"),
        ((1.1, 1.2, 1.3, 1.4), 1_000, "already from there on"),
        ((0.5, 1.6, 1.6, 0.9), 8_000, "not even from there on"),
    ],
)
def test_a_graph_is_quicker_from_where_the_ratio_stays_above_one(
    ratios: Sequence[float], at: float, words: str
) -> None:
    found, said = crossover.crossing(SIZES, ratios)

    assert found == pytest.approx(at, rel=0.01)
    assert said == words


def test_both_ways_are_told_by_size() -> None:
    took = {f"{size}/exact": np.full(20, size / 1e6) for size in SIZES} | {
        f"{size}/graph": np.full(20, 0.002) for size in SIZES
    }
    figures = {figure.path: figure.value for figure in crossover.figures_of(SIZES, took)}

    assert figures["crossover/8000/exact/p95_ms"] == pytest.approx(8)
    assert figures["crossover/1000/ratio"] == pytest.approx(0.5)
    assert figures["crossover/memories"] == pytest.approx(2_000)


def test_the_others_index_holds_everybody_unless_told_otherwise() -> None:
    assert own_arguments([])[0].others_share == 1
    assert own_arguments(["--others-share", "5", "--quick"])[1] == ["--quick"]
    with pytest.raises(SystemExit, match="at least 1"):
        own_arguments(["--others-share", "0"])
    assert 3 * 2**30 < room_for_global(1_000_000) < 4 * 2**30


def test_a_change_is_told_whole_and_by_its_parts() -> None:
    """The slow requests come after the filling, while it is switched: they count for the whole, not for the filling,
    and what comes after the way back has begun is in neither."""
    marks = {"before": 0.0, "fill": 100.0, "filled": 200.0, "switched": 210.0, "back": 300.0, "end": 400.0}
    slow = dict.fromkeys(range(200, 300), 0.4) | dict.fromkeys(range(300, 400), 9.0)
    requests = [Request("search", "u", "?", float(second), slow.get(second, 0.1)) for second in range(400)]
    kills = [(110.0, "filler"), (150.0, "filler"), (160.0, "database")]
    figures = {figure.path: figure for figure in change_figures(Outcome(requests, marks=marks, kills=kills))}

    assert figures["p95_ratio"].value == pytest.approx(4)
    assert figures["p95_ratio"].is_met is False
    assert figures["p95_ratio/fill"].value == pytest.approx(1)
    assert figures["p95_ratio/switch"].value == pytest.approx(4)
    assert figures["kills/workers"].value == 2
    assert figures["kills/workers"].is_met is False
    assert figures["kills/workers"].note == "`kill -9` after 10, 50 s"
    assert figures["kills/database"].is_met is True


def test_what_a_proxy_adds_is_held_to_embeddings_too() -> None:
    measured = {"proxy": [Stream(0.03, 100.0)] * 5, "direct": [Stream(0.01, 100.0)] * 5}
    of = {figure.path: figure for figure in figures_of(measured, 1, embedding_ms=5.0)}

    assert of["ttft_ratio/p50/1"].value == pytest.approx(4)
    assert of["ttft_ratio/p50/1"].target is not None
    assert of["ttft_ratio/p50/1"].target.value == 3.4
    assert of["ttft_ratio/p50/1"].is_met is False
    assert of["ttft_ms/p50/1"].is_met is False
