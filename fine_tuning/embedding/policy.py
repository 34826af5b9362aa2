"""What a quantized model may lose, and what it has to gain: the policy, and its verdict on a drift report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fine_tuning.embedding.drift import Drift
from fine_tuning.embedding.errors import FineTuningError

CHECKOUT_POLICY = Path(__file__).parents[2] / "configs" / "quantization.yaml"

_Share = Annotated[float, Field(ge=0, le=1)]
_Times = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Policy:
    """One field per gate; None: not asked for. What each means is said in configs/quantization.yaml."""

    least_mean_cosine: _Share | None = 0.99
    least_worst_cosine: _Share | None = 0.97
    most_mrr_loss: _Share | None = 0.01
    most_size: _Times | None = 0.9
    least_speed: _Times | None = 1.1
    least_speed_alone: _Times | None = 1.5


def load_policy(path: Path | None = None) -> Policy:
    """The policy in a YAML file; without one the checkout's, else the defaults. Raises FineTuningError, which names
    every wrong key and value."""
    if path is None and not CHECKOUT_POLICY.is_file():
        return Policy()
    file = path or CHECKOUT_POLICY
    try:
        document: Any = yaml.safe_load(file.read_text("utf8"))
        return TypeAdapter(Policy).validate_python({} if document is None else document)
    except OSError as error:
        raise FineTuningError(f"{file} cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise FineTuningError(f"{file} is not YAML.") from None
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise FineTuningError(f"{file} is not usable: {said}.") from None


def refusals(policy: Policy, drift: Drift) -> list[str]:
    """Why the model is refused, a line for each reason; none where it may be served."""
    found: list[str] = []
    for name, value, least in (
        ("mean cosine to the original", drift.mean_cosine, policy.least_mean_cosine),
        ("worst cosine to the original", drift.worst_cosine, policy.least_worst_cosine),
        ("speed over the original's", drift.speed_ratio, policy.least_speed),
    ):
        if least is not None and value < least:
            found.append(f"{name} {value:.4f}: at least {least:g} is asked for")
    if policy.most_size is not None and drift.size_ratio > policy.most_size:
        found.append(f"size over the original's {drift.size_ratio:.3f}: at most {policy.most_size:g} is asked for")
    if not drift.after.is_batchable and policy.least_speed_alone is not None:
        least = policy.least_speed_alone
        if drift.speed_ratio < least:
            found.append(
                f"vectors depend on their neighbours, so texts run one by one, {drift.speed_ratio:.2f} times as fast "
                f"as the original: at least {least:g} is asked for"
            )
    if policy.most_mrr_loss is not None and drift.mrr is not None:
        lost = -drift.mrr.difference.low / drift.mrr.before
        if lost > policy.most_mrr_loss:
            found.append(
                f"MRR {drift.mrr.before:.4f} becomes {drift.mrr.after:.4f}, and may have lost {lost:.2%} of it: "
                f"at most {policy.most_mrr_loss:.2%} is asked for"
            )
    return found


def document(policy: Policy) -> Mapping[str, Any]:
    """As a policy file says it."""
    return TypeAdapter(Policy).dump_python(policy, mode="json")
