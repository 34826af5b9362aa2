"""Hard negatives: texts near the anchor that are not its positive, found among all positives by the base model."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset
from sentence_transformers.util import mine_hard_negatives

from fine_tuning.embedding.pairs import Pair
from fine_tuning.embedding.rows import pairs_of, write_rows

MARGIN = 0.05
"""A negative's cosine to the anchor is at most 95 % of the positive's: what is nearer may well be another right
answer (TopK-PercPos of NV-Retriever, https://arxiv.org/abs/2407.15831)."""

_SCORES_AT_ONCE = 2**26


def with_mined_negatives(rows: Dataset, model: Any, count: int, file: Path, batch_size: int) -> tuple[Dataset, int]:
    """The rows, kept in `file`, each with up to `count` mined negatives after its own, and how many were found.

    All positives are compared with all anchors: time grows with the square of the rows, memory with the rows.
    """
    mined = mine_hard_negatives(
        rows.select_columns(["anchor", "positive"]),
        model,
        num_negatives=count,
        relative_margin=MARGIN,
        sampling_strategy="top",
        output_format="triplet",
        batch_size=batch_size,
        faiss_batch_size=max(1, _SCORES_AT_ONCE // len(rows)),
        verbose=False,
    )
    found: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for row in mined:
        found[row["anchor"], row["positive"]].append(row["negative"])

    def extended() -> Iterator[Pair]:
        for pair in pairs_of(rows):
            own = dict.fromkeys((*pair.negatives, *found[pair.anchor, pair.positive]))
            yield Pair(pair.anchor, pair.positive, tuple(own), pair.group)

    write_rows(file, extended())
    return Dataset.from_file(str(file)), len(mined)
