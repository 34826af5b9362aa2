"""Models of an Ollama: looked for in its list, pulled over its API, with its own progress.

The API: https://github.com/ollama/ollama/blob/main/docs/api.md. Ollama keeps the layers it has: a pull that was broken
off goes on there.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, cast

import httpx2
import orjson

from app.clients.provisioning.web import Lost, answer, ask, make_client, said
from app.domain.errors import ProvisionFailed
from app.domain.manifest import Model
from app.ports import Progress, Provisioned

TRIES = 6
"""Pulls in a row that bring nothing more."""

PAUSE_S = 0.5
MAX_LINE = 1024 * 1024
_WHO = "Ollama"


class OllamaProvider:
    """Asks `/api/tags` and `/api/show`, pulls by `/api/pull`."""

    def __init__(self, base_url: str) -> None:
        """`base_url` holds where a model names none."""
        self._base_url = base_url
        self._client = make_client()

    async def provision(self, model: Model, tell: Callable[[Progress], None], *, force: bool = False) -> Provisioned:
        """See that the server has a model; `force` pulls it again, which takes over a newer one of that name."""
        base = (model.url or self._base_url).rstrip("/").removesuffix("/v1")
        tell(Progress("asking Ollama"))
        before = await self._listed(base, model.name)
        if model.auto_download is False or (before is not None and not force):
            if before is None:
                raise ProvisionFailed(f"Ollama does not have it, and auto_download is false: ollama pull {model.name}")
            return Provisioned("present", await self._about(base, model.name))
        brought = await self._pull(base, model.name, tell)
        after = await self._listed(base, model.name)
        if after is None:
            raise ProvisionFailed("Ollama says that it pulled the model, and does not list it")
        about = await self._about(base, model.name)
        if before == after:
            return Provisioned("present", f"{about}, unchanged")
        return Provisioned("downloaded", about, brought)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _listed(self, base: str, name: str) -> str | None:
        """The digest of a model that the server has; None where it has none of that name."""
        status, document = await ask(self._client, "GET", f"{base}/api/tags", _WHO)
        match document:
            case {"models": [*entries]} if status == 200:
                held = {_whole(str(entry.get("name"))): str(entry.get("digest")) for entry in entries if _is_map(entry)}
                return held.get(_whole(name))
            case _:
                raise ProvisionFailed(f"Ollama answered {status} and no list of models: is this an Ollama?")

    async def _about(self, base: str, name: str) -> str:
        """What the server says of a model: its size and quantization. Raises ProvisionFailed where it cannot."""
        status, document = await ask(self._client, "POST", f"{base}/api/show", _WHO, body={"model": name})
        if status != 200 or not isinstance(document, dict):
            raise ProvisionFailed(f"Ollama lists the model, and cannot show it: {_error(document) or status}")
        details: Any = cast("dict[str, Any]", document).get("details")
        named: Mapping[str, Any] = cast("dict[str, Any]", details) if isinstance(details, dict) else {}
        facts = [said(named[key]) for key in ("family", "parameter_size", "quantization_level") if named.get(key)]
        return f"Ollama has it ({', '.join(facts)})" if facts else "Ollama has it"

    async def _pull(self, base: str, name: str, tell: Callable[[Progress], None]) -> int:
        """Have the server pull a model; the bytes it brought."""
        layers = _Layers()
        failures = 0
        while True:
            done = layers.done
            try:
                await self._pull_once(base, name, layers, tell)
            except Lost as error:
                failures = 1 if layers.done > done else failures + 1
                if failures >= TRIES:
                    raise ProvisionFailed(f"{error}; Ollama keeps what it has for the next time") from None
                await asyncio.sleep(PAUSE_S * 2 ** (failures - 1))
            else:
                return layers.brought

    async def _pull_once(self, base: str, name: str, layers: "_Layers", tell: Callable[[Progress], None]) -> None:
        """One pull, to its end. Raises Lost where it broke off."""
        is_done = False
        url = f"{base}/api/pull"
        async with answer(self._client, "POST", url, _WHO, json={"model": name, "stream": True}) as response:
            async for line in _lines(response):
                try:
                    event: Any = orjson.loads(line)
                except orjson.JSONDecodeError:
                    raise ProvisionFailed(f"Ollama answered {response.status_code} and no progress") from None
                if (reason := _error(event)) is not None:
                    raise ProvisionFailed(f"Ollama cannot pull {name}: {reason}")
                layers.add(event)
                tell(Progress(said(event.get("status", "pulling"))[:60], layers.done, layers.total))
                is_done = event.get("status") == "success"
            status = response.status_code
        if status >= 500:
            raise Lost(f"{_WHO} answered {status}")
        if status >= 400:
            raise ProvisionFailed(f"Ollama refuses to pull {name}: status {status}")
        if not is_done:
            raise Lost(f"{_WHO} broke the pull off")


class _Layers:
    """What a pull has told of its layers: bytes done of how many, and how many of them came over the network."""

    def __init__(self) -> None:
        self._done: dict[str, int] = {}
        self._first: dict[str, int] = {}
        self._total: dict[str, int] = {}

    def add(self, event: Any) -> None:
        """Take in one line. Raises ProvisionFailed for what is none."""
        if not isinstance(event, dict):
            raise ProvisionFailed("Ollama answered with no progress")
        match cast("dict[str, Any]", event):
            case {"digest": str(digest), "total": int(total), **others}:
                done = others.get("completed", 0)
                if isinstance(done, int):
                    self._first.setdefault(digest, done)
                    self._done[digest] = min(done, total)
                    self._total[digest] = total
            case _:
                pass

    @property
    def done(self) -> int:
        """Bytes that are there."""
        return sum(self._done.values())

    @property
    def total(self) -> int | None:
        """Bytes of all layers told of so far."""
        return sum(self._total.values()) or None

    @property
    def brought(self) -> int:
        """Bytes that were not there when first told of."""
        return sum(max(0, done - self._first[digest]) for digest, done in self._done.items())


async def _lines(response: httpx2.Response) -> AsyncIterator[bytes]:
    """The lines of a stream. Raises ProvisionFailed for one without end."""
    rest = b""
    async for part in response.aiter_bytes():
        *whole, rest = (rest + part).split(b"\n")
        for line in whole:
            if line.strip():
                yield line
        if len(rest) > MAX_LINE:
            raise ProvisionFailed("Ollama answers without end")
    if rest.strip():
        yield rest


def _whole(name: str) -> str:
    """A model's name with its tag."""
    return name if ":" in name.rsplit("/", 1)[-1] else f"{name}:latest"


def _is_map(entry: object) -> bool:
    return isinstance(entry, dict)


def _error(document: Any) -> str | None:
    match document:
        case {"error": reason}:
            return said(cast("object", reason))
        case _:
            return None
