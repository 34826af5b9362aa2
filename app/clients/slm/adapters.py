"""LoRA adapters on a running vLLM: `VLLMAdapters`, over its runtime API.

`GET /v1/models` lists an adapter with the model it belongs to as its `parent` and its folder as its `root`;
`POST /v1/load_lora_adapter` and `/v1/unload_lora_adapter` exist where the server was started with
VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and `--enable-lora`, as ./start_vllm.sh does.
"""

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx2
import orjson

from app.clients.slm.endpoint import address_of
from app.domain.errors import AdapterRefused, ModelUnavailable

ASK_S = 10.0
"""For a question that costs the server nothing: a listing, an unloading."""

LOAD_S = 120.0
"""For reading an adapter from disk, and for the first token that it makes."""

CONNECT_S = 2.0
MAX_ANSWER_BYTES = 1_000_000

TURNED_OFF = (
    "The model server does not take adapters while it runs: start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and "
    "--enable-lora, as ./start_vllm.sh does unless VLLM_MAX_LORAS is 0."
)

_RANK = re.compile(r"rank (\d+) is greater than max_lora_rank (\d+)")
_DEAD = re.compile(r"Engine ?(Core|Dead|Loop)|is dead", re.IGNORECASE)


@dataclass(frozen=True)
class _Answer:
    status: int
    document: Any
    """The JSON of the body; None where it is none."""

    @property
    def complaint(self) -> str | None:
        """The server's own words where it says an error in vLLM's shape."""
        error: Any = self.document.get("error") if isinstance(self.document, dict) else None  # pyright: ignore[reportUnknownVariableType]
        message: Any = error.get("message") if isinstance(error, dict) else None  # pyright: ignore[reportUnknownVariableType]
        return message if isinstance(message, str) else None


