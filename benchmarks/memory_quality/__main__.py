"""Memory that is right: whether the turn that answers a question comes back, and the outdated fact does not.

    python -m benchmarks.memory_quality [--data DIR] [--json FILE] [--results FILE] [--plot PNG] [--vectors FILE]
        [--histories N] [--mem0 PYTHON] [--quick]

With --data, every set in LoCoMo's layout in the folder (`DIR/locomo/locomo.json`, and `DIR/NAME/NAME.json`): one
memory a turn, the built-in embedder, no language model, default settings, all categories of questions. Relevant are the
turns that a question names as its evidence. Measured are turns and sessions, beside baselines on the same texts and
vectors in the same run: cosine, BM25, a fusion of four arms by reciprocal rank with a session prior, and mem0. Then the
same on sets that are made of ClariQ, IN3 and LoCoMo, in some of which words help less than vectors (`made_sets.py`).

`ours` remembers texts of the form "Name: text", one memory each; `ingest` takes the same turns as a chat frontend hands
them in, who says it told apart from what is said, and makes statements of what the first of the two speakers says. Of
both there is what a turn costs; of the statements the share that no turn tells, by a rule of the benchmark's own
(`support.py`).

mem0 runs as its package ships in an environment and a process of its own, on pgvector in a database of the same server,
with the same vectors and no language model: `make install-peer` makes `venv-mem0`, else --mem0 names the Python of
another one. Without one its rows are left out. Beside it the service is timed (`latency.py`), on LoCoMo's turns or
those of the first set.

Always, 500 generated histories (`histories.py`) of what changes in a life, told turn by turn: whether a search puts the
fact that holds before those that do not, now and as of moments in between, in wordings that no rule was written beside.
Everything is asked at one set moment, the same in every run (`ours.NOW`): age counts.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from rich.console import Console
from rich.progress import Progress

from benchmarks.memory_quality.baselines import bm25, cosine, four_arms
from benchmarks.memory_quality.data import Conversation, Embedded, data_sets, windows
from benchmarks.memory_quality.figures import cost_figures, quality_figures, support_figure
from benchmarks.memory_quality.freshness import COUNT, freshness_figures
from benchmarks.memory_quality.ingested import Support, answer_ingested
from benchmarks.memory_quality.latency import QUICK, Plan, measure_latency
from benchmarks.memory_quality.latency_figures import latency_figures, note_of, search_figures
from benchmarks.memory_quality.made_sets import made_sets
from benchmarks.memory_quality.measures import Scores, by_scores, score
from benchmarks.memory_quality.ours import Cost, House, open_house
from benchmarks.memory_quality.peer import Peer, find_python, open_peers
from benchmarks.memory_quality.plot import write_plot
from benchmarks.report import Figure, arguments, describe_machine, new_progress, publish

BASELINES = ("cosine", "bm25", "rrf")


@dataclass
class Outcome:
    """What there is to tell: figures, the scores of each data set, versions of mem0, and a note."""

    figures: list[Figure] = field(default_factory=list[Figure])
    scores: dict[str, Scores] = field(default_factory=dict[str, Scores])
    versions: dict[str, str] = field(default_factory=dict[str, str])
    note: str = ""


def main() -> None:
    """Run the benchmark."""
    own, rest = own_arguments()
    options = arguments(__doc__, rest)
    machine = describe_machine(("onnxruntime", "asyncpg", "numpy"))
    with new_progress(Console(stderr=True)) as progress:
        outcome = uvloop.run(measure(options, own, progress))
    if own.plot and outcome.scores:
        write_plot(own.plot, outcome.scores)
    publish(options, "Memory quality", outcome.figures, machine | outcome.versions, outcome.note)


def own_arguments(argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """The options of this benchmark alone, and the rest of them."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--vectors", type=Path, metavar="FILE", help="keep vectors in FILE.npz for the next run")
    parser.add_argument("--histories", type=int, default=COUNT, help="generated histories in held-out wordings")
    parser.add_argument("--mem0", type=Path, metavar="PYTHON", help="the Python of an environment with mem0")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw recall@10 by type of question")
    return parser.parse_known_args(argv)


