"""The chat model: llama.cpp's own server, in threads of this process and on a loopback port only we have the key to.

The requests of this server are passed on to it over HTTP and its answers are passed back as they come, so closing the
connection is all it takes to stop an answer nobody reads. Nothing is shared with the embeddings but the processor, and
there the chat's threads stand back (`niceness`).
"""

import asyncio
import json
import os
import re
import secrets
import sys
import threading
import time
from collections.abc import AsyncGenerator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx2
import structlog

from serving.errors import InvalidInput, ModelRefused, ModelUnavailable, Overloaded, ServingError
from serving.slm.settings import ChatSettings

RUNTIME = "xllamacpp"

_ERRORS_ONLY = 1  # of llama.cpp's verbosities: warnings come with every request, and may quote it
_OWN_CONNECTIONS = 4  # for figures and for the question whether it lives
_ANSWER_TIMEOUT_S = 600.0
_PROBE_TIMEOUT_S = 2.0
_SMOOTHING = 0.2
_FIRST_GUESS_S = 10.0

_log = structlog.stdlib.get_logger(__name__)


class ChatAnswer:
    """An answer as llama.cpp gives it, its status 200. Close it, read or not: it keeps a place until then."""

    def __init__(self, model: "ChatModel", response: httpx2.Response) -> None:
        self._model = model
        self._response = response
        self._began = time.monotonic()
        self._is_closed = False
        self.media_type = response.headers.get("content-type", "application/json")

    async def parts(self) -> AsyncGenerator[bytes]:
        """The bytes as they come; when the model fails midway an error event closes the stream."""
        try:
            async for part in self._response.aiter_bytes():
                yield part
        except httpx2.HTTPError:
            error = {"message": "the chat model's server broke off", "type": "server_error", "code": 503}
            yield f"data: {json.dumps({'error': error})}\n\n".encode()

    async def read(self) -> bytes:
        """The whole answer. Raises ModelUnavailable."""
        try:
            return await self._response.aread()
        except httpx2.HTTPError:
            raise ModelUnavailable("the chat model's server broke off") from None

    async def aclose(self) -> None:
        """Give the place back; what is not yet written will not be."""
        if not self._is_closed:
            self._is_closed = True
            self._model.answered(time.monotonic() - self._began)
            await self._response.aclose()


class ChatModel:
    """A GGUF model. `load` it, `ask` it, `aclose` it. Works for one event loop."""

    def __init__(self, settings: ChatSettings, models_dir: Path) -> None:
        """Loads nothing."""
        self._settings = settings
        self._models_dir = models_dir
        self._key = secrets.token_urlsafe(32)
        self._places = settings.parallel + settings.queue
        self._server: Any = None
        self._client: httpx2.AsyncClient | None = None
        self._mean_s = _FIRST_GUESS_S
        self.in_flight = 0
        """Requests accepted and not yet answered."""
        self.name = "chat"
        self.fault: str | None = "the chat model is not loaded"
        """Why there is none, in one line; None while nothing is known against it."""

    def load(self) -> None:
        """Load the model and begin to listen. Blocks; raises ModelRefused, and `fault` says so then."""
        started = time.monotonic()
        try:
            path = find_gguf(self._settings.model_path, self._models_dir)
            self._server = self._start(path)
        except ModelRefused as error:
            self.fault = str(error)
            raise
        # None is kept alive: llama.cpp closes idle ones, and a request that meets that would fail.
        limits = httpx2.Limits(max_connections=self._places + _OWN_CONNECTIONS, max_keepalive_connections=0)
        self._client = httpx2.AsyncClient(
            base_url=self._server.listening_address,
            headers={"Authorization": f"Bearer {self._key}"},
            timeout=httpx2.Timeout(_ANSWER_TIMEOUT_S, connect=_PROBE_TIMEOUT_S),
            limits=limits,
            trust_env=False,
        )
        self.name, self.fault = path.stem, None
        took_ms = round(1000 * (time.monotonic() - started))
        _log.info("llm_runtime_load", role="chat", backend="llama.cpp", model=self.name, duration_ms=took_ms)

    async def state(self) -> str | None:
        """None when it answers, else why it does not."""
        if self.fault is not None:
            return self.fault
        try:
            found = await self._open_client().get("/health", timeout=_PROBE_TIMEOUT_S)
        except httpx2.HTTPError:
            return "the chat model's server does not answer: restart this server"
        return None if found.status_code == 200 else "the chat model's server is not ready"

    async def ask(self, document: bytes) -> ChatAnswer:
        """Pass a chat request on; the answer has begun when this returns, a streamed one with its first token.

        Cancelling the call takes the request back. Raises Overloaded when too many wait, InvalidInput for a request
        that llama.cpp does not take, ModelUnavailable when there is no model or it fails.
        """
        client = self._open_client()
        if self.in_flight >= self._places:
            wait_s = self._mean_s * self.in_flight / self._settings.parallel / 2
            raise Overloaded("too many chats wait for the model", retry_after_s=max(1.0, wait_s))
        self.in_flight += 1
        try:
            request = client.build_request(
                "POST", "/v1/chat/completions", content=document, headers={"Content-Type": "application/json"}
            )
            response = await client.send(request, stream=True)
            if response.status_code != 200:
                try:
                    content = await response.aread()
                finally:
                    await response.aclose()
                raise refusal_of(response.status_code, content)
        except httpx2.TimeoutException:
            self.in_flight -= 1
            raise ModelUnavailable("the chat model took too long") from None
        except httpx2.HTTPError:
            self.in_flight -= 1
            raise ModelUnavailable("the chat model's server does not answer") from None
        except BaseException:
            self.in_flight -= 1
            raise
        return ChatAnswer(self, response)

    async def exposition(self) -> bytes:
        """llama.cpp's own figures for Prometheus; nothing when it does not answer."""
        if self.fault is not None:
            return b""
        try:
            found = await self._open_client().get("/metrics", timeout=_PROBE_TIMEOUT_S)
        except httpx2.HTTPError:
            return b""
        return found.content if found.status_code == 200 else b""

    def answered(self, took_s: float) -> None:
        """A place is free again."""
        self.in_flight -= 1
        self._mean_s += _SMOOTHING * (took_s - self._mean_s)

    async def aclose(self) -> None:
        """Stop llama.cpp and free the model, whatever it is doing."""
        self.fault = "the chat model is shut down"
        if self._client is not None:
            await self._client.aclose()
            self._client = None
        server, self._server = [self._server], None
        await asyncio.to_thread(server.clear)  # its end waits for the run that goes on

    def _open_client(self) -> httpx2.AsyncClient:
        if self.fault is not None or self._client is None:
            raise ModelUnavailable(self.fault or "the chat model is shut down")
        return self._client

    def _start(self, path: Path) -> Any:
        """llama.cpp's server, begun by a thread of low priority: its own threads inherit that. Raises ModelRefused."""
        if find_spec(RUNTIME) is None:
            raise ModelRefused(f"the chat model needs the package {RUNTIME}: run `make install-builtin`")
        runtime: Any = import_module(RUNTIME)
        parameters = _parameters(runtime, path, self._settings, self._key, self._places + _OWN_CONNECTIONS)
        found: list[Any] = []

        def start() -> None:
            if sys.platform == "linux":
                own = threading.get_native_id()
                nice = os.getpriority(os.PRIO_PROCESS, own) + self._settings.niceness
                os.setpriority(os.PRIO_PROCESS, own, min(nice, 19))
            try:
                found.append(runtime.Server(parameters))
            except RuntimeError:
                return

        starter = threading.Thread(target=start, name="chat-start")
        starter.start()
        starter.join()
        if not found:
            raise ModelRefused(f"llama.cpp cannot load {path}: the lines above this one on stderr say why")
        return found.pop()


