"""Background jobs without a database: how long a failed one waits, what the log may say, and the frozen tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from procrastinate.schema import SchemaManager

from app.domain.jobs import JobKind, JobPayload
from app.services.jobs.worker import Pulse, describe_error
from app.store.engine import MIGRATIONS

KIND = JobKind("any", JobPayload)


def test_the_tables_are_those_of_the_installed_library() -> None:
    """A release with another schema wants a revision of its own before it may be installed."""
    frozen = (MIGRATIONS / "versions" / "0006_jobs.sql").read_text("utf8")
    assert frozen == SchemaManager.get_schema()


@given(attempt=st.integers(1, 10_000), dice=st.floats(0, 1))
def test_waits_grow_and_end_somewhere(attempt: int, dice: float) -> None:
    wait_s = KIND.wait_s(attempt, dice)
    assert wait_s <= KIND.wait_s(attempt + 1, dice) <= KIND.longest_wait_s * 1.25
    assert KIND.wait_s(attempt, 0.0) <= wait_s


def test_the_first_waits() -> None:
    assert [KIND.wait_s(attempt, 0.0) for attempt in (1, 2, 3)] == [5.0, 10.0, 20.0]


def test_an_error_is_described_without_its_words() -> None:
    with pytest.raises(LookupError) as raised:
        raise LookupError("what Ada said")
    described = describe_error(raised.value)
    assert described.startswith("LookupError at test_jobs.py:")
    assert "Ada" not in described


@pytest.mark.parametrize("tenant", ["", "A", "a b", "a'b"])
def test_a_job_is_a_tenants(tenant: str) -> None:
    with pytest.raises(ValueError, match="tenant_id"):
        JobPayload(tenant_id=tenant)


def test_a_worker_lets_go_before_others_take_over() -> None:
    """Also when its last heartbeat hung."""
    pulse = Pulse()
    assert pulse.lost_s + 2 * pulse.beat_s < pulse.stale_s
