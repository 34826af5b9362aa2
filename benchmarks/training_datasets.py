"""Preparing datasets out of a million training samples: how much memory, how long, and what is found in them.

    python -m benchmarks.training_datasets [--samples N] [--json FILE] [--results FILE] [--quick]

The samples are made up, with a fixed seed: 50 % choices among hypotheses, 15 % facet updates, 15 % rankings, 10 %
feedback and 10 % comparisons, of one user for every hundred samples (some have many times more than others). Among
the choices 5 % repeat an earlier one word for word, 5 % an earlier one with one word changed, and 0.5 % hold an
e-mail address; 0.1 % of all lines are damaged. What was planted carries a set id that says so, and what of it is left
in the datasets is counted there. The preparation runs in a process of its own; its peak of resident memory counts
all it loads. About one choice in five has feedback on it, which may turn hypotheses down.
"""

import argparse
import asyncio
import json
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any

import orjson
from rich.console import Console

from app.domain import training
from app.services.training import ModelTrainer, TrainingDataCollector
from benchmarks.report import Figure, Target, arguments, describe_machine, new_progress, publish

SAMPLES, QUICK = 1_000_000, 10_000
START = datetime(2026, 1, 1, tzinfo=UTC)
KINDS = {
    training.HYPOTHESES_FILE: 0.5,
    training.PERSONA_FILE: 0.15,
    training.RANKING_FILE: 0.15,
    training.FEEDBACK_FILE: 0.1,
    training.PREFERENCES_FILE: 0.1,
}
REPEATED = CHANGED = 0.05
LEAKY, DAMAGED = 0.005, 0.001
POOL = 4000
"""Choices that a repetition may repeat."""

_VERBS = "build write plan design test review translate compare summarise deploy refactor draft debug price".split()
_THINGS = """api dashboard letter itinerary menu budget logo invoice workout lesson podcast garden contract scraper
parser newsletter speech playlist survey wardrobe curriculum pipeline brochure recipe crossword""".split()
_TOOLS = "python rust excel figma postgres react django latex docker terraform notion pandas flask kotlin swift".split()
_PLACES = "porto lyon osaka lima oslo cork ghent turin hanoi quito accra perth malmo split leeds basel".split()
_WORDS = [f"{a}{b}{c}" for a in "ba ke li mo nu ra si to ve zu".split() for b in "dan fel gor mik nas pel".split()
          for c in "a en is or um".split()]  # fmt: skip


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--samples", type=int)
    ours, rest = parser.parse_known_args()
    options = arguments(__doc__, rest)
    count = ours.samples or (QUICK if options.quick else SAMPLES)
    machine = describe_machine(("datasketch", "orjson", "numpy", "sentencepiece"))
    folder = Path(tempfile.mkdtemp(prefix="datasets-bench-"))
    try:
        planted = write_samples(folder, count)
        command = [sys.executable, "-m", "benchmarks.training_datasets", "--prepare", str(folder)]
        run = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
        figures = figures_of(folder, count, planted, run)
    finally:
        shutil.rmtree(folder)
    publish(options, "Training datasets", figures, machine, f"{count:,} samples.")


