"""Datasets: which there are, how their users are split and hidden, and what is counted of them.

What a sample teaches is in `app.domain.lessons`.
"""

import hashlib
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, cast

import orjson

from app.domain import training
from app.domain.errors import InvalidInput
from app.domain.redaction import merge_counts, redact
from app.domain.training import Sample

Split = Literal["train", "heldout", "later"]
SPLITS: tuple[Split, ...] = ("train", "heldout", "later")

CHAT, PREFERENCES, FACETS, RERANK = "hypotheses_chat", "preferences", "facets_chat", "rerank"
DATASETS = {"hypotheses": CHAT, "preferences": PREFERENCES, "facets": FACETS, "rerank": RERANK}
"""The datasets by the names they are returned under."""

SOURCES: Mapping[str, tuple[str, ...]] = {
    training.HYPOTHESES_FILE: (CHAT, PREFERENCES),
    training.PREFERENCES_FILE: (PREFERENCES,),
    training.PERSONA_FILE: (FACETS,),
    training.RANKING_FILE: (RERANK,),
}
"""Which datasets a file of samples feeds. `user_feedback.jsonl` feeds none by itself: what it turns down is joined to
the hypotheses by their set."""

SUMMARY_FILE = "dataset_summary.json"

MARKS = 4
"""Tokens that a chat template adds to each message, about."""

_PIECE_END = re.compile(r'\n|(?<=,)(?=")')
_WITHOUT_TEXT = frozenset({"id", "evidence", "rank", "used_ids", "rejected_ids", "selected_id", "label", "preferred"})

Row = dict[str, Any]

_ABOUT = training.About(datetime(1970, 1, 1, tzinfo=UTC), "")
_HEAD = frozenset({*_ABOUT.head(), *_ABOUT.tail()})
"""Fields of a sample that say where it comes from."""


@dataclass(frozen=True)
class DatasetOptions:
    """What a preparation may be told. `heldout_share` of the users are never trained on; the newest `later_share` of
    the others' samples are kept apart; rows of more than `max_tokens` are dropped; of a user only the newest
    `max_per_user` samples of each file are taken (None: all); samples whose texts are alike to `near_duplicate`
    (Jaccard, of word triples) or more count as the same. Raises InvalidInput for what means nothing."""

    heldout_share: float = 0.1
    later_share: float = 0.1
    max_tokens: int = 2048
    max_per_user: int | None = None
    near_duplicate: float = 0.8

    def __post_init__(self) -> None:
        for name in ("heldout_share", "later_share"):
            if not 0 <= getattr(self, name) < 1:
                raise InvalidInput(f"{name} is a share from 0 to less than 1.", field=name)
        if self.max_tokens < 1 or (self.max_per_user is not None and self.max_per_user < 1):
            raise InvalidInput("max_tokens and max_per_user are 1 or more.", field="max_tokens")
        if not 0.5 <= self.near_duplicate <= 1:
            raise InvalidInput("near_duplicate is a similarity from 0.5 to 1.", field="near_duplicate")


@dataclass(frozen=True)
class SplitKey:
    """The secret behind the names of users in datasets and behind who is held out: without it neither can be
    worked out from an id. The same key holds out the same users for ever."""

    secret: bytes = field(repr=False)

    @property
    def key_id(self) -> str:
        """Which key this is, without giving it away."""
        return self._digest("key", b"")[:16]

    def user(self, tenant_id: str, user_id: str) -> str:
        """A user's name in datasets."""
        return self._digest("user", orjson.dumps([tenant_id, _encodable(user_id)]))

    def tenant(self, tenant_id: str) -> str:
        """A tenant's name in datasets."""
        return self._digest("tenant", tenant_id.encode("utf-8", "replace"))

    def is_heldout(self, user: str, share: float) -> bool:
        """Whether a user (by their name in datasets) is held out."""
        return int(self._digest("split", user.encode())[:16], 16) < share * 2**64

    def order(self, text: str) -> str:
        """Something to sort by that says nothing about where a text stood."""
        return self._digest("order", text.encode("utf-8", "replace"))

    def _digest(self, purpose: str, value: bytes) -> str:
        return hashlib.blake2b(value, key=self.secret, person=purpose.encode(), digest_size=16).hexdigest()


def moment_of(sample: Sample) -> int | None:
    """When a sample was made, in seconds since 1970; None where it does not say."""
    try:
        at = datetime.fromisoformat(sample["timestamp"])
    except (KeyError, TypeError, ValueError):
        return None
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())


def owner_of(sample: Sample) -> tuple[str, str] | None:
    """(tenant, user) of a sample; None where it does not say."""
    tenant_id, user_id = sample.get("tenant_id", "default"), sample.get("user_id")
    return (tenant_id, user_id) if isinstance(tenant_id, str) and isinstance(user_id, str) else None


def cut_at(moments: Sequence[int], later_share: float) -> int | None:
    """The last moment of training: of `moments` (sorted) at most `later_share` are after it. None without any."""
    if not moments:
        return None
    return moments[max(0, len(moments) - 1 - int(later_share * len(moments)))]


