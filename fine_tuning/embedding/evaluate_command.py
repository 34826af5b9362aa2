"""Evaluate from the command line: a table with intervals, JSON, a bar for CI."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fine_tuning.embedding.encoding import Encoder
from fine_tuning.embedding.errors import FineTuningError
from fine_tuning.embedding.evaluate import (
    EvaluationRow,
    Interval,
    PerQuery,
    Ranking,
    RetrievalSet,
    mean_interval,
    paired_bootstrap,
    rank,
)
from fine_tuning.embedding.evaluation_data import read_evaluation


@dataclass(frozen=True)
class Line:
    """One figure of a model, and the gain over the baseline where there is one."""

    model: Interval
    baseline: Interval | None = None
    gain: Interval | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """0 measured, 1 below the bar, 2 after a line on what is to be mended."""
    given = _parse(argv)
    try:
        data = read_evaluation(given.data)
        own = _ranking(given.model, data)
        lines = compare(own, _ranking(given.baseline, data) if given.baseline else None, given.k)
    except FineTuningError as error:
        print(error, file=sys.stderr)
        return 2
    print(table(lines, len(own.groups), len(set(own.groups))))
    if given.json:
        given.json.write_text(json.dumps(flat(lines), indent=2) + "\n", "utf8")
    found = lines["mrr"].model.value
    if given.fail_under is not None and found < given.fail_under:
        print(f"MRR {found:.4f} is below {given.fail_under:g}.", file=sys.stderr)
        return 1
    return 0


def compare(own: Ranking, baseline: Ranking | None, k: int) -> dict[str, Line]:
    """Every figure by its name, with intervals; `k` beside 1 for Hit@k."""

    def values(ranking: Ranking) -> dict[str, PerQuery]:
        hits = {f"hit@{depth}": ranking.hits(depth) for depth in sorted({1, k})}
        return {"mrr": ranking.reciprocal_ranks, **hits, "ndcg@10": ranking.ndcg_at_10}

    after, before = values(own), values(baseline) if baseline else {}
    lines: dict[str, Line] = {}
    for name, found in after.items():
        line = Line(mean_interval(found, own.groups))
        if name in before:
            gain = paired_bootstrap(before[name], found, own.groups)
            line = Line(line.model, mean_interval(before[name], own.groups), gain)
        lines[name] = line
    return lines


def flat(lines: dict[str, Line]) -> dict[str, float]:
    """By paths as `mrr/model` and `mrr/gain/low`."""
    found: dict[str, float] = {}
    for name, line in lines.items():
        for part, interval in asdict(line).items():
            if interval is not None:
                found[f"{name}/{part}"] = interval["value"]
                found |= {f"{name}/{part}/{end}": interval[end] for end in ("low", "high")}
    return found


def table(lines: dict[str, Line], queries: int, groups: int) -> str:
    """A line for each figure: value and interval."""
    has_baseline = any(line.gain for line in lines.values())
    heads = ["model", "baseline", "model - baseline"] if has_baseline else ["model"]
    rows = ["{:<8} ".format("") + " ".join(f"{head:<28}" for head in heads)]
    for name, line in lines.items():
        cells = [_cell(line.model, "")]
        if line.baseline and line.gain:
            cells += [_cell(line.baseline, ""), _cell(line.gain, "+")]
        rows.append(f"{name:<8} " + " ".join(f"{cell:<28}" for cell in cells))
    rows.append(f"{queries} queries in {groups} groups; in brackets the 95 % interval, groups resampled")
    return "\n".join(row.rstrip() for row in rows)


def _cell(interval: Interval, sign: str) -> str:
    return f"{interval.value:{sign}.4f} ({interval.low:{sign}.4f} to {interval.high:{sign}.4f})"


def _ranking(source: str, data: Sequence[EvaluationRow] | RetrievalSet) -> Ranking:
    with Encoder(source) as encode:
        return rank(encode, data)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="eval_embedding_model.py",
        description="Measure how well an embedding model finds what belongs to a text.",
        allow_abbrev=False,
    )
    flag = parser.add_argument
    flag("--model", required=True, metavar="DIR|URL", help="a folder, or an embedding server")
    flag("--data", type=Path, required=True, metavar="FILE|DIR", help="pairs, or a folder in BEIR's layout")
    flag("--baseline", metavar="DIR|URL", help="another model, compared query by query")
    flag("--k", type=_positive, default=5, help="of Hit@k, beside Hit@1")
    flag("--fail-under", type=float, metavar="MRR", help="exit status 1 below it")
    flag("--json", type=Path, metavar="FILE", help="write the figures")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("1 or more is needed")
    return number
