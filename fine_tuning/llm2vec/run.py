"""One run of the pipeline: from a checkpoint that talks to a folder that talks and embeds.

    adapter of the chats -> the same adapter on pairs -> merged -> measured -> GGUF -> manifest and wrapper

Each stage leaves what it made in the working folder `.OUTPUT.work`, from where an interrupted run goes on; one rename
puts the finished folder into its place.
"""

import gc
import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, disable_progress_bars
from transformers import set_seed
from transformers.utils import logging as transformers_logging

from fine_tuning.embedding.base import sha256_of
from fine_tuning.embedding.errors import FineTuningError, told_when_out_of_memory
from fine_tuning.embedding.evaluate import EvaluationRow, retrieval_figures
from fine_tuning.embedding.evaluation_data import read_evaluation
from fine_tuning.embedding.progress import say
from fine_tuning.embedding.report import environment, now, peak_memory_mb
from fine_tuning.embedding.rows import Rows, pairs_of, prepare_rows, training_sets
from fine_tuning.embedding.texts import GOLDEN_TEXTS
from fine_tuning.embedding.workplace import begin, is_finished, locked, once, put_in_place, work_folder, write_json
from fine_tuning.llm2vec import checkpoint
from fine_tuning.llm2vec.chat import WriteScript, train_chat
from fine_tuning.llm2vec.chat_rows import read_chat_rows
from fine_tuning.llm2vec.contrast import train_pairs
from fine_tuning.llm2vec.export import export_wrapper
from fine_tuning.llm2vec.gguf import NAME as GGUF
from fine_tuning.llm2vec.gguf import check_converter, export_gguf
from fine_tuning.llm2vec.loss import MOST_ROWS, chat_loss
from fine_tuning.llm2vec.options import Options, check
from fine_tuning.llm2vec.smoke import Encode, Smoke, smoke_test
from serving import VERSION
from serving.golden import write_golden
from serving.llm2vec.manifest import TRAINED, parse_manifest, read_manifest
from serving.pooling import Vectors


class BelowTheGate(FineTuningError):
    """The checkpoint embeds worse than was asked for; nothing was put into the output."""

    exit_status = 1


def run_pipeline(options: Options, write_script: WriteScript) -> dict[str, Any]:
    """Make `options.output`; its metrics. A run that `resume` finds finished is taken as it is, but for a GGUF file
    that is asked for now. Raises FineTuningError, of which OutOfMemory and BelowTheGate; whatever is raised, OUTPUT is
    as it was."""
    check(options)
    disable_progress_bars()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    base = checkpoint.base_folder(options.base_model)
    if options.data is not None and not checkpoint.load_tokenizer(base).chat_template:
        raise FineTuningError(f"{options.base_model} has no chat template: it cannot be trained on --data.")
    if options.export_gguf:
        check_converter()
    what = {"base_model": str(base), "weights_sha256": _weights(base)}
    what |= {"data_sha256": {name: sha256_of(path) for name, path in options.files().items()}}
    what |= {"hyper_parameters": options.hyper_parameters()}
    run_id = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]
    if is_finished(options.output, run_id, resume=options.resume, overwrite=options.overwrite):
        say(f"{options.output} holds this very run, finished.")
        _with_gguf(options)
        return json.loads((options.output / "metrics.json").read_text("utf8"))
    work = work_folder(options.output)
    with locked(work):
        begin(work, run_id, resume=options.resume, overwrite=options.overwrite)
        metadata = {"run_id": run_id, "method": "llm2vec", **what, "code_version": VERSION, "started_at": now()}
        metadata["environment"] = environment()
        advice = (
            f"there is not enough memory for batches of {options.pairs_batch_size} pairs: lower --pairs-batch-size or "
            "--max-length, or give --gradient-checkpointing."
        )
        with told_when_out_of_memory(advice):
            metrics = _run(options, base, work, metadata, write_script)
        put_in_place(work, options.output)
    return metrics


