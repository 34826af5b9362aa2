"""What the pipeline is told."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fine_tuning.embedding.errors import FineTuningError


@dataclass(frozen=True)
class Options:
    """One field per flag of `dolphin_llm2vec_pipeline`."""

    base_model: str
    output: Path
    data: Path | None = None
    eval_data: Path | None = None
    adapter: Path | None = None
    pairs: Path | None = None
    eval_pairs: Path | None = None
    chat_epochs: float = 2.0
    chat_max_steps: int | None = None
    chat_batch_size: int = 4
    chat_lr: float | None = None
    chat_max_length: int = 2048
    pairs_epochs: float = 1.0
    pairs_batch_size: int = 32
    pairs_lr: float = 2e-4
    eval_sample_size: int = 500
    lora_rank: int = 16
    load_in_4bit: bool = True
    gradient_checkpointing: bool = False
    max_length: int = 512
    prompt: str = ""
    normalise: bool = True
    seed: int = 42
    min_mrr: float | None = None
    skip_bad_rows: bool = False
    resume: bool = False
    overwrite: bool = False
    export_gguf: bool = False

    @property
    def heldout_data(self) -> Path | None:
        """Chat rows to compare by: those named, or NAME.heldout.jsonl beside NAME.jsonl where it is there."""
        if self.eval_data is not None or self.data is None:
            return self.eval_data
        beside = self.data.with_suffix(f".heldout{self.data.suffix}")
        return beside if beside.is_file() else None

    def files(self) -> dict[str, Path]:
        """The files that make the run what it is, by what they are for."""
        adapter = None if self.adapter is None else self.adapter / "adapter_model.safetensors"
        named = {"data": self.data, "eval_data": self.heldout_data, "adapter": adapter}
        named |= {"pairs": self.pairs, "eval_pairs": self.eval_pairs}
        return {name: path for name, path in named.items() if path is not None}

    def hyper_parameters(self) -> dict[str, Any]:
        """What makes a run another run, beside its data and its base model."""
        files = {"data", "eval_data", "adapter", "pairs", "eval_pairs"}
        aside = files | {"base_model", "output", "min_mrr", "resume", "overwrite", "export_gguf"}
        return {name: value for name, value in asdict(self).items() if name not in aside}


def check(options: Options) -> None:
    """Raises FineTuningError for what cannot be meant."""
    least: dict[str, float | None] = {
        name: getattr(options, name)
        for name in ("chat_epochs", "chat_max_steps", "chat_batch_size", "chat_lr", "chat_max_length", "pairs_epochs")
    }
    least |= {name: getattr(options, name) for name in ("pairs_batch_size", "pairs_lr", "lora_rank")}
    for name, value in least.items():
        if value is not None and not value > 0:
            raise FineTuningError(f"--{name.replace('_', '-')} {value} is not usable: it has to be more than 0.")
    if options.max_length < 2:
        raise FineTuningError(f"--max-length {options.max_length} is not usable: it has to be 2 or more.")
    if options.data is None and options.pairs is None and options.adapter is None:
        raise FineTuningError("there is nothing to train on: give --data with chats, --pairs with pairs, or both.")
    if options.data is not None and options.adapter is not None:
        raise FineTuningError("--adapter takes the place of a training on --data: give one of them.")
    if options.eval_data is not None and options.data is None:
        raise FineTuningError("--eval-data is compared by in a training on --data; there is none.")
    if options.min_mrr is not None and options.pairs is None and options.eval_pairs is None:
        raise FineTuningError(
            "--min-mrr is measured on pairs: give --eval-pairs, or --pairs of which some are held out."
        )
    for path in options.files().values():
        if not path.is_file():
            raise FineTuningError(f"there is no file {path}.")
    here = Path.cwd().resolve()
    sources = [parent for path in options.files().values() for parent in path.resolve().parents]
    if options.output.resolve() in {here, *here.parents, *sources}:
        raise FineTuningError(f"{options.output} holds more than a model: name a folder of its own.")
