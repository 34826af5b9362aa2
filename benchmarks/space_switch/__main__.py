"""A change of embedding space on a service under load, its filling killed again and again, and back.

    python -m benchmarks.space_switch [--data DIR] [--json FILE] [--results FILE] [--plot PNG] [--quick]
                                      [--memories N] [--mpnet ENDPOINT]

The service runs as a process of its own on the embedded database, with memories of 100 a user, whose space has 1,024
dimensions: the built-in model's vectors, turned there by a server beside it (`embedder`); made of some thousand
sentences that are really embedded, each used many times with a small random change. The new space has 384: every
memory is really embedded. 20 requests a second come all the time, by the clock, whether the last was answered or not:
12 searches, 5 new memories, 1 changed, 2 inputs hypothesised about. Meanwhile `embed-service space create`, `fill`,
`verify` and `switch` are run as commands, and after a while `alembic downgrade` goes back (in the second part `switch`
does); the filling process is killed with `kill -9` at 25, 50 and 75 %, the database at 60 %. With --mpnet, the address
of a server of all-mpnet-base-v2, the same again on 5,000 memories from 768 dimensions to 384, both really embedded.

- `failed_requests`: requests that had no good answer within 30 s. Clients do what the documents say: on a 503 (and
  where the connection breaks) they ask again. `answered_later`: those that had to, which only the database's death
  may cause.
- `mixed_results`: searches with a result whose similarity is not the cosine of the two vectors in the space that the
  answer names.
- `recall/min`: the lowest mean recall@10 of any second, against brute force over the vectors of the space that the
  answer names: of the ten of the largest cosine among 30 results. Questions share no word with memories, and only
  similarity counts, so that vectors alone decide.
- `p95_ratio`: the 95th percentile of all requests from `create` until the way back begins, over that before;
  `…/fill` while it is filled, `…/switch` from then on: `verify`, `switch` and the while after it.
- `kills`: how often the filling process (`workers`) and the database were killed on the way.
- `way_back/refusals`: how often `alembic downgrade` said that something is to be filled first (it was, and it was
  tried again): what embedded in the old space had been late for a write.
- `lost_writes`: acknowledged writes that, after the way back and a last `space fill` of what is noted, are not there
  or have no vector in both spaces.
- `fill_rate_ratio`: afterwards, without the stream, memories a second filled from an empty space, over what the
  embedding server gives a client that does nothing else, asked before and after. `…/live`: under the stream, with
  kills, throttled.
"""

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from itertools import product
from pathlib import Path
from random import Random

from rich.console import Console

from app.logs import configure_logs
from benchmarks.report import Figure, Target, arguments, describe_machine, new_progress, publish
from benchmarks.space_switch import texts
from benchmarks.space_switch.findings import per_second
from benchmarks.space_switch.house import embedding_server
from benchmarks.space_switch.plot import write_plot
from benchmarks.space_switch.scenario import KILLS, Outcome, Plan, quantile, run_scenario

MPNET_MEMORIES = 5000


def main() -> None:
    """Run the benchmark."""
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--memories", type=int, default=200_000)
    own.add_argument("--plot", type=Path)
    own.add_argument("--mpnet")
    given, rest = own.parse_known_args()
    options = arguments(__doc__, rest)
    machine = describe_machine(("onnxruntime", "asyncpg", "sqlalchemy", "numpy"))
    plan = Plan(2000, 8, 5, 4, 5) if options.quick else Plan(given.memories)
    pool = texts.pool(options.data, Random(1))
    folder = Path(tempfile.mkdtemp(prefix="embed-bench-")).resolve()
    folder.chmod(0o711)  # a database server that is not root has to reach its files
    configure_logs(folder / "logs", "WARNING", to_stdout=False)
    figures: list[Figure] = []
    try:
        outcome = _run(folder / "turned", None, pool, plan)
        figures += _figures("", outcome, plan)
        if given.plot:
            write_plot(given.plot, outcome)
        if given.mpnet:
            memories = 1000 if options.quick else MPNET_MEMORIES
            small = replace(plan, memories=memories, way_back="command")
            distinct = [said + end for end, said in product(texts.uses(), pool)][: small.memories]
            figures += _figures("mpnet/", _run(folder / "mpnet", given.mpnet, distinct, small), small)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if figures:  # what was measured is kept, whatever ends the second part
            machine["load average at the end"] = f"{os.getloadavg()[0]:.2f}"
            _publish(options, figures, machine)


def _publish(options: argparse.Namespace, figures: list[Figure], machine: dict[str, str]) -> None:
    note = (
        f"{'A quick run: nothing to compare. ' if options.quick else ''}"
        "One process fills, at low priority (`nice`); the embedding servers, the service, the database and the stream "
        "share the machine."
    )
    publish(options, "A live change of embedding space", figures, machine, note)


