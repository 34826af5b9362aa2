"""Routes: what was recalled, and what was set apart before it could be."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import Query

from app.api import memory_schemas, recall_schemas
from app.api.bounds import open_to_bound_keys
from app.api.deps import ServicesDep, UserCaller
from app.api.errors import responses
from app.api.memories import added_out, memory_out, result_out
from app.api.params import QueryCursor, QueryUserId, RecallId, StatementId, cursor_at, place_of
from app.api.routing import make_router
from app.domain.memory import Memory, says_so_still
from app.services.recalls import Receipt
from app.store.quarantine import SetApart
from app.store.recalls import Recall

router = make_router("recalls", "/v1")

Limit = Annotated[int, Query(ge=1, le=1000, description="Most of a page.")]


@router.get("/recalls", responses=responses(404))
async def list_recalls(
    user_id: QueryUserId,
    services: ServicesDep,
    caller: UserCaller,
    limit: Limit = 100,
    cursor: QueryCursor = None,
) -> recall_schemas.RecallsOut:
    """What was recalled for a user, the latest first; a page at a time."""
    found = await services.recalls.page(caller.tenant_id, user_id, after=place_of(cursor), limit=limit)
    following = cursor_at(found[-1].asked_at, found[-1].recall_id) if len(found) == limit else None
    return recall_schemas.RecallsOut(recalls=[_recall_out(each) for each in found], cursor=following)


@router.get("/recalls/{recall_id:uuid}", responses=responses(404))
@open_to_bound_keys
async def get_recall(recall_id: RecallId, services: ServicesDep, caller: UserCaller) -> recall_schemas.ReceiptOut:
    """The receipt of a recall: each memory with its scores, the words that tell it, its validity and its age."""
    receipt = await services.recalls.receipt(caller.tenant_id, recall_id, caller.user_id)
    return _receipt_out(receipt, services.memories.clock.now())


@router.post("/recalls/{recall_id:uuid}/replay", responses=responses(404))
@open_to_bound_keys
async def replay_recall(recall_id: RecallId, services: ServicesDep, caller: UserCaller) -> recall_schemas.ReplayOut:
    """Do a recall again, by what was known then and by what is known now; nothing is written down."""
    replay = await services.recalls.replay(caller.tenant_id, recall_id, caller.user_id)
    return recall_schemas.ReplayOut(
        recall=_recall_out(replay.recall),
        is_same=replay.is_same,
        then=[result_out(item) for item in replay.then.ranked],
        now=[result_out(item) for item in replay.now.ranked],
    )


@router.post("/recalls/{recall_id:uuid}/feedback", responses=responses(404))
@open_to_bound_keys
async def judge_recall(
    recall_id: RecallId, body: recall_schemas.RecallFeedbackIn, services: ServicesDep, caller: UserCaller
) -> recall_schemas.ReceiptOut:
    """Say which of the memories of a recall were helpful: the weights of search are fitted to it."""
    receipt = await services.recalls.judge(caller.tenant_id, recall_id, body.helpful_ids, caller.user_id)
    return _receipt_out(receipt, services.memories.clock.now())


@router.get("/memories/quarantine", responses=responses(404), tags=["memories"])
async def list_quarantine(
    user_id: QueryUserId,
    services: ServicesDep,
    caller: UserCaller,
    limit: Limit = 100,
    cursor: QueryCursor = None,
) -> recall_schemas.QuarantineOut:
    """Statements of a user that did not pass the write gate, the latest first; a page at a time."""
    found = await services.gate.page(caller.tenant_id, user_id, after=place_of(cursor), limit=limit)
    following = cursor_at(found[-1].created_at, found[-1].item_id) if len(found) == limit else None
    return recall_schemas.QuarantineOut(statements=[_set_apart_out(each) for each in found], cursor=following)


@router.post("/memories/quarantine/{item_id:uuid}/release", responses=responses(404, 409), tags=["memories"])
@open_to_bound_keys
async def release_statement(item_id: StatementId, services: ServicesDep, caller: UserCaller) -> memory_schemas.AddedOut:
    """Let a statement through the write gate after all: it becomes a memory."""
    return added_out(await services.gate.release(caller.tenant_id, item_id, caller.user_id))


def _recall_out(recall: Recall) -> recall_schemas.RecallOut:
    return recall_schemas.RecallOut(
        recall_id=recall.recall_id,
        user_id=recall.user_id,
        kind=recall.kind,
        query=recall.query,
        asked_at=recall.asked_at,
        as_of=recall.as_of,
        space=recall.space,
        degraded=recall.is_degraded,
        memory_ids=recall.memory_ids,
    )


def _receipt_out(receipt: Receipt, now: datetime) -> recall_schemas.ReceiptOut:
    recall = receipt.recall
    known = zip(recall.shown, receipt.memories, receipt.current, strict=True)
    items = [_item_out(shown, memory, current, recall, now) for shown, memory, current in known]
    return recall_schemas.ReceiptOut(recall=_recall_out(recall), memories=items)


def _item_out(
    shown: Mapping[str, Any], memory: Memory | None, current: Memory | None, recall: Recall, now: datetime
) -> recall_schemas.ReceiptItem:
    age = None if memory is None else max(0.0, (recall.asked_at - memory.valid_from).total_seconds() / 86400.0)
    return recall_schemas.ReceiptItem(
        id=UUID(shown["id"]),
        score=shown.get("score"),
        similarity=shown.get("similarity"),
        recency=shown.get("recency"),
        confidence=shown.get("confidence"),
        cosine=shown.get("cosine"),
        rerank=shown.get("rerank"),
        redundancy=shown.get("redundancy"),
        memory=None if memory is None else memory_out(memory),
        current=None if current is None else memory_out(current),
        quote=None if memory is None else memory.told_as or memory.content,
        age_days=age,
        is_valid=None if memory is None or current is None else says_so_still(memory, current, now),
        is_helpful=None if recall.helpful is None else shown["id"] in recall.helpful,
    )


def _set_apart_out(item: SetApart) -> recall_schemas.SetApartOut:
    return recall_schemas.SetApartOut(
        id=item.item_id,
        user_id=item.user_id,
        type=item.type,
        content=item.content,
        quote=item.quote,
        reason=item.reason,
        source=item.source,
        valid_from=item.valid_from,
        created_at=item.created_at,
    )
