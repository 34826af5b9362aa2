"""The small language model: the server and what it serves, or the model built in."""

import asyncio
import importlib.util
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import httpx2
import orjson

from app.clients.slm.builtin import find_model
from app.doctor.check import Check, Unfit
from app.doctor.machine import is_here
from app.doctor.web import failure, json_in
from app.domain.errors import ModelUnavailable
from app.settings import Settings
from app.store.engine import describe


@dataclass(frozen=True, slots=True)
class ModelServer:
    """An OpenAI-compatible server as the settings name it, and which settings those are."""

    base_url: str
    model: str | None
    key: str | None
    is_vllm: bool
    base_variable: str
    model_variable: str
    start: str
    """What to do when it does not answer."""

    @property
    def headers(self) -> dict[str, str]:
        """What a request to it needs."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    @property
    def address(self) -> str:
        """Where it is, without a password."""
        return describe(self.base_url)


@dataclass(frozen=True, slots=True)
class Model:
    """An entry of `/models`; one with a parent is a LoRA adapter."""

    id: str
    parent: str | None
    max_tokens: int | None


@dataclass(frozen=True, slots=True)
class Answers:
    """How a model answers. None: not in time."""

    token_ms: float
    is_structured: bool | None
    has_logprobs: bool | None


def slm_server(settings: Settings) -> ModelServer | None:
    """The language model's server; None where the model needs none."""
    key = settings.slm_key
    if settings.slm_impl == "vllm":
        url = settings.vllm_base_url
        start = "./start_vllm.sh" if is_here(url) else f"start vLLM on {urlsplit(url).hostname}, or check VLLM_BASE_URL"
        return ModelServer(url, settings.vllm_model_name, key, True, "VLLM_BASE_URL", "VLLM_MODEL_NAME", start)
    if settings.slm_impl == "openai" and settings.slm_base_url is not None:
        start = "start that server, or check SLM_BASE_URL"
        return ModelServer(settings.slm_base_url, settings.slm_model, key, False, "SLM_BASE_URL", "SLM_MODEL", start)
    return None


async def find_models(server: ModelServer, client: httpx2.AsyncClient) -> Sequence[Model]:
    """The models it lists, at least one. Raises Unfit."""
    base = server.base_url.rstrip("/")
    response = await _get_models(server, client, base)
    listed = parse_models(json_in(response))
    if listed is None and not base.endswith("/v1") and await _is_below(server, client, f"{base}/v1"):
        found = f"{server.base_variable}={server.address} must include /v1"
        raise Unfit(found, f"{server.base_variable}={describe(base)}/v1")
    if _is_refusal(response):
        what = "refuses SLM_API_KEY" if server.key else "wants a key"
        raise Unfit(f"{server.address} {what} (status {response.status_code})", "SLM_API_KEY=<a key of that server>")
    if listed is None:
        found = f"{server.address}/models answers with status {response.status_code} and no list of models"
        raise Unfit(found, f"check {server.base_variable}: is this an OpenAI-compatible server, and has it loaded?")
    if not listed:
        raise Unfit(f"{server.address} serves no model", server.start)
    return listed


async def _is_below(server: ModelServer, client: httpx2.AsyncClient, base: str) -> bool:
    """Whether the models are listed at `base`, or would be with a key."""
    try:
        response = await _get_models(server, client, base)
    except Unfit:
        return False
    return _is_refusal(response) or parse_models(json_in(response)) is not None


async def _get_models(server: ModelServer, client: httpx2.AsyncClient, base: str) -> httpx2.Response:
    try:
        return await client.get(f"{base}/models", headers=server.headers)
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise Unfit(f"{server.address} {failure(error)}", server.start) from error


def _is_refusal(response: httpx2.Response) -> bool:
    return response.status_code in (401, 403)


def parse_models(answer: Any) -> Sequence[Model] | None:
    """The entries of a list of models; None when it is none."""
    match answer:
        case {"data": [*entries]}:
            return [model for entry in entries if (model := _parse_model(entry))]
        case _:
            return None


def _parse_model(entry: Any) -> Model | None:
    match entry:
        case {"id": str(name), **others}:
            parent, most = others.get("parent"), others.get("max_model_len")
            return Model(name, parent if isinstance(parent, str) else None, most if isinstance(most, int) else None)
        case _:
            return None


def judge_models(server: ModelServer, models: Sequence[Model]) -> Check:
    """Whether the model that the settings name is among those that the server lists."""
    part = "slm"
    bases = ", ".join(_shown(model) for model in models if model.parent is None) or "none"
    adapters = ", ".join(f"{model.id} (on {model.parent})" for model in models if model.parent is not None)
    found = f"{server.address} serves {bases}" + (f"; adapters: {adapters}" if adapters else "")
    first = models[0].id
    if server.model is None and len(models) > 1:
        found = f"{found}; {server.model_variable} is unset: the first is asked"
        return Check(part, "warning", found, f"{server.model_variable}={first}")
    if server.model is not None and server.model not in {model.id for model in models}:
        found = f"{server.model_variable}={server.model} is not served; {found}"
        return Check(part, "wrong", found, f"{server.model_variable}={first}")
    return Check(part, "ok", f"{found}; asked: {server.model or first}")


def _shown(model: Model) -> str:
    return model.id if model.max_tokens is None else f"{model.id} ({model.max_tokens} tokens)"


