"""Models of llama.cpp: a server that runs, or a GGUF file that one can be started on. Nothing is brought."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from app.clients.provisioning.downloads import sha256_of
from app.clients.provisioning.local import inside
from app.clients.provisioning.web import ask, listed_models, make_client, said
from app.clients.provisioning.weights import check_weights
from app.domain.errors import ProvisionFailed
from app.domain.manifest import Model
from app.ports import Progress, Provisioned

_WHO = "the llama.cpp server"


class LlamaCppProvider:
    """Asks `/health` and `/v1/models` of a server; reads a file's header and hash."""

    def __init__(self, models_dir: Path, keys: Mapping[str, str] | None = None) -> None:
        """`models_dir`: where paths begin; `keys`: address (with `/v1`) to API key."""
        self._models_dir = models_dir
        self._keys = keys or {}
        self._client = make_client()

    async def provision(self, model: Model, tell: Callable[[Progress], None], *, force: bool = False) -> Provisioned:
        """Whether the file is whole and the server answers with the model; either where only that is named."""
        found = Provisioned("present", "")
        if model.path is not None:
            tell(Progress("checking the file"))
            found = await asyncio.to_thread(self._check_file, model.path, model.sha256)
        if model.url is None:
            return found
        tell(Progress("asking llama.cpp"))
        served = await self._served(model)
        detail = "; ".join(part for part in (found.detail, served) if part)
        return Provisioned("present", detail, place=found.place, hashes=found.hashes)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def _check_file(self, path: str, sha256: str | None) -> Provisioned:
        file = inside(self._models_dir, self._models_dir / path, path)
        if not file.is_file():
            raise ProvisionFailed(f"{path} is not in {self._models_dir.name}: put the GGUF file there")
        with file.open("rb") as opened:
            if opened.read(4) != b"GGUF":
                raise ProvisionFailed(f"{path} is not a GGUF file")
        check_weights(file, path) if file.suffix == ".gguf" else None
        digest = sha256_of(file)
        if sha256 is not None and digest != sha256:
            raise ProvisionFailed(f"{path} has the SHA-256 {digest}, not the one of the manifest")
        detail = f"{path} is whole, {file.stat().st_size:,} bytes"
        return Provisioned("present", detail, place=file, hashes={path: digest})

    async def _served(self, model: Model) -> str:
        root = str(model.url).removesuffix("/v1")
        key = self._keys.get(f"{root}/v1")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        status, _ = await ask(self._client, "GET", f"{root}/health", _WHO)
        if status == 503:
            raise ProvisionFailed("the llama.cpp server is still loading its model: ask again")
        if status != 200:
            raise ProvisionFailed(f"the llama.cpp server's /health answered {status}")
        status, document = await ask(self._client, "GET", f"{root}/v1/models", _WHO, headers=headers)
        if status in {401, 403}:
            raise ProvisionFailed("the llama.cpp server wants another API key: SLM_API_KEY")
        served = listed_models(document)
        if status != 200 or served is None:
            raise ProvisionFailed(f"the llama.cpp server answered {status} and no list of models")
        # Without an alias it calls its model by the file's path.
        if model.name not in {name for one in served for name in (one, Path(one).name, Path(one).stem)}:
            raise ProvisionFailed(f"the llama.cpp server serves {said(', '.join(served)) or 'nothing'}")
        return "the llama.cpp server answers with it"
