"""The smoke test of a checkpoint's embeddings: are they vectors that anybody could use?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fine_tuning.embedding.errors import FineTuningError
from fine_tuning.embedding.evaluate import EvaluationRow, rank
from fine_tuning.embedding.texts import GOLDEN_TEXTS
from serving.pooling import Vectors, normalised

LEAST_COSINE = {"cpu": 0.9999, "cuda": 0.999}
"""Of a text alone to itself among others. The CPU computes in float32; what is left is the order of additions."""

LEAST_NEARER = 0.5
"""Of all comparisons of a text's paraphrase with a stranger, those that the paraphrase wins; by chance 0.5. What is
below it is broken; how good an embedder is, only held-out pairs tell."""

PARAPHRASES = (
    ("How do I reset my password?", "I forgot my password and need a new one."),
    ("The train to Hamburg leaves at eight.", "At eight o'clock there is a train going to Hamburg."),
    ("She is allergic to peanuts.", "Eating peanuts makes her ill."),
    ("The server ran out of memory last night.", "Last night there was not enough RAM on the server."),
    ("Our office moves to Lisbon in May.", "In May the company relocates to Lisbon."),
    ("He plays the violin every evening.", "Each night he practises the violin."),
    ("Water boils at one hundred degrees.", "The boiling point of water is 100 degrees."),
    ("Please keep your answers short.", "I prefer brief replies."),
    ("The invoice has to be paid within thirty days.", "You have thirty days to pay the bill."),
    ("My daughter starts school in autumn.", "In the autumn my girl will go to school for the first time."),
    ("We store all customer data in the EU.", "Data of our customers never leaves the European Union."),
    ("Write a function that sorts a list.", "I need code that puts a list into order."),
    ("The museum is closed on Mondays.", "You cannot visit the museum on a Monday."),
    ("It will rain heavily tomorrow.", "Heavy rain is expected for tomorrow."),
    ("The cat sleeps on the sofa all day.", "All day long the cat is asleep on the couch."),
    ("I sold my car and ride a bicycle now.", "I no longer drive; these days I cycle."),
    ("The tomatoes need more sun.", "There is too little sunlight for the tomato plants."),
    ("The meeting was postponed to Friday.", "They moved the meeting to Friday."),
    ("This book has four hundred pages.", "The book is 400 pages long."),
    ("Her brother works as a nurse.", "Her brother's job is nursing."),
)


class Encode(Protocol):
    """Texts, and how many of them run together, to vectors of shape (texts, dimension)."""

    def __call__(self, texts: Sequence[str], batch_size: int = 16, /) -> Vectors:
        """The vectors, in the order of the texts."""
        ...


@dataclass(frozen=True)
class Smoke:
    """What was found."""

    dimension: int
    repeat_difference: float
    """The largest difference of a number in two runs of the same texts."""
    batch_cosine: float
    """The least cosine of a text's vector alone to that among others, padded."""
    paraphrases_nearer: float
    """The share of comparisons that a text's paraphrase wins against a stranger."""


def smoke_test(encode: Encode, dimension: int, device: str) -> Smoke:
    """What the embeddings are like. Raises FineTuningError for those that nobody could use."""
    texts = [*GOLDEN_TEXTS, *(text for pair in PARAPHRASES for text in pair)]
    together = encode(texts, len(texts))
    if together.shape != (len(texts), dimension):
        raise FineTuningError(f"{_FAILED}: {len(texts)} texts give an array of shape {together.shape}.")
    if not np.isfinite(together).all() or not np.linalg.norm(together, axis=1).all():
        raise FineTuningError(f"{_FAILED}: a vector is not made of finite numbers, or is 0. Lower the learning rate.")
    repeated = float(np.abs(together - encode(texts, len(texts))).max())
    alone = float((normalised(together) * normalised(encode(texts, 1))).sum(axis=1).min())
    if alone < LEAST_COSINE[device]:
        raise FineTuningError(f"{_FAILED}: alone and in a batch a text has cosine {alone:.5f} to itself.")
    rows = [EvaluationRow(first, second) for first, second in PARAPHRASES]
    ranks = rank(encode, rows).first_ranks
    nearer = float(1 - (ranks - 1).mean() / (len(PARAPHRASES) - 1))
    if nearer < LEAST_NEARER:
        raise FineTuningError(
            f"{_FAILED}: paraphrases are nearer to a text than strangers in {nearer:.0%} of the comparisons; "
            f"{LEAST_NEARER:.0%} are asked for. Train on pairs (--pairs), or with a lower learning rate."
        )
    return Smoke(dimension, repeated, alone, nearer)


_FAILED = "the smoke test of the embeddings failed"
