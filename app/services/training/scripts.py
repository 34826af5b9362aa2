"""The training script: one readable Python file, written from a template, for the training environment to run."""

import math
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args
from unicodedata import east_asian_width

from app.domain.errors import InvalidInput

Method = Literal["sft", "dpo", "reward", "grpo"]
"""Supervised on what users chose; preferences directly; a model that rates answers; tries judged by rewards."""

GrpoRewards = Literal["rules", "model"]

SCRIPT = Path("data/training/train_model.py")

_TEMPLATE = Path(__file__).with_name("train_model.py.tmpl")
_WIDTH = 120
_TITLES: Mapping[Method, str] = {
    "sft": "Fine-tune a language model on the answers that users chose (supervised, the loss on the answers only).",
    "dpo": "Fine-tune a language model on preferences: chosen answers against rejected ones (DPO).",
    "reward": "Train a reward model on preferences: it rates an answer, the chosen one above the rejected one.",
    "grpo": "Fine-tune a language model by rewards for its own answers (GRPO).",
}
_LEARNING_RATES: Mapping[Method, float] = {"sft": 2e-4, "dpo": 5e-5, "reward": 1e-4, "grpo": 2e-5}
_BETAS: Mapping[Method, float] = {"sft": 0.0, "dpo": 0.1, "reward": 0.0, "grpo": 0.0}


@dataclass(frozen=True)
class TrainingOptions:
    """The hyper-parameters and exports of a training; None is the method's own default.

    `warmup` and `evaluate_every` are steps, or below 1 a share of all of them. `max_length` counts the tokens of
    prompt and answer; `evaluate_rows` held-out rows, spread evenly, are evaluated at most. `generations`,
    `max_answer`, `temperature`, `grpo_rewards` and `reward_model_path` are GRPO's; `beta` is DPO's and GRPO's.
    `load_in_4bit` counts on a GPU only.
    """

    learning_rate: float | None = None
    epochs: float = 2.0
    max_steps: int | None = None
    batch_size: int = 4
    gradient_accumulation: int = 4
    scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "cosine"
    warmup: float = 0.05
    weight_decay: float = 0.01
    max_length: int = 2048
    seed: int = 42
    lora_rank: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    load_in_4bit: bool = True
    gradient_checkpointing: bool = True
    evaluate_every: float = 0.1
    evaluate_rows: int = 200
    patience: int = 3
    beta: float | None = None
    generations: int = 4
    max_answer: int = 512
    temperature: float = 1.0
    grpo_rewards: GrpoRewards = "rules"
    reward_model_path: str | Path | None = None
    export_merged: bool = True
    export_gguf: bool = False


def generate_training_script(
    *,
    dataset_path: str | Path,
    model_name: str,
    output_model_path: str | Path,
    method: Method = "sft",
    options: TrainingOptions | None = None,
    heldout_path: str | Path | None = None,
    script_path: str | Path = SCRIPT,
    code_version: str | None = None,
) -> Path:
    """Write the script and return its path; an older one is replaced as a whole.

    `dataset_path`: prompt and completion in each row for `sft` and `grpo`, prompt, chosen and rejected for `dpo` and
    `reward`. `heldout_path`: by default NAME.heldout.jsonl beside NAME.jsonl; the script looks for it when it runs.
    `model_name`: a name on the Hugging Face hub or a folder. Relative paths are meant from where the script is run.
    Raises InvalidInput with the option's name for what cannot be trained.
    """
    options = options or TrainingOptions()
    _require(method in get_args(Method), f"method must be one of {', '.join(get_args(Method))}", "method")
    _check(method, options)
    dataset, script = Path(dataset_path), Path(script_path)
    heldout = Path(heldout_path) if heldout_path is not None else dataset.with_suffix(f".heldout{dataset.suffix}")
    for name, text in (("model_name", model_name), ("dataset_path", dataset), ("output_model_path", output_model_path)):
        _require(bool(str(text).strip()), f"{name} is empty", name)

    values = {
        "BASE_MODEL": model_name,
        "DATASET": dataset,
        "HELDOUT": heldout,
        "OUTPUT": Path(output_model_path),
        "REWARD_MODEL": str(options.reward_model_path),
        "CODE_VERSION": code_version,
        "METHOD": method,
        "SEED": options.seed,
        "EPOCHS": options.epochs,
        "MAX_STEPS": -1 if options.max_steps is None else options.max_steps,
        "BATCH_SIZE": options.batch_size,
        "GRADIENT_ACCUMULATION": options.gradient_accumulation,
        "LEARNING_RATE": _LEARNING_RATES[method] if options.learning_rate is None else options.learning_rate,
        "SCHEDULER": options.scheduler,
        "WARMUP": options.warmup,
        "WEIGHT_DECAY": options.weight_decay,
        "MAX_LENGTH": options.max_length,
        "BETA": _BETAS[method] if options.beta is None else options.beta,
        "GENERATIONS": options.generations,
        "MAX_ANSWER": options.max_answer,
        "TEMPERATURE": options.temperature,
        "LORA_RANK": options.lora_rank,
        "LORA_ALPHA": options.lora_alpha,
        "LORA_DROPOUT": options.lora_dropout,
        "LOAD_IN_4BIT": options.load_in_4bit,
        "GRADIENT_CHECKPOINTING": options.gradient_checkpointing,
        "EVALUATE_EVERY": options.evaluate_every,
        "EVALUATE_ROWS": options.evaluate_rows,
        "PATIENCE": options.patience,
        "EXPORT_MERGED": options.export_merged,
        "EXPORT_GGUF": options.export_gguf,
    }
    text = render(_TEMPLATE.read_text("utf-8"), _flags(method, options), values)
    text = text.replace("{{TITLE}}", _TITLES[method]).replace("{{RUN_LINE}}", _run_line(script))
    _write_whole(script, text)
    return script