def write_samples(folder: Path, count: int) -> dict[str, int]:
    """The five files of samples; how many were planted of each kind."""
    planted: dict[str, int] = {}
    with new_progress(Console(stderr=True)) as progress:
        bar = progress.add_task("making samples up", total=count)
        for file, share in KINDS.items():
            random = Random(file)
            with (folder / file).open("wb") as out:
                for sample in _samples(file, random, int(count * share), max(10, count // 100)):
                    kind = str(sample.get("hypothesis_set_id", "")).partition("-")[0]
                    planted[kind] = planted.get(kind, 0) + 1
                    out.write(orjson.dumps(sample) + b"\n")
                    if random.random() < DAMAGED:
                        out.write(b'{"timestamp": "2026-0\n')
                    progress.advance(bar)
    return planted


def figures_of(folder: Path, count: int, planted: dict[str, int], run: dict[str, Any]) -> list[Figure]:
    """What the datasets hold of what was planted, and what the preparation took."""
    summary = json.loads((folder / "datasets" / "dataset_summary.json").read_bytes())
    rows = sum(each["rows"] for each in summary["files"].values())
    left, has_secret = dict.fromkeys(("repeated", "changed"), 0), 0
    for path in (folder / "datasets").glob("hypotheses_chat*.jsonl"):
        with path.open("rb") as opened:
            for line in opened:
                kind = orjson.loads(line)["meta"]["set_id"].partition("-")[0]
                left[kind] = left.get(kind, 0) + 1
                has_secret += b"@mail.example" in line
    dropped = summary["datasets"]["hypotheses_chat"]["dropped"]
    doubles = sum(number for reason, number in dropped.items() if "duplicate" in reason)
    found = {kind: planted[kind] - left[kind] for kind in ("repeated", "changed")}
    innocent = doubles - sum(found.values())
    seconds = run["seconds"]
    return [
        Figure("rss_mb", run["rss_mb"], "MiB", Target("≤", 500) if count <= SAMPLES else None, "peak of the process"),
        Figure("seconds", seconds, "s", None, f"{run['bytes'] / 2**20:,.0f} MiB of samples"),
        Figure("cpu_s", run["cpu_s"], "s", None, "of one core"),
        Figure("samples_per_s", count / seconds, "/s"),
        Figure("rows_per_s", rows / seconds, "/s", None, f"{rows:,} rows"),
        Figure("repeated/found", found["repeated"] / planted["repeated"], "", Target("≥", 1.0), "word for word"),
        Figure("changed/found", found["changed"] / planted["changed"], "", Target("≥", 0.97), "one word of 60"),
        Figure("innocent/dropped", innocent / planted["set"], "", Target("≤", 0.001), "of choices not planted"),
        Figure("secrets/left", has_secret, "rows", Target("≤", 0)),
    ]


def prepare(folder: Path) -> None:
    """The measured process: print how long it took and the peak of its memory."""
    collector = TrainingDataCollector(folder, is_enabled=False, max_bytes=1)
    with new_progress(Console(stderr=True)) as progress:
        bar = progress.add_task("preparing", total=None)
        trainer = ModelTrainer(collector)
        coroutine = trainer.prepare_training_dataset(
            folder / "datasets",
            on_progress=lambda now: progress.update(bar, completed=now.done, total=now.total, description=now.stage),
        )
        paths = asyncio.run(coroutine)
    seconds = json.loads(Path(paths["summary"]).read_bytes())["seconds"]
    used = resource.getrusage(resource.RUSAGE_SELF)
    peak = used.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    size = sum((folder / file).stat().st_size for file in KINDS)
    cpu_s = used.ru_utime + used.ru_stime
    print(json.dumps({"seconds": seconds, "cpu_s": cpu_s, "rss_mb": peak, "bytes": size}))


def _samples(file: str, random: Random, count: int, users: int) -> Iterator[dict[str, Any]]:
    """Samples of a file, oldest first."""
    weights = list(accumulate(1 / (rank + 10) ** 0.7 for rank in range(users)))
    names = [f"user-{number}" for number in range(users)]
    pool: list[dict[str, Any]] = []
    for number in range(count):
        at = START + timedelta(seconds=number * 60 * 60 * 24 * 90 / count)
        set_number = 5 * number if file == training.FEEDBACK_FILE else number
        user = Random(set_number).choices(names, cum_weights=weights)[0]
        about = training.About(at, user, hypothesis_set_id=f"set-{set_number}", maker=training.Maker("m", "p1"))
        if file != training.HYPOTHESES_FILE:
            yield {**about.head(), **_OTHERS[file](random, number), **about.tail()}
            continue
        chance = random.random()
        if pool and chance < REPEATED + CHANGED:
            earlier = random.choice(pool)
            kind = "repeated" if chance < REPEATED else "changed"
            body = earlier if kind == "repeated" else _changed(earlier, random)
            yield {**body, "timestamp": about.timestamp, "hypothesis_set_id": f"{kind}-{number}"}
            continue
        sample = {**about.head(), **_choice(random, user), **about.tail()}
        if sample["selected_id"] is not None and number % 5:  # what feedback may have turned down is not repeated
            if len(pool) < POOL:
                pool.append(sample)
            else:
                pool[random.randrange(POOL)] = sample
        yield sample


def _choice(random: Random, user: str) -> dict[str, Any]:
    verb, thing = random.choice(_VERBS), random.choice(_THINGS)
    asked = f"{verb} {_said(random, 2)} {thing}"
    if random.random() < LEAKY:
        asked += f", answer to {_said(random, 1)}{random.randrange(1000)}@mail.example.com"
    shown: list[dict[str, Any]] = []
    for number in range(1, 4):
        task = f"{verb} {_said(random, 3)} {thing} in {random.choice(_PLACES)} with {random.choice(_TOOLS)}"
        shown.append(
            {
                "id": f"h{number}",
                "question": f"Do you want me to {task} for {_said(random, 2)}?",
                "request": f"{task.capitalize()} for {_said(random, 2)}.",
                "confidence": 0.3,
                "evidence": [],
            }
        )
    known = Random(f"{user}-{random.randrange(5)}")
    memories = [
        {"type": "PREFERENCE", "content": f"I like {_said(known, 4)} in {known.choice(_PLACES)}", "date": "2026-01-01"}
        for _ in range(known.randrange(9))
    ]
    facets = {"concise": known.random(), "code_first": known.random(), "formal": 0.5, "step_by_step": 0.5}
    return {
        "user_input": asked,
        "context": {"persona_facets": facets, "recent_goals": [], "preferences": [], "memories": memories},
        "hypotheses": shown,
        "selected_id": random.choice(["h1", "h1", "h2", "h3", None]),
        "label": "positive",
    }


def _changed(sample: dict[str, Any], random: Random) -> dict[str, Any]:
    shown = [dict(one) for one in sample["hypotheses"]]
    one = random.choice(shown)
    words = one["question"].split()
    words[random.randrange(len(words))] = "quite"
    one["question"] = " ".join(words)
    return {**sample, "hypotheses": shown}


def _move(random: Random, number: int) -> dict[str, Any]:
    facet = random.choice(["concise", "formal", "code_first", "step_by_step"])
    before = dict.fromkeys(["concise", "formal", "code_first", "step_by_step"], round(random.random(), 2))
    comment = f"{_said(random, 3)} is too long, {_said(random, 3)}" if number % 2 else None
    return {
        "signal": {"kind": "feedback", "feedback": comment, "rating": round(random.uniform(-1, 1), 2)},
        "persona_facets": before,
        "updates": {facet: random.choice([-0.16, -0.08, 0.08, 0.16])},
        "facets_after": before,
        "source": random.choice(["local", "vllm"]),
    }


def _ranking(random: Random, number: int) -> dict[str, Any]:
    found = [
        {"rank": rank, "id": f"m{rank}", "type": "HISTORY", "content": f"I met {_said(random, 9)}", "score": 0.5}
        for rank in range(1, 13)
    ]
    return {
        "query": f"{_said(random, 4)} {number}",
        "candidates": found,
        "used_ids": [each["id"] for each in found[: random.randrange(12)]],
        "success": random.choice([True, None, False]),
    }


def _feedback(random: Random, number: int) -> dict[str, Any]:
    ids = random.sample(["h1", "h2", "h3"], random.randrange(3))
    return {
        "execution_id": None,
        "success": None,
        "rating": 0.0,
        "comment": _said(random, 6),
        "rejected_ids": ids,
    }


def _comparison(random: Random, number: int) -> dict[str, Any]:
    return {
        "hypothesis_a": f"Do you want {_said(random, 8)}?",
        "hypothesis_b": f"Do you want {_said(random, 8)}?",
        "preferred": random.choice(["hypothesis_a", "hypothesis_b", "tie"]),
        "reward": 1.0,
    }


def _said(random: Random, words: int) -> str:
    return " ".join(random.choices(_WORDS, k=words))


_OTHERS = {
    training.PERSONA_FILE: _move,
    training.RANKING_FILE: _ranking,
    training.FEEDBACK_FILE: _feedback,
    training.PREFERENCES_FILE: _comparison,
}

if __name__ == "__main__":
    if "--prepare" in sys.argv:
        prepare(Path(sys.argv[-1]))
    else:
        main()
