"""Promotion: what a candidate has to show against the serving model, and the verdict, in words and figures."""

from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import ErrorDetails

from app.domain.errors import InvalidInput

FigureName = Literal[
    "mrr",
    "hit@1",
    "calibration_error",
    "schema_validity",
    "answer_mrr",
    "answer_hit@1",
    "reward_win_rate",
    "latency",
    "latency_ratio",
]
"""The figures, in the order of a report. `reward_win_rate` and `latency_ratio` compare in themselves: they are the
candidate's alone."""

LOWER_IS_BETTER = frozenset({"calibration_error", "latency", "latency_ratio"})

_STRICT = ConfigDict(extra="forbid")
_Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, config=_STRICT)
class Rows:
    """How many held-out choices are judged: at least so many, at most so many, and on how many of them the models
    answer in full. `unanswered` is the share of questions that a model may leave without an answer."""

    least: Annotated[int, Field(ge=2)] = 30
    most: Annotated[int, Field(ge=2)] = 500
    answered: Annotated[int, Field(ge=0)] = 40
    unanswered: _Share = 0.05

    def __post_init__(self) -> None:
        if self.most < self.least:
            raise ValueError("most is below least")


@dataclass(frozen=True, config=_STRICT)
class Bootstrap:
    """How the intervals are made: of `confidence`, by so many resamples of the users, from a seed."""

    resamples: Annotated[int, Field(ge=100, le=1_000_000)] = 10_000
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    seed: Annotated[int, Field(ge=0)] = 7


@dataclass(frozen=True, config=_STRICT)
class Gate:
    """What a figure has to show, one of: it `improves` (the interval of the gain lies above 0); the interval of the
    loss ends at `worse_by_at_most`; the candidate's own figure is `at_least` or `at_most` a number."""

    improves: Literal[True] | None = None
    worse_by_at_most: Annotated[float, Field(ge=0)] | None = None
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        given = (self.improves, self.worse_by_at_most, self.at_least, self.at_most)
        if sum(value is not None for value in given) != 1:
            raise ValueError("a gate is one of improves: true, worse_by_at_most, at_least, at_most")

    @property
    def words(self) -> str:
        """As a report says it."""
        if self.improves:
            return "improves"
        if self.worse_by_at_most is not None:
            return f"worse by at most {self.worse_by_at_most:g}"
        return f"at most {self.at_most:g}" if self.at_least is None else f"at least {self.at_least:g}"


@dataclass(frozen=True, config=_STRICT)
class Canary:
    """Which share of the users a promoted candidate answers first, and how often at most one that is no worse is
    taken back by mistake."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.1
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.01


Gates = Mapping[FigureName, Gate | None]

DEFAULT_GATES: Gates = {
    "mrr": Gate(improves=True),
    "hit@1": Gate(worse_by_at_most=0.02),
    "calibration_error": Gate(worse_by_at_most=0.1),
    "schema_validity": Gate(worse_by_at_most=0.1),
    "reward_win_rate": Gate(at_least=0.5),
    "latency_ratio": Gate(at_most=3.0),
}

_ALONE = frozenset({"reward_win_rate", "latency_ratio"})


@dataclass(frozen=True, config=_STRICT)
class Policy:
    """The whole policy. A gate that is None is not asked for; one that is left out is the default's."""

    rows: Rows = Rows()
    bootstrap: Bootstrap = Bootstrap()
    gates: Annotated[Gates, Field(validate_default=True)] = Field(default_factory=lambda: dict(DEFAULT_GATES))
    canary: Canary = Canary()

    def __post_init__(self) -> None:
        for name, gate in self.gates.items():
            if name in _ALONE and gate is not None and (gate.improves or gate.worse_by_at_most is not None):
                raise ValueError(f"{name} is the candidate's own figure: its gate is at_least or at_most")

    def document(self) -> dict[str, Any]:
        """As a policy file says it."""
        shown: dict[str, Any] = TypeAdapter(Policy).dump_python(self, mode="json", exclude_none=True)
        shown["gates"] |= {name: None for name, gate in self.gates.items() if gate is None}
        return shown


def parse_policy(document: Mapping[str, Any]) -> Policy:
    """A policy file's document. Raises InvalidInput, which names every wrong key and value."""
    given: object = document.get("gates", {})
    whole = dict(document)
    if isinstance(given, Mapping):
        whole["gates"] = {**DEFAULT_GATES, **cast("Mapping[FigureName, Any]", given)}
    try:
        return TypeAdapter(Policy).validate_python(whole)
    except ValidationError as error:
        said = sorted({_line(item) for item in error.errors()})
        raise InvalidInput(f"The promotion policy is not usable: {'; '.join(said)}.", field="policy") from None


