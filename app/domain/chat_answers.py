"""A clarifying question as an answer in OpenAI's shape, whole or as a stream."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from app.domain.chat import Chat
from app.domain.clarifying import put
from app.domain.hypotheses import Hypothesis

EXTENSION = "embed_service"
"""The field that says what the text says, for clients that show more than text."""

_NO_TOKENS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
"""No model was asked."""


def question_answer(
    chat: Chat,
    set_id: UUID,
    clarification_need: float,
    hypotheses: Sequence[Hypothesis],
    now: datetime,
    calibration_version: int = 0,
) -> bytes:
    """The body that puts the hypotheses as a question: a completion, or the events of one where a stream is wanted."""
    text = put([one.question for one in sorted(hypotheses, key=lambda one: one.rank)])
    shown = {
        "hypothesis_set_id": str(set_id),
        "decision": "ask",
        "clarification_need": clarification_need,
        "calibration_version": calibration_version,
        "hypotheses": [
            {
                "id": one.id,
                "rank": one.rank,
                "question": one.question,
                "rationale": one.rationale,
                "confidence": one.confidence,
                "evidence": [str(each) for each in one.evidence],
            }
            for one in hypotheses
        ],
    }
    head: dict[str, Any] = {
        "id": f"chatcmpl-{set_id.hex}",
        "object": "chat.completion.chunk" if chat.is_streamed else "chat.completion",
        "created": int(now.timestamp()),
        "model": chat.model,
    }
    if not chat.is_streamed:
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return orjson.dumps({**head, "choices": [choice], "usage": _NO_TOKENS, EXTENSION: shown})
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": line} for line in text.splitlines(keepends=True)]
    reasons = [*[None] * len(deltas), "stop"]
    choices = [
        {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        for delta, reason in zip([*deltas, {}], reasons, strict=True)
    ]
    events: list[dict[str, Any]] = [{**head, "choices": [choice]} for choice in choices]
    events[0][EXTENSION] = shown
    options = chat.fields.get("stream_options")
    if isinstance(options, dict) and options.get("include_usage"):  # pyright: ignore[reportUnknownMemberType]
        events = [{**event, "usage": None} for event in events]
        events.append({**head, "choices": [], "usage": _NO_TOKENS})
    return b"".join([*(b"data: " + orjson.dumps(event) + b"\n\n" for event in events), b"data: [DONE]\n\n"])
