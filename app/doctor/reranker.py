"""The reranker that the settings name, in the order in which they count."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import httpx2

from app.clients.rerank.server import ServerReranker
from app.doctor.check import Check, Unfit
from app.doctor.web import REQUEST_LIMIT_S
from app.domain.errors import ModelUnavailable
from app.settings import Settings
from app.store.engine import describe

_PART = "reranker"
_QUERY = "How do I deploy with Docker?"
_DOCUMENTS = ("The cat sleeps on the sofa all day.", "Build a Docker image, push it, and deploy the container.")
_WEIGHTS = ("model.onnx", "onnx/model.onnx", "model.safetensors")
_MEND = "start a reranking model there, check VLLM_RERANK_URL, or unset it"


async def check_reranker(settings: Settings, client: httpx2.AsyncClient) -> Check:
    """VLLM_RERANK_URL, else RERANK_MODEL, else the chat model, else what is built in. Raises Unfit."""
    if settings.vllm_rerank_url is not None:
        key = settings.slm_key
        scores = await try_reranker(settings.vllm_rerank_url, key, client)
        return judge_scores(describe(settings.vllm_rerank_url), scores)
    if settings.rerank_model is not None:
        return judge_folder(settings.rerank_model)
    if settings.slm_impl in ("vllm", "openai"):
        return Check(_PART, "ok", "the chat model: neither VLLM_RERANK_URL nor RERANK_MODEL is set")
    return Check(_PART, "ok", "local: the embedder and shared words")


async def try_reranker(url: str, key: str | None, client: httpx2.AsyncClient) -> Sequence[float]:
    """The relevances of two documents, asked as the service asks. Raises Unfit."""
    reranker = ServerReranker(url, api_key=key, client=client)
    try:
        async with asyncio.timeout(REQUEST_LIMIT_S):
            return await reranker.rerank(_QUERY, _DOCUMENTS)
    except TimeoutError as error:
        raise Unfit(f"{describe(url)} does not answer within {REQUEST_LIMIT_S:g} s", _MEND) from error
    except ModelUnavailable as error:
        mend = f"{_MEND}; SLM_API_KEY where it wants a key" if error.cause == "refused" else _MEND
        raise Unfit(str(error), mend) from error


def judge_scores(address: str, scores: Sequence[float]) -> Check:
    """Whether it tells an answer from something else. `scores`: of something else, of an answer."""
    unrelated, answer = scores
    found = f"{address} scores an answer {answer:.2f} and something else {unrelated:.2f}"
    if answer <= unrelated:
        return Check(_PART, "warning", found, "serve a reranking model there, or unset VLLM_RERANK_URL")
    return Check(_PART, "ok", found)


def judge_folder(folder: Path) -> Check:
    """Whether a model's files are there. Loads nothing."""
    weights = [name for name in _WEIGHTS if (folder / name).is_file()]
    missing = [] if weights else [" or ".join(_WEIGHTS)]
    if weights == ["model.safetensors"] and not (folder / "config.json").is_file():
        missing.append("config.json")
    if not (folder / "tokenizer.json").is_file():
        missing.append("tokenizer.json")
    if missing:
        found = f"lacks {' and '.join(missing)}" if folder.is_dir() else "is no folder"
        mend = "put the model there, name another folder, or unset RERANK_MODEL"
        return Check(_PART, "wrong", f"RERANK_MODEL={folder} {found}", mend)
    return Check(_PART, "ok", f"RERANK_MODEL: {folder / weights[0]}")