def find_gguf(model_path: Path | None, models_dir: Path) -> Path:
    """The file that is named, or else the only one of `models_dir` and its folders; of a model in several files the
    first. Raises ModelRefused with what to do about it."""
    what = "CHAT__MODEL_PATH"
    if model_path is None:
        what = "the chat model"
        found = [
            path
            for pattern in ("*.gguf", "*/*.gguf")
            for path in sorted(models_dir.glob(pattern))
            if not re.search(r"-(?!00001)\d{5}-of-\d{5}\.gguf$", path.name)
        ]
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            raise ModelRefused(
                f"the chat model is missing: set CHAT__MODEL_PATH to a GGUF file (in {models_dir}: {names})"
            )
        model_path = found[0]
    try:
        with model_path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelRefused(f"{what} {model_path} cannot be read: {error.strerror}") from None
    if magic != b"GGUF":
        raise ModelRefused(f"{what} {model_path} is not a GGUF file")
    return model_path.resolve()


def refusal_of(status: int, content: bytes) -> ServingError:
    """What llama.cpp's error means. Its words are left out: they quote the request."""
    try:
        error: Any = json.loads(content)["error"]
        kind, tokens, room = error.get("type"), error.get("n_prompt_tokens"), error.get("n_ctx")
    except (ValueError, KeyError, TypeError, AttributeError):
        kind = tokens = room = None
    if kind == "exceed_context_size_error":
        return InvalidInput(f"the conversation has {tokens} tokens and the model reads {room}", "messages")
    if 400 <= status < 500 or status == 501:
        what = "look at response_format, tools and the sampling parameters"
        return InvalidInput(f"the chat model does not take this request: {what}")
    return ModelUnavailable("the chat model failed on this request")


def _parameters(runtime: Any, path: Path, settings: ChatSettings, key: str, connections: int) -> Any:
    """llama.cpp's parameters: nothing but its API, for nobody but the holder of the key."""
    parameters = runtime.CommonParams()
    parameters.model.path = str(path)
    parameters.model_alias = {path.stem}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.api_keys = [key]
    parameters.cpuparams.n_threads = settings.threads
    parameters.cpuparams_batch.n_threads = settings.threads
    parameters.n_threads_http = connections
    parameters.n_parallel = settings.parallel
    parameters.n_ctx = settings.parallel * settings.context  # divided evenly; capped at what the model has
    parameters.n_batch = settings.batch
    parameters.n_ubatch = settings.batch
    parameters.cache_type_k = parameters.cache_type_v = getattr(
        runtime.ggml_type, f"GGML_TYPE_{settings.kv_type.upper()}"
    )
    parameters.no_extra_bufts = not settings.repack
    parameters.cache_prompt = True
    parameters.cache_ram_mib = settings.prompt_cache_mb
    parameters.fit_params = False  # to the memory of a graphics card: loads the model twice to find out
    parameters.use_jinja = True
    parameters.endpoint_metrics = True
    parameters.endpoint_slots = False
    parameters.ui = False
    parameters.cors_origins = ""  # no web page may call it
    parameters.cors_credentials = False
    parameters.verbosity = _ERRORS_ONLY
    return parameters
