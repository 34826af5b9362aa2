"""What the service knows of people who left something open: which questions fit a request, what an answer says, when
asking pays, how much a request needs it, and what someone's choices tell of their tastes.

Everything is fitted on the `train` files of ClariQ, IN3 and FlightPref and judged on their `dev` files, by the code
that the service runs; no language model takes part, and the same files give the same figures. `--data` has the layout
clariq/{train,dev,question_bank}.tsv, in3/{train,dev}.jsonl, flightpref/{train,dev}.json.
"""

import asyncio
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from app.clients.embeddings.onnx import OnnxEmbedder
from app.domain.belief import fit_reader
from app.domain.questions import wordings
from benchmarks.hypotheses.asking import asking_figures, fit_gains, people_held_out, people_of
from benchmarks.hypotheses.belief import belief_figures
from benchmarks.hypotheses.data import (
    Vectors,
    common_of,
    heard_of,
    read_bank,
    read_games,
    read_tasks,
    read_topics,
    texts_of,
)
from benchmarks.hypotheses.flights import flight_figures
from benchmarks.hypotheses.need import need_figures, vagueness_figures
from benchmarks.hypotheses.off_policy import off_policy_figures
from benchmarks.hypotheses.questions import question_figures
from benchmarks.report import Figure, arguments, describe_machine, new_progress, publish

FILES = (
    "clariq/train.tsv",
    "clariq/dev.tsv",
    "clariq/question_bank.tsv",
    "in3/train.jsonl",
    "in3/dev.jsonl",
    "flightpref/train.json",
    "flightpref/dev.json",
)


async def measure(data: Path, console: Console) -> list[Figure]:
    """All figures; the texts are embedded by the built-in model."""
    train, dev = read_topics(data / "clariq/train.tsv"), read_topics(data / "clariq/dev.tsv")
    bank = read_bank(data / "clariq/question_bank.tsv")
    tasks, dev_tasks = read_tasks(data / "in3/train.jsonl"), read_tasks(data / "in3/dev.jsonl")
    common = common_of(train)
    with TemporaryDirectory() as folder, new_progress(console) as progress:
        embedder = OnnxEmbedder.load(Path(folder), 1)
        vectors = Vectors(embedder)
        try:
            await vectors.add(texts_of([*train, *dev], common), progress)
            await vectors.add((form for text in bank.values() for form in wordings(text, common)), progress)
            await vectors.add((task.text for task in [*tasks, *dev_tasks]), progress)
        finally:
            await embedder.aclose()
    figures = question_figures(train, dev, bank, vectors, common)
    heard = [heard_of(topic, vectors, common) for topic in train]
    reader = fit_reader(heard)
    judged = [heard_of(topic, vectors, common) for topic in dev]
    figures += belief_figures(reader, judged)
    known = people_held_out(heard)
    figures += asking_figures(reader, fit_gains(reader, known), people_of(reader, judged), known)
    figures += need_figures([*train, *dev], list(bank.values()), vectors)
    figures += vagueness_figures(tasks, dev_tasks, vectors)
    figures += off_policy_figures()
    return figures + flight_figures(
        read_games(data / "flightpref/train.json"), read_games(data / "flightpref/dev.json")
    )


def main() -> int:
    """Run, print, and write what the options ask for; 2 where the data are not there."""
    options = arguments(__doc__)
    console = Console(stderr=True)
    missing = [each for each in FILES if options.data is None or not (options.data / each).is_file()]
    if missing:
        console.print(f"--data needs a folder with {', '.join(FILES)}; missing: {', '.join(missing)}")
        return 2
    started = time.perf_counter()
    machine = describe_machine(["numpy", "onnxruntime"])
    figures = asyncio.run(measure(options.data, console))
    machine["took"] = f"{time.perf_counter() - started:.0f} s"
    publish(options, "Knowing when to ask", figures, machine)
    return 0


if __name__ == "__main__":
    sys.exit(main())
