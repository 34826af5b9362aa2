"""Routes: reranking, in the shape that Cohere, Jina and vLLM share."""

from collections.abc import Sequence

from fastapi import Request

from app.api.bounds import open_to_bound_keys
from app.api.deps import ServicesDep, UserCaller
from app.api.errors import request_id_of, responses
from app.api.rerank_schemas import DocumentOut, RerankIn, RerankOut, RerankResult
from app.api.routing import cancellable, make_router

router = make_router("rerank")


@router.post("/v1/rerank", responses=responses(), response_model_exclude_none=True)
@cancellable
@open_to_bound_keys
async def rerank(body: RerankIn, request: Request, services: ServicesDep, caller: UserCaller) -> RerankOut:
    """Documents in the order of their relevance to a query, 0..1; `top_n` of them, or all."""
    texts = body.texts
    relevances, model, is_degraded = await services.ranking.rerank_texts(body.query, texts)
    return RerankOut(
        id=request_id_of(request),
        model=model,
        results=[
            RerankResult(
                index=place,
                relevance_score=relevances[place],
                document=DocumentOut(text=texts[place]) if body.return_documents else None,
            )
            for place in best_first(relevances)[: body.top_n]
        ],
        degraded=is_degraded,
    )


def best_first(relevances: Sequence[float]) -> list[int]:
    """The places of the relevances from the highest to the lowest, equal ones in the order they came in."""
    return sorted(range(len(relevances)), key=lambda place: (-relevances[place], place))
