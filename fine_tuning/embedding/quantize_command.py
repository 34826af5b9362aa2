"""Quantize from the command line: flags, a table, the reasons of a refusal, an exit status."""

import argparse
import signal
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

from fine_tuning.embedding.drift import Drift, Measures
from fine_tuning.embedding.errors import FineTuningError
from fine_tuning.embedding.evaluation_data import read_evaluation
from fine_tuning.embedding.policy import load_policy
from fine_tuning.embedding.recipes import Dtype, Instructions, choose
from fine_tuning.embedding.texts import read_texts, shipped_texts


def main(argv: Sequence[str] | None = None) -> int:
    """0 written, 1 refused by the policy, 2 after a line on what is to be mended, 130 interrupted."""
    given = _parse(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if find_spec("torch") is None or find_spec("nncf") is None:
            raise FineTuningError("this needs the Python of venv-embed, which `make train-deps` makes.")
        recipe = choose(given.dtype, given.runtime, given.instructions)
        policy = load_policy(given.policy)
        texts = read_texts(given.calibration) if given.calibration else shipped_texts()
        evaluation = read_evaluation(given.eval_data) if given.eval_data else None
        from fine_tuning.embedding.quantize import quantize  # noqa: PLC0415 - the tools take seconds

        outcome = quantize(given.model_path, given.output, recipe, texts, policy, evaluation, is_forced=given.force)
    except FineTuningError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{error.filename or 'the disk'} cannot be used: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was written.", file=sys.stderr)
        return 130
    print(table(outcome.drift))
    for reason in outcome.refusals:
        print(f"refused: {reason}", file=sys.stderr)
    if outcome.is_kept:
        print(f"{given.output} is written. Next: make embed-serve MODEL={given.output} NORMALIZE=1")
        return 0
    print(f"not kept; the report is {outcome.report}. --force keeps the folder.", file=sys.stderr)
    return 1


def table(drift: Drift) -> str:
    """Both models side by side, a line for each figure."""
    before, after = drift.before, drift.after
    rows = [
        ("", "original", "quantized"),
        ("served by", before.backend, after.backend),
        ("size_mb", f"{before.size_mb:.1f}", f"{after.size_mb:.1f}"),
        ("texts_per_s", f"{before.texts_per_s:.0f}", f"{after.texts_per_s:.0f}"),
        ("p50_ms", f"{before.p50_ms:.2f}", f"{after.p50_ms:.2f}"),
        ("peak_rss_mb", f"{before.peak_rss_mb:.0f}", f"{after.peak_rss_mb:.0f}"),
        ("least_cosine_together", f"{before.least_cosine_together:.6f}", f"{after.least_cosine_together:.6f}"),
        ("texts share runs", _yes(before), _yes(after)),
    ]
    if drift.mrr:
        rows.append(("mrr", f"{drift.mrr.before:.4f}", f"{drift.mrr.after:.4f}"))
    lines = [f"{name:<22} {first:>10} {second:>10}" for name, first, second in rows]
    lines.append(
        f"cosine to the original over {drift.texts} texts: mean {drift.mean_cosine:.4f}, worst {drift.worst_cosine:.4f}"
    )
    if drift.mrr:
        change = drift.mrr.difference
        lines.append(f"mrr changes by {change.value:+.4f}, 95 % interval {change.low:+.4f} to {change.high:+.4f}")
    return "\n".join(lines)


def _yes(measures: Measures) -> str:
    return "yes" if measures.is_batchable else "no"


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="quantize_embedding_model.py",
        description="Make an embedding model smaller, and measure what it costs.",
        allow_abbrev=False,
    )
    flag = parser.add_argument
    flag("--model-path", type=Path, required=True, metavar="DIR", help="a sentence-transformers folder with weights")
    flag("--output", type=Path, required=True, metavar="DIR", help="the folder to make")
    flag("--dtype", choices=get_args(Dtype), default="int8")
    flag("--runtime", choices=("openvino", "onnx"), help="what serves it; openvino, and onnx for int8-dynamic")
    flag("--instructions", choices=get_args(Instructions), help="of the processor that serves it; this one's")
    flag("--calibration", type=Path, metavar="FILE", help="texts like those it will read: lines, or a file of pairs")
    flag("--eval-data", type=Path, metavar="FILE", help="pairs, or a retrieval set's folder, for the MRR")
    flag("--policy", type=Path, metavar="FILE", help="configs/quantization.yaml")
    flag("--force", action="store_true", help="keep what the policy refuses")
    return parser.parse_args(argv)
