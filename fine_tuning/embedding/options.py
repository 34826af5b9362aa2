"""What a fine-tuning is told."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fine_tuning.embedding.base import BUILTIN
from fine_tuning.embedding.errors import FineTuningError

LEARNING_RATE, LORA_LEARNING_RATE = 2e-5, 2e-4
"""Where none is named: of all weights, and of an adapter's, which begin at nothing."""


@dataclass(frozen=True)
class Options:
    """One field per flag of `train_embedding_model.py`."""

    data: Path
    output: Path
    base_model: str = BUILTIN
    epochs: float = 1.0
    batch_size: int = 32
    lr: float | None = None
    use_lora: bool = False
    lora_rank: int = 16
    keep_adapter: bool = False
    max_length: int | None = None
    matryoshka: tuple[int, ...] = ()
    mine_negatives: int = 0
    eval_data: Path | None = None
    eval_sample_size: int = 500
    save_every: int | None = None
    seed: int = 0
    skip_bad_rows: bool = False
    resume: bool = False
    overwrite: bool = False

    @property
    def learning_rate(self) -> float:
        """The one that is used."""
        if self.lr is not None:
            return self.lr
        return LORA_LEARNING_RATE if self.use_lora else LEARNING_RATE

    def hyper_parameters(self) -> dict[str, Any]:
        """What makes a run another run, beside its data and its base model."""
        aside = {"data", "output", "base_model", "eval_data", "save_every", "resume", "overwrite", "lr"}
        own = {name: value for name, value in asdict(self).items() if name not in aside}
        return {**own, "matryoshka": list(self.matryoshka), "learning_rate": self.learning_rate}


def check(options: Options) -> None:
    """Raises FineTuningError for what cannot be meant."""
    least = {"epochs": options.epochs, "batch_size": options.batch_size, "lr": options.learning_rate}
    least |= {"lora_rank": options.lora_rank, "max_length": options.max_length or 1}
    least |= {"save_every": options.save_every or 1, "matryoshka": min(options.matryoshka, default=1)}
    for name, value in least.items():
        if not value > 0:
            raise FineTuningError(f"--{name.replace('_', '-')} {value} is not usable: it has to be more than 0.")
    for name, value in {"mine_negatives": options.mine_negatives, "eval_sample_size": options.eval_sample_size}.items():
        if value < 0:
            raise FineTuningError(f"--{name.replace('_', '-')} {value} is not usable: it has to be 0 or more.")
    if options.keep_adapter and not options.use_lora:
        raise FineTuningError("--keep-adapter keeps the adapter of --use-lora; without that there is none.")
    for path in (options.data, options.eval_data):
        if path is not None and not path.is_file():
            raise FineTuningError(f"there is no file {path}.")
    if options.output.resolve() in {
        Path.cwd().resolve(),
        *Path.cwd().resolve().parents,
        *options.data.resolve().parents,
    }:
        raise FineTuningError(f"{options.output} holds more than a model: name a folder of its own.")