def _run(
    options: Options, base: Path | str, work: Path, metadata: dict[str, Any], write_script: WriteScript
) -> dict[str, Any]:
    """The stages; the finished folder is `work/finished`."""
    begun, seconds = time.monotonic(), dict[str, float]()
    set_seed(options.seed)

    def ended(stage: str) -> None:
        seconds[stage] = round(time.monotonic() - begun - sum(seconds.values()), 1)
        gc.collect()  # the stage's model

    metrics: dict[str, Any] = {"chat": None, "pairs": None, "retrieval": None}
    rows = _pairs(options, work)
    heldout = _heldout_pairs(options, rows)
    before = once(work / "before.json", partial(_retrieval, base, options, heldout))
    ended("before")
    adapter = options.adapter
    if options.data is not None:
        say("training on the chats")
        metrics["chat"] = train_chat(options, base, work, write_script)
        adapter = work / "chat" / "adapter"
        ended("chat")
    if rows is not None:
        say(f"training on the pairs: {len(rows.train)}, held out: {len(rows.heldout or [])}")
        metrics["pairs"] = _train_pairs(options, base, adapter, rows, work)
        adapter = work / "pairs" / "adapter"
        ended("pairs")
    if adapter is None:
        raise FineTuningError("there is nothing to train on.")
    say("merging, and trying it out")
    finished = _merged(options, base, adapter, work)
    smoke, after = _measured(finished, heldout)
    metrics["smoke"] = asdict(smoke)
    metrics["retrieval"] = {"before": before, "after": after} if before is not None else None
    metrics["chat_loss"] = _chat_loss(options, base, finished / "merged", work)
    ended("merging")
    _gate(options, metrics["retrieval"])
    if options.export_gguf:
        say("writing the GGUF file")
        export_gguf(finished / "merged", finished / GGUF)
        _name_gguf(finished)
        ended("gguf")
    export_wrapper(finished, export_dir=options.output)
    metrics |= {"seconds": seconds | {"all": round(time.monotonic() - begun, 1)}, "peak_memory_mb": peak_memory_mb()}
    write_json(finished / "metrics.json", metrics)
    exports = sorted(path.name for path in finished.iterdir())
    summary = {name: metrics[name] for name in ("retrieval", "chat_loss", "smoke")}
    write_json(
        finished / "run_metadata.json", metadata | {"finished_at": now(), "exports": exports, "metrics": summary}
    )
    return metrics


def _pairs(options: Options, work: Path) -> Rows | None:
    if options.pairs is None:
        return None
    return prepare_rows(
        work / "rows", options.pairs, options.eval_pairs, options.eval_sample_size, options.skip_bad_rows
    )


def _heldout_pairs(options: Options, rows: Rows | None) -> list[EvaluationRow]:
    """What retrieval is measured on; nothing where there are no pairs."""
    if rows is not None:
        return [
            EvaluationRow(pair.anchor, pair.positive, pair.negatives, pair.group)
            for pair in (pairs_of(rows.heldout) if isinstance(rows.heldout, Dataset) else ())
        ]
    if options.eval_pairs is None:
        return []
    found = read_evaluation(options.eval_pairs)
    if not isinstance(found, list):
        raise FineTuningError(f"{options.eval_pairs} is not a file of pairs.")
    return found[: options.eval_sample_size]


def _train_pairs(options: Options, base: Path | str, adapter: Path | None, rows: Rows, work: Path) -> dict[str, Any]:
    """Leave the adapter in `work/pairs/adapter`; what is worth noting down, from an interrupted run where it ended."""

    def compute() -> dict[str, Any]:
        model = checkpoint.load_to_embed(base, options)
        checkpoint.add_adapter(model, adapter, options.lora_rank)
        trained = train_pairs(options, model, training_sets(rows.train, work / "sets"), work / "pairs" / "checkpoints")
        checkpoint.save_adapter(model, work / "pairs" / "adapter", str(base))
        return {
            "rows": rows.counts,
            "steps": trained.steps,
            "resumed_from_step": trained.resumed_from_step,
            "loss": trained.losses,
        }

    return once(work / "pairs.json", compute)


