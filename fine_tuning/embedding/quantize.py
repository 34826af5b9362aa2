"""A model's folder becomes a smaller one, measured against the original and let through by a policy, or not."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from math import floor
from pathlib import Path

import numpy as np

from fine_tuning.embedding import bitsandbytes_recipe, recipes
from fine_tuning.embedding.drift import Drift, MrrChange, measure_drift
from fine_tuning.embedding.encoding import ALONE, encode, open_model
from fine_tuning.embedding.errors import FineTuningError
from fine_tuning.embedding.evaluate import EvaluationRow, Ranking, RetrievalSet, paired_bootstrap, rank
from fine_tuning.embedding.graph import encode_by_weights, export_graph, load_weights, trace
from fine_tuning.embedding.policy import Policy, document, refusals
from fine_tuning.embedding.recipes import Feeds, Recipe
from fine_tuning.embedding.texts import GOLDEN_TEXTS, split_texts
from serving.errors import ModelRefused
from serving.folder import read_folder
from serving.golden import write_golden
from serving.pooling import Vectors, normalised
from serving.tokens import Splitter

REPORT = "quantization.json"
MOST_TEXTS = 300
"""That ranges are found by, and as many that drift is measured on."""

_GOLDEN_MARGIN = 0.01
"""What another processor's rounding may take from the golden vectors' cosine."""

_DESCRIBING = {".json", ".txt", ".md", ".model"}
_ABOUT_THE_ORIGINAL = {"golden.json", "metrics.json", "run_metadata.json", "data_config.json", REPORT}


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    drift: Drift
    refusals: Sequence[str]
    report: Path
    """In the folder where there is one, else beside it."""
    is_kept: bool


def quantize(
    source: Path,
    output: Path,
    recipe: Recipe,
    texts: Sequence[str],
    policy: Policy,
    evaluation: Sequence[EvaluationRow] | RetrievalSet | None = None,
    *,
    is_forced: bool = False,
) -> Outcome:
    """Write `output`, whole and by one rename, with its drift report; where the policy refuses it, the report alone,
    unless `is_forced`. `texts` are split: two thirds find the ranges of activations, one third measures the drift.
    Needs torch, and what the recipe needs. Raises FineTuningError; then nothing is left behind."""
    if output.exists():
        raise FineTuningError(f"{output} exists: name another output, or remove it first.")
    if not (source / "model.safetensors").is_file():
        raise FineTuningError(f"{source}/model.safetensors is missing: quantizing begins with a model's weights.")
    calibration, probes = split_texts(texts, MOST_TEXTS)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as scratch:
        original, draft = Path(scratch) / "original", Path(scratch) / output.name
        golden = write_quantized(source, original, draft, recipe, calibration)
        drift, _ = measure_drift(original, draft, probes, recipe.device)
        if evaluation is not None:
            drift = replace(drift, mrr=_mrr_change(original, draft, evaluation, recipe.device))
        backend = open_model(draft, device=recipe.device)
        kept = float((normalised(encode(backend, GOLDEN_TEXTS, ALONE)) * golden).sum(axis=1).min())
        backend.close()
        write_golden(draft, GOLDEN_TEXTS, golden, least_cosine=max(0.01, floor(1000 * (kept - _GOLDEN_MARGIN)) / 1000))
        why = refusals(policy, drift)
        is_kept = is_forced or not why
        report = {
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "source": source.resolve().name,
            **asdict(recipe),
            "calibration_texts": len(calibration),
            **drift.document(),
            "policy": document(policy),
            "refusals": why,
            "is_forced": is_forced and bool(why),
        }
        beside = output.with_name(f"{output.name}.{REPORT}")
        file = draft / REPORT if is_kept else beside
        file.write_text(json.dumps(report, indent=2) + "\n", "utf8")
        if is_kept:
            draft.rename(output)
            beside.unlink(missing_ok=True)  # of an earlier refusal
    return Outcome(drift, why, output / REPORT if is_kept else file, is_kept)


def write_quantized(source: Path, original: Path, draft: Path, recipe: Recipe, calibration: Sequence[str]) -> Vectors:
    """Write the folder without golden vectors and report, and beside it the original as it is served; the original's
    golden vectors. Raises FineTuningError."""
    copy_folder(source, original, with_weights=True)
    if not (original / "onnx").is_dir() and recipe.runtime != "torch":
        export_graph(original)
    if recipe.runtime == "torch":
        bitsandbytes_recipe.check_gpu()
        bitsandbytes_recipe.write_weights(source, draft, recipe.dtype)
        return encode_by_weights(load_weights(source), GOLDEN_TEXTS)
    model = load_weights(source)
    copy_folder(source, draft, with_weights=False)
    traced = trace(model, draft.with_name("traced.onnx"))
    recipes.apply(recipe, traced, draft, _feeds(source, traced, calibration))
    return encode_by_weights(model, GOLDEN_TEXTS)


def copy_folder(source: Path, folder: Path, *, with_weights: bool) -> None:
    """Copy what describes a model: its JSON files, vocabulary, card and modules; `with_weights` links what is large as
    well (not by name: ONNX Runtime takes weights from the graph's own folder only)."""
    large = {".safetensors", ".onnx", ".xml", ".bin"}
    for file in sorted(source.rglob("*")):
        place = file.relative_to(source)
        is_hidden = any(part.startswith(".") for part in place.parts)
        if is_hidden or not file.is_file() or file.name in _ABOUT_THE_ORIGINAL:
            continue
        target = folder / place
        if file.suffix in large and with_weights:
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(file, target)
        elif file.suffix in _DESCRIBING or file.stem.upper() in {"LICENSE", "LICENCE", "NOTICE"}:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def _link(file: Path, target: Path) -> None:
    try:
        target.hardlink_to(file.resolve())
    except OSError:  # on another disk
        shutil.copyfile(file, target)


def _feeds(source: Path, traced: Path, texts: Sequence[str]) -> list[Feeds]:
    """The texts as the graph is fed, one at a time. Raises FineTuningError."""
    import onnx  # noqa: PLC0415

    try:
        folder = read_folder(source, "sentence-transformers")
        splitter = Splitter.load(folder.tokenizer, folder.max_tokens, is_lower_cased=folder.is_lower_cased)
    except ModelRefused as error:
        raise FineTuningError(str(error)) from None
    prompt = folder.prompts.get(folder.default_prompt_name or "", "")
    inputs = [each.name for each in onnx.load(str(traced), load_external_data=False).graph.input]
    found: list[Feeds] = []
    for text in texts:
        ids, segments = splitter.split(prompt + text).ids.T.astype(np.int64)
        values = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": segments}
        found.append({name: values[name][np.newaxis] for name in inputs})
    return found


def _mrr_change(
    original: Path, quantized: Path, evaluation: Sequence[EvaluationRow] | RetrievalSet, device: str
) -> MrrChange:
    rankings: list[Ranking] = []
    for folder in (original, quantized):
        backend = open_model(folder, device=device)
        rankings.append(rank(partial(encode, backend), evaluation))
        backend.close()
    before, after = rankings
    difference = paired_bootstrap(before.reciprocal_ranks, after.reciprocal_ranks, before.groups)
    return MrrChange(before.figures().mrr, after.figures().mrr, difference, len(before.groups))
