"""Memory that is right: whether the turn that answers a question comes back, and the outdated fact does not.

    python -m benchmarks.memory_quality [--data DIR] [--json FILE] [--results FILE] [--vectors FILE]
        [--histories N] [--quick]

With --data, every set in LoCoMo's layout in the folder (`DIR/locomo/locomo.json`, and `DIR/NAME/NAME.json`): one
memory a turn, the built-in embedder, no language model, default settings, all categories of questions. Relevant are the
turns that a question names as its evidence. Measured are turns and sessions, beside baselines on the same texts,
vectors and stems in the same run: cosine, BM25, and a fusion of four arms by reciprocal rank with a session prior.

Always, 500 generated histories (`histories.py`) of what changes in a life, told turn by turn: whether a search puts the
fact that holds before those that do not, now and as of moments in between, in wordings that no rule was written beside.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import uvloop
from rich.console import Console
from rich.progress import Progress

from benchmarks.memory_quality.baselines import bm25, cosine, four_arms
from benchmarks.memory_quality.data import Conversation, Embedded, data_sets, windows
from benchmarks.memory_quality.figures import quality_figures
from benchmarks.memory_quality.freshness import COUNT, freshness_figures
from benchmarks.memory_quality.measures import Score, by_scores, score
from benchmarks.memory_quality.ours import House, open_house
from benchmarks.report import Figure, arguments, describe_machine, new_progress, publish

Scores = dict[str, list[Score]]
"""The scores of all questions by who answered."""


def main() -> None:
    """Run the benchmark."""
    own, rest = own_arguments()
    options = arguments(__doc__, rest)
    machine = describe_machine(("onnxruntime", "asyncpg", "numpy"))
    with new_progress(Console(stderr=True)) as progress:
        figures = uvloop.run(measure(options, own, progress))
    publish(options, "Memory quality", figures, machine)


def own_arguments(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """The options of this benchmark alone, and the rest of them."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--vectors", type=Path, metavar="FILE", help="keep vectors in FILE.npz for the next run")
    parser.add_argument("--histories", type=int, default=COUNT, help="generated histories in held-out wordings")
    return parser.parse_known_args(argv)


async def measure(options: argparse.Namespace, own: argparse.Namespace, progress: Progress) -> list[Figure]:
    """All figures. Raises SystemExit where there is nothing to measure."""
    sets = data_sets(options.data) if options.data else {}
    if options.data and not sets:
        raise SystemExit(f"no set in LoCoMo's layout in {options.data}: it looks for NAME/NAME.json")
    figures: list[Figure] = []
    async with open_house(own.vectors) as house:
        for name, conversations in sets.items():
            figures += quality_figures(
                name, await _scores(house, conversations[: 1 if options.quick else None], progress)
            )
        figures += await freshness_figures(house, progress, 20 if options.quick else own.histories)
    return figures


async def _scores(house: House, conversations: Sequence[Conversation], progress: Progress) -> Scores:
    scores: Scores = {name: [] for name in ("ours", "cosine", "bm25", "rrf")}
    bar = progress.add_task("conversations", total=len(conversations))
    for conversation in conversations:
        texts = [turn.text for turn in conversation.turns]
        asked = [question.text for question in conversation.questions]
        embedded = Embedded(*[await house.embedder.embed(each) for each in (texts, windows(conversation), asked)])
        turns, questions = await house.stems(texts), await house.stems(asked)
        ranked: dict[str, np.ndarray[tuple[int, int], np.dtype[np.floating]]] = {
            "cosine": cosine(embedded),
            "bm25": bm25(turns, questions),
            "rrf": four_arms(conversation, embedded, turns, questions),
        }
        for name, each in ranked.items():
            scores[name] += score(conversation, by_scores(conversation, each))
        scores["ours"] += score(conversation, await house.answer(conversation))
        progress.advance(bar)
    return scores


if __name__ == "__main__":
    main()