class VLLMAdapters:
    """The AdapterServer port on vLLM. Holds nothing itself: what is loaded is what the server says.

    A server that cannot be used at the moment is a ModelUnavailable whose `cause` is one of `unreachable`,
    `timeout`, `unauthorised`, `busy`, `failed` and `broken_answer`.
    """

    def __init__(
        self,
        base_url: str,
        base_model: str,
        *,
        api_key: str | None = None,
        client: httpx2.AsyncClient | None = None,
        load_s: float = LOAD_S,
        ask_s: float = ASK_S,
    ) -> None:
        """`base_url` ends in `/v1`; `base_model` is the model that the server was started with; `client` stays open
        after `aclose`; the other two are deadlines in seconds. Connects to nothing yet."""
        self.base_model = base_model
        self._url = base_url.rstrip("/")
        self._address = address_of(base_url)
        self._headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._client = client or httpx2.AsyncClient()
        self._owns_client = client is None
        self._load_s = load_s
        self._ask_s = ask_s

    async def load(self, adapter: str, folder: Path) -> None:
        """Take in an adapter, and have it make one token, so that its first user does not pay for that. Nothing where
        it is listed already, from this folder.

        Raises AdapterRefused: the server takes none, the name stands for another folder, the folder holds no adapter,
        or one that does not fit. What does not answer is let go again."""
        path = _absolute(folder)
        known = (await self._listed()).get(adapter)
        if known is not None:
            _check_folder(adapter, known, path)
            return
        question = {"lora_name": adapter, "lora_path": path}
        answer = await self._call("POST", "load_lora_adapter", question, self._load_s)
        if answer.status == 400 and "already been loaded" in (answer.complaint or ""):
            _check_folder(adapter, (await self._listed()).get(adapter, path), path)
            return
        self._check(answer, f"The model server refused the adapter {adapter}", path)
        try:
            await self._make_token(adapter)
        except (AdapterRefused, ModelUnavailable):
            await self._let_go_quietly(adapter)
            raise

    async def unload(self, adapter: str) -> None:
        """Let an adapter go; nothing where it is not there. Raises AdapterRefused where the server lets none go."""
        answer = await self._call("POST", "unload_lora_adapter", {"lora_name": adapter}, self._ask_s)
        if answer.status == 404 and answer.complaint is not None:
            return
        self._check(answer, f"The model server does not let {adapter} go")

    async def loaded(self) -> frozenset[str]:
        """The names of the adapters it can answer with."""
        return frozenset(await self._listed())

    async def aclose(self) -> None:
        """Close the connections, unless the client was handed in."""
        if self._owns_client:
            await self._client.aclose()

    async def _listed(self) -> dict[str, str | None]:
        """The folder of each adapter that the server lists; None where it does not say."""
        answer = await self._call("GET", "models", None, self._ask_s)
        self._check(answer, "The model server does not list its models")
        match answer.document:
            case {"data": [*rows]}:
                return dict(found for row in cast("list[object]", rows) if (found := _adapter_in(row)) is not None)
            case _:
                raise self._unavailable("did not list its models", "broken_answer")

    async def _make_token(self, adapter: str) -> None:
        said = [{"role": "user", "content": "Hello"}]
        question = {"model": adapter, "messages": said, "max_tokens": 1, "temperature": 0}
        answer = await self._call("POST", "chat/completions", question, self._load_s)
        self._check(answer, f"The model server took {adapter} in and does not answer with it")

    async def _let_go_quietly(self, adapter: str) -> None:
        try:
            await self.unload(adapter)
        except (AdapterRefused, ModelUnavailable):
            return

    def _check(self, answer: _Answer, what: str, folder: str | None = None) -> None:
        """Raises ModelUnavailable where the server is not well, AdapterRefused (`what` and why) where it says no."""
        status, complaint = answer.status, answer.complaint
        if status in {401, 403}:
            raise self._unavailable("wants another API key", "unauthorised")
        if status == 429:
            raise self._unavailable("is busy", "busy")
        if status >= 500 and (status != 500 or complaint is None or _DEAD.search(complaint)):
            raise self._unavailable(f"answered with status {status}", "failed")
        if status == 404 and complaint is None:
            raise AdapterRefused(TURNED_OFF)
        if status >= 300:
            raise AdapterRefused(f"{what}: {_explained(complaint, status, folder)}")

    async def _call(self, method: str, path: str, question: dict[str, Any] | None, seconds: float) -> _Answer:
        content = None if question is None else orjson.dumps(question)
        timeout = httpx2.Timeout(None, connect=CONNECT_S)
        body = bytearray()
        try:
            async with (
                asyncio.timeout(seconds),
                self._client.stream(
                    method, f"{self._url}/{path}", content=content, headers=self._headers, timeout=timeout
                ) as response,
            ):
                async for piece in response.aiter_raw():
                    body += piece
                    if len(body) > MAX_ANSWER_BYTES:
                        raise self._unavailable(f"answered with more than {MAX_ANSWER_BYTES:,} bytes", "broken_answer")
        except httpx2.ConnectTimeout as error:
            raise self._unavailable("cannot be reached", "unreachable") from error
        except TimeoutError as error:
            raise self._unavailable(f"did not answer within {seconds:.3g} s", "timeout") from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise self._unavailable(f"cannot be reached ({type(error).__name__})", "unreachable") from error
        try:
            return _Answer(response.status_code, orjson.loads(body))
        except orjson.JSONDecodeError:
            return _Answer(response.status_code, None)

    def _unavailable(self, what: str, cause: str) -> ModelUnavailable:
        return ModelUnavailable(f"The model server at {self._address} {what}.", cause)


def _adapter_in(row: object) -> tuple[str, str | None] | None:
    """Name and folder of a row of the listing that is an adapter."""
    match row:
        case {"id": str(name), "parent": str(), "root": str(folder)}:
            return name, folder
        case {"id": str(name), "parent": str()}:
            return name, None
        case _:
            return None


def _absolute(folder: Path) -> str:
    return str(folder.absolute())


def _check_folder(adapter: str, known: str | None, path: str) -> None:
    """Raises AdapterRefused where the name stands for another adapter: users would be answered by the wrong one."""
    if known is not None and known != path:
        raise AdapterRefused(f"The model server has an adapter {adapter} from another folder: unload that one first.")


def _explained(complaint: str | None, status: int, folder: str | None) -> str:
    """What a server's refusal means, and what to do about it."""
    if complaint is None:
        return f"it answered with status {status}."
    if ranks := _RANK.search(complaint):
        return (
            f"its rank {ranks[1]} is above the server's {ranks[2]}: restart it with "
            f"VLLM_MAX_LORA_RANK={ranks[1]} or more ./start_vllm.sh"
        )
    if "No adapter found" in complaint:
        return f"it finds no adapter in {folder}; the server has to see that folder under the same path."
    return complaint[:300]
