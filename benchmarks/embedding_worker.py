"""The torch part of `benchmarks.embedding_quality`, a process in venv-embed:

    venv-embed/bin/python -m benchmarks.embedding_worker JOB.json OUT.json

JOB is a `Job` as JSON: fine-tune a model on a file of pairs, make int8 of it, and rank with the base, the tuned and the
int8 model. OUT gets `{model: [[first rank, nDCG@10], ...]}` for "base", "tuned" and "tuned_int8", a row for each query
of all sets in their order, and "groups".
"""

import json
import sys
import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from fine_tuning.embedding import command
from fine_tuning.embedding.base import BUILTIN, find_base
from fine_tuning.embedding.encoding import encode, open_model
from fine_tuning.embedding.evaluate import RetrievalSet, concatenated, rank
from fine_tuning.embedding.graph import export_graph
from fine_tuning.embedding.quantize import copy_folder, write_quantized
from fine_tuning.embedding.recipes import choose
from fine_tuning.embedding.texts import read_texts, split_texts


@dataclass(frozen=True)
class Job:
    """What to do. `recipe` are flags of train_embedding_model.py; `pairs` are for the ranges of int8, too."""

    pairs: str
    sets: list[dict[str, Any]]
    recipe: list[str] = field(default_factory=list[str])
    has_int8: bool = True
    has_base: bool = True


def main(job_file: Path, out: Path) -> None:
    """Do a job."""
    job = Job(**json.loads(job_file.read_text("utf8")))
    sets = [RetrievalSet(**each) for each in job.sets]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        base, tuned, small = (Path(scratch) / name for name in ("base", "tuned", "int8"))
        folders: dict[str, Path] = {}
        if job.has_base:
            copy_folder(Path(find_base(BUILTIN).source), base, with_weights=True)
            export_graph(base)
            folders["base"] = base
        asked = ["--data", job.pairs, "--output", str(tuned), "--eval-sample-size", "1", *job.recipe]
        if command.main(asked):
            raise SystemExit("the training failed")
        folders["tuned"] = tuned
        if job.has_int8:
            calibration, _ = split_texts(read_texts(Path(job.pairs)), 200)
            write_quantized(tuned, Path(scratch) / "original", small, choose("int8", None, None), calibration)
            folders["tuned_int8"] = small
        for name, folder in folders.items():
            backend = open_model(folder)
            ranking = concatenated([rank(partial(encode, backend), each) for each in sets])
            backend.close()
            found[name] = [list(row) for row in zip(ranking.first_ranks, ranking.ndcg_at_10, strict=True)]
            found["groups"] = list(ranking.groups)
    out.write_text(json.dumps(found), "utf8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
