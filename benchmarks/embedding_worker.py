"""The torch part of `benchmarks.embedding_quality`, a process in venv-embed:

    venv-embed/bin/python -m benchmarks.embedding_worker JOB.json OUT.json

JOB is a `Job` as JSON: fine-tune the built-in model on a file of pairs, make int8 of it, with ranges found on texts of
these pairs, and rank with the base, the tuned and the int8 model. OUT gets `{model: [[first rank, nDCG@10], ...]}` for
"base", "tuned" and "tuned_int8", a row for each query of all sets in their order, and "groups".
"""

import json
import sys
import tempfile
from dataclasses import dataclass
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

CALIBRATION_TEXTS = 200


@dataclass(frozen=True)
class Job:
    """What to do. `recipe` are flags of train_embedding_model.py."""

    pairs: str
    sets: list[dict[str, Any]]
    recipe: list[str]


def main(job_file: Path, out: Path) -> None:
    """Do a job."""
    job = Job(**json.loads(job_file.read_text("utf8")))
    sets = [RetrievalSet(**each) for each in job.sets]
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        base, tuned, small = (Path(scratch) / name for name in ("base", "tuned", "int8"))
        copy_folder(Path(find_base(BUILTIN).source), base, with_weights=True)
        export_graph(base)
        if command.main(["--data", job.pairs, "--output", str(tuned), "--eval-sample-size", "0", *job.recipe]):
            raise SystemExit("the training failed")
        calibration, _ = split_texts(read_texts(Path(job.pairs)), CALIBRATION_TEXTS)
        write_quantized(tuned, Path(scratch) / "original", small, choose("int8", None, None), calibration)
        for name, folder in {"base": base, "tuned": tuned, "tuned_int8": small}.items():
            backend = open_model(folder)
            ranking = concatenated([rank(partial(encode, backend), each) for each in sets])
            backend.close()
            found[name] = [list(row) for row in zip(ranking.first_ranks, ranking.ndcg_at_10, strict=True)]
            found["groups"] = list(ranking.groups)
    out.write_text(json.dumps(found), "utf8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
