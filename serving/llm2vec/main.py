"""The application: `create_llm2vec_app`, the model server of a runtime with chat beside the embeddings."""

from typing import Any

from fastapi import FastAPI
from prometheus_client import Gauge

from serving.backend import Backend
from serving.errors import LLMRuntimeError, ModelRefused
from serving.llm2vec import chat
from serving.llm2vec.chat import Chats
from serving.main import create_app
from serving.runtime import UnifiedLLMRuntime
from serving.settings import ServeSettings


def create_llm2vec_app(
    runtime: UnifiedLLMRuntime, settings: ServeSettings | None = None, *, is_lazy: bool = True
) -> FastAPI:
    """A server of the runtime, which it closes at its end. `app.state.runtime` is the runtime.

    The weights are loaded by the first request that needs them, once however many come at a time, or with
    `is_lazy=False` before the first one is taken. Vectors are of unit length as the manifest says, unless `settings`
    do (`SERVE_NORMALIZE`).
    """

    def open_backend() -> Backend:
        try:
            runtime.load()
        except LLMRuntimeError as error:
            raise ModelRefused(str(error)) from None
        return runtime

    settings = settings or ServeSettings()
    manifest, wanted = runtime.manifest, runtime.settings.quantize_4bit
    own: dict[str, Any] = {"model": None}
    if "normalize" not in settings.model_fields_set:
        own["normalize"] = manifest.embedding.normalise
    is_quantized = manifest.quantization.load_in_4bit if wanted is None else wanted
    if manifest.artifacts.merged is not None and not is_quantized:
        own["model"] = runtime.folder / manifest.artifacts.merged  # where the golden vectors are, of all bits
    settings = settings.model_copy(update=own)
    app = create_app(open_backend, settings, is_lazy=is_lazy)
    app.title = "Embed Service LLM2Vec server"
    app.state.runtime = runtime
    chats = app.state.chats = Chats(runtime)
    Gauge(
        "serve_chats_in_flight", "Chats being answered or waiting.", registry=app.state.metrics.registry
    ).set_function(lambda: chats.in_flight)
    app.include_router(chat.router)
    return app