def _run(folder: Path, endpoint: str | None, said: list[str], plan: Plan) -> Outcome:
    folder.mkdir()
    folder.chmod(0o711)
    with (
        new_progress(Console(stderr=True)) as progress,
        embedding_server(folder / "old", 1024) as turned,
        embedding_server(folder / "new", 384) as new,
    ):
        return asyncio.run(run_scenario(folder, (endpoint or turned, new), said, plan, progress))


def _figures(prefix: str, outcome: Outcome, plan: Plan) -> list[Figure]:
    later = [each for each in outcome.requests if each.tries > 1]
    seconds = per_second(outcome.searches)
    own = sum(outcome.own_rates) / len(outcome.own_rates)
    minutes = (outcome.marks["filled"] - outcome.marks["fill"]) / 60
    rows = [
        Figure(
            "failed_requests",
            sum(each.status != 200 for each in outcome.requests),
            "",
            Target("≤", 0),
            f"of {len(outcome.requests):,}, {sum(each.kind != 'search' for each in outcome.requests):,} of them writes",
        ),
        Figure(
            "answered_later",
            len(later),
            "",
            note="first " + (", ".join(sorted({str(each.first_status) for each in later})) or "nothing else than 200"),
        ),
        Figure(
            "mixed_results",
            sum(each.is_mixed for each in outcome.searches),
            "",
            Target("≤", 0),
            f"of {len(outcome.searches):,} searches; {sum(each.is_degraded for each in outcome.searches)} degraded",
        ),
        Figure("recall/min", min(value for _, value in seconds), "", Target("≥", 0.99), f"of {len(seconds)} seconds"),
        *change_figures(outcome),
        Figure(
            "way_back/refusals",
            outcome.refusals,
            "",
            note="a write had left a vector for later: `space fill`, and again",
        ),
        Figure("lost_writes", outcome.lost_writes, "", Target("≤", 0), "after the way back, in both spaces"),
        Figure("missing", outcome.missing, "", Target("≤", 0), "items without a vector in the new space, at the end"),
        Figure(
            "fill_rate_ratio",
            outcome.fill_rate / own,
            "×",
            Target("≥", 0.9),
            f"{outcome.fill_rate:.0f} of {own:.0f} a second, alone",
        ),
        Figure(
            "fill_rate_ratio/live",
            outcome.fill_rate_live / own,
            "×",
            note=f"{outcome.fill_rate_live:.0f} a second under the stream, for {minutes:.1f} minutes",
        ),
        Figure("verify/recall", outcome.verified["recall"], "", note="what `space verify` said before the switch"),
        Figure("verify/overlap", outcome.verified["overlap"], "", note="of the old space's ten, found in the new one"),
        Figure("memories", plan.memories, ""),
    ]
    return [Figure(prefix + row.path, row.value, row.unit, row.target, row.note) for row in rows]


def change_figures(outcome: Outcome) -> list[Figure]:
    """How slow it was while things changed, and what was killed meanwhile."""
    return [*_latencies(outcome), *_kills(outcome)]


def _latencies(outcome: Outcome) -> list[Figure]:
    """The 95th percentile during the change and its parts, over that before."""

    def p95(begin: str, end: str) -> float:
        since, until = outcome.marks[begin], outcome.marks[end]
        return quantile([each.seconds for each in outcome.requests if since <= each.due_at < until], 0.95)

    before = p95("before", "fill")
    parts = {"": ("fill", "back"), "/fill": ("fill", "filled"), "/switch": ("filled", "back")}
    figures: list[Figure] = []
    for name, (begin, end) in parts.items():
        during, target = p95(begin, end), None if name else Target("≤", 2.0)
        note = f"{before * 1e3:.0f} to {during * 1e3:.0f} ms"
        figures.append(Figure(f"p95_ratio{name}", during / before, "×", target, note))
    return figures


def _kills(outcome: Outcome) -> list[Figure]:
    """How many processes were killed while it was filled, and when."""
    victims = {"workers": ("filler", len(KILLS)), "database": ("database", 1)}
    figures: list[Figure] = []
    for name, (victim, wanted) in victims.items():
        at = [when - outcome.marks["fill"] for when, killed in outcome.kills if killed == victim]
        note = "`kill -9` after " + (", ".join(f"{seconds:.0f}" for seconds in at) or "no") + " s"
        figures.append(Figure(f"kills/{name}", len(at), "", Target("≥", wanted), note))
    return figures


if __name__ == "__main__":
    sys.exit(main())
