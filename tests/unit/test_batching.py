"""The order in which waiting texts are read: fair, without waste, and nobody twice or never."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from app.clients.embeddings.batching import TOKENS_PER_RUN, TOKENS_PER_RUN_OVERHEAD, Backlog, Call, Seat


def call(*lengths: int, due_s: float = 0.0) -> Call:
    """A call with texts of these lengths."""
    texts = [np.zeros(length, np.int32) for length in lengths]
    return Call(texts, due_s=due_s, vectors=np.empty((len(lengths), 1), np.float32), done=lambda _: None)


def lengths_of(run: list[Seat]) -> list[int]:
    return [len(seat.pieces) for seat in run]


def runs_of(backlog: Backlog) -> list[list[Seat]]:
    """Every run until nothing is left, each taking 10 ms."""
    runs: list[list[Seat]] = []
    while run := backlog.next_run():
        runs.append(run)
        backlog.charge(run, took_s=0.01, now_s=len(runs) * 0.01)
    return runs


calls_of_lengths = st.lists(st.lists(st.integers(2, 256), min_size=1, max_size=30), max_size=12)


@settings(max_examples=40)
@given(calls_of_lengths)
def test_every_text_runs_once(lengths: list[list[int]]) -> None:
    backlog = Backlog()
    calls = [call(*own, due_s=number) for number, own in enumerate(lengths)]
    for waiting in calls:
        backlog.add(waiting)

    seats = Counter((id(seat.call), seat.position) for run in runs_of(backlog) for seat in run)

    assert seats == Counter((id(one), place) for one in calls for place in range(len(one.texts)))
    assert not backlog


@settings(max_examples=40)
@given(calls_of_lengths)
def test_runs_keep_the_budget_and_padding_costs_less_than_a_run(lengths: list[list[int]]) -> None:
    backlog = Backlog()
    for number, own in enumerate(lengths):
        backlog.add(call(*own, due_s=number))

    for run in runs_of(backlog):
        sizes = lengths_of(run)
        assert len(run) == 1 or max(sizes) * len(run) <= TOKENS_PER_RUN
        assert max(sizes) * len(run) - sum(sizes) <= TOKENS_PER_RUN_OVERHEAD * (len(run) - 1)


def test_texts_of_one_length_fill_a_run_across_calls() -> None:
    backlog = Backlog()
    for number in range(20):
        backlog.add(call(16, due_s=number))

    assert lengths_of(backlog.next_run()) == [16] * (TOKENS_PER_RUN // 16)


def test_the_oldest_runs_first() -> None:
    backlog = Backlog()
    younger, older = call(200, due_s=2.0), call(100, due_s=1.0)
    backlog.add(younger)
    backlog.add(older)

    assert [seat.call for seat in backlog.next_run()] == [older]


def test_a_newcomer_goes_before_the_rest_of_a_large_call() -> None:
    backlog = Backlog()
    large = call(*[100] * 1000, due_s=0.0)
    backlog.add(large)
    backlog.charge(backlog.next_run(), took_s=0.03, now_s=0.03)

    newcomer = call(10, due_s=0.02)
    backlog.add(newcomer)

    assert backlog.next_run()[0].call is newcomer


def test_a_large_call_is_not_starved_by_a_stream_of_small_ones() -> None:
    backlog = Backlog()
    large = call(*[100] * 50, due_s=0.0)
    backlog.add(large)
    now_s, served = 0.0, 0
    for _ in range(100):
        backlog.add(call(60, due_s=now_s))  # arrives as fast as the model reads: always one waits
        run = backlog.next_run()
        now_s += 0.01
        backlog.charge(run, took_s=0.01, now_s=now_s)
        served += sum(seat.call is large for seat in run)

    assert 15 <= served <= 40


def test_two_large_calls_take_turns() -> None:
    backlog = Backlog()
    first, second = call(*[120] * 50, due_s=0.0), call(*[120] * 50, due_s=0.2)
    backlog.add(first)
    for number in range(20):
        _run_at(backlog, number * 0.01)
    backlog.add(second)

    order = [seat.call for number in range(20) for seat in _run_at(backlog, 0.2 + number * 0.01)]

    assert 8 <= order.count(second) <= 14


def _run_at(backlog: Backlog, now_s: float) -> list[Seat]:
    run = backlog.next_run()
    backlog.charge(run, took_s=0.01, now_s=now_s)
    return run


def test_abandoned_calls_are_dropped() -> None:
    backlog = Backlog()
    gone, waiting = call(5, 5, due_s=0.0), call(5, due_s=1.0)
    backlog.add(gone)
    backlog.add(waiting)
    gone.is_abandoned = True

    assert [seat.call for seat in backlog.next_run()] == [waiting]
    assert backlog.next_run() == []