async def measure(options: argparse.Namespace, own: argparse.Namespace, progress: Progress) -> Outcome:
    """Everything. Raises SystemExit where there is nothing to measure."""
    sets = data_sets(options.data) if options.data else {}
    if options.data and not sets:
        raise SystemExit(f"no set in LoCoMo's layout in {options.data}: it looks for NAME/NAME.json")
    python = find_python(own.mem0) if sets else None
    outcome = Outcome()
    async with open_house(own.vectors) as house:
        async with open_peers(python, house) as peers:
            given = {name: each[: 1 if options.quick else None] for name, each in sets.items()}
            made: dict[str, list[Conversation]] = {}
            if sets:
                made = await made_sets(options.data, house, given.get("locomo", ()), is_quick=options.quick)
            for name, conversations in (given | made).items():
                measured = await _measured(house, peers, name, conversations, progress)
                outcome.scores[name] = measured.scores
                outcome.figures += quality_figures(name, measured.scores, is_by_type=name in given)
                outcome.figures += cost_figures(name, measured.costs)
                if "ingest" in measured.scores:
                    outcome.figures.append(support_figure(f"ingest/{name}", measured.support))
                took = {"ours": house.searched} | {who: peer.searched for who, peer in peers.items() if peer.searched}
                outcome.figures += search_figures(name, took)
            if sets:
                timed = sets.get("locomo") or next(iter(sets.values()))
                latency = await measure_latency(house, peers, timed, QUICK if options.quick else Plan(), progress)
                outcome.figures += latency_figures(latency)
                outcome.note = note_of(latency, peers)
                outcome.versions = {"mem0ai": peers["mem0"].version} if peers else {}
        outcome.figures += await freshness_figures(house, progress, 20 if options.quick else own.histories)
    return outcome


@dataclass
class Measured:
    """Of one set: the scores of whoever answered, what a turn cost by the way it came, and whether what was made of
    turns is told by them."""

    scores: Scores
    costs: dict[str, Cost]
    support: Support = field(default_factory=Support)


async def _measured(
    house: House, peers: Mapping[str, Peer], name: str, conversations: Sequence[Conversation], progress: Progress
) -> Measured:
    asked_too = {"mem0": peers["mem0"]} if "mem0" in peers else {}
    is_talk = all(conversation.is_talk for conversation in conversations)
    ways = ("ours", "ingest") if is_talk else ("ours",)
    measured = Measured({who: [] for who in (*ways, *BASELINES, *asked_too)}, dict.fromkeys(ways, Cost()))
    house.ask_after(turn for conversation in conversations for turn in conversation.turns)
    house.searched.clear()
    for peer in asked_too.values():
        await peer.open(name)
        peer.searched.clear()
    bar = progress.add_task(name, total=len(conversations))
    for conversation in conversations:
        for who, ranked in (await _ranked(house, conversation)).items():
            measured.scores[who] += score(conversation, by_scores(conversation, ranked))
        answers, cost = await house.answer(conversation)
        measured.scores["ours"] += score(conversation, answers)
        measured.costs["ours"] += cost
        if is_talk:
            answers, cost, support = await answer_ingested(house, conversation)
            measured.scores["ingest"] += score(conversation, answers)
            measured.costs["ingest"] += cost
            measured.support += support
        for who, peer in asked_too.items():
            measured.scores[who] += score(conversation, await peer.answer(conversation))
        progress.advance(bar)
    return measured


async def _ranked(house: House, conversation: Conversation) -> dict[str, np.ndarray[Any, np.dtype[np.floating]]]:
    """What each of the baselines gives each turn for each question."""
    texts = [turn.text for turn in conversation.turns]
    asked = [question.text for question in conversation.questions]
    embedded = Embedded(*[await house.embedder.embed(each) for each in (texts, windows(conversation), asked)])
    turns, questions = await house.stems(texts), await house.stems(asked)
    return {
        "cosine": cosine(embedded),
        "bm25": bm25(turns, questions),
        "rrf": four_arms(conversation, embedded, turns, questions),
    }


if __name__ == "__main__":
    main()
