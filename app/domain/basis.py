"""What the confidences of a hypothesis set rest on, as it is kept with the set."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from app.domain.calibration import SCORE, Calibration, form_of

Evidence = Literal["score", "label", "nearness"]


@dataclass(frozen=True)
class Basis:
    """The kind of `evidence` that the readings have, and where it is a model's labels, in which `way` and how many
    `orders` they were read, by the texts of which version, what share of the probability they had (`mass`), and what
    that took."""

    evidence: Evidence = SCORE
    way: str | None = None
    orders: int = 0
    mass: float | None = None
    labels_version: str | None = None
    seconds: float = 0.0
    tokens: int = 0

    @property
    def free(self) -> "Basis":
        """The same for a set that goes on from it: nothing was weighed again."""
        return replace(self, seconds=0.0, tokens=0)

    def record(self, source: str, calibration: Calibration) -> dict[str, Any]:
        """With the calibration that made probabilities of it."""
        made = {
            "form": form_of(source),
            "version": calibration.version,
            "prior": calibration.prior,
            "weights": dict(calibration.weights),
            "none_score": calibration.none_score,
        }
        return {**asdict(self), "calibration": made}


def from_record(record: Mapping[str, Any] | None) -> Basis:
    """A kept basis; that of rules where there is none."""
    if not record:
        return Basis()
    return Basis(**{name: value for name, value in record.items() if name in Basis.__dataclass_fields__})


def calibration_of(record: Mapping[str, Any] | None, version: int) -> Calibration:
    """The calibration in a record; of a set from before there were any only the version is known."""
    if not record:
        return Calibration(version=version)
    kept = record["calibration"]
    return Calibration(kept["weights"], kept["none_score"], kept["version"], prior=kept["prior"])
