"""Telemetry: counters of this process, and rates over what a tenant was shown."""

from collections import Counter as Tally
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from prometheus_client import Counter, Gauge, Histogram

from app.domain.calibration import Calibration
from app.domain.decisions import Decision
from app.domain.telemetry import OfPolicy, Shown, Summary, by_policy, summarise
from app.store.calibrations import CalibrationStore
from app.store.engine import Database
from app.store.hypotheses import HypothesisStore

DECISIONS = Counter("embed_service_decisions_total", "Decisions about inputs.", ["decision"])
REQUESTS = Counter("embed_service_http_requests_total", "Answered requests.", ["method", "route", "status"])
LATENCY = Histogram(
    "embed_service_http_request_seconds",
    "Seconds from request to answer.",
    ["method", "route"],
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0),
)
TOOL_CALLS = Counter("embed_service_tool_calls_total", "Calls of tools by assistants.", ["tool", "outcome"])
TOOL_SECONDS = Histogram(
    "embed_service_tool_call_seconds",
    "Seconds that a tool took.",
    ["tool"],
    buckets=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0),
)
IN_FLIGHT = Gauge("embed_service_http_requests_in_flight", "Requests being answered now.")


class TelemetryService:
    """Decisions counted since this process started."""

    _decisions: ClassVar[Tally[str]] = Tally()

    def count_decision(self, decision: Decision) -> None:
        """Count one decision."""
        self._decisions[decision] += 1
        DECISIONS.labels(decision).inc()

    def get_auto_advance_rate(self) -> float:
        """Share of this process's decisions that were `auto_advance`, 0..1; 0.0 before the first."""
        total = self._decisions.total()
        return self._decisions["auto_advance"] / total if total else 0.0


telemetry_service = TelemetryService()
"""The one of this process; it holds counters only and needs nothing to start."""


@dataclass(frozen=True)
class Report:
    """Figures over all sets and of each policy, and the calibration now in force."""

    summary: Summary
    policies: Sequence[OfPolicy]
    calibration: Calibration


@dataclass(frozen=True)
class TelemetryReports:
    """Rates over what was shown and chosen, from the database."""

    database: Database
    hypotheses: HypothesisStore
    calibrations: CalibrationStore
    source: str
    """Whose calibration is reported: the SLM's."""

    async def report(self, tenant_id: str, since: datetime) -> Report:
        """The tenant's figures since a moment, and the calibration now in force."""
        async with self.database.begin(tenant_id) as connection:
            calibration = await self.calibrations.calibration(connection, tenant_id, self.source)
        shown = await self.shown(tenant_id, since)
        return Report(summarise(shown), by_policy(shown), calibration)

    async def shown(self, tenant_id: str, since: datetime) -> Sequence[Shown]:
        """What the tenant's users were shown since a moment."""
        async with self.database.begin(tenant_id) as connection:
            return await self.hypotheses.shown_since(connection, tenant_id, since)
