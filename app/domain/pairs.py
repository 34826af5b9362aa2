"""Pairs for an embedding model: a query and a memory that was used for it, with memories that were not."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.domain.instructions import MIN_SIMILARITY
from app.domain.training import Sample

DEFAULT_NEGATIVES = 4

_STANDING = frozenset({"PREFERENCE", "STYLE", "CONSTRAINT"})


@dataclass(frozen=True)
class Pair:
    """A query, a memory that went into its prompt, and the best-ranked memories that did not, best first."""

    query: str
    memory: str
    negatives: tuple[str, ...] = ()


@dataclass(frozen=True)
class Paired:
    """The pairs of a sample, or in a word why there are none; `standing` memories are left out of them."""

    pairs: Sequence[Pair] = ()
    reason: str | None = None
    standing: int = 0


class _Candidate(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    content: str = ""
    type: str = ""
    similarity: float = 1.0

    @property
    def is_standing(self) -> bool:
        """Whether it goes into prompts for what it is, whatever they are about."""
        return self.type in _STANDING and self.similarity < MIN_SIMILARITY


class _Ranking(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    query: str
    candidates: list[_Candidate]
    used_ids: list[str] = Field(default_factory=list[str])
    success: bool | None = None


def pairs_of(sample: Sample, negatives: int = DEFAULT_NEGATIVES) -> Paired:
    """What a ranking sample says of which memory belongs to which query.

    A prompt takes in how its user wants things (PREFERENCE, STYLE, CONSTRAINT) whatever it is about: below
    MIN_SIMILARITY such a memory is no answer to the query. `negatives` are at most so many for each pair. What the
    user was not content with teaches nothing.
    """
    try:
        ranking = _Ranking.model_validate(sample)
    except ValidationError:
        return Paired(reason="malformed")
    query = one_line(ranking.query)
    if not query:
        return Paired(reason="no_query")
    if ranking.success is False:
        return Paired(reason="no_success")
    used = frozenset(ranking.used_ids)
    found = _Texts()
    for one in ranking.candidates:
        found.add(one, one.id in used)
    if not found.used:
        return Paired(reason="no_text" if found.blank else "nothing_used", standing=found.standing)
    unused = tuple(text for text in found.unused if text not in found.taken)[:negatives]
    return Paired([Pair(query, text, unused) for text in found.used], standing=found.standing)


def one_line(text: str) -> str:
    """`text` with its white space as single spaces: in a file of lines it takes one, in columns one column."""
    return " ".join(text.split())


@dataclass
class _Texts:
    """The texts of the candidates, each once, in the order of their ranks."""

    used: list[str] = field(default_factory=list[str])
    unused: list[str] = field(default_factory=list[str])
    taken: set[str] = field(default_factory=set[str])
    """Of everything that was used: no memory that says the same is a negative."""

    blank: int = 0
    standing: int = 0

    def add(self, one: _Candidate, is_used: bool) -> None:
        text = one_line(one.content)
        if not text:
            self.blank += is_used
        elif not is_used:
            if text not in self.unused:
                self.unused.append(text)
        elif one.is_standing:
            self.taken.add(text)
            self.standing += 1
        elif text not in self.taken:
            self.taken.add(text)
            self.used.append(text)