def split_of(is_heldout: bool, moment: int, cut: int) -> Split:
    """Where a sample goes: held-out users whole, the others' by time."""
    if is_heldout:
        return "heldout"
    return "later" if moment > cut else "train"


def without_secrets(sample: Sample) -> tuple[Sample, dict[str, int]]:
    """`sample` with every text redacted again, and how many secrets of each kind were left in it.

    All its texts are searched as one, which costs a fifth of searching each; only where something is found are
    they redacted one by one.
    """
    content = {name: value for name, value in sample.items() if name not in _HEAD}
    texts: list[str] = []
    _gather(content, texts)
    if not redact("\n\n".join(texts)).counts:
        return sample, {}
    counts: dict[str, int] = {}
    cleaned = _redacted(content, counts)
    return {**sample, **cleaned}, counts


def meta_of(sample: Sample, key: SplitKey, owner: tuple[str, str]) -> Row:
    """Where a row comes from, without the names of tenant and user. Texts throughout: readers of JSON lines guess a
    column's type from its first rows, and null has none."""
    return {
        "user": key.user(*owner),
        "tenant": key.tenant(owner[0]),
        "set_id": _text(sample.get("hypothesis_set_id")),
        "timestamp": _text(sample.get("timestamp")),
        "model": _text(sample.get("model")),
        "adapter": _text(sample.get("adapter")),
        "prompt_version": _text(sample.get("prompt_version")),
        "schema_version": version if isinstance(version := sample.get("schema_version"), int) else 1,
    }


def tokens_in(row: Row, count: Callable[[str], int]) -> int:
    """Tokens of a row as it is trained on: its prompt and its longest answer, with the template's marks. Counted
    in pieces, lines and fields of JSON, because these come again from row to row; the sum was never more than 3 off the
    count in one piece, for rows of 330 to 820 tokens."""
    answers = [row[name] for name in ("completion", "chosen", "rejected") if name in row]
    return tokens_of(row["prompt"], count) + max(tokens_of(answer, count) for answer in answers)


def tokens_of(messages: Sequence[Mapping[str, str]], count: Callable[[str], int]) -> int:
    """Tokens of messages with the template's marks."""
    texts = [message["content"] for message in messages]
    return sum(MARKS + text.count("\n") + sum(map(count, _PIECE_END.split(text))) for text in texts)


class Tally:
    """What a dataset's file holds, counted row by row from the rows themselves, so that it can be counted again."""

    def __init__(self) -> None:
        self.rows = 0
        self.labels: Counter[str] = Counter()
        self._users: Counter[int] = Counter()
        self._tokens: Counter[int] = Counter()

    def add(self, row: Row) -> None:
        """Count a row."""
        meta = row["meta"]
        self.rows += 1
        if meta["user"]:  # nobody's, in data from elsewhere
            self._users[int(meta["user"][:16], 16)] += 1
        self._tokens[meta["tokens"]] += 1
        self.labels.update(str(meta["label"]).split(", "))

    def summary(self) -> dict[str, Any]:
        """Counts, quantiles of tokens, and the share of the user with the most rows."""
        most = max(self._users.values(), default=0)
        return {
            "rows": self.rows,
            "users": len(self._users),
            "largest_user_share": round(most / self.rows, 4) if self.rows else 0.0,
            "labels": dict(sorted(self.labels.items())),
            "tokens": quantiles(self._tokens),
        }


_RANKS = {"min": 0.0, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


def quantiles(times: Counter[int]) -> dict[str, int]:
    """Of sizes, by how often each was seen; with their sum. Empty for none."""
    if not times:
        return {}
    sizes = sorted(times)
    reached: list[int] = []
    for size in sizes:
        reached.append((reached[-1] if reached else 0) + times[size])
    at = {name: sizes[bisect_right(reached, int(rank * (times.total() - 1)))] for name, rank in _RANKS.items()}
    return {**at, "total": sum(size * count for size, count in times.items())}


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _gather(value: object, texts: list[str]) -> None:
    if isinstance(value, str):
        texts.append(value)
    elif isinstance(value, dict):
        for name, inner in cast("dict[str, object]", value).items():
            if type(inner) is str:
                if name not in _WITHOUT_TEXT:
                    texts.append(inner)
            elif isinstance(inner, dict | list) and name not in _WITHOUT_TEXT:
                _gather(cast(object, inner), texts)
    elif isinstance(value, list):
        for inner in cast("list[object]", value):
            _gather(inner, texts)


def _redacted(value: Any, counts: dict[str, int]) -> Any:
    if isinstance(value, str):
        found = redact(value)
        if found.counts:
            counts.update(merge_counts(counts, found.counts))
        return found.text
    if isinstance(value, list):
        return [_redacted(inner, counts) for inner in cast("list[Any]", value)]
    if isinstance(value, dict):
        pairs = cast("dict[str, Any]", value)
        return {name: inner if name in _WITHOUT_TEXT else _redacted(inner, counts) for name, inner in pairs.items()}
    return value
