"""Models of a vLLM: it serves what it was started with, so there is nothing to bring, only to ask."""

from collections.abc import Callable, Mapping

from app.clients.provisioning.web import ask, listed_models, make_client, said
from app.domain.errors import ProvisionFailed
from app.domain.manifest import Model
from app.ports import Progress, Provisioned


class VLLMProvider:
    """Asks `/v1/models`."""

    def __init__(self, base_url: str, keys: Mapping[str, str] | None = None) -> None:
        """`base_url` holds where a model names none, and ends in `/v1`; `keys`: address to API key."""
        self._base_url = base_url
        self._keys = keys or {}
        self._client = make_client()

    async def provision(self, model: Model, tell: Callable[[Progress], None], *, force: bool = False) -> Provisioned:
        """Whether the server has loaded a model. `force` changes nothing: it is asked each time."""
        base = model.url or self._base_url.rstrip("/")
        base = base if base.endswith("/v1") else f"{base}/v1"
        tell(Progress("asking vLLM"))
        key = self._keys.get(base)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        status, document = await ask(self._client, "GET", f"{base}/models", "vLLM", headers=headers)
        if status in {401, 403}:
            raise ProvisionFailed("vLLM wants another API key: SLM_API_KEY")
        served = listed_models(document)
        if status != 200 or served is None:
            raise ProvisionFailed(f"vLLM answered {status} and no list of models: is this an OpenAI-like server?")
        if model.name not in served:
            others = said(", ".join(served)) or "nothing"
            raise ProvisionFailed(f"vLLM serves {others}: start it with --served-model-name {model.name}")
        return Provisioned("present", "vLLM has it loaded")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()
