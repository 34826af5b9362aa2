"""The two deployments: an embedding model's server, and a checkpoint that talks and embeds.

A deployment is an application of Ray Serve with one kind of replica, `Replica`. Ray itself is imported when one is
made.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI

from serving.backend import Backend, ModelInfo
from serving.backends import open_backend
from serving.command import STOP_TIMEOUT_S
from serving.errors import ModelRefused
from serving.llm2vec.main import create_llm2vec_app
from serving.llm2vec.manifest import EXPORTED, TRAINED, artifact, read_manifest
from serving.llm2vec.settings import RuntimeSettings, load_runtime_settings
from serving.logs import configure_logs
from serving.main import create_app
from serving.ray.registry import Choice, Registry
from serving.ray.settings import DeploymentSettings, RaySettings
from serving.ray.switching import NamedBackend, Served, SwitchingApp
from serving.runtime import UnifiedLLMRuntime
from serving.settings import ServeSettings, load_settings

Name = Literal["embedding", "runtime"]
NAMES: tuple[Name, ...] = ("embedding", "runtime")
"""Of the deployments, their applications and the first part of their addresses."""

OpenApp = Callable[[Choice], FastAPI]

_QUEUED_REQUESTS = 1000
"""Requests that wait for a replica at a proxy; beyond that Ray Serve answers 503."""


_METRICS_S = 10.0
"""How often a replica tells how much it has to do; oftener where a delay is shorter."""

LOGGING = {"enable_access_log": False}
"""Of Ray Serve's own parts: no line for every request."""


class Replica:
    """One replica of a deployment."""

    def __init__(self, open_app: OpenApp, registry: Registry, watch_s: float) -> None:
        """Loads nothing; arguments as of SwitchingApp."""
        configure_logs()
        self._app = SwitchingApp(open_app, registry, watch_s)

    async def __serve_build_asgi_app__(self) -> SwitchingApp:
        """What answers HTTP, its model loaded. Raises ModelRefused."""
        await self._app.start()
        return self._app

    async def check_health(self) -> None:
        """Ray Serve replaces a replica for which this fails three times. Raises ModelUnavailable."""
        await self._app.check()

    async def served(self) -> dict[str, Any]:
        """What this replica serves."""
        return self._told(self._app.served)

    async def look(self) -> dict[str, Any]:
        """What it serves after it has looked at the registry."""
        return self._told(await self._app.look())

    @staticmethod
    def _told(served: Served) -> dict[str, Any]:
        ray, serve = import_module("ray"), import_module("ray.serve")
        node: str = ray.get_runtime_context().get_node_id()
        return {"replica": serve.get_replica_context().replica_tag, "node": node, **asdict(served)}


def embedding_app(settings: ServeSettings, choice: Choice) -> FastAPI:
    """The server of an embedding model's folder, or of a checkpoint's merged weights. Raises ModelRefused."""
    folder = choice.folder
    if any((folder / each).is_file() for each in (EXPORTED, TRAINED)):
        manifest = read_manifest(folder)
        merged = artifact(folder, manifest, "merged")
        if merged is None:
            raise ModelRefused(f"{folder} has no merged weights, which the embedding deployment serves.")
        folder = merged
        if "normalize" not in settings.model_fields_set:
            settings = settings.model_copy(update={"normalize": manifest.embedding.normalise})
    settings = settings.model_copy(update={"model": folder})

    def open_named() -> Backend:
        return NamedBackend(open_backend(settings), choice.name)

    return create_app(open_named, settings)


class NamedRuntime(UnifiedLLMRuntime):
    """A runtime under the name of a choice."""

    def __init__(self, choice: Choice, settings: RuntimeSettings) -> None:
        """As UnifiedLLMRuntime."""
        super().__init__(choice.folder, settings)
        self.name = choice.name

    @property
    def info(self) -> ModelInfo:
        """What is loaded. Raises as `load`."""
        return replace(super().info, name=self.name)


def runtime_app(settings: ServeSettings, model: RuntimeSettings, choice: Choice) -> FastAPI:
    """The server of a checkpoint that talks and embeds. Raises ModelRefused."""
    settings = settings.model_copy(update={"model": choice.folder})
    return create_llm2vec_app(NamedRuntime(choice, model), settings, is_lazy=False)


def open_app_of(name: Name) -> OpenApp:
    """What makes a deployment's applications, by the settings of this process. Raises SettingsError."""
    settings = load_settings()
    if name == "embedding":
        return partial(embedding_app, settings)
    return partial(runtime_app, settings, load_runtime_settings())


def registry_of(settings: RaySettings, own: DeploymentSettings) -> Registry:
    """Where a deployment's replicas look, with absolute paths."""
    base: Path | None = own.model.absolute() if own.model else None
    return Registry(settings.registry_path if own.follow else None, base)


def application(name: Name, settings: RaySettings, open_app: OpenApp, concurrency: int) -> Any:
    """A deployment as an application for `serve.run`; `concurrency`: most requests a replica has at a time."""
    serve: Any = import_module("ray.serve")
    own: DeploymentSettings = getattr(settings, name)
    deployment = serve.deployment(
        name=name,
        max_ongoing_requests=concurrency,
        max_queued_requests=_QUEUED_REQUESTS,
        health_check_timeout_s=STOP_TIMEOUT_S,  # a model with a full queue is slow, not dead
        graceful_shutdown_timeout_s=STOP_TIMEOUT_S,
        logging_config=LOGGING,
        ray_actor_options={"num_cpus": own.cpus, "num_gpus": own.gpus},
        autoscaling_config={
            "min_replicas": own.min_replicas,
            "max_replicas": own.max_replicas,
            "target_ongoing_requests": own.target_ongoing_requests,
            "metrics_interval_s": min(_METRICS_S, max(0.5, own.upscale_delay_s)),
            "upscale_delay_s": own.upscale_delay_s,
            "downscale_delay_s": own.downscale_delay_s,
        },
    )
    return deployment(serve.ingress()(Replica)).bind(open_app, registry_of(settings, own), settings.watch_s)
