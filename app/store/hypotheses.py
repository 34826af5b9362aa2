"""Queries about hypothesis sets, executions and signals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domain.basis import from_record
from app.domain.calibration import Calibration, form_of, prior_of
from app.domain.decisions import NEVER, Stakes
from app.domain.deployments import Route
from app.domain.embeddings import Vector
from app.domain.hypotheses import CohortChoice, PastChoice
from app.domain.persona import Facet
from app.domain.position import PRIOR_EXAMINATION
from app.domain.spaces import StoredSpace
from app.domain.telemetry import Policy, Shown
from app.store.calibrations import DECIDED, index_of, places_of, settled
from app.store.engine import Statements
from app.store.facets import facets_of
from app.store.tables import AnyRow, executions, hypothesis_sets, signals
from app.store.users import Centroid, centroid_of
from app.store.vectors import vector_literal

RECENT_ANSWERS = 200
"""How many of a user's latest answered inputs are compared with a new one."""

COHORT_WINDOW = 2000
"""How many of a tenant's latest answers to one intent a cohort is drawn from."""

COHORT_COSINE = 0.6
"""How near another user's input has to be to count."""


def _query(space: StoredSpace) -> str:
    """The input's vector, which the database takes only for the space that serves."""
    return (
        "WITH query AS MATERIALIZED ("
        f"SELECT in_space($1::float4[]::vector, $2, {space.number}, 'serving')::{space.column_type} AS vector)"
    )


@cache
def _choices(space: StoredSpace) -> str:
    return f"""
{_query(space)}
SELECT * FROM (
    SELECT intent, chosen_id, chosen_slots, answer, input_text, rejected_ids, hypotheses, outcome, decision,
           answered_at, created_at,
           1 - (v.embedding <=> query.vector) AS similarity
    FROM query, (
        SELECT * FROM hypothesis_sets
        WHERE tenant_id = $2::text AND user_id = $3::text AND (outcome IS NOT NULL OR rejected_ids <> '{{}}')
        ORDER BY created_at DESC LIMIT $4::int
    ) AS answered
    JOIN {space.input_table} v USING (tenant_id, user_id, set_id)
) AS compared
WHERE similarity >= $5::float8
ORDER BY similarity DESC
LIMIT 20
"""


@cache
def _cohort(space: StoredSpace) -> str:
    """Users are counted, not answers: one keen user is one voice."""
    return f"""
{_query(space)}, near AS (
    SELECT user_id, chosen_slots
    FROM query, (
        SELECT tenant_id, user_id, set_id, chosen_slots FROM hypothesis_sets
        WHERE tenant_id = $2::text AND intent = $4::text AND outcome = 'selected'
          AND user_id <> $3::text AND chosen_slots <> '{{}}'::jsonb
        ORDER BY answered_at DESC LIMIT $5::int
    ) AS latest
    JOIN {space.input_table} v USING (tenant_id, user_id, set_id)
    WHERE 1 - (v.embedding <=> query.vector) >= $6::float8
), everyone AS (
    SELECT count(DISTINCT user_id) AS users FROM near
)
SELECT chosen_slots, count(DISTINCT user_id) AS users,
       count(DISTINCT user_id)::float8 / greatest((SELECT users FROM everyone), 1) AS share
FROM near
GROUP BY chosen_slots
HAVING count(DISTINCT user_id) >= $7::int
ORDER BY users DESC, chosen_slots::text
LIMIT 3
"""


@cache
def _insert_vector(space: StoredSpace, *, is_serving: bool) -> str:
    """Writes the vector of an input; in a space that does not serve, the input was noted as lacking one."""
    role = "'serving'" if is_serving else "NULL"
    vector = f"in_space($4::text::vector, $1, {space.number}, {role})::{space.column_type}"
    forget = (
        "WITH done AS (DELETE FROM space_backlog WHERE tenant_id = $1::text AND user_id = $2::text "
        f"AND item_id = $3::uuid AND number = {space.number} AND kind = 'input') "
    )
    return (
        f"{'' if is_serving else forget}INSERT INTO {space.input_table} (tenant_id, user_id, set_id, embedding) "
        f"VALUES ($1::text, $2::text, $3::uuid, {vector})"
    )


