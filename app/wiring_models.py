"""Plugs the provisioning of models together: for the service, and for the command that needs no more."""

from collections.abc import Callable, Mapping

from app.clients.provisioning.huggingface import HuggingFaceProvider
from app.clients.provisioning.llamacpp import LlamaCppProvider
from app.clients.provisioning.local import LocalProvider
from app.clients.provisioning.ollama import OllamaProvider
from app.clients.provisioning.vllm import VLLMProvider
from app.domain.manifest import Model, Provider
from app.ports import ModelProvider, Progress
from app.services.models import LLMModelManager
from app.services.models.manifest_file import ManifestFile
from app.settings import Settings


def build_models(settings: Settings, on_progress: Callable[[Model, Progress], None] | None = None) -> LLMModelManager:
    """The manifest that `settings` name, and every provider. Connects to nothing yet. Raises InvalidInput for a
    manifest that cannot be used."""
    manifest = ManifestFile(settings.llm_models_manifest, settings.llm_models_profile, settings.llm_models_overrides)
    return LLMModelManager(manifest, build_providers(settings), on_progress)


def build_providers(settings: Settings) -> Mapping[Provider, ModelProvider]:
    """One of each kind."""
    keys = _keys(settings)
    return {
        "ollama": OllamaProvider(settings.ollama_base_url),
        "vllm": VLLMProvider(settings.vllm_base_url, keys),
        "huggingface": HuggingFaceProvider(settings.hf_endpoint, settings.hf_home, settings.hub_token),
        "local": LocalProvider(settings.local_models_dir),
        "llamacpp": LlamaCppProvider(settings.local_models_dir, keys),
    }


def _keys(settings: Settings) -> Mapping[str, str]:
    """The language model's key, for the addresses that the settings name: a manifest's own get none."""
    if settings.slm_key is None:
        return {}
    return {url.rstrip("/"): settings.slm_key for url in (settings.vllm_base_url, settings.slm_base_url) if url}
