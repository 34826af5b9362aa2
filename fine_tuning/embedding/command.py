"""Fine-tune from the command line: flags, one line for what is wrong, an exit status."""

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fine_tuning.embedding.base import find_base
from fine_tuning.embedding.console import exit_status, quieten
from fine_tuning.embedding.errors import FineTuningError
from fine_tuning.embedding.options import Options, check

_DEFAULTS = Options(Path(), Path())


def main(argv: Sequence[str] | None = None) -> int:
    """0 trained, 1 out of memory or disk, 2 after a line on what is to be mended, 130 interrupted."""

    def run() -> None:
        options = _parse(argv)
        check(options)
        if find_spec("sentence_transformers") is None or find_spec("peft") is None:
            raise FineTuningError("this needs the Python of venv-embed, which `make train-deps` makes.")
        base = find_base(options.base_model)
        quieten()
        from fine_tuning.embedding.run import fine_tune  # noqa: PLC0415 - torch takes seconds

        print(_summary(options, fine_tune(options, base)))

    return exit_status(
        run, "interrupted. The same command with --resume (RESUME=1) goes on from the newest checkpoint."
    )


def _summary(options: Options, metrics: dict[str, Any]) -> str:
    lines = [
        f"{options.output}: pairs {metrics['rows']['train']}, steps {metrics['steps']}, {metrics['seconds']['all']} s"
    ]
    if metrics["before"] is not None:
        pairs = [
            f"{name} {value:.4f} -> {metrics['after'][name]:.4f}"
            for name, value in metrics["before"].items()
            if isinstance(value, float)
        ]
        lines.append(f"held-out pairs {metrics['rows']['heldout']}: {', '.join(pairs)}")
    return "\n".join([*lines, f"Next: make embed-serve MODEL={options.output} NORMALIZE=1"])


def make_parser() -> argparse.ArgumentParser:
    """The flags, one for each field of Options."""
    parser = argparse.ArgumentParser(
        prog="train_embedding_model.py",
        description="Fine-tune an embedding model on pairs of texts. Figures and the curve lie in the output folder.",
        allow_abbrev=False,
    )
    flag = parser.add_argument
    flag("--data", type=Path, metavar="FILE", help="pairs as .tsv, .csv or .jsonl")
    flag("--output", type=Path, metavar="DIR", help="the folder to make")
    flag("--base-model", default=_DEFAULTS.base_model, help="built in, a folder, or a hub's ORGANISATION/MODEL")
    flag("--epochs", type=float, default=_DEFAULTS.epochs)
    flag("--batch-size", type=int, default=_DEFAULTS.batch_size, help="each pair is told from all others of its batch")
    flag("--lr", type=float, default=None, help="2e-5, or 2e-4 with --use-lora")
    flag("--use-lora", action="store_true", help="train an adapter and merge it: less memory, smaller changes")
    flag("--lora-rank", type=int, default=_DEFAULTS.lora_rank)
    flag("--keep-adapter", action="store_true", help="leave the adapter in OUTPUT/adapter, too")
    flag("--max-length", type=int, default=None, help="most tokens of a text; the base model's own")
    flag("--matryoshka", type=_numbers, default=(), metavar="N,N", help="vectors that may be cut to these lengths")
    flag("--mine-negatives", type=int, default=0, metavar="N", help="hard negatives to find for each pair")
    flag("--eval-data", type=Path, default=None, metavar="FILE", help="pairs to compare by, instead of held-out ones")
    flag("--eval-sample-size", type=int, default=_DEFAULTS.eval_sample_size, metavar="N", help="most pairs to hold out")
    flag("--save-every", type=int, default=None, metavar="N", help="steps between checkpoints; a tenth of all")
    flag("--seed", type=int, default=_DEFAULTS.seed)
    flag("--skip-bad-rows", action="store_true", help="leave out rows that cannot be used")
    flag("--resume", action="store_true", help="go on with an interrupted run from its newest checkpoint")
    flag("--overwrite", action="store_true", help="replace the output folder; begin an interrupted run anew")
    return parser


def _parse(argv: Sequence[str] | None) -> Options:
    """Raises FineTuningError for a missing --data or --output; argparse ends with 2 for what it does not know."""
    given = vars(make_parser().parse_args(argv))
    for name, variable in (("data", "DATA=data/finetune/pairs.tsv"), ("output", "OUTPUT=models/my-model")):
        if given[name] is None:
            raise FineTuningError(f"--{name} is missing ({variable} for make embed-finetune).")
    return Options(**given)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))
