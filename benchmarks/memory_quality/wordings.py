"""The wordings of `wordings.yaml`: those that were seen, and those that are held back for the figure alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml

Wording = Literal["seen", "held"]


@dataclass(frozen=True)
class Wordings:
    """Templates by attribute of how a value is `told` and how it is `asked` for, how a mistake is `corrected`, and
    `chatter`."""

    told: Mapping[str, Sequence[str]]
    asked: Mapping[str, Sequence[str]]
    corrected: Sequence[str]
    chatter: Sequence[str]


@cache
def wordings(kind: Wording) -> Wordings:
    """Those of one kind."""
    document: Mapping[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    return Wordings(**document[kind])
