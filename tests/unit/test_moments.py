"""Moments in requests."""

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import TypeAdapter, ValidationError

from app.api.schemas import Moment

MOMENTS: TypeAdapter[datetime] = TypeAdapter(Moment)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00:00+02:00", datetime(2026, 1, 31, 10, tzinfo=UTC)),
        ("9998-12-31T23:59:59-23:59", datetime(9999, 1, 1, 23, 58, 59, tzinfo=UTC)),
    ],
)
def test_a_moment_is_kept_in_utc_however_far_its_zone_is(text: str, moment: datetime) -> None:
    """PostgreSQL refuses zones of 16 hours and more."""
    parsed = MOMENTS.validate_python(text)
    assert parsed == moment
    assert parsed.utcoffset() == timedelta(0)


def test_a_moment_has_a_zone() -> None:
    with pytest.raises(ValidationError):
        MOMENTS.validate_python("2026-01-31T12:00:00")
