"""One fine-tuning from a file of pairs to a folder that can be served.

Beside OUTPUT it works in `.OUTPUT.work`: rows, checkpoints, the finished folder, which one rename puts into its place.
A run that was killed leaves the working folder only, from which another one with `--resume` goes on.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, disable_progress_bars
from transformers import set_seed
from transformers.utils import logging as transformers_logging

from fine_tuning.embedding.base import Base, load_model, sha256_of
from fine_tuning.embedding.errors import told_when_out_of_memory
from fine_tuning.embedding.evaluate import EvaluationRow, retrieval_figures
from fine_tuning.embedding.graph import export_graph
from fine_tuning.embedding.negatives import with_mined_negatives
from fine_tuning.embedding.options import Options, check
from fine_tuning.embedding.progress import say
from fine_tuning.embedding.report import draw, environment, now, peak_memory_mb, write_card
from fine_tuning.embedding.rows import Rows, pairs_of, prepare_rows, training_sets
from fine_tuning.embedding.train import ON_GPU, Trained, train
from fine_tuning.embedding.workplace import begin, is_finished, locked, once, put_in_place, work_folder, write_json
from serving.pooling import Vectors


def fine_tune(options: Options, base: Base) -> dict[str, Any]:
    """Train `base`, and leave the model in `options.output`; its metrics. Nothing is done again where `resume` finds
    this very run finished. Raises FineTuningError, of which OutOfMemory; whatever is raised, OUTPUT is as it was."""
    check(options)
    disable_progress_bars()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    files = {"data": options.data, "eval_data": options.eval_data}
    data = {name: sha256_of(path) for name, path in files.items() if path is not None}
    what = {"base_model": base.name, "weights_sha256": base.weights_sha256, "data_sha256": data}
    what |= {"hyper_parameters": options.hyper_parameters()}
    run_id = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]
    if is_finished(options.output, run_id, resume=options.resume, overwrite=options.overwrite):
        say(f"{options.output} holds this very run, finished.")
        return json.loads((options.output / "metrics.json").read_text("utf8"))
    work = work_folder(options.output)
    with locked(work):
        begin(work, run_id, resume=options.resume, overwrite=options.overwrite)
        metadata = {"run_id": run_id, **what, "base_licence": base.licence, "started_at": now()}
        metadata["environment"] = environment()
        advice = (
            f"there is not enough memory for batches of {options.batch_size}: lower BATCH (--batch-size), "
            "or shorten texts with --max-length."
        )
        with told_when_out_of_memory(advice):
            metrics = _run(options, base, work, metadata)
        put_in_place(work, options.output)
    return metrics


def _run(options: Options, base: Base, work: Path, metadata: dict[str, Any]) -> dict[str, Any]:
    """The run; the finished folder is `work/finished`."""
    begun = time.monotonic()
    set_seed(options.seed)
    limit = options.eval_sample_size
    rows = prepare_rows(work / "rows", options.data, options.eval_data, limit, options.skip_bad_rows)
    say(f"pairs to train on: {len(rows.train)}, held out: {len(rows.heldout or [])}")
    if len(rows.train) == 1:
        say("one pair has no other to be told from: the model will hardly change")
    model = load_model(base, "cuda" if ON_GPU else "cpu")
    if options.max_length:
        model.max_seq_length = min(options.max_length, model.max_seq_length or options.max_length)
    before = once(work / "before.json", partial(_figures, model, rows.heldout))
    train_rows, mined = rows.train, 0
    if options.mine_negatives:
        train_rows, mined = _mined(options, rows, model, work)
    sets = training_sets(train_rows, work / "sets")
    prepared = time.monotonic()
    trained = train(options, base, model, sets, work)
    ended = time.monotonic()
    after = _figures(trained.model, rows.heldout)
    metrics: dict[str, Any] = {
        "before": before,
        "after": after,
        "loss": trained.losses,
        "rows": {**rows.counts, "mined_negatives": mined},
        "steps": trained.steps,
        "resumed_from_step": trained.resumed_from_step,
        "seconds": {"preparing": round(prepared - begun, 1), "training": round(ended - prepared, 1)},
        "peak_memory_mb": peak_memory_mb(),
        **{name: metadata[name] for name in ("base_model", "weights_sha256", "data_sha256", "environment")},
    }
    _write(options, base, trained, work, metrics)
    metrics["seconds"]["all"] = round(time.monotonic() - begun, 1)
    write_json(work / "finished" / "metrics.json", metrics)
    summary = {"before": before, "after": after}
    write_json(work / "finished" / "run_metadata.json", {**metadata, "finished_at": now(), "metrics": summary})
    return metrics


def _write(options: Options, base: Base, trained: Trained, work: Path, metrics: dict[str, Any]) -> None:
    """The finished folder: the model, its graph and golden vectors, its card and curve."""
    finished = work / "finished"
    shutil.rmtree(finished, ignore_errors=True)
    trained.model.save_pretrained(str(finished), create_model_card=False)
    if options.keep_adapter:
        shutil.copytree(work / "adapter", finished / "adapter")
    say("writing the graph that is served")
    export_graph(finished)
    write_card(finished / "README.md", options.output.name, base, metrics)
    draw(finished / "loss.png", metrics["loss"], f"{options.output.name}, from {base.name}")
    weights = finished / "model.safetensors"
    if weights.is_file():  # written for its owner only, where a server may be somebody else
        weights.chmod((finished / "config.json").stat().st_mode)


def _mined(options: Options, rows: Rows, model: Any, work: Path) -> tuple[Dataset, int]:
    """The rows to train on with mined negatives, and how many were found; of an interrupted run, what it found."""
    file, count = work / "rows" / "mined.arrow", work / "mined.json"
    if count.is_file():
        return Dataset.from_file(str(file)), json.loads(count.read_text("utf8"))
    say("looking for hard negatives")
    found, mined = with_mined_negatives(rows.train, model, options.mine_negatives, file, options.batch_size)
    say(f"hard negatives found: {mined}")
    count.write_text(json.dumps(mined), "utf8")
    return found, mined


def _figures(model: Any, heldout: Dataset | None) -> dict[str, Any] | None:
    """How well the model finds the held-out positives; None where nothing is held out."""
    if not heldout:
        return None

    def encode(texts: Sequence[str]) -> Vectors:
        return model.encode(list(texts), batch_size=32, show_progress_bar=False, convert_to_numpy=True)

    rows = [EvaluationRow(pair.anchor, pair.positive, pair.negatives, pair.group) for pair in pairs_of(heldout)]
    return asdict(retrieval_figures(encode, rows))