def _line(item: ErrorDetails) -> str:
    place = ".".join(str(part) for part in item["loc"] if part not in {"[key]", "Gate"})
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] in {"unexpected_keyword_argument", "literal_error"} and "[key]" in item["loc"]:
        return f"{place} is no figure"
    if item["type"] == "unexpected_keyword_argument":
        return f"{place} is unknown"
    return f"{place}: {message}" if place else message


@plain_dataclass(frozen=True)
class Figure:
    """A figure of both models; `serving` is None where it is the candidate's alone. `low` and `high` are the interval
    of candidate minus serving, of the figure itself where it is the candidate's alone; None where there is no telling
    (fewer than two users). `rows` and `users` are what it rests on."""

    candidate: float | None
    serving: float | None = None
    low: float | None = None
    high: float | None = None
    rows: int = 0
    users: int = 0

    @property
    def difference(self) -> float | None:
        """Candidate minus serving."""
        return None if self.candidate is None or self.serving is None else self.candidate - self.serving


@plain_dataclass(frozen=True)
class Unanswered:
    """How many of `asked` questions each model left without an answer."""

    asked: int = 0
    candidate: int = 0
    serving: int = 0


@plain_dataclass(frozen=True)
class Verdict:
    """Whether a candidate may serve, and if not, why, a sentence for each reason. `passed` says of each gate whether
    it was; None where the figure could not be measured, which refuses nobody."""

    is_accepted: bool
    refusals: tuple[str, ...]
    passed: Mapping[str, bool | None]


def verdict(policy: Policy, figures: Mapping[str, Figure], rows: int, unanswered: Unanswered) -> Verdict:
    """What the policy says of these figures of `rows` held-out choices."""
    refusals: list[str] = []
    if rows < policy.rows.least:
        missing = policy.rows.least - rows
        refusals.append(
            f"{rows} held-out choices can be judged: at least {policy.rows.least} are needed, {missing} more"
        )
    for who, silent in (("candidate", unanswered.candidate), ("serving model", unanswered.serving)):
        if silent > policy.rows.unanswered * unanswered.asked:
            refusals.append(
                f"the {who} left {silent} of {unanswered.asked} questions without an answer "
                f"({silent / unanswered.asked:.0%}): at most {policy.rows.unanswered:.0%} may be"
            )
    passed: dict[str, bool | None] = {}
    for name, gate in policy.gates.items():
        if gate is None:
            continue
        figure = figures.get(name, Figure(None))
        if figure.candidate is None:
            passed[name] = None
            continue
        refusal = _refusal(name, gate, figure, policy.bootstrap.confidence)
        passed[name] = refusal is None
        refusals += [] if refusal is None else [refusal]
    return Verdict(not refusals, tuple(refusals), passed)


def _refusal(name: str, gate: Gate, figure: Figure, confidence: float) -> str | None:
    """Why a gate is shut for a figure that was measured; None where it is open."""
    own = figure.candidate or 0.0
    if gate.at_least is not None:
        return f"{name} {own:.3g} is {gate.at_least - own:.3g} below {gate.at_least:g}" if own < gate.at_least else None
    if gate.at_most is not None:
        return f"{name} {own:.3g} is {own - gate.at_most:.3g} above {gate.at_most:g}" if own > gate.at_most else None
    difference = figure.difference or 0.0
    said = f"{name} {own:.3f} against {figure.serving or 0.0:.3f} of the serving model"
    if figure.low is None or figure.high is None:
        return f"{said}: the rows are of fewer than two users, so nobody can tell whether that is chance"
    worse, low, high = (-difference, -figure.high, -figure.low)
    if name in LOWER_IS_BETTER:
        worse, low, high = (difference, figure.low, figure.high)
    interval = f"{confidence:.0%} interval".replace("%", " %")
    lost = f"worse by {worse:.3f} ({interval} {low:.3f} to {high:.3f})"
    gained = f"better by {-worse:.3f}" if worse < 0 else "no better"
    if gate.improves:
        if high < 0:
            return None
        if worse > 0:
            return f"{said}: {lost}"
        return f"{said}: {gained} ({interval} of the gain {-high:.3f} to {-low:.3f})"
    allowed = gate.worse_by_at_most or 0.0
    if high <= allowed:
        return None
    if worse > 0:
        return f"{said}: {lost}, and at most {allowed:g} is allowed"
    return f"{said}: {gained}, but it may be worse by up to {high:.3f} ({interval}), and at most {allowed:g} is allowed"
