"""Record what a real model server streams, for the tests that replay it through a transport.

    .venv/bin/python scripts/record_model_answers.py llamacpp
    .venv/bin/python scripts/record_model_answers.py vllm --base-url http://host:8000/v1 --model NAME [--api-key KEY]

Without `--base-url` the built-in server answers (llama.cpp with the packaged SmolLM2, of `make install-builtin`).
Writes `tests/data/model_answers/LABEL.CASE.txt` for every kind of call: the body of the HTTP answer as it came, byte
by byte, without its headers. A second try that repairs the first is `LABEL.CASE.2.txt`. The prompts are the client's
own about a made-up user, so no body holds anything of anybody.
"""

import argparse
import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx2

from app.clients.slm.builtin import BuiltinServer, find_model
from app.clients.slm.resilience import Limits
from app.clients.slm.vllm import VLLMClient
from app.domain.errors import ModelUnavailable

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "data" / "model_answers"

MEMORIES = [
    {"type": "PREFERENCE", "content": "Python, FastAPI"},
    {"type": "HISTORY", "content": "I built the billing service with FastAPI and JWT auth", "date": "2026-10-02"},
    {"type": "PROFILE", "content": "I work at a logistics company in Lyon"},
]
CONTEXT: Mapping[str, Any] = {"persona_facets": {"code_first": 0.8}, "memories": MEMORIES}
NOTES = [
    "On Monday we moved the billing service to Docker. It took two hours.",
    "The build broke on Tuesday because the token for the registry had expired.",
    "Mia asked for a dashboard of parcels per depot, with a filter by day.",
]

CASES: Mapping[str, Callable[[VLLMClient], Awaitable[object]]] = {
    "hypotheses": lambda client: client.generate_hypotheses("build api", CONTEXT, 3),
    "hypotheses_french": lambda client: client.generate_hypotheses("crée un tableau de bord", CONTEXT, 2),
    "facets": lambda client: client.compute_facet_updates({"kind": "feedback", "feedback": "just show me the code"}),
    "summary": lambda client: client.summarize(NOTES, 60),
    "summary_cut": lambda client: client.summarize(NOTES, 24),
    "enrichment": lambda client: client.enrich_context("deploy my app", CONTEXT),
    "followups": lambda client: client.generate_followup_questions("I want to deploy my app", count=2, context=CONTEXT),
    "relevance": lambda client: client.relevances("user authentication", ["I like tea", "We use JWT tokens for login"]),
}


class Recorder(httpx2.AsyncHTTPTransport):
    """Keeps a copy of every body that comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[bytearray] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The response, its body copied while it is read."""
        response = await super().handle_async_request(request)
        self.bodies.append(bytearray())
        response.stream = _Copied(response.stream, self.bodies[-1])
        return response


class _Copied(httpx2.AsyncByteStream):
    def __init__(self, stream: Any, copy: bytearray) -> None:
        self._stream = stream
        self._copy = copy

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            self._copy += part
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()


async def record(label: str, base_url: str, model: str | None, api_key: str | None, name: str) -> None:
    """Ask one question of every kind, and write down what comes."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for case, ask in CASES.items():
        recorder = Recorder()
        plain = httpx2.AsyncClient(transport=recorder, headers={"Accept-Encoding": "identity"}, timeout=None)
        client = VLLMClient(base_url, model, name=name, api_key=api_key, limits=Limits(600.0), http_client=plain)
        try:
            print(f"{case}: {await ask(client)}")
        except ModelUnavailable as error:
            print(f"{case}: {error.cause}, {error}")
        finally:
            await client.aclose()
        for number, body in enumerate((body for body in recorder.bodies if body), start=1):
            suffix = "" if number == 1 else f".{number}"
            (FOLDER / f"{label}.{case}{suffix}.txt").write_bytes(bytes(body))


async def main() -> None:
    """Record from the server that the command line names, else from the built-in one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("label", help="the first part of the files' names, e.g. vllm")
    parser.add_argument("--base-url", help="an OpenAI-compatible server, with its /v1; the built-in one where absent")
    parser.add_argument("--model", help="the model to ask for; the first that the server lists where absent")
    parser.add_argument("--api-key", help="where the server wants one")
    given = parser.parse_args()
    if given.base_url:
        await record(given.label, given.base_url, given.model, given.api_key, "vllm")
        return
    with tempfile.TemporaryDirectory() as folder:
        server = BuiltinServer(find_model(None, Path(folder)), Path(folder, "model.log"))
        await server.start()
        try:
            await record(given.label, server.base_url, server.model, server.api_key, "builtin")
        finally:
            await server.aclose()


if __name__ == "__main__":
    asyncio.run(main())
