"""What fine-tuning gains for people it has not seen, and what int8 keeps of it.

    python -m benchmarks.embedding_quality --data DIR [--json FILE] [--results FILE] [--quick]

DIR/locomo: the questions about a conversation find the turns that answer them among all turns of that conversation;
one conversation after the other is held out with both of its people, and the model is trained on the others. Hard
negatives are the turns beside the evidence. DIR/clariq: a request with a facet finds the clarifying questions of its
topic in the bank; trained on the topics of train.tsv, held out are those of dev.tsv. The base is the built-in model.
Intervals are paired bootstraps, over people (LoCoMo) and topics (ClariQ). `--quick` holds out one conversation.
Training runs in the environment of `make train-deps` (EMBED_VENV, venv-embed), in processes of its own.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.embedding_worker import Job
from benchmarks.report import Figure, Target, arguments, describe_machine, publish
from fine_tuning.embedding.evaluate import Interval, Ranking, concatenated, mean_interval, paired_bootstrap

LOCOMO_RECIPE = "--epochs 2 --lr 5e-5 --batch-size 32"
CLARIQ_RECIPE = "--epochs 1 --lr 5e-5 --batch-size 32"
ADVERSARIAL = 5
ASK_NOTHING = "Q00001"
QUESTIONS_PER_FACET = 3


@dataclass(frozen=True)
class Conversation:
    """One of LoCoMo's, as a retrieval set and as pairs to train on."""

    retrieval: dict[str, Any]
    pairs: list[dict[str, Any]]


def main() -> None:
    """Run the benchmark."""
    options = arguments(__doc__)
    if options.data is None or not (options.data / "locomo").is_dir() or not (options.data / "clariq").is_dir():
        raise SystemExit("--data DIR with locomo and clariq in it is needed; nothing was measured.")
    machine = describe_machine(("onnxruntime", "numpy"))
    conversations = read_locomo(options.data / "locomo" / "locomo.json")
    figures = figures_of("locomo", run_locomo(conversations, 1 if options.quick else len(conversations)), "people")
    if not options.quick:
        figures += figures_of("clariq", run_clariq(options.data / "clariq"), "topics")
    publish(options, "Embedding quality", figures, machine, __doc__.partition("\n\n")[2].split("\n\n")[1])


def run_locomo(conversations: Sequence[Conversation], held_out: int) -> dict[str, Ranking]:
    """The ranking of each model over the conversations, each ranked by a model that was not trained on it."""
    folds: list[dict[str, Ranking]] = []
    for number in range(held_out):
        others = [pair for place, each in enumerate(conversations) if place != number for pair in each.pairs]
        folds.append(run_worker(others, [conversations[number].retrieval], LOCOMO_RECIPE))
    return {name: concatenated([fold[name] for fold in folds]) for name in folds[0]}


def run_clariq(folder: Path) -> dict[str, Ranking]:
    """The ranking of each model over the topics of dev.tsv."""
    return run_worker(clariq_pairs(folder / "train.tsv"), [clariq_set(folder)], CLARIQ_RECIPE)


def run_worker(pairs: Sequence[dict[str, Any]], sets: list[dict[str, Any]], recipe: str) -> dict[str, Ranking]:
    """Train, make int8 and rank, in a process of venv-embed."""
    python = Path(os.environ.get("EMBED_VENV", "venv-embed")) / "bin" / "python"
    if not python.is_file():
        raise SystemExit(f"{python} is missing: run make train-deps, or name its folder in EMBED_VENV.")
    with tempfile.TemporaryDirectory() as scratch:
        file, job, out = (Path(scratch) / name for name in ("pairs.jsonl", "job.json", "out.json"))
        file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), "utf8")
        job.write_text(json.dumps(asdict(Job(str(file), sets, recipe.split()))), "utf8")
        command = [str(python), "-m", "benchmarks.embedding_worker", str(job), str(out)]
        subprocess.run(command, check=True, stdout=sys.stderr)
        found = json.loads(out.read_text("utf8"))
    groups = found.pop("groups")
    return {name: Ranking(*np.array(rows).T, groups) for name, rows in found.items()}


