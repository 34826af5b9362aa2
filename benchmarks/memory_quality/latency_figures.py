"""The figures of what was timed."""

from collections.abc import Mapping, Sequence

from benchmarks.memory_quality.latency import Measured
from benchmarks.memory_quality.peer import Peer
from benchmarks.memory_quality.sides import LIMIT
from benchmarks.report import Figure, Seconds, Target, percentile, ratio

_SEARCH_MS = {50: 10.0, 95: 20.0}
_ADD_MS = 5.0
_SEARCH_RATIO = {50: 10 / 18, 95: 20 / 24}
"""Of those to what mem0's best configuration takes where they were set: 18 and 24 ms."""
_ADD_RATIO = 5 / 8
"""Of that to 8 ms."""


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


def note_of(measured: Measured, peers: Mapping[str, Peer]) -> str:
    """What was timed beside what."""
    rest = "" if measured.turns == measured.memories else ", the others the same with words changed"
    added, searched = len(measured.added["ours"]), len(measured.searched["ours"])
    timed = (
        f"Timed with one user of {measured.memories:,} memories ({measured.turns:,} turns as they were said{rest}), "
        f"each side in turn, without embedding: the last {added} added one by one, then {searched} searches for "
        f"{LIMIT}. Bytes are of the database with its indexes, and of mem0's history."
    )
    if not peers:
        return f"mem0 was not run: `make install-mem0` makes its environment. {timed}"
    by = "vectors, lemmas and entities (`plain`: without spaCy)" if "mem0/plain" in peers else "vectors, without spaCy"
    return f"mem0 is as its package ships, `infer=False`, on pgvector in the same server: by {by}. {timed}"


def _times(what: str, rank: int, taken: Mapping[str, Seconds], wanted_ms: float) -> Sequence[Figure]:
    return [
        Figure(
            f"{name}/{what}_ms/p{rank}",
            percentile(seconds, rank) * 1000,
            "ms",
            target=Target("≤", wanted_ms) if name == "ours" else None,
        )
        for name, seconds in taken.items()
    ]


def _ratios(what: str, rank: int, taken: Mapping[str, Seconds], wanted: float) -> Sequence[Figure]:
    """Ours to each of theirs; the target is for the one that is mem0's best."""
    figures: list[Figure] = []
    for name, seconds in taken.items():
        if name != "ours":
            value, note = ratio(taken["ours"], seconds, rank)
            path = f"{what}_ratio{name.removeprefix('mem0')}/p{rank}"
            figures.append(Figure(path, value, "×", Target("≤", wanted) if name == "mem0" else None, note))
    return figures
