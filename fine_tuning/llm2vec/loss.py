"""How well a checkpoint still talks: the loss on held-out chats."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from fine_tuning.llm2vec.chat_rows import Messages
from fine_tuning.llm2vec.checkpoint import DEVICE, ON_GPU, load_tokenizer

MOST_ROWS = 50


@torch.inference_mode()  # pyright: ignore[reportUntypedFunctionDecorator]
def chat_loss(source: Path | str, rows: Sequence[dict[str, Messages]], max_length: int) -> float | None:
    """The mean negative log-probability (nats) of the answers' tokens under a base or merged model; of rows that are
    longer than `max_length` tokens none. None where there is nothing to compare by."""
    if not rows:
        return None
    dtype = torch.bfloat16 if ON_GPU else torch.float32
    model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype).to(DEVICE).eval()
    tokenizer = load_tokenizer(source)
    total, count = 0.0, 0
    for row in rows:
        asked = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        whole = tokenizer.apply_chat_template(row["prompt"] + row["completion"], return_dict=False)
        if len(whole) > max_length or len(whole) <= len(asked):
            continue
        ids = torch.tensor([whole], device=DEVICE)
        logits = model(input_ids=ids).logits[0, len(asked) - 1 : -1].float()
        found = torch.log_softmax(logits, -1).gather(1, ids[0, len(asked) :, None])
        total, count = total - found.sum().item(), count + len(found)
    return total / count if count else None
