"""What fine-tuning gains for people it has not seen, and what int8 keeps of it.

    python -m benchmarks.embedding_quality --data DIR [--json FILE] [--results FILE] [--quick]

LoCoMo: the questions about a conversation find the turns that answer them among all turns of that conversation. Two
conversations at a time are held out with all their people, and the model is trained on the others; the hard negative of
a turn is the one before it. ClariQ: a request with a facet finds the clarifying questions of its topic in the bank;
trained on the topics of train.tsv, held out are those of dev.tsv. The base is the built-in model; int8 finds its ranges
on texts that were trained on. Intervals are paired 95 % bootstraps over people (LoCoMo) and topics (ClariQ).

DIR holds locomo/locomo.json and clariq/{train,dev,question_bank}.tsv. `--quick` holds out two conversations only, and
leaves ClariQ out. Training runs in the environment of `make train-deps` (EMBED_VENV, venv-embed), in other processes.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.embedding_worker import Job
from benchmarks.report import Figure, Target, arguments, describe_machine, publish
from fine_tuning.embedding.evaluate import Interval, PerQuery, Ranking, concatenated, mean_interval, paired_bootstrap

LOCOMO_RECIPE = "--epochs 1 --lr 1e-4 --max-length 64"
CLARIQ_RECIPE = "--epochs 1 --use-lora"
NOTE = (
    f"LoCoMo is trained with `{LOCOMO_RECIPE}`, ClariQ with `{CLARIQ_RECIPE}`. "
    "Intervals are 95 % ones, over people and over topics; those of gains are paired."
)

HELD_OUT_AT_ONCE = 2
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
    held_out = HELD_OUT_AT_ONCE if options.quick else len(conversations)
    figures = figures_of("locomo", run_locomo(conversations, held_out), "people", "mrr")
    if not options.quick:
        figures += figures_of("clariq", run_clariq(options.data / "clariq"), "topics", "ndcg@10")
    publish(options, "Embedding quality", figures, machine, NOTE)


def run_locomo(conversations: Sequence[Conversation], held_out: int) -> dict[str, Ranking]:
    """The ranking of each model over the first `held_out` conversations, each ranked by a model that was not trained on
    it."""
    folds: list[dict[str, Ranking]] = []
    for start in range(0, held_out, HELD_OUT_AT_ONCE):
        end = start + HELD_OUT_AT_ONCE
        pairs = [pair for each in (*conversations[:start], *conversations[end:]) for pair in each.pairs]
        folds.append(run_worker(pairs, [each.retrieval for each in conversations[start:end]], LOCOMO_RECIPE))
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
    columns = {name: np.array(rows).T for name, rows in found.items()}
    return {name: Ranking(first_ranks, ndcg_at_10, groups) for name, (first_ranks, ndcg_at_10) in columns.items()}


def figures_of(data: str, rankings: dict[str, Ranking], groups: str, aim: str) -> list[Figure]:
    """MRR, hits and nDCG of each model, what tuning gains, and what int8 keeps of the tuned MRR. The gain of `aim`
    ("mrr" or "ndcg@10") is to be above 0."""
    base, tuned, small = (rankings[name] for name in ("base", "tuned", "tuned_int8"))
    figures: list[Figure] = []
    for name, ranking in rankings.items():
        mean = mean_interval(ranking.reciprocal_ranks, ranking.groups)
        figures.append(Figure(f"{data}/mrr/{name}", mean.value, note=_words(mean)))
        figures.append(Figure(f"{data}/hit@10/{name}", ranking.hits(10).mean()))
        figures.append(Figure(f"{data}/ndcg@10/{name}", ranking.ndcg_at_10.mean()))
    for measure, before, after in (
        ("mrr", base.reciprocal_ranks, tuned.reciprocal_ranks),
        ("ndcg@10", base.ndcg_at_10, tuned.ndcg_at_10),
    ):
        gain = paired_bootstrap(before, after, tuned.groups)
        figures.append(Figure(f"{data}/{measure}/gain", gain.value, note=_words(gain)))
        figures.append(
            Figure(
                f"{data}/{measure}/gain/low",
                gain.low,
                target=Target("≥", 0) if measure == aim else None,
                note=f"{len(tuned.groups)} queries; {_better(before, after, tuned.groups)} {groups} are better off",
            )
        )
    cost = paired_bootstrap(tuned.reciprocal_ranks, small.reciprocal_ranks, tuned.groups)
    kept = [1 + each / tuned.reciprocal_ranks.mean() for each in (cost.value, cost.low, cost.high)]
    figures.append(Figure(f"{data}/mrr/int8_keeps", kept[0], "", Target("≥", 0.99), f"{kept[1]:.3f} to {kept[2]:.3f}"))
    return figures


def _better(before: PerQuery, after: PerQuery, groups: Sequence[str]) -> str:
    """In how many of the groups the mean has risen, as words."""
    _, of_query = np.unique(np.asarray(groups), return_inverse=True)
    gains = np.bincount(of_query, after - before)
    return f"{int((gains > 0).sum())} of {len(gains)}"


def read_locomo(file: Path) -> list[Conversation]:
    """The conversations: every turn a text, every answerable question a query whose evidence is relevant."""
    return [_conversation(each) for each in json.loads(file.read_text("utf8"))]


def _conversation(document: dict[str, Any]) -> Conversation:
    sessions: list[list[dict[str, Any]]] = [
        value for value in document["conversation"].values() if isinstance(value, list)
    ]
    turns = [turn for session in sessions for turn in session]
    texts = {turn["dia_id"]: f"{turn['speaker']}: {turn['text']}" for turn in turns}
    speakers = {turn["dia_id"]: turn["speaker"] for turn in turns}
    before = {turn["dia_id"]: texts[previous["dia_id"]] for session in sessions for previous, turn in pairwise(session)}
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
            negatives = [text for text in [before.get(turn)] if text and text not in own]
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
