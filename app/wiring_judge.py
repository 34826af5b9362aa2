"""Plugs the judge together: runs, the embedding model, and a vLLM with adapters."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from app.clients.slm.judged import JudgedModel
from app.domain.errors import NotReady
from app.ports import Embedder
from app.services.training.judge import Judge
from app.services.training.judging import RunJudge
from app.services.training.policy import load_policy
from app.settings import Settings
from app.wiring import open_embedder
from app.wiring_training import open_adapters, open_training


@asynccontextmanager
async def open_judge(settings: Settings) -> AsyncGenerator[RunJudge]:
    """The judge of runs, with all the models it needs; they are let go on leaving. Raises NotReady without a vLLM."""
    server = open_adapters(settings)
    if server is None:
        raise NotReady("Adapters are judged on the vLLM that serves them: set SLM_IMPL=vllm.")
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.aclose)
        training = await stack.enter_async_context(open_training(settings))
        embedder: Embedder = await open_embedder(settings)
        stack.push_async_callback(embedder.aclose)

        def model(adapter: str | None) -> JudgedModel:
            name = adapter or settings.vllm_model_name
            made = JudgedModel(settings.vllm_base_url, name, api_key=settings.slm_key)
            stack.push_async_callback(made.aclose)
            return made

        judge = Judge(load_policy(settings.promotion_policy), embedder, training.runs.python)
        yield RunJudge(training.runs, judge, server, model)
