"""The figures of what was timed."""

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.memory_quality.latency import Measured
from benchmarks.memory_quality.measures import DEPTH
from benchmarks.memory_quality.peer import Peer
from benchmarks.memory_quality.sides import LIMIT
from benchmarks.report import Figure, Seconds, Target, percentile, ratio

_SEARCH_MS = {50: 10.0, 95: 20.0}
_ADD_MS = 5.0
_SEARCH_RATIO = {50: 0.56, 95: 0.83}
"""Of those to the 18 and 24 ms that mem0 took in its best configuration where they were set."""
_ADD_RATIO = 0.63
"""Of that to its 8 ms."""


def latency_figures(measured: Measured) -> list[Figure]:
    """Times, ratios of ours to theirs, and what a memory costs."""
    figures: list[Figure] = []
    for rank in (50, 95):
        figures += _times("search", rank, measured.searched, _SEARCH_MS[rank])
    figures += _times("add", 50, measured.added, _ADD_MS)
    for rank in (50, 95):
        figures += _ratios("search", rank, measured.searched, _SEARCH_RATIO[rank])
    figures += _ratios("add", 50, measured.added, _ADD_RATIO)
    for name, size in measured.sizes.items():
        figures.append(Figure(f"{name}/bytes_per_memory", size, "B"))
    return figures


def search_figures(name: str, took: Mapping[str, Sequence[float]]) -> list[Figure]:
    """Of the searches for turns in a data set, where each conversation is a user's and whoever answers goes on
    conversation by conversation: times and ratios, of seconds of each question."""
    taken = {who: np.array(each) for who, each in took.items()}
    return [
        figure
        for rank in (50, 95)
        for figure in (*_times("search", rank, taken, None, name), *_ratios("search", rank, taken, None, name))
    ]


def note_of(measured: Measured, peers: Mapping[str, Peer]) -> str:
    """What was timed beside what."""
    rest = "" if measured.turns == measured.memories else ", the others the same with words changed"
    added, searched = len(measured.added["ours"]), len(measured.searched["ours"])
    timed = (
        f"Timed with one user of {measured.memories:,} memories ({measured.turns:,} turns as they were said{rest}), "
        f"each side in turn, without embedding: the last {added} added one by one, then {searched} searches for "
        f"{LIMIT}. Bytes are of the database with its indexes, and of mem0's history. What is timed under a data set's "
        f"name is the search for {DEPTH} turns where each conversation is a user's, conversation by conversation."
    )
    if not peers:
        return f"mem0 was not run: `make install-peer` makes its environment. {timed}"
    by = "vectors, lemmas and entities (`plain`: without spaCy)" if "mem0/plain" in peers else "vectors, without spaCy"
    return f"mem0 is as its package ships, `infer=False`, on pgvector in the same server: by {by}. {timed}"


def _times(
    what: str, rank: int, taken: Mapping[str, Seconds], wanted_ms: float | None, name: str | None = None
) -> list[Figure]:
    """A percentile of each; the target is for ours."""
    figures: list[Figure] = []
    for who, seconds in taken.items():
        path = "/".join(part for part in (who, name, f"{what}_ms", f"p{rank}") if part)
        target = Target("≤", wanted_ms) if wanted_ms and who == "ours" else None
        figures.append(Figure(path, percentile(seconds, rank) * 1000, "ms", target))
    return figures


def _ratios(
    what: str, rank: int, taken: Mapping[str, Seconds], wanted: float | None, name: str | None = None
) -> list[Figure]:
    """Ours to each of theirs; the target is for mem0 at its best."""
    figures: list[Figure] = []
    for who, seconds in taken.items():
        if who != "ours":
            value, note = ratio(taken["ours"], seconds, rank)
            which = who.removeprefix("mem0").removeprefix("/")
            path = "/".join(part for part in (name, f"{what}_ratio", which, f"p{rank}") if part)
            target = Target("≤", wanted) if wanted and who == "mem0" else None
            figures.append(Figure(path, value, "×", target, note))
    return figures