def render(template: str, flags: set[str], values: Mapping[str, object]) -> str:
    """The template's text for these flags, `{{NAME}}` replaced by the value as Python writes it.

    A line `#: one two` begins a part that is there for any of these flags only, up to the next such line; `#: end`
    begins what is always there.
    """
    lines: list[str] = []
    is_kept = True
    for line in template.splitlines():
        if line.startswith("#: "):
            names = set(line.removeprefix("#: ").split())
            is_kept = names == {"end"} or bool(names & flags)
        elif is_kept:
            lines.append(_filled(line, values))
    return "\n".join(lines) + "\n"


def literal(value: object) -> str:
    """A value as Python source, in the one form that formatters leave alone."""
    if isinstance(value, Path):
        return f"Path({literal(str(value))})"
    if not isinstance(value, str):
        return repr(value)
    quote = "'" if value.count('"') > value.count("'") else '"'
    inner = "".join(_escaped(character, quote) for character in value)
    return f"{quote}{inner}{quote}"


def _filled(line: str, values: Mapping[str, object]) -> str:
    """The line with its values, laid out as formatters lay out a line that is too long."""
    replace: Callable[[re.Match[str]], str] = lambda found: literal(values[found[1]])  # noqa: E731
    filled = re.sub(r"\{\{(?!TITLE|RUN_LINE)([A-Z_0-9]+)\}\}", replace, line)
    if filled == line or _columns(filled) <= _WIDTH:
        return filled
    start, is_path, text = filled.partition(" = Path(")
    if not is_path:
        return f"{filled}  # noqa: E501"
    inner = f"    {text.removesuffix(')')}"
    is_reported = _columns(inner) > _WIDTH and " " in inner.strip()
    return f"{start}{is_path}\n{inner}{'  # noqa: E501' if is_reported else ''}\n)"


def _columns(line: str) -> int:
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in line)


def _escaped(character: str, quote: str) -> str:
    if character in {quote, "\\"}:
        return f"\\{character}"
    return character if character.isprintable() else repr(character)[1:-1]


def _flags(method: Method, options: TrainingOptions) -> set[str]:
    is_rated = method == "grpo" and options.grpo_rewards == "model"
    flags: set[str] = {method, "rewardmodel" if is_rated else "not-rewardmodel"}
    if method != "reward":
        flags.add("causal")
    if method != "grpo":
        flags.add("not-grpo")
    elif not is_rated:
        flags.add("rules")
    return flags


def _check(method: Method, options: TrainingOptions) -> None:
    """Raise InvalidInput for what cannot be trained."""
    for name in ("batch_size", "gradient_accumulation", "lora_rank", "lora_alpha", "evaluate_rows", "patience"):
        _require(getattr(options, name) >= 1, f"{name} must be at least 1", name)
    for name in ("epochs", "evaluate_every", "temperature"):
        _require(0 < getattr(options, name) < math.inf, f"{name} must be above 0", name)
    for name in ("warmup", "weight_decay"):
        _require(0 <= getattr(options, name) < math.inf, f"{name} must be 0 or more", name)
    for name in ("learning_rate", "beta", "max_steps"):
        value = getattr(options, name)
        _require(value is None or 0 <= value < math.inf, f"{name} must be 0 or more", name)
    _require(options.max_steps != 0, "max_steps must be at least 1", "max_steps")
    _require(options.learning_rate != 0, "learning_rate must be above 0", "learning_rate")
    _require(0 <= options.lora_dropout < 1, "lora_dropout must be between 0 and 1", "lora_dropout")
    _require(0 <= options.seed < 2**32, "seed must be between 0 and 4294967295", "seed")
    _require(options.max_length >= 16, "max_length must be at least 16", "max_length")
    for name in ("warmup", "evaluate_every"):
        value = getattr(options, name)
        _require(value < 1 or value == int(value), f"{name} must be whole from 1 on", name)
    if method == "reward":
        _require(not options.export_gguf, "a reward model has no GGUF form", "export_gguf")
    if method == "grpo":
        _check_grpo(options)


def _check_grpo(options: TrainingOptions) -> None:
    _require(options.grpo_rewards in get_args(GrpoRewards), "grpo_rewards must be rules or model", "grpo_rewards")
    if options.grpo_rewards == "model":
        _require(options.reward_model_path is not None, "a reward model's folder is needed", "reward_model_path")
    _require(options.generations >= 2, "generations must be at least 2", "generations")
    _require(options.max_answer >= 1, "max_answer must be at least 1", "max_answer")
    _require(options.max_answer < options.max_length, "max_answer leaves no room for the prompt", "max_answer")
    at_once = options.batch_size % options.generations == 0
    _require(at_once, "batch_size must be a multiple of generations", "batch_size")


def _require(is_right: bool, message: str, field: str) -> None:
    if not is_right:
        raise InvalidInput(message, field)


def _run_line(script: Path) -> str:
    """How to run it; a path that does not fit into a docstring is named by its last part, or not at all."""
    for text in (script.as_posix(), script.name):
        if re.fullmatch(r"[\w./-]+", text, re.ASCII) and len(text) <= 80:
            return f"venv-train/bin/python {text} [--fresh]"
    return "venv-train/bin/python SCRIPT [--fresh]"


def _write_whole(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
