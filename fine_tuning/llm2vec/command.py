"""The pipeline from the command line: flags, one line for what is wrong, an exit status."""

import argparse
import json
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fine_tuning.embedding.console import exit_status, quieten
from fine_tuning.embedding.errors import FineTuningError
from fine_tuning.llm2vec.options import Options, check

if TYPE_CHECKING:
    from fine_tuning.llm2vec.chat import WriteScript

_DEFAULTS = Options("", Path())
_NEEDS = ("sentence_transformers", "trl", "peft")


def main(write_script: "WriteScript", argv: Sequence[str] | None = None) -> int:
    """0 made, 1 out of memory or disk, or below --min-mrr, 2 after a line on what is to be mended, 130 interrupted."""

    def run() -> None:
        options, is_json = _parse(argv)
        check(options)
        if any(find_spec(name) is None for name in _NEEDS):
            raise FineTuningError("this needs the Python of venv-train, which ./setup_training.sh makes.")
        quieten()
        if not Path(options.base_model).exists():
            os.environ.setdefault("HF_HUB_OFFLINE", "0")  # a hub's model; `serving` is offline unless told otherwise
        from fine_tuning.llm2vec.run import run_pipeline  # noqa: PLC0415 - torch takes seconds

        metrics = run_pipeline(options, write_script)
        print(json.dumps({"output": str(options.output), **metrics}) if is_json else _summary(options, metrics))

    return exit_status(run, "interrupted. The same command with --resume goes on from where it was.")


def _summary(options: Options, metrics: dict[str, Any]) -> str:
    lines = [f"{options.output}: {metrics['seconds']['all']} s, {metrics['peak_memory_mb']} MiB"]
    for name, figure in (("retrieval", "mrr"), ("chat_loss", None)):
        if metrics[name] is not None:
            before, after = (
                metrics[name][when] if figure is None else metrics[name][when][figure] for when in ("before", "after")
            )
            lines.append(f"{figure or 'loss on held-out chats'}: {before:.4f} -> {after:.4f}")
    lines.append(f"paraphrases nearer than strangers: {metrics['smoke']['paraphrases_nearer']:.0%}")
    return "\n".join(lines)


def make_parser() -> argparse.ArgumentParser:
    """The flags, one for each field of Options, and --json."""
    parser = argparse.ArgumentParser(
        prog="dolphin_llm2vec_pipeline",
        description="Train one checkpoint to talk and to embed. EXPORT_GGUF=1 in the environment adds a GGUF file.",
        allow_abbrev=False,
    )
    flag = parser.add_argument
    flag("--base-model", required=True, metavar="DIR", help="a chat model's folder, or a hub's OWNER/MODEL")
    flag("--output", required=True, type=Path, metavar="DIR", help="the folder to make")
    flag("--data", type=Path, metavar="FILE", help="chats as .jsonl: prompt and completion in each line")
    flag("--eval-data", type=Path, metavar="FILE", help="held-out chats; NAME.heldout.jsonl beside NAME.jsonl")
    flag("--adapter", type=Path, metavar="DIR", help="go on from an adapter that was trained on chats, without --data")
    flag("--pairs", type=Path, metavar="FILE", help="pairs of texts as .tsv, .csv or .jsonl")
    flag("--eval-pairs", type=Path, metavar="FILE", help="pairs to compare by, instead of held-out ones")
    flag("--chat-epochs", type=float, default=_DEFAULTS.chat_epochs)
    flag("--chat-max-steps", type=int, help="ends the training on chats earlier")
    flag("--chat-batch-size", type=int, default=_DEFAULTS.chat_batch_size)
    flag("--chat-lr", type=float, help="0.0002")
    flag("--chat-max-length", type=int, default=_DEFAULTS.chat_max_length, help="longer chats are left out")
    flag("--pairs-epochs", type=float, default=_DEFAULTS.pairs_epochs)
    flag("--pairs-batch-size", type=int, default=_DEFAULTS.pairs_batch_size, help="each is told from all others of it")
    flag("--pairs-lr", type=float, default=_DEFAULTS.pairs_lr)
    flag("--eval-sample-size", type=int, default=_DEFAULTS.eval_sample_size, metavar="N", help="most pairs to hold out")
    flag("--lora-rank", type=int, default=_DEFAULTS.lora_rank)
    flag("--no-4bit", dest="load_in_4bit", action="store_false", help="on CUDA, do not load the base in 4 bits")
    flag("--gradient-checkpointing", action="store_true", help="less memory, a third slower")
    flag("--max-length", type=int, default=_DEFAULTS.max_length, help="most tokens of a text that is embedded")
    flag("--prompt", default="", help="put before every text that is embedded")
    flag("--no-normalise", dest="normalise", action="store_false", help="vectors keep their length by default")
    flag("--seed", type=int, default=_DEFAULTS.seed)
    flag("--min-mrr", type=float, metavar="X", help="a gate: with a lower MRR on held-out pairs nothing is written")
    flag("--skip-bad-rows", action="store_true", help="leave out rows that cannot be used")
    flag("--resume", action="store_true", help="go on with an interrupted run")
    flag("--overwrite", action="store_true", help="replace the output folder; begin an interrupted run anew")
    flag("--json", action="store_true", help="print the metrics as one JSON document")
    return parser


def _parse(argv: Sequence[str] | None) -> tuple[Options, bool]:
    """The options, and whether JSON is asked for. argparse ends with 2 for what it does not know."""
    given = vars(make_parser().parse_args(argv))
    is_json = given.pop("json")
    asked = os.environ.get("EXPORT_GGUF", "")
    if asked not in {"", "0", "1"}:
        raise FineTuningError(f"EXPORT_GGUF={asked} is not usable: 1, 0 or unset.")
    return Options(**given, export_gguf=asked == "1"), is_json
