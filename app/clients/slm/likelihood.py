"""How likely a model found what it wrote, from the log-probabilities of its tokens."""

import json
import math
from collections.abc import Sequence

from app.clients.slm.endpoint import Token


def mean_logprobs(tokens: Sequence[Token], texts: Sequence[str]) -> list[float | None]:
    """For each of `texts`, in the order they were written, the mean log-probability (nats per token, at most 0)
    of the tokens that wrote it; None where the answer does not hold it or has no log-probabilities.

    This is the logarithm of the inverse perplexity of the text given all before it. Texts stand in the answer
    as JSON strings.
    """
    written = b"".join(token.text for token in tokens)
    ends: list[int] = []
    for token in tokens:
        ends.append((ends[-1] if ends else 0) + len(token.text))
    means: list[float | None] = []
    after = 0
    for text in texts:
        start, length = _find(written, text, after)
        if start < 0:
            means.append(None)
            continue
        stop = after = start + length
        inside = [
            min(0.0, token.logprob)
            for token, end in zip(tokens, ends, strict=True)
            if end > start and end - len(token.text) < stop and math.isfinite(token.logprob)
        ]
        means.append(sum(inside) / len(inside) if inside else None)
    return means


def _find(written: bytes, text: str, after: int) -> tuple[int, int]:
    """(where `text` begins as a JSON string's inside, its length), (-1, 0) where it is not."""
    for ensure_ascii in (False, True):
        inside = json.dumps(text, ensure_ascii=ensure_ascii)[1:-1].encode()
        start = written.find(inside, after)
        if start >= 0:
            return start, len(inside)
    return -1, 0