# What an input is read with that is one row: the tenant's latest calibrations and deployment, the priors that tenants
# share, the user's persona.
_BACKGROUND = """
SELECT c.calibrations, p.priors, d.stack, d.candidate, d.share,
       u.facets, u.created_at, vector_send(u.vector) AS vector, u.vector_space, u.vector_weight, u.vector_at
FROM (
    SELECT jsonb_object_agg(source, jsonb_build_array(form, weights, none_score, version, outcomes, prior, examination))
        AS calibrations
    FROM (
        SELECT DISTINCT ON (source) * FROM calibrations WHERE tenant_id = $1::text ORDER BY source, version DESC
    ) AS latest
) AS c
CROSS JOIN (
    SELECT jsonb_object_agg(source, jsonb_build_array(form, weights, none_score, 0, 0, version, NULL)) AS priors
    FROM (SELECT DISTINCT ON (source) * FROM shared_priors ORDER BY source, version DESC) AS latest
) AS p
LEFT JOIN (
    SELECT stack, candidate, share FROM deployments WHERE tenant_id = $1::text ORDER BY number DESC LIMIT 1
) AS d ON true
LEFT JOIN users u ON u.tenant_id = $1::text AND u.user_id = $2::text
"""


_SET_COLUMNS = (
    "tenant_id",
    "set_id",
    "user_id",
    "input_text",
    "intent",
    "decision",
    "clarification_need",
    "source",
    "is_degraded",
    "calibration_version",
    "created_at",
    "model",
    "prompt_version",
    "adapter",
)
_INSERT_SET = f"""
INSERT INTO hypothesis_sets ({", ".join(_SET_COLUMNS)}, hypotheses, policy, belief, basis)
VALUES (
    {", ".join(f"${place}" for place in range(1, 15))},
    $15::text::jsonb, $16::text::jsonb, $17::text::jsonb, $18::text::jsonb
)
"""


@dataclass(frozen=True)
class Background:
    """What an input is read with besides memories and choices."""

    calibrations: Mapping[str, Calibration]
    facets: Mapping[str, Facet]
    centroid: Centroid
    route: Route

    def calibration(self, source: str) -> Calibration:
        """The calibration of a source of hypotheses, or its prior, shared or shipped."""
        return self.calibrations.get(source) or prior_of(source)


@dataclass(frozen=True)
class Answer:
    """What became of a hypothesis set: `selected` with an id, `custom` with the user's own words, `none`
    when all were turned down, `assumed` when the service advanced by itself and nobody objected yet."""

    outcome: str
    chosen_id: str | None = None
    chosen_slots: Mapping[str, str] | None = None
    answer: str | None = None


