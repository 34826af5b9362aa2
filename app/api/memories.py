"""Routes: memories, and everything held on a user."""

import tempfile
from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Any

from fastapi import Header, Query, Request
from fastapi.responses import StreamingResponse

from app.api import memory_schemas as schemas
from app.api.bounds import open_to_bound_keys
from app.api.deps import ServicesDep, UserCaller
from app.api.errors import responses
from app.api.params import JobId, MemoryId, PathUserId, QueryCursor, QueryUserId, cursor_of, place_of
from app.api.routing import NDJSON, cancellable, make_router
from app.api.schemas import Tag
from app.domain.errors import InvalidInput
from app.domain.memory import Draft, Memory, MemoryType
from app.domain.ranking import Ranked, Weights
from app.domain.turns import Utterance
from app.services.memories import Added
from app.services.ranking import Found, SearchRequest

router = make_router("memories", "/v1")

SPOOL_BYTES = 8 * 1024 * 1024


@router.post("/memories", responses=responses(409))
async def add_memories(body: schemas.MemoriesIn, services: ServicesDep, caller: UserCaller) -> schemas.AddedOut:
    """Remember one memory, or up to 1,000 in one transaction."""
    drafts = [draft_of(item) for item in (body.memories if isinstance(body, schemas.ManyMemoriesIn) else [body])]
    added = await services.memories.add(caller.tenant_id, body.user_id, drafts)
    return added_out(added)


@router.get("/memories", responses=responses(404))
async def list_memories(
    user_id: QueryUserId,
    services: ServicesDep,
    caller: UserCaller,
    mtype: Annotated[MemoryType | None, Query(description="Only memories of this type.")] = None,
    tag: Annotated[Tag | None, Query(description="Only memories with this tag.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Most memories of a page.")] = 100,
    cursor: QueryCursor = None,
) -> schemas.PageOut:
    """A user's memories that hold now, by when they became true, newest first; a page at a time."""
    found = await services.memories.page(
        caller.tenant_id, user_id, kind=mtype, tag=tag, after=place_of(cursor), limit=limit
    )
    following = cursor_of(found[-1]) if len(found) == limit else None
    return schemas.PageOut(memories=[memory_out(memory) for memory in found], cursor=following)


@router.post("/memories/search", responses=responses(404))
@cancellable
async def search_memories(body: schemas.SearchIn, services: ServicesDep, caller: UserCaller) -> schemas.SearchOut:
    """The user's memories most relevant to a query, best first."""
    weights = Weights(**body.weights.model_dump()) if body.weights else None
    request = SearchRequest(
        body.query,
        body.limit,
        body.types,
        body.tags,
        body.as_of,
        body.known_at,
        weights,
        body.rerank,
        token_budget=body.token_budget,
    )
    found = await services.ranking.search(caller.tenant_id, body.user_id, request)
    return search_out(found)


@router.post("/memories/ingest", status_code=202, responses=responses())
async def ingest_conversation(
    body: schemas.IngestIn,
    services: ServicesDep,
    caller: UserCaller,
    idempotency_key: Annotated[
        str | None, Header(max_length=256, description="What was handed in under it once is not taken again.")
    ] = None,
) -> schemas.IngestedOut:
    """Hand in turns of a conversation: they are remembered in the background, in order, each once."""
    now = services.ingest.clock.now()
    said = [
        # A moment of its own for each that came without one, in order.
        Utterance(each.role, each.content, each.created_at or now + timedelta(microseconds=at), each.name)
        for at, each in enumerate(body.messages)
    ]
    return schemas.IngestedOut(
        job_id=await services.ingest.begin(caller.tenant_id, body.user_id, said, body.session, idempotency_key)
    )


@router.get("/jobs/{job_id:uuid}", responses=responses(404))
@open_to_bound_keys
async def get_job(job_id: JobId, services: ServicesDep, caller: UserCaller) -> schemas.JobOut:
    """How a job stands."""
    ingest, state = await services.ingest.status(caller.tenant_id, job_id, caller.user_id)
    return schemas.JobOut(
        job_id=ingest.ingest_id,
        kind="ingest",
        state=state,
        user_id=ingest.user_id,
        session=ingest.session,
        created_at=ingest.created_at,
        finished_at=ingest.finished_at,
        turns=ingest.turns,
        taken=ingest.taken,
        passed_over=ingest.passed_over,
        memories=ingest.memories,
        deduplicated=ingest.deduplicated,
        superseded=ingest.superseded,
        set_apart=ingest.set_apart,
    )


@router.get("/memories/{memory_id:uuid}", responses=responses(404))
async def get_memory(memory_id: MemoryId, services: ServicesDep, caller: UserCaller) -> schemas.MemoryOut:
    """One memory."""
    return memory_out(await services.memories.get(caller.tenant_id, memory_id))


@router.get("/memories/{memory_id:uuid}/history", responses=responses(404))
async def get_memory_history(
    memory_id: MemoryId, services: ServicesDep, caller: UserCaller
) -> schemas.MemoryHistoryOut:
    """What a memory said before, and what it replaced."""
    versions = await services.memories.history(caller.tenant_id, memory_id)
    return schemas.MemoryHistoryOut(versions=[memory_out(memory) for memory in versions])


