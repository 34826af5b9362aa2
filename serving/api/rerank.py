"""Routes: reranking, in the shape that Cohere, Jina and vLLM share."""

import numpy as np
from fastapi import Request, Response

from serving.api.embeddings import check_name, read_texts
from serving.api.errors import request_id_of
from serving.api.routing import MetricsDep, ModelDep, answer, make_router
from serving.api.schemas import RerankIn
from serving.engine import Engine, Reading
from serving.metrics import Metrics
from serving.pooling import Vectors, normalised

router = make_router()


@router.post("/rerank")
@router.post("/v1/rerank", operation_id="rerank_v1")
async def rerank(body: RerankIn, request: Request, model: ModelDep, metrics: MetricsDep) -> Response:
    """Documents in the order of their relevance to a query, 0..1; `top_n` of them, or all."""
    engine = await model.engine()
    check_name(body.model, engine.info)
    texts = body.texts
    relevances, reading = await _relevances(engine, body, metrics)
    best_first: list[int] = np.argsort(-relevances, kind="stable")[: body.top_n].tolist()
    results = [
        {
            "index": place,
            "relevance_score": float(relevances[place]),
            **({"document": {"text": texts[place]}} if body.return_documents else {}),
        }
        for place in best_first
    ]
    return answer(
        {
            "id": request_id_of(request),
            "model": engine.info.name,
            "results": results,
            "usage": {"prompt_tokens": reading.tokens, "total_tokens": reading.tokens},
            "truncated": reading.truncated,
        }
    )


async def _relevances(engine: Engine, body: RerankIn, metrics: Metrics) -> tuple[Vectors, Reading]:
    """One relevance per document: a cross-encoder's logit through the logistic function, or else the cosine to the
    query, moved from -1..1 to 0..1."""
    texts = body.texts
    if engine.info.kind == "cross-encoder":
        reading = await engine.read([(body.query, text) for text in texts], truncate=body.truncate)
        metrics.truncated.inc(reading.truncated)
        return (0.5 * (1.0 + np.tanh(reading.vectors[:, 0] / 2.0))).astype(np.float32), reading
    reading = await read_texts(engine, [body.query, *texts], None, metrics, truncate=body.truncate)
    vectors = normalised(reading.vectors)
    return np.clip((1.0 + vectors[1:] @ vectors[0]) / 2.0, 0.0, 1.0), reading
