"""The order in which waiting texts are read: in turns, without waste, and nobody twice or never."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.backend import RunLimits, in_steps
from serving.batching import Backlog, Call, Seat

LIMITS = RunLimits(texts=8, tokens=128, padding=3)


def call(*lengths: int) -> Call:
    """A call with texts of these lengths."""
    texts = [np.zeros((length, 2), np.int32) for length in lengths]
    return Call(texts, vectors=np.empty((len(lengths), 1), np.float32), done=lambda _: None)


def lengths_of(run: list[Seat]) -> list[int]:
    return [len(seat.ids) for seat in run]


def backlog_of(*calls: Call, limits: RunLimits = LIMITS, concurrency: int = 64) -> Backlog:
    backlog = Backlog(limits, concurrency)
    for each in calls:
        backlog.add(each)
    return backlog


def runs_of(backlog: Backlog) -> list[list[Seat]]:
    """Every run until nothing is left."""
    runs: list[list[Seat]] = []
    while run := backlog.next_run():
        runs.append(run)
    return runs


calls_of_lengths = st.lists(st.lists(st.integers(0, 256), min_size=1, max_size=30), max_size=12)


@settings(max_examples=40)
@given(calls_of_lengths, st.integers(1, 12))
def test_every_text_runs_once(lengths: list[list[int]], concurrency: int) -> None:
    calls = [call(*own) for own in lengths]

    runs = runs_of(backlog_of(*calls, concurrency=concurrency))

    seats = Counter((id(seat.call), seat.position) for run in runs for seat in run)
    assert seats == Counter((id(one), place) for one in calls for place in range(len(one.texts)))


@settings(max_examples=40)
@given(calls_of_lengths)
def test_runs_keep_their_limits(lengths: list[list[int]]) -> None:
    for run in runs_of(backlog_of(*(call(*own) for own in lengths))):
        widths = [max(1, length) for length in lengths_of(run)]  # an empty text needs a row too
        assert len(run) == 1 or max(widths) * len(run) <= LIMITS.tokens
        assert len(run) <= LIMITS.texts
        assert max(widths) - min(widths) <= LIMITS.padding


def test_texts_of_one_length_fill_a_run_across_calls() -> None:
    backlog = backlog_of(*(call(16) for _ in range(20)))

    assert lengths_of(backlog.next_run()) == [16] * 8


def test_texts_of_one_width_share_a_run_where_lengths_are_rounded() -> None:
    limits = RunLimits(texts=8, tokens=128, padding=0, width=in_steps)
    backlog = backlog_of(call(14), call(16), call(12), call(13), limits=limits)

    assert [lengths_of(run) for run in runs_of(backlog)] == [[14, 16, 13], [12]]


@pytest.mark.parametrize(
    ("length", "width"), [(1, 8), (8, 8), (9, 12), (32, 32), (33, 40), (64, 64), (65, 80), (241, 256)]
)
def test_lengths_are_rounded_up_to_few(length: int, width: int) -> None:
    assert in_steps(length) == width


def test_one_text_a_run_where_texts_cannot_share() -> None:
    backlog = backlog_of(call(5, 5), call(5), limits=RunLimits(texts=1, tokens=128, padding=3))

    assert [len(run) for run in runs_of(backlog)] == [1, 1, 1]


def test_the_oldest_call_goes_first() -> None:
    older, younger = call(100), call(20)

    assert [seat.call for seat in backlog_of(older, younger).next_run()] == [older]


def test_a_newcomer_waits_for_one_run_of_a_large_call() -> None:
    backlog = backlog_of(call(*[100] * 1000))
    backlog.next_run()
    newcomer = call(10)
    backlog.add(newcomer)

    runs = [backlog.next_run(), backlog.next_run()]

    assert runs[1][0].call is newcomer


def test_a_large_call_is_not_starved_by_a_stream_of_small_ones() -> None:
    large = call(*[100] * 50)
    backlog = backlog_of(large)
    served = 0
    for _ in range(60):
        backlog.add(call(60))
        served += sum(seat.call is large for seat in backlog.next_run())

    assert served >= 8


def test_calls_beyond_the_concurrency_wait_for_a_place() -> None:
    first, second, third = call(50, 10), call(50, 10), call(50, 50)
    backlog = backlog_of(first, second, third, concurrency=2)

    runs = runs_of(backlog)

    order = [[(first, second, third).index(seat.call) for seat in run] for run in runs]
    assert order == [[0, 1], [1, 0], [2, 2]]


def test_abandoned_calls_are_dropped() -> None:
    gone, waiting = call(5, 5), call(5)
    backlog = backlog_of(gone, waiting)
    gone.is_abandoned = True

    assert [seat.call for seat in backlog.next_run()] == [waiting]
    assert backlog.next_run() == []