@router.patch("/memories/{memory_id:uuid}", responses=responses(404, 409))
async def change_memory(
    memory_id: MemoryId, body: schemas.MemoryChangeIn, services: ServicesDep, caller: UserCaller
) -> schemas.MemoryOut:
    """Change a memory; what it said before stays in its history."""
    required = {"content", "type", "confidence", "tags"}
    given = body.model_dump(exclude_unset=True)
    changes = {name: value for name, value in given.items() if value is not None or name not in required}
    return memory_out(await services.memories.update(caller.tenant_id, memory_id, changes))


@router.delete("/memories/{memory_id:uuid}", responses=responses(404))
async def delete_memory(memory_id: MemoryId, services: ServicesDep, caller: UserCaller) -> schemas.DeletedOut:
    """Delete a memory with its earlier versions."""
    return schemas.DeletedOut(deleted=await services.memories.delete_one(caller.tenant_id, memory_id))


@router.delete("/memory", responses=responses(404))
async def delete_memories(
    user_id: QueryUserId,
    services: ServicesDep,
    caller: UserCaller,
    mtype: Annotated[MemoryType | None, Query(description="Only memories of this type.")] = None,
) -> schemas.DeletedOut:
    """Delete a user's memories, of one type or all."""
    return schemas.DeletedOut(deleted=await services.memories.delete(caller.tenant_id, user_id, mtype))


@router.get(
    "/memory/export",
    response_class=StreamingResponse,
    responses={
        **responses(404),
        200: {"description": "One JSON object a line.", "content": {NDJSON: {"schema": {"type": "string"}}}},
    },
)
async def export_user(user_id: QueryUserId, services: ServicesDep, caller: UserCaller) -> StreamingResponse:
    """Everything held on a user, as a stream of JSON lines."""
    await services.transfer.check_user(caller.tenant_id, user_id)
    return StreamingResponse(services.transfer.export(caller.tenant_id, user_id), media_type=NDJSON)


@router.post(
    "/memory/import",
    responses=responses(),
    openapi_extra={
        "requestBody": {"required": True, "content": {NDJSON: {"schema": {"type": "string"}}}},
    },
)
@open_to_bound_keys
async def import_user(request: Request, services: ServicesDep, caller: UserCaller) -> schemas.ImportedOut:
    """Take in an export, in one transaction."""
    with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
        async for chunk in request.stream():
            spool.write(chunk)
        if spool.tell() == 0:
            raise InvalidInput("there is nothing in the body to import")
        spool.seek(0)
        imported = await services.transfer.import_(caller.tenant_id, _lines(spool), caller.user_id)
    return schemas.ImportedOut(imported=dict(imported))


@router.delete("/users/{user_id}", responses=responses(404), tags=["users"])
async def erase_user(user_id: PathUserId, services: ServicesDep, caller: UserCaller) -> schemas.ErasedOut:
    """Erase a user from every table, training file and dataset; the answer names the adapters trained on their
    samples."""
    left = await services.transfer.erase(caller.tenant_id, user_id)
    return schemas.ErasedOut(
        erased=dict(left.erased),
        trained_adapters=list(left.trained_adapters),
        unsure_adapters=list(left.unsure_adapters),
        deleted_datasets=left.has_deleted_datasets,
    )


def _lines(spool: Any) -> Iterator[bytes]:
    yield from spool


def draft_of(item: schemas.MemoryIn) -> Draft:
    """A memory as it arrives."""
    return Draft(
        item.type,
        item.content,
        item.confidence,
        tuple(item.tags),
        item.source,
        item.valid_from,
        item.valid_to,
        item.expires_at,
        item.session,
        item.turn,
        item.speaker,
    )


def added_out(added: Added) -> schemas.AddedOut:
    """What became of drafts, as the API shows it."""
    return schemas.AddedOut(ids=list(added.ids), deduplicated=added.deduplicated, superseded=list(added.superseded))


def search_out(found: Found) -> schemas.SearchOut:
    """What a search found, as the API shows it."""
    return schemas.SearchOut(
        results=[result_out(item) for item in found.ranked],
        space=found.space,
        degraded=found.is_degraded,
        recall_id=found.recall_id,
        left_out=found.left_out,
    )


def memory_out(memory: Memory) -> schemas.MemoryOut:
    """A memory as the API shows it."""
    return schemas.MemoryOut(
        id=memory.memory_id,
        user_id=memory.user_id,
        type=memory.type,
        content=memory.content,
        confidence=memory.confidence,
        tags=list(memory.tags),
        source=memory.source,
        created_at=memory.created_at,
        updated_at=memory.updated_at,
        valid_from=memory.valid_from,
        valid_to=memory.valid_to,
        expires_at=memory.expires_at,
        superseded_by=memory.superseded_by,
        session=memory.session,
        turn=memory.turn,
        speaker=memory.speaker,
        quote=memory.told_as,
        proof_count=memory.proof_count,
        evidence=[schemas.EvidenceOut(source=each.source, quote=each.quote) for each in memory.evidence],
    )


def result_out(item: Ranked) -> schemas.SearchResult:
    """A memory with what it was ranked by, as the API shows it."""
    parts = schemas.ScoreParts(
        similarity=item.similarity,
        recency=item.recency,
        confidence=item.confidence,
        rerank=item.rerank,
        redundancy=item.redundancy,
        cosine=item.cosine,
    )
    return schemas.SearchResult(memory=memory_out(item.memory), score=item.score, parts=parts)
