"""What a run shows: `Measured`."""

from collections import defaultdict
from dataclasses import dataclass, field

from benchmarks.embedding_server.load import Slice

Case = tuple[str, int, str]
"""Kind of texts, clients, encoding."""


@dataclass
class Measured:
    """Everything that the run showed, by candidate."""

    slices: dict[str, dict[Case, list[Slice]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    bare: dict[str, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    """Medians of the runtime without a server, in seconds, by kind of texts."""
    memory: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    """PSS at the end and peak RSS, MiB."""
    cosines: dict[str, tuple[float, float, float]] = field(default_factory=dict[str, tuple[float, float, float]])
    """To the reference, mean and least; and the least of a text alone to the same text among others."""
    generator_s: float = 0.0