class HypothesisStore:
    """What is asked and written about hypothesis sets and what follows from them."""

    async def past_choices(
        self,
        statements: Statements,
        tenant_id: str,
        user_id: str,
        *,
        vector: Vector,
        space: StoredSpace,
        nearest: float,
        now: datetime,
    ) -> list[PastChoice]:
        """What the user chose, turned down and let stand for inputs at least `nearest` (cosine) to this one."""
        arguments = (vector.tolist(), tenant_id, user_id, RECENT_ANSWERS, nearest)
        rows = await statements.fetch(_choices(space), *arguments)
        return [choice for row in rows for choice in _choices_of(row, now)]

    async def cohort_choices(
        self,
        statements: Statements,
        tenant_id: str,
        user_id: str,
        *,
        vector: Vector,
        space: StoredSpace,
        intent: str,
        k: int,
    ) -> list[CohortChoice]:
        """Slot values that at least `k` other users of the tenant chose for near inputs."""
        rows = await statements.fetch(
            _cohort(space), vector.tolist(), tenant_id, user_id, intent, COHORT_WINDOW, COHORT_COSINE, k
        )
        return [CohortChoice(row["chosen_slots"], row["users"], row["share"]) for row in rows]

    async def background(self, statements: Statements, tenant_id: str, user_id: str) -> Background:
        """The tenant's calibrations and route, and the user's persona, each as its default where there is none."""
        row = (await statements.fetch(_BACKGROUND, tenant_id, user_id))[0]
        calibrations = _read_now(row["priors"] or {}) | _read_now(row["calibrations"] or {})
        facets = facets_of(row["facets"] or {})
        route = Route(tuple(row["stack"] or ()), row["candidate"], row["share"] or 0.0)
        return Background(calibrations, facets, centroid_of(row), route)

    async def insert_set(
        self, statements: Statements, row: Mapping[str, Any], vectors: Sequence[tuple[StoredSpace, Vector]]
    ) -> None:
        """Write a shown set, with its input's vectors, that in the space that serves first. The user has to exist."""
        await statements.fetch(
            _INSERT_SET,
            *(row[name] for name in _SET_COLUMNS),
            orjson.dumps(row["hypotheses"]).decode(),
            orjson.dumps(row["policy"]).decode(),
            orjson.dumps(row["belief"]).decode(),
            orjson.dumps(row["basis"]).decode(),
        )
        for index, (space, vector) in enumerate(vectors):
            key = (row["tenant_id"], row["user_id"], row["set_id"])
            await statements.fetch(_insert_vector(space, is_serving=not index), *key, vector_literal(vector))

    async def get_set(
        self, connection: AsyncConnection, tenant_id: str, user_id: str | None, set_id: UUID, *, lock: bool = False
    ) -> AnyRow | None:
        """The set, if it is this user's; None: whosever it is."""
        query = select(hypothesis_sets).where(
            hypothesis_sets.c.tenant_id == tenant_id, hypothesis_sets.c.set_id == set_id
        )
        if user_id is not None:
            query = query.where(hypothesis_sets.c.user_id == user_id)
        return (await connection.execute(query.with_for_update() if lock else query)).one_or_none()

    async def latest_asked(
        self, connection: AsyncConnection, tenant_id: str, user_id: str, limit: int
    ) -> Sequence[AnyRow]:
        """The user's latest sets that were to be asked about, newest first, answered or not: the id, the input, the
        hypotheses and the outcome of each."""
        c = hypothesis_sets.c
        query = (
            select(c.set_id, c.input_text, c.hypotheses, c.outcome)
            .where(c.tenant_id == tenant_id, c.user_id == user_id, c.decision == "ask")
            .order_by(c.created_at.desc())
            .limit(limit)
        )
        return (await connection.execute(query)).all()

    async def answer_set(
        self, connection: AsyncConnection, tenant_id: str, set_id: UUID, answer: Answer, now: datetime
    ) -> None:
        """Record what became of a set; a later answer replaces an earlier one."""
        await connection.execute(
            update(hypothesis_sets)
            .where(hypothesis_sets.c.tenant_id == tenant_id, hypothesis_sets.c.set_id == set_id)
            .values(
                outcome=answer.outcome,
                chosen_id=answer.chosen_id,
                chosen_slots=dict(answer.chosen_slots) if answer.chosen_slots is not None else None,
                answer=answer.answer,
                answered_at=now,
            )
        )

    async def note_answered(self, connection: AsyncConnection, tenant_id: str, set_id: UUID, now: datetime) -> None:
        """Write down that a set's question was answered, and that another set goes on from it."""
        await connection.execute(
            update(hypothesis_sets)
            .where(hypothesis_sets.c.tenant_id == tenant_id, hypothesis_sets.c.set_id == set_id)
            .values(answered_at=now)
        )

    async def reject(
        self, connection: AsyncConnection, tenant_id: str, set_id: UUID, rejected_ids: Sequence[str]
    ) -> None:
        """Record which hypotheses of a set were turned down."""
        await connection.execute(
            update(hypothesis_sets)
            .where(hypothesis_sets.c.tenant_id == tenant_id, hypothesis_sets.c.set_id == set_id)
            .values(rejected_ids=list(rejected_ids))
        )

    async def insert_execution(self, connection: AsyncConnection, row: Mapping[str, Any]) -> None:
        """Write an execution."""
        await connection.execute(insert(executions), [dict(row)])

    async def get_execution(
        self, connection: AsyncConnection, tenant_id: str, user_id: str, execution_id: UUID
    ) -> AnyRow | None:
        """The execution, if it is this user's."""
        query = select(executions).where(
            executions.c.tenant_id == tenant_id,
            executions.c.execution_id == execution_id,
            executions.c.user_id == user_id,
        )
        return (await connection.execute(query)).one_or_none()

    async def judge_execution(
        self,
        connection: AsyncConnection,
        tenant_id: str,
        execution_id: UUID,
        *,
        is_success: bool | None,
        rating: float | None,
    ) -> None:
        """Record how an execution was received; what is None stays as it was."""
        await connection.execute(
            update(executions)
            .where(executions.c.tenant_id == tenant_id, executions.c.execution_id == execution_id)
            .values(
                is_success=func.coalesce(is_success, executions.c.is_success),
                rating=func.coalesce(rating, executions.c.rating),
            )
        )

    async def insert_signal(self, connection: AsyncConnection, row: Mapping[str, Any]) -> None:
        """Write a signal."""
        await connection.execute(insert(signals), [dict(row)])

    async def shown_since(self, connection: AsyncConnection, tenant_id: str, since: datetime) -> list[Shown]:
        """Every set shown since a moment, as telemetry sees it."""
        query = select(
            hypothesis_sets.c.user_id,
            hypothesis_sets.c.hypotheses,
            hypothesis_sets.c.decision,
            hypothesis_sets.c.outcome,
            hypothesis_sets.c.chosen_id,
            hypothesis_sets.c.rejected_ids,
            hypothesis_sets.c.policy,
            hypothesis_sets.c.basis,
            hypothesis_sets.c.source,
            hypothesis_sets.c.model,
            hypothesis_sets.c.prompt_version,
            hypothesis_sets.c.adapter,
            hypothesis_sets.c.calibration_version,
            hypothesis_sets.c.belief["answers"].as_integer().label("answers"),
        ).where(hypothesis_sets.c.tenant_id == tenant_id, hypothesis_sets.c.created_at >= since)
        return [_shown(row) for row in await connection.execute(query)]


