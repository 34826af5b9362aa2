"""The promotion policy: a YAML file, or the defaults."""

from pathlib import Path

from app.domain.errors import InvalidInput
from app.domain.promotion import Policy, parse_policy
from app.services.catalogues import read_document

CHECKOUT_POLICY = Path(__file__).parents[3] / "configs" / "promotion.yaml"
"""Where a checkout keeps its own."""


def load_policy(path: Path | None = None) -> Policy:
    """The policy in a file; without one the checkout's, else the defaults. Raises InvalidInput for a file that cannot
    be read or that says what means nothing."""
    if path is None:
        if not CHECKOUT_POLICY.is_file():
            return Policy()
        path = CHECKOUT_POLICY
    try:
        return parse_policy(read_document(path))
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}", field="PROMOTION_POLICY") from None
