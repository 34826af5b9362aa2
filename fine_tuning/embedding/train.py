"""Training by sentence-transformers' own trainer: in-batch negatives, hard negatives, Matryoshka, LoRA."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from peft import LoraConfig, PeftModel
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.training_args import BatchSamplers
from transformers import PrinterCallback

from fine_tuning.embedding.base import Base, load_model
from fine_tuning.embedding.checkpoints import WholeCheckpoints, newest_whole_checkpoint
from fine_tuning.embedding.errors import FineTuningError
from fine_tuning.embedding.options import Options
from fine_tuning.embedding.progress import Progress

TEXTS_AT_ONCE = 64
"""A larger batch is computed in parts of so many pairs (GradCache): the same loss in bounded memory, a third slower."""

ON_GPU = torch.cuda.is_available()


@dataclass(frozen=True)
class Trained:
    """A model after its training."""

    model: Any
    steps: int
    resumed_from_step: int | None
    losses: list[dict[str, float]]
    """`step` and `loss`, in their order."""


class _Trainer(SentenceTransformerTrainer):
    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """None: its card would quote the texts that were trained on."""


def train(options: Options, base: Base, model: Any, rows: Dataset | DatasetDict, work: Path) -> Trained:
    """Train `model`, which is the base, on `rows`; checkpoints go to `work/checkpoints`, and it goes on from the newest
    whole one that is there. With LoRA the result is a model with the adapter merged into its weights, and the adapter
    is in `work/adapter`. Raises FineTuningError."""
    dimensions = _matryoshka_dimensions(options, model)
    if options.use_lora:
        model.add_adapter(
            LoraConfig(
                task_type="FEATURE_EXTRACTION",
                r=options.lora_rank,
                lora_alpha=2 * options.lora_rank,
                lora_dropout=0.05,
                target_modules="all-linear",
            )
        )
    trainer = _Trainer(
        model=model,
        args=_arguments(options, model, work / "checkpoints"),
        train_dataset=rows,
        loss=_loss(model, options.batch_size, dimensions),
        callbacks=[WholeCheckpoints(), Progress()],
    )
    trainer.remove_callback(PrinterCallback)
    checkpoint = newest_whole_checkpoint(work / "checkpoints")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    losses = [{"step": line["step"], "loss": line["loss"]} for line in trainer.state.log_history if "loss" in line]
    if options.use_lora:
        model.transformers_model.save_pretrained(work / "adapter")
        model = merged(base, work / "adapter", model.max_seq_length)
    if dimensions:
        model.transformers_model.config.matryoshka_dimensions = dimensions
    step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else None
    return Trained(model.eval(), trainer.state.global_step, step, losses)


def merged(base: Base, adapter: Path, max_length: int) -> Any:
    """The base with an adapter worked into its weights."""
    model = load_model(base, "cuda" if ON_GPU else "cpu")
    model.max_seq_length = max_length
    PeftModel.from_pretrained(model.transformers_model, str(adapter)).merge_and_unload()
    return model


def _matryoshka_dimensions(options: Options, model: Any) -> list[int]:
    """The lengths to train for, longest first, the whole vector always among them; none without Matryoshka."""
    if not options.matryoshka:
        return []
    whole = model.get_embedding_dimension()
    if max(options.matryoshka) > whole:
        raise FineTuningError(
            f"--matryoshka {max(options.matryoshka)} is not usable: the vectors have {whole} numbers."
        )
    return sorted({*options.matryoshka, whole}, reverse=True)


def _loss(model: Any, batch_size: int, dimensions: list[int]) -> Any:
    if batch_size > TEXTS_AT_ONCE:
        loss: Any = CachedMultipleNegativesRankingLoss(model, mini_batch_size=TEXTS_AT_ONCE)
    else:
        loss = MultipleNegativesRankingLoss(model)
    return MatryoshkaLoss(model, loss, dimensions) if dimensions else loss


def _arguments(options: Options, model: Any, folder: Path) -> SentenceTransformerTrainingArguments:
    has_bfloat16 = ON_GPU and torch.cuda.is_bf16_supported()
    return SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        warmup_steps=0.1,
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        prompts=model.prompts.get(model.default_prompt_name or "") or None,
        seed=options.seed,
        data_seed=options.seed,
        use_cpu=not ON_GPU,
        bf16=has_bfloat16,
        fp16=ON_GPU and not has_bfloat16,
        logging_steps=0.01,
        logging_first_step=True,
        save_strategy="steps",
        save_steps=options.save_every or 0.1,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=ON_GPU,
    )
