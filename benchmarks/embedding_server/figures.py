"""What was measured as figures, with what they have to be."""

from collections.abc import Sequence

import numpy as np

from benchmarks.embedding_server.load import Slice
from benchmarks.embedding_server.measured import Measured
from benchmarks.embedding_server.servers import Candidate
from benchmarks.embedding_server.texts import KINDS
from benchmarks.report import Figure, Target

FASTER = {"int8": 1.6, "float32": 1.3}
"""How much more ours has to do than the best peer of the same precision."""

LATENCY_SHARE = 0.35
"""Of the best peer's p50 with one client."""

OVER_BARE = 1.2
"""Times the runtime's own p50."""

OVER_IDLE_MIB = 150.0


def figures_of(candidates: Sequence[Candidate], measured: Measured) -> list[Figure]:
    """All of them: speed by candidate, comparisons, memory, vectors, the generator."""
    timed = [each for each in candidates if each.is_timed]
    return [
        *(figure for each in timed for figure in _speed(each.name, measured)),
        *_throughput_ratios(timed, measured),
        *_latency_ratios(timed, measured),
        *_memory(candidates, measured),
        *_vectors(candidates, measured),
        Figure("generator/us_per_request", 1e6 * measured.generator_s, "µs", note="with a server that does nothing"),
    ]


def _speed(name: str, measured: Measured) -> list[Figure]:
    found: list[Figure] = []
    for (kind, clients, encoding), slices in measured.slices[name].items():
        case = f"{kind}/{clients}" + ("/base64" if encoding == "base64" else "")
        found.append(_over_rounds(f"{name}/throughput/{case}", [each.per_second for each in slices], "1/s"))
        if clients == 1:
            for rank in (50, 95):
                values = [_latency_ms(each, rank) for each in slices]
                found.append(_over_rounds(f"{name}/p{rank}_ms/{case}", values, "ms"))
    for kind, seconds in measured.bare[name].items():
        found.append(_over_rounds(f"{name}/bare_p50_ms/{kind}", [1000 * each for each in seconds], "ms"))
    return found


def _throughput_ratios(timed: Sequence[Candidate], measured: Measured) -> list[Figure]:
    """Ours to the best peer of the same precision, at 32 clients; round by round, for they share the machine's mood."""
    found: list[Figure] = []
    for each in (each for each in timed if each.is_ours):
        rivals = [other.name for other in timed if not other.is_ours and other.precision == each.precision]
        for kind in KINDS:
            rates = {name: _rates(measured, name, kind) for name in (each.name, *rivals)}
            if not rivals or not all(rates.values()):
                continue
            best = max(rivals, key=lambda name: np.median(rates[name]))
            ratios = np.array(rates[each.name]) / np.array(rates[best])
            target = Target("≥", FASTER[each.precision]) if kind != "long" else None
            path = f"{each.name}/throughput_ratio/{kind}/32"
            found.append(_over_rounds(path, ratios.tolist(), "×", target, f"to {best}"))
    return found


def _latency_ratios(timed: Sequence[Candidate], measured: Measured) -> list[Figure]:
    """Ours with one client, to the best peer of any precision and to the runtime without a server."""
    found: list[Figure] = []
    for each in (each for each in timed if each.is_ours):
        rivals = [other.name for other in timed if not other.is_ours and other.precision == each.precision]
        for kind in KINDS:
            own = _p50s(measured, each.name, kind)
            if rivals and own:
                best = min(rivals, key=lambda name: np.median(_p50s(measured, name, kind)))
                ratios = np.array(own) / np.array(_p50s(measured, best, kind))
                target = Target("≤", LATENCY_SHARE) if kind != "long" else None
                path = f"{each.name}/p50_ratio/{kind}/1"
                found.append(_over_rounds(path, ratios.tolist(), "×", target, f"to {best}"))
            if bare := measured.bare[each.name][kind]:
                ratios = np.array(own) / (1000 * np.array(bare))
                found.append(
                    _over_rounds(
                        f"{each.name}/p50_to_bare/{kind}",
                        ratios.tolist(),
                        "×",
                        Target("≤", OVER_BARE),
                        "to the runtime",
                    )
                )
    return found


def _memory(candidates: Sequence[Candidate], measured: Measured) -> list[Figure]:
    found = [Figure("rss_mb", measured.memory["ours"][1], "MiB", note="ours, at its peak")]
    for name in ("idle", *(each.name for each in candidates)):
        pss, peak = measured.memory[name]
        found.append(Figure(f"{name}/rss_mb", peak, "MiB", note="at its peak"))
        found.append(Figure(f"{name}/pss_mb", pss, "MiB", note="at the end"))
    over = measured.memory["ours_onnx"][1] - measured.memory["idle"][1]
    target = Target("≤", OVER_IDLE_MIB)
    return [*found, Figure("ours_onnx/over_idle_mb", over, "MiB", target, "peak RSS beyond an idle FastAPI's")]


def _vectors(candidates: Sequence[Candidate], measured: Measured) -> list[Figure]:
    found: list[Figure] = []
    for each in candidates:
        mean, least, together = measured.cosines[each.name]
        note = "to sentence-transformers" if each.is_timed else "to sentence-transformers; not told how to pool"
        found.append(Figure(f"{each.name}/cosine/mean", mean, note=note))
        found.append(Figure(f"{each.name}/cosine/min", least))
        found.append(Figure(f"{each.name}/batch_cosine/min", together, note="a text alone, and among 40"))
    return found


def _rates(measured: Measured, name: str, kind: str) -> list[float]:
    return [each.per_second for each in measured.slices[name][kind, 32, "float"]]


def _p50s(measured: Measured, name: str, kind: str) -> list[float]:
    return [_latency_ms(each, 50) for each in measured.slices[name][kind, 1, "float"]]


def _latency_ms(one: Slice, rank: float) -> float:
    return 1000 * float(np.percentile(one.latencies, rank))


def _over_rounds(path: str, values: Sequence[float], unit: str, target: Target | None = None, note: str = "") -> Figure:
    spread = f"{min(values):.3g} to {max(values):.3g}"
    return Figure(path, float(np.median(values)), unit, target, f"{note}; {spread}" if note else spread)
