"""Background jobs: what they are about, and when a failed one is tried again."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

MAX_PAYLOAD_BYTES = 4096
"""A job names what it is about; whatever is longer than some ids lies in a table of its own."""

JobState = Literal["waiting", "running", "dead"]


class JobPayload(BaseModel):
    """What a job is about: ids, never a text of a user. A kind of job that needs more than the tenant inherits this."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant_id: Annotated[str, Field(pattern=r"^[a-z0-9_-]+$")]


P = TypeVar("P", bound=JobPayload)


@dataclass(frozen=True)
class JobKind(Generic[P]):
    """A kind of job: its name in the database, the class of its payload, and how often it is tried."""

    name: str
    payload: type[P]
    attempts: int = 8
    first_wait_s: float = 5.0
    longest_wait_s: float = 900.0

    def wait_s(self, attempt: int, dice: float) -> float:
        """Seconds until the next try after the failed `attempt` (1, 2, …): twice as long each time, and up to a quarter
        more by `dice` (0..1), so that jobs that failed together do not come back together."""
        return min(self.first_wait_s * 2.0 ** min(attempt - 1, 60), self.longest_wait_s) * (1.0 + dice / 4.0)


@dataclass(frozen=True)
class JobView:
    """A job as its operator sees it. A dead one stays until it is put back or dropped."""

    job_id: int
    kind: str
    state: JobState
    payload: dict[str, Any]
    lane: str | None
    key: str | None
    attempts: int
    run_at: datetime | None
    """Not before then; None: at once."""
    error: str | None
    """The class and the place of what went wrong the last time; its words might be a user's."""
    failed_at: datetime | None
