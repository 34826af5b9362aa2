"""Figures of times and of what lies on disk."""

from collections.abc import Mapping
from typing import Any

from benchmarks.report import Figure, Seconds, percentile
from benchmarks.scale.tables import graphs_size, size_of


def milliseconds(name: str, times: Seconds, note: str) -> list[Figure]:
    """Median and 95th percentile."""
    return [Figure(f"{name}/p{rank}_ms", 1000 * percentile(times, rank), "ms", note=note) for rank in (50, 95)]


async def disk_figures(
    connection: Any, table: str, others: Any, memories: int, limit: int, built: Mapping[str, float]
) -> list[Figure]:
    """Bytes on disk and seconds of building."""
    sizes = {name: await size_of(connection, name) for name in ("memories", table, "memory_words")}
    total = sum(map(sum, sizes.values()))
    graphs = await graphs_size(connection)
    theirs = await others.fetchval("SELECT count(*) FROM everything")
    everything = await others.fetchval("SELECT pg_total_relation_size('everything')")
    global_graph = await others.fetchval("SELECT pg_relation_size('everything_graph')")

    def each(name: str) -> float:
        return sum(sizes[name]) / memories

    indexes = sum(index for _, index in sizes.values())
    return [
        Figure("bytes_per_memory", total / memories, "B", note="rows and indexes, words and graphs included"),
        Figure("bytes_per_memory/memories", each("memories"), "B"),
        Figure("bytes_per_memory/vectors", each(table), "B", note="half precision, key and graphs included"),
        Figure("bytes_per_memory/words", each("memory_words"), "B", note="of large users only"),
        Figure("indexes_mb", indexes / 2**20, "MiB", note="all, graphs included"),
        Figure("graphs_mb", graphs / 2**20, "MiB", note=f"{built['large']:,.0f} memories of users of over {limit:,}"),
        Figure("graphs/build_s", built["graphs"], "s", note="by the service's job, with the words; two at a time"),
        Figure("global/memories", theirs, note="in the others' table"),
        Figure("global/bytes_per_memory", everything / theirs, "B", note="text, vector and index"),
        Figure("global/index_mb", global_graph / 2**20, "MiB"),
        Figure("global/build_s", built["global"], "s", note="on two cores, in memory"),
    ]
