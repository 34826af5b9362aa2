"""Texts of wanted lengths, cut out of conversations."""

import json
from math import exp, log
from pathlib import Path
from random import Random
from typing import Any

_DEMO = Path(__file__).parents[2] / "data" / "demo" / "conversation.json"

KINDS = ("short", "mixed", "long")
_CHARACTERS = {"short": (20, 80), "mixed": (20, 900), "long": (500, 900)}


def pieces(data: Path | None, kind: str, count: int, random: Random) -> list[str]:
    """`count` texts of a kind, out of LoCoMo's turns in `data`, or of the demo's. Raises SystemExit when there are
    none."""
    file = data / "locomo" / "locomo.json" if data else _DEMO
    try:
        samples: list[dict[str, Any]] = json.loads(file.read_text("utf8"))
    except OSError as error:
        raise SystemExit(f"{file} cannot be read: {error.strerror}") from None
    words = [
        word
        for sample in samples
        for turns in sample["conversation"].values()
        if isinstance(turns, list)
        for turn in turns
        for word in turn["text"].split()
    ]
    low, high = _CHARACTERS[kind]
    made: list[str] = []
    for _ in range(count):
        wanted = exp(random.uniform(log(low), log(high)))
        start = random.randrange(len(words))
        piece = words[start]
        for word in words[start + 1 :]:
            if len(piece) + 1 + len(word) > wanted:
                break
            piece = f"{piece} {word}"
        made.append(piece)
    return made
