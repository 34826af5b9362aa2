"""Extractive summary: the sentences that say most of what the texts have in common."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

from app.domain.wording import content_words

_SENTENCE = re.compile(r"[^.!?。！？\n]+(?:[.!?](?=\w)[^.!?。！？\n]*)*[.!?。！？]*\n?")
_MARKUP = re.compile(r"</?memory[^>]*>")
MAX_SENTENCES = 400


def sentences(text: str) -> list[str]:
    """The sentences of `text`, without the marks of its fence."""
    return [sentence.strip() for sentence in _SENTENCE.findall(_MARKUP.sub("", text)) if sentence.strip()]


def extractive_summary(texts: Sequence[str], max_tokens: int, count: Callable[[str], int]) -> str:
    """Whole sentences of `texts`, a line each, in their own order, with at most `max_tokens` tokens in all.

    A sentence is worth the mean frequency of its content words over all texts (Nenkova and Vanderwende
    2005, SumBasic); the frequencies of words already covered are squared, so that the next one adds
    something. Fenced texts stay fenced: the summary is one <memory> element.
    """
    opening, closing = '<memory type="summary">', "</memory>"
    is_fenced = any(_MARKUP.match(text) for text in texts)
    room = max_tokens - (count(opening) + count(closing) if is_fenced else 0)
    said = list(dict.fromkeys(sentence for text in texts for sentence in sentences(text)))[:MAX_SENTENCES]
    terms = [content_words(sentence) for sentence in said]
    frequency = Counter(term for each in terms for term in each)
    total = sum(frequency.values()) or 1
    weight = {term: times / total for term, times in frequency.items()}
    left = set(range(len(said)))
    chosen: list[int] = []
    while left:
        best = max(left, key=lambda i: (sum(weight[t] for t in terms[i]) / (len(terms[i]) or 1), -i))
        left.discard(best)
        cost = count(said[best]) + 1
        if cost > room:
            continue
        room -= cost
        chosen.append(best)
        for term in terms[best]:
            weight[term] **= 2
    text = "\n".join(said[index] for index in sorted(chosen))
    if not text:
        return ""
    summary = f"{opening}{text}{closing}" if is_fenced else text
    return summary if count(summary) <= max_tokens else ""
