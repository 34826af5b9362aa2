"""The pairs part of the training: sentence-transformers' contrastive trainer on the same adapter that talks."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.training_args import BatchSamplers
from transformers import PrinterCallback

from fine_tuning.embedding.checkpoints import WholeCheckpoints, newest_whole_checkpoint
from fine_tuning.embedding.progress import Progress
from fine_tuning.llm2vec.checkpoint import ON_GPU, put_adapter_weights
from fine_tuning.llm2vec.options import Options

PAIRS_AT_ONCE = 32
"""A larger batch is computed in parts of so many pairs (GradCache): the same loss in bounded memory, a third slower."""


@dataclass(frozen=True)
class Contrasted:
    """How the training went."""

    steps: int
    resumed_from_step: int | None
    losses: list[dict[str, float]]
    """`step` and `loss`, in their order."""


class _Trainer(SentenceTransformerTrainer):
    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """None: its card would quote the texts that were trained on."""

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        """The adapter only: the base is there, perhaps in 4 bits."""
        put_adapter_weights(self.model, Path(checkpoint_path))


def train_pairs(options: Options, model: SentenceTransformer, rows: Dataset | DatasetDict, work: Path) -> Contrasted:
    """Train the adapter that is on `model`; checkpoints go to `work`, and it goes on from the newest whole one."""
    if options.gradient_checkpointing:
        model.transformers_model.enable_input_require_grads()
    batch = options.pairs_batch_size
    is_large = batch > PAIRS_AT_ONCE
    trainer = _Trainer(
        model=model,
        args=_arguments(options, work),
        train_dataset=rows,
        loss=CachedMultipleNegativesRankingLoss(model, mini_batch_size=PAIRS_AT_ONCE)
        if is_large
        else MultipleNegativesRankingLoss(model),
        callbacks=[WholeCheckpoints(), Progress()],
    )
    trainer.remove_callback(PrinterCallback)
    checkpoint = newest_whole_checkpoint(work)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    model.eval()
    losses = [{"step": line["step"], "loss": line["loss"]} for line in trainer.state.log_history if "loss" in line]
    step = int(checkpoint.name.rpartition("-")[2]) if checkpoint else None
    return Contrasted(trainer.state.global_step, step, losses)


def _arguments(options: Options, folder: Path) -> SentenceTransformerTrainingArguments:
    has_bfloat16 = torch.cuda.is_bf16_supported() if ON_GPU else torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=options.pairs_epochs,
        per_device_train_batch_size=options.pairs_batch_size,
        learning_rate=options.pairs_lr,
        warmup_steps=0.1,
        gradient_checkpointing=options.gradient_checkpointing,
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        prompts=options.prompt or None,
        seed=options.seed,
        data_seed=options.seed,
        use_cpu=not ON_GPU,
        bf16=has_bfloat16,
        fp16=ON_GPU and not has_bfloat16,
        logging_steps=0.01,
        logging_first_step=True,
        save_strategy="steps",
        save_steps=0.1,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=ON_GPU,
    )