def figures_of(data: str, rankings: dict[str, Ranking], groups: str) -> list[Figure]:
    """MRR, hits and nDCG of each model, the gain of tuning and what int8 keeps of the tuned MRR."""
    figures: list[Figure] = []
    for name, ranking in rankings.items():
        count = f"{len(ranking.groups)} queries, {len(set(ranking.groups))} {groups}"
        figures.append(
            Figure(
                f"{data}/mrr/{name}",
                ranking.reciprocal_ranks.mean(),
                "",
                None,
                _words(mean_interval(ranking.reciprocal_ranks, ranking.groups)),
            )
        )
        figures.append(Figure(f"{data}/hit@10/{name}", ranking.hits(10).mean(), "", None, count))
        figures.append(Figure(f"{data}/ndcg@10/{name}", ranking.ndcg_at_10.mean()))
    base, tuned, small = (rankings[name] for name in ("base", "tuned", "tuned_int8"))
    gain = paired_bootstrap(base.reciprocal_ranks, tuned.reciprocal_ranks, tuned.groups)
    cost = paired_bootstrap(tuned.reciprocal_ranks, small.reciprocal_ranks, tuned.groups)
    mean = float(tuned.reciprocal_ranks.mean())
    return [
        *figures,
        Figure(f"{data}/mrr/gain", gain.value, "", None, _words(gain)),
        Figure(f"{data}/mrr/gain/low", gain.low, "", Target("≥", 0), "the gain's interval lies above 0"),
        Figure(
            f"{data}/mrr/int8_keeps",
            1 + cost.value / mean,
            "",
            Target("≥", 0.99),
            f"{1 + cost.low / mean:.3f} to {1 + cost.high / mean:.3f}",
        ),
    ]


def read_locomo(file: Path) -> list[Conversation]:
    """The conversations: every turn a text, every answerable question a query whose evidence is relevant."""
    return [_conversation(each) for each in json.loads(file.read_text("utf8"))]


def _conversation(document: dict[str, Any]) -> Conversation:
    sessions = [value for value in document["conversation"].values() if isinstance(value, list)]
    turns = [turn for session in sessions for turn in session]
    texts = {turn["dia_id"]: f"{turn['speaker']}: {turn['text']}" for turn in turns}
    speakers = {turn["dia_id"]: turn["speaker"] for turn in turns}
    beside = {
        turn["dia_id"]: [texts[other["dia_id"]] for other in session[max(0, at - 2) : at + 3] if other is not turn]
        for session in sessions
        for at, turn in enumerate(session)
    }
    queries: dict[str, str] = {}
    relevance: dict[str, dict[str, float]] = {}
    groups: dict[str, str] = {}
    pairs: list[dict[str, Any]] = []
    for number, asked in enumerate(document["qa"]):
        evidence = [turn for turn in asked.get("evidence") or () if turn in texts]
        if asked["category"] == ADVERSARIAL or not evidence:
            continue
        query = f"{document['sample_id']}/{number}"
        queries[query], relevance[query] = asked["question"], dict.fromkeys(evidence, 1.0)
        groups[query] = f"{document['sample_id']}/{speakers[evidence[0]]}"
        own = {texts[turn] for turn in evidence}
        for turn in evidence:
            negatives = [text for text in beside[turn] if text not in own][:2]
            # Without a group: the trainer would hold a whole person out once more.
            pairs.append({"text_a": asked["question"], "text_b": texts[turn], "negative": negatives})
    return Conversation({"queries": queries, "corpus": texts, "relevance": relevance, "groups": groups}, pairs)


def clariq_pairs(file: Path) -> list[dict[str, Any]]:
    """For each facet some of its topic's questions, drawn with a fixed seed."""
    random, pairs = Random(0), list[dict[str, Any]]()
    for (_, request, facet), questions in _facets(file).items():
        for question in random.sample(sorted(questions.values()), min(QUESTIONS_PER_FACET, len(questions))):
            pairs.append({"text_a": f"{request} {facet}", "text_b": question})
    random.shuffle(pairs)
    return pairs


def clariq_set(folder: Path) -> dict[str, Any]:
    """dev.tsv over the whole bank."""
    with (folder / "question_bank.tsv").open(encoding="utf8", newline="") as opened:
        corpus = {
            row["question_id"]: row["question"] for row in csv.DictReader(opened, delimiter="\t") if row["question"]
        }
    corpus.pop(ASK_NOTHING, None)
    queries: dict[str, str] = {}
    relevance: dict[str, dict[str, float]] = {}
    groups: dict[str, str] = {}
    for number, ((topic, request, facet), questions) in enumerate(_facets(folder / "dev.tsv").items()):
        known = {question: 1.0 for question in questions if question in corpus}
        if known:
            queries[str(number)], relevance[str(number)], groups[str(number)] = f"{request} {facet}", known, topic
    return {"queries": queries, "corpus": corpus, "relevance": relevance, "groups": groups}


def _facets(file: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    """By topic, request and facet the questions that were asked, by id."""
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    with file.open(encoding="utf8", newline="") as opened:
        for row in csv.DictReader(opened, delimiter="\t"):
            if row["question_id"] != ASK_NOTHING and row["question"]:
                key = (row["topic_id"], row["initial_request"], row["facet_desc"])
                found.setdefault(key, {})[row["question_id"]] = row["question"]
    return found


def _words(interval: Interval) -> str:
    return f"{interval.low:.4f} to {interval.high:.4f}"


if __name__ == "__main__":
    main()
