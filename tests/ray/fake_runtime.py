"""Deploys the runtime with fake weights on the cluster of RAY_ADDRESS; `main` is called by a process of its own."""

import os
from importlib import import_module
from typing import Any

from fastapi import FastAPI

import serving.runtime
from serving.llm2vec.settings import RuntimeSettings
from serving.ray.deployments import application, runtime_app
from serving.ray.registry import Choice
from serving.ray.settings import load_ray_settings
from serving.settings import load_settings
from tests.serving.llm2vec.fakes import FakeWeights, fake_plan


def open_fake(choice: Choice) -> FastAPI:
    """What the runtime deployment opens, without torch."""
    module: Any = serving.runtime
    module.Weights, module.make_plan = FakeWeights, fake_plan
    return runtime_app(load_settings(), RuntimeSettings(), choice)


def main() -> None:
    """Deploy it, beside what is deployed."""
    ray: Any = import_module("ray")
    serve: Any = import_module("ray.serve")
    ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
    settings = load_ray_settings()
    serve.start(proxy_location="HeadOnly", http_options={"port": settings.http_port})
    serve.run(application("runtime", settings, open_fake, 64), name="runtime", route_prefix="/runtime")