def check_builtin(settings: Settings) -> Check:
    """Whether the package that runs the built-in model is installed and the model is there. Loads nothing."""
    part = "slm"
    if importlib.util.find_spec("xllamacpp") is None:
        return Check(part, "wrong", "builtin: the package xllamacpp is not installed", "make install-builtin")
    try:
        model = find_model(settings.builtin_model, settings.local_models_dir)
    except ModelUnavailable as error:
        return Check(part, "wrong", f"builtin: {error}", "make install-builtin, or BUILTIN_MODEL=<a .gguf file>")
    return Check(part, "ok", f"builtin: {model} ({model.stat().st_size / 1e6:,.0f} MB)")


_COLOURS = ("teal", "ochre")
_SCHEMA = {
    "type": "object",
    "properties": {"colour": {"type": "string", "enum": list(_COLOURS)}},
    "required": ["colour"],
    "additionalProperties": False,
}
_HELD = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": _SCHEMA}}


async def try_answers(server: ModelServer, model: str, client: httpx2.AsyncClient, budget_s: float) -> Answers:
    """Three tiny completions: one token, an answer held to a schema, a token with its logprobs. Raises Unfit."""
    started = time.perf_counter()
    try:
        response = await _complete(server, model, client, budget_s, most=1)
    except httpx2.TimeoutException as error:
        mend = "raise REQUEST_BUDGET_S, serve a smaller model, or see the server's log"
        raise Unfit(f"{model}: no token within {budget_s:g} s (REQUEST_BUDGET_S)", mend) from error
    except httpx2.HTTPError as error:
        raise Unfit(f"{server.address} {failure(error, budget_s)} while answering", "see the server's log") from error
    token_ms = (time.perf_counter() - started) * 1000
    if _first_choice(response) is None:
        said = "an answer without choices" if response.is_success else f"status {response.status_code}"
        found = f"{model}: a chat completion is answered with {said}: {response.text[:200]}"
        raise Unfit(found, "see the server's log: does that model have a chat template?")
    schema, logprobs = await asyncio.gather(
        _choice_or_late(server, model, client, budget_s, most=32, response_format=_HELD),
        _choice_or_late(server, model, client, budget_s, most=1, logprobs=True),
    )
    return Answers(
        token_ms=token_ms,
        is_structured=None if schema is None else _is_held(schema),
        has_logprobs=None if logprobs is None else bool(logprobs.get("logprobs")),
    )


async def _complete(
    server: ModelServer, model: str, client: httpx2.AsyncClient, budget_s: float, *, most: int, **options: object
) -> httpx2.Response:
    # Nothing in the question hints at the schema's words: a model that is not held to them cannot guess them.
    question = [{"role": "user", "content": "Name a dish for supper."}]
    if server.is_vllm:
        options["chat_template_kwargs"] = {"enable_thinking": False}
    url = f"{server.base_url.rstrip('/')}/chat/completions"
    for field in ("max_tokens", "max_completion_tokens"):
        body = {"model": model, "messages": question, field: most, **options}
        response = await client.post(url, json=body, headers=server.headers, timeout=budget_s)
        if response.status_code != 400 or "max_completion_tokens" not in response.text:
            break
    return response


async def _choice_or_late(
    server: ModelServer, model: str, client: httpx2.AsyncClient, budget_s: float, *, most: int, **options: object
) -> Mapping[str, Any] | None:
    """The first choice, empty where the server refuses the options; None when it came too late."""
    try:
        response = await _complete(server, model, client, budget_s, most=most, **options)
    except httpx2.HTTPError:
        return None
    return _first_choice(response) or {}


def _first_choice(response: httpx2.Response) -> Mapping[str, Any] | None:
    match json_in(response):
        case {"choices": [{"message": {}} as choice, *_]}:
            return cast("Mapping[str, Any]", choice)
        case _:
            return None


def _is_held(choice: Mapping[str, Any]) -> bool:
    """Whether an answer is what the schema allows, and nothing around it."""
    content: object = choice.get("message", {}).get("content")
    try:
        answer = orjson.loads(content) if isinstance(content, str) else None
    except orjson.JSONDecodeError:
        return False
    return answer in [{"colour": colour} for colour in _COLOURS]


def judge_answers(answers: Answers, budget_s: float) -> Check:
    """Whether it answers soon enough, and keeps to a schema."""
    part = "slm answers"
    structure = {True: "JSON schema honoured", False: "JSON schema ignored", None: "JSON schema: no answer in time"}
    logprobs = {
        True: "logprobs",
        False: "no logprobs (confidences rest on what the model says)",
        None: "logprobs: no answer in time",
    }
    found = (
        f"a token in {answers.token_ms:,.0f} ms; {structure[answers.is_structured]}; {logprobs[answers.has_logprobs]}"
    )
    if answers.token_ms > budget_s * 500:
        mend = "raise REQUEST_BUDGET_S, or serve a smaller model"
        return Check(part, "warning", f"{found}; slow for REQUEST_BUDGET_S={budget_s:g}", mend)
    if answers.is_structured is False:
        return Check(part, "warning", found, "use a server with structured outputs: more answers here are unusable")
    if answers.is_structured is None or answers.has_logprobs is None:
        return Check(part, "warning", found, "look again once the server is warm, or raise REQUEST_BUDGET_S")
    return Check(part, "ok", found)