def _read_now(latest: Mapping[str, Sequence[Any]]) -> dict[str, Calibration]:
    """The calibrations by source, of those whose form is the one that is read."""
    return {
        source: Calibration(*values, examination=tuple(looked_at or PRIOR_EXAMINATION))
        for source, (form, *values, looked_at) in latest.items()
        if form == form_of(source)
    }


def _shown(row: AnyRow) -> Shown:
    """A set as telemetry sees it."""
    chosen = index_of(row.hypotheses, row.chosen_id)
    policy: Mapping[str, Any] = row.policy or {}
    first = row.hypotheses[0]["id"] if row.hypotheses else None
    is_other = row.outcome in DECIDED and (row.outcome == "none" or chosen not in {None, 0})
    return Shown(
        confidences=tuple(h["confidence"] for h in row.hypotheses),
        decision=row.decision,
        is_answered=row.outcome in DECIDED,
        chosen=chosen,
        is_custom=row.outcome == "custom",
        is_assumed=row.outcome == "assumed",
        is_undone=row.decision == "auto_advance" and (is_other or first in row.rejected_ids),
        is_first=not row.answers,
        stakes=Stakes(**policy["stakes"]) if policy else None,
        utility=policy.get("utility"),
        specificity=policy.get("specificity"),
        user_id=row.user_id,
        policy=_policy_of(row),
        calibration_version=row.calibration_version,
        weighed_s=from_record(row.basis).seconds,
        weighed_tokens=from_record(row.basis).tokens,
    )


def _policy_of(row: AnyRow) -> Policy:
    """What made a set; of one from before there were records, as far as it is known."""
    policy: Mapping[str, Any] = row.policy or {}
    stakes: Mapping[str, Any] = policy.get("stakes", {})
    basis = from_record(row.basis) if row.basis else None
    cost = stakes.get("question_cost")
    return Policy(
        version=policy.get("version"),
        question_cost=None if cost == NEVER else cost,
        floor=stakes.get("floor"),
        source=row.source,
        model=row.model,
        prompt_version=row.prompt_version,
        adapter=row.adapter,
        evidence=basis.evidence if basis else None,
        labels_version=basis.labels_version if basis else None,
    )


def _choices_of(row: Any, now: datetime) -> list[PastChoice]:
    """The chosen reading of an answered set, or the one that was let stand, and each one that was turned down."""
    places = dict(zip((each["id"] for each in row["hypotheses"]), places_of(row["hypotheses"]), strict=True))
    by_id: dict[str, dict[str, Any]] = {shown["id"]: shown for shown in row["hypotheses"]}
    kind = settled(row, now).kind
    choices: list[PastChoice] = []
    if kind in {"selected", "edited", "custom", "kept"}:
        shown = by_id.get(row["chosen_id"], {})
        choice = _choice(row, shown, row["chosen_slots"] or {}, row["answer"] or "", is_chosen=True)
        choices.append(replace(choice, outcome=kind, place=places.get(row["chosen_id"], 1)))
    for rejected_id in row["rejected_ids"]:
        shown = by_id.get(rejected_id)
        if shown is not None:
            choice = _choice(row, shown, shown["slots"], "", is_chosen=False)
            choices.append(replace(choice, outcome="rejected", place=places[rejected_id]))
    return choices


def _choice(
    row: Any, shown: Mapping[str, Any], slots: Mapping[str, str], answer: str, *, is_chosen: bool
) -> PastChoice:
    return PastChoice(
        intent=row["intent"],
        slots=slots,
        answer=answer,
        input_text=row["input_text"],
        evidence=tuple(UUID(each) for each in shown.get("evidence", ())),
        similarity=float(row["similarity"]),
        is_chosen=is_chosen,
        request=shown.get("request", ""),
    )
