"""Plugs the training together: for the service, and for commands that need no more than they use."""

import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from app.clients.slm.adapters import VLLMAdapters
from app.clients.tokenizer import SentencePieceTokenizer
from app.domain.promotion import Policy
from app.ports import AdapterServer, SystemClock
from app.services.afterwards import Afterwards
from app.services.deployments import DeploymentService
from app.services.keys import KeyService
from app.services.training import ModelTrainer, TrainingDataCollector
from app.services.training.bundles import BundleData, BundleService
from app.services.training.erasure import TrainingErasure
from app.services.training.policy import load_policy
from app.services.training.preparations import DatasetPreparations
from app.services.training.registry import REGISTRY_FILE, AdapterRegistry
from app.services.training.runs import RunService
from app.settings import Settings
from app.store.engine import Database, open_database
from app.store.tenants import KeyStore, TenantStore
from app.store.training import DeploymentStore, RunStore

DEFAULT_POLICY = Policy()


@dataclass(frozen=True)
class Training:
    """What the commands about training work with."""

    settings: Settings
    runs: RunService
    deployments: DeploymentService

    @property
    def database(self) -> Database:
        """Where they are kept."""
        return self.runs.database


@asynccontextmanager
async def open_training(settings: Settings) -> AsyncGenerator[Training]:
    """Runs and deployments on the database alone: no model is loaded for them."""
    async with AsyncExitStack() as stack:
        database = await open_database(settings)
        stack.push_async_callback(database.aclose)
        adapters = open_adapters(settings)
        if adapters is not None:
            stack.push_async_callback(adapters.aclose)
        afterwards = Afterwards()
        stack.push_async_callback(afterwards.aclose)
        await KeyService(database, SystemClock(), TenantStore(), KeyStore()).ensure_default_tenant()
        trainer = build_trainer(build_collector(settings))
        policy = load_policy(settings.promotion_policy)
        deployments = build_deployments(database, adapters, afterwards, policy, build_registry(settings))
        yield Training(settings, build_runs(settings, database, trainer), deployments)


def open_adapters(settings: Settings) -> VLLMAdapters | None:
    """The server that takes adapters: vLLM, where `settings` name it. Connects to nothing yet."""
    if settings.slm_impl != "vllm":
        return None
    return VLLMAdapters(settings.vllm_base_url, settings.vllm_model_name, api_key=settings.slm_key)


def build_deployments(
    database: Database,
    adapters: AdapterServer | None,
    afterwards: Afterwards,
    policy: Policy = DEFAULT_POLICY,
    registry: AdapterRegistry | None = None,
) -> DeploymentService:
    """The use cases about deployments. Without a server for adapters they can roll back and show."""
    return DeploymentService(
        database,
        adapters,
        RunStore(),
        DeploymentStore(),
        SystemClock(),
        afterwards,
        canary_share=policy.canary.share,
        canary_alpha=policy.canary.alpha,
        registry=registry,
    )


def build_registry(settings: Settings, path: Path | None = None) -> AdapterRegistry:
    """The adapter registry: the file at `path`, else where the settings say."""
    return AdapterRegistry(path or settings.llm_adapter_registry_path or settings.local_models_dir / REGISTRY_FILE)


def build_collector(settings: Settings) -> TrainingDataCollector:
    """What writes training samples."""
    return TrainingDataCollector(
        directory=settings.training_dir,
        is_enabled=settings.enable_training_data_collection,
        max_bytes=int(settings.training_file_max_mb * 1024 * 1024),
    )


def build_trainer(collector: TrainingDataCollector) -> ModelTrainer:
    """What prepares datasets; it counts tokens as the service does."""
    return ModelTrainer(collector, SentencePieceTokenizer())


def build_erasure(settings: Settings, trainer: ModelTrainer) -> TrainingErasure:
    """What takes a user out of everything that training made."""
    return TrainingErasure(trainer.collector, trainer, RunStore(), settings.local_models_dir)


def build_runs(settings: Settings, database: Database, trainer: ModelTrainer) -> RunService:
    """The use cases about training runs."""
    return RunService(
        database,
        SystemClock(),
        TenantStore(),
        RunStore(),
        DeploymentStore(),
        trainer,
        settings.local_models_dir,
        settings.train_venv / "bin" / "python",
    )


def build_bundles(settings: Settings, runs: RunService, registry_path: Path | None = None) -> BundleService:
    """The use cases about bundles; `registry_path` is another registry than the settings'."""
    return BundleService(runs, build_bundle_data(settings), build_registry(settings, registry_path))


def build_bundle_data(settings: Settings) -> BundleData:
    """What checks the rows of bundles; it needs no database."""
    trainer = build_trainer(build_collector(settings))
    return BundleData(trainer, settings.train_venv / "bin" / "python", settings.hf_home.expanduser() / "hub")


def build_preparations(settings: Settings) -> DatasetPreparations:
    """Preparations of datasets for callers over HTTP, with this process's settings."""
    command = (sys.executable, "-m", "app.cli", "train", "datasets", "--json")
    environment = {"TRAINING_DATA_DIR": str(settings.training_dir), "LOG_DIR": str(settings.log_dir)}
    return DatasetPreparations(settings.training_dir, command, environment)
