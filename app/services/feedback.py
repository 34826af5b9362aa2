"""Feedback: how a result was received, which readings were wrong, which of two was better."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import structlog

from app.domain.errors import InvalidInput, NotFound
from app.domain.extraction import statements_in
from app.domain.leanings import leanings_of
from app.domain.memory import MemoryType
from app.domain.persona import Signal
from app.ports import Clock
from app.services.deployments import DeploymentService
from app.services.gate import Candidate, GateService
from app.services.hypotheses import HypothesisService, maker_of
from app.services.persona import PersonaService
from app.services.training import TrainingDataCollector
from app.store.engine import Database
from app.store.hypotheses import Answer, HypothesisStore
from app.store.tables import AnyRow
from app.store.users import UserStore

log = structlog.get_logger(__name__)

_LASTING = frozenset({MemoryType.PREFERENCE, MemoryType.STYLE, MemoryType.CONSTRAINT})
"""What a comment on a result may teach for good."""


@dataclass(frozen=True)
class Feedback:
    """A user's reaction to an execution or a hypothesis set."""

    execution_id: UUID | None = None
    set_id: UUID | None = None
    is_success: bool | None = None
    rating: float | None = None
    comment: str = ""
    rejected_ids: Sequence[str] = ()


@dataclass(frozen=True)
class FeedbackService:
    """The use cases about reactions."""

    database: Database
    personas: PersonaService
    gate: GateService
    hypotheses: HypothesisService
    collector: TrainingDataCollector
    clock: Clock
    users: UserStore
    hypothesis_store: HypothesisStore
    deployments: DeploymentService

    async def give(self, tenant_id: str, user_id: str, feedback: Feedback) -> Mapping[str, float]:
        """Record a reaction and learn from it; how far each facet moved. Raises NotFound when the execution
        or set is not this user's."""
        now = self.clock.now()
        signal_id = uuid4()
        async with self.database.begin(tenant_id) as connection:
            persona = await self.users.persona(connection, tenant_id, user_id, lock=True)
            if persona is None:
                raise NotFound("no such user")
            execution, shown = await self._load(connection, tenant_id, user_id, feedback)
            if execution is not None:
                await self.hypothesis_store.judge_execution(
                    connection,
                    tenant_id,
                    execution.execution_id,
                    is_success=feedback.is_success,
                    rating=feedback.rating,
                )
            rejected = await self._settle(connection, tenant_id, feedback, execution, shown)
            await self.hypothesis_store.insert_signal(
                connection,
                {
                    "tenant_id": tenant_id,
                    "signal_id": signal_id,
                    "user_id": user_id,
                    "kind": "feedback",
                    "set_id": shown.set_id if shown is not None else None,
                    "execution_id": feedback.execution_id,
                    "body": {
                        "success": feedback.is_success,
                        "rating": feedback.rating,
                        "comment": feedback.comment,
                        "rejected_ids": list(feedback.rejected_ids),
                    },
                    "created_at": now,
                },
            )
            has_consent = self.collector.is_enabled and await self.users.consents(connection, tenant_id, user_id)
            await asyncio.to_thread(
                self.collector.log_feedback,
                user_id=user_id,
                execution_id=feedback.execution_id,
                hypothesis_set_id=shown.set_id if shown is not None else None,
                is_success=feedback.is_success,
                rating=feedback.rating,
                comment=feedback.comment or None,
                rejected_ids=feedback.rejected_ids,
                tenant_id=tenant_id,
                maker=maker_of(shown),
                has_consent=has_consent,
            )
        signal = Signal(
            "feedback",
            self.personas.now_of(persona.facets, now),
            rejected_texts=tuple(rejected),
            comment=feedback.comment,
            rating=feedback.rating,
            is_success=feedback.is_success,
        )
        changes = await self.personas.learn(tenant_id, user_id, signal, signal_id=signal_id)
        stated = [
            Candidate(draft, [feedback.comment])
            for draft in statements_in(feedback.comment, "feedback")
            if draft.type in _LASTING
        ]
        await self.gate.remember(tenant_id, user_id, stated, known_since=persona.known_since)
        deltas = {change.facet: change.after - change.before for change in changes}
        await self.hypotheses.recalibrate(tenant_id)
        await self.deployments.watch(tenant_id)
        log.info("feedback_recorded", facets=sorted(deltas), rejected=len(feedback.rejected_ids))
        return deltas

    async def prefer(
        self,
        tenant_id: str,
        user_id: str,
        *,
        hypothesis_a: str,
        hypothesis_b: str,
        preferred: str,
        reward: float | None,
    ) -> None:
        """Record which of two wordings a user prefers, and learn from it. Raises NotFound for an unknown user."""
        now = self.clock.now()
        signal_id = uuid4()
        async with self.database.begin(tenant_id) as connection:
            if not await self.users.hold(connection, tenant_id, user_id):
                raise NotFound("no such user")
            await self.hypothesis_store.insert_signal(
                connection,
                {
                    "tenant_id": tenant_id,
                    "signal_id": signal_id,
                    "user_id": user_id,
                    "kind": "preference",
                    "body": {
                        "hypothesis_a": hypothesis_a,
                        "hypothesis_b": hypothesis_b,
                        "preferred": preferred,
                        "reward": reward,
                    },
                    "created_at": now,
                },
            )
            await asyncio.to_thread(
                self.collector.log_preference_comparison,
                user_id=user_id,
                hypothesis_a=hypothesis_a,
                hypothesis_b=hypothesis_b,
                preferred=preferred,
                reward=reward,
                tenant_id=tenant_id,
                has_consent=self.collector.is_enabled and await self.users.consents(connection, tenant_id, user_id),
            )
        if preferred != "tie":
            shown = (leanings_of(hypothesis_a), leanings_of(hypothesis_b))
            chosen = int(preferred == "hypothesis_b")
            await self.personas.learn(
                tenant_id, user_id, Signal("preference", {}, shown=shown, chosen=chosen), signal_id=signal_id
            )
        log.info("preference_recorded", preferred=preferred)

    async def _load(
        self, connection: Any, tenant_id: str, user_id: str, feedback: Feedback
    ) -> tuple[AnyRow | None, AnyRow | None]:
        """The execution and the set the feedback is about, the set locked."""
        execution = None
        set_id = feedback.set_id
        if feedback.execution_id is not None:
            execution = await self.hypothesis_store.get_execution(connection, tenant_id, user_id, feedback.execution_id)
            if execution is None:
                raise NotFound("no such execution")
            set_id = set_id or execution.set_id
        if set_id is None:
            return execution, None
        shown = await self.hypothesis_store.get_set(connection, tenant_id, user_id, set_id, lock=True)
        if shown is None:
            raise NotFound("no such hypothesis set")
        return execution, shown

    async def _settle(
        self, connection: Any, tenant_id: str, feedback: Feedback, execution: AnyRow | None, shown: AnyRow | None
    ) -> list[str]:
        """Record what the feedback says about the set; the wordings that were turned down."""
        if shown is None:
            if feedback.rejected_ids:
                raise InvalidInput("rejected_ids needs the hypothesis set they belong to", "hypothesis_set_id")
            return []
        by_id = {each["id"]: each for each in shown.hypotheses}
        unknown = [each for each in feedback.rejected_ids if each not in by_id]
        if unknown:
            raise NotFound("no such hypothesis in this set: see rejected_ids")
        now = self.clock.now()
        rejected = set(shown.rejected_ids) | set(feedback.rejected_ids)
        is_content = feedback.is_success is True or (feedback.is_success is None and (feedback.rating or 0) > 0)
        is_discontent = feedback.is_success is False
        if execution is not None and shown.outcome == "assumed":
            if is_content:
                confirmed = Answer("selected", shown.chosen_id, shown.chosen_slots)
                await self.hypothesis_store.answer_set(connection, tenant_id, shown.set_id, confirmed, now)
            elif is_discontent:
                rejected.add(shown.chosen_id)
        if rejected != set(shown.rejected_ids):
            await self.hypothesis_store.reject(connection, tenant_id, shown.set_id, sorted(rejected))
        if by_id and rejected >= set(by_id) and shown.outcome in {None, "assumed"}:
            await self.hypothesis_store.answer_set(connection, tenant_id, shown.set_id, Answer("none"), now)
        return [by_id[each]["question"] for each in feedback.rejected_ids]
