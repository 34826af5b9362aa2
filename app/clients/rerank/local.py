"""Reranking without a reranking model: `LocalReranker`."""

import asyncio
from collections import Counter
from collections.abc import Sequence

import numpy as np

from app.domain.wording import content_words
from app.ports import Embedder


class LocalReranker:
    """A reranker without a model of its own: how well a document's best sentence answers the query.

    The relevance is the mean of the query's nearest sentence by vector (a long document's one good
    sentence is diluted in the vector of the whole) and the share of the query's content words the
    document holds, words that few of the documents hold counting more.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    @property
    def model(self) -> str:
        """`local`."""
        return "local"

    async def rerank(self, query: str, documents: Sequence[str]) -> Sequence[float]:
        """One relevance in 0..1 per document, in order. Raises ModelUnavailable."""
        if not documents:
            return []
        sentences = [_sentences(document) for document in documents]
        flat = [sentence for each in sentences for sentence in each]
        vectors = await self._embedder.embed([query, *flat])
        cosines = vectors[1:] @ vectors[0]
        lexical = await asyncio.to_thread(_coverage, query, documents)  # seconds for a thousand long ones
        relevances: list[float] = []
        at = 0
        for each, covered in zip(sentences, lexical, strict=True):
            best = float(np.max(cosines[at : at + len(each)]))
            at += len(each)
            relevances.append(0.5 * min(1.0, max(0.0, best)) + 0.5 * covered)
        return relevances

    async def aclose(self) -> None:
        """Nothing to free: the embedder is its owner's."""


def _sentences(document: str, most: int = 8) -> list[str]:
    parts = [part.strip() for part in document.replace("\n", ". ").split(". ") if part.strip()]
    return parts[:most] or [document]


def _coverage(query: str, documents: Sequence[str]) -> list[float]:
    terms = set(content_words(query))
    held = [terms & set(content_words(document)) for document in documents]
    frequency = Counter(term for each in held for term in each)
    weights = {term: np.log(1 + len(documents) / (0.5 + frequency[term])) for term in terms}
    total = sum(weights.values())
    return [float(sum(weights[term] for term in each) / total) if total else 0.0 for each in held]