def _merged(options: Options, base: Path | str, adapter: Path, work: Path) -> Path:
    """The finished folder with adapter, merged weights, tokenizer and manifest."""
    finished = work / "finished"
    shutil.rmtree(finished, ignore_errors=True)
    checkpoint.copy_adapter(adapter, finished / "adapters", str(base))
    dimension = checkpoint.save_merged(base, finished / "adapters", finished / "merged", options)
    checkpoint.load_tokenizer(base).save_pretrained(finished / "tokenizer")
    checkpoint.manifest_of(options, base, dimension).write(finished / TRAINED)
    return finished


def _measured(finished: Path, heldout: Sequence[EvaluationRow]) -> tuple[Smoke, dict[str, Any] | None]:
    """The smoke test, golden vectors and retrieval, of the folder as consumers will read it."""
    encode = _encoder(checkpoint.open_merged(finished / "merged"))
    smoke = smoke_test(encode, read_manifest(finished).embedding.dimension, checkpoint.DEVICE)
    write_golden(finished / "merged", GOLDEN_TEXTS, encode(GOLDEN_TEXTS))
    return smoke, asdict(retrieval_figures(encode, heldout)) if heldout else None


def _chat_loss(options: Options, base: Path | str, merged: Path, work: Path) -> dict[str, float | None] | None:
    """The loss on held-out chats of the base and of the merged model; None where there are none."""
    file = work / "chat.heldout.jsonl"
    if not file.is_file():
        return None
    rows = read_chat_rows(file, MOST_ROWS)
    return {
        when: chat_loss(source, rows, options.chat_max_length) for when, source in (("before", base), ("after", merged))
    }


def _retrieval(base: Path | str, options: Options, heldout: Sequence[EvaluationRow]) -> dict[str, Any] | None:
    """How well the base finds what belongs to a text; None where nothing is held out."""
    if not heldout:
        return None
    return asdict(retrieval_figures(_encoder(checkpoint.load_to_embed(base, options)), heldout))


def _encoder(model: Any) -> Encode:
    def encode(texts: Sequence[str], batch_size: int = 16) -> Vectors:
        return model.encode(list(texts), batch_size=batch_size, show_progress_bar=False)

    return encode


def _gate(options: Options, retrieval: dict[str, Any] | None) -> None:
    """Raises BelowTheGate."""
    if options.min_mrr is None:
        return
    if retrieval is None:
        raise BelowTheGate("--min-mrr cannot be measured: there are too few pairs to hold any out. Give --eval-pairs.")
    found, queries = retrieval["after"]["mrr"], retrieval["after"]["queries"]
    if found < options.min_mrr:
        raise BelowTheGate(
            f"MRR {found:.3f} on {queries} held-out pairs (before: {retrieval['before']['mrr']:.3f}) is below "
            f"--min-mrr {options.min_mrr:g}: nothing was put into {options.output}. Train on more pairs or longer; "
            "--resume with a lower --min-mrr takes it as it is."
        )


def _with_gguf(options: Options) -> None:
    """Add the GGUF file that a finished run was made without."""
    if options.export_gguf and read_manifest(options.output).artifacts.gguf is None:
        say("writing the GGUF file")
        export_gguf(options.output / "merged", options.output / GGUF)
        _name_gguf(options.output)
        export_wrapper(options.output)


def _name_gguf(folder: Path) -> None:
    """Have the manifest name the GGUF file."""
    file = folder / TRAINED
    manifest = parse_manifest(file.read_bytes(), str(file))
    replace(manifest, artifacts=replace(manifest.artifacts, gguf=GGUF)).write(file)


def _weights(base: Path | str) -> dict[str, str]:
    """The hash of each file of weights; none of a hub's model, which has its name only."""
    return {path.name: sha256_of(path) for path in sorted(base.glob("*.safetensors"))} if isinstance(base, Path) else {}
