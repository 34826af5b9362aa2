"""Plugs everything together, once, in the open."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import structlog

from app.api.deps import Services
from app.clients.embeddings.http import HttpEmbedder
from app.clients.embeddings.onnx import OnnxEmbedder
from app.clients.rerank import LocalReranker
from app.clients.slm.local import LocalSLM
from app.clients.tokenizer import SentencePieceTokenizer
from app.ports import SLM, Embedder, SystemClock, Tokenizer
from app.services.catalogues import CatalogueService
from app.services.choices import ChoiceService
from app.services.context import ContextService
from app.services.feedback import FeedbackService
from app.services.hypotheses import HypothesisService
from app.services.keys import KeyService
from app.services.memories import MemoryService
from app.services.persona import PersonaService
from app.services.ranking import RankingService
from app.services.reflection import ReflectionService
from app.services.telemetry import TelemetryReports
from app.services.training import TrainingDataCollector
from app.services.transfer import TransferService
from app.settings import Settings
from app.store.engine import Database, open_database
from app.store.hypotheses import HypothesisStore
from app.store.memories import MemoryStore
from app.store.tenants import KeyStore, TenantStore
from app.store.users import UserStore

log = structlog.get_logger(__name__)


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncGenerator[Services]:
    """The running services: database started and migrated, model loaded; everything is stopped on leaving."""
    database = await open_database(settings)
    try:
        embedder = await open_embedder(settings)
        try:
            services = build_services(settings, database, embedder)
            await services.keys.ensure_default_tenant()
            await services.catalogues.warm()
            try:
                yield services
            finally:
                await asyncio.to_thread(services.collector.close)
        finally:
            await embedder.aclose()
    finally:
        await database.aclose()


@asynccontextmanager
async def open_keys(settings: Settings) -> AsyncGenerator[KeyService]:
    """The API keys alone, on the database alone: no model is loaded for them."""
    database = await open_database(settings)
    try:
        yield build_keys(database)
    finally:
        await database.aclose()


def build_keys(database: Database) -> KeyService:
    """The use cases about API keys."""
    return KeyService(database, SystemClock(), TenantStore(), KeyStore())


async def open_embedder(settings: Settings) -> Embedder:
    """The embedding model that `settings` name. Raises ModelUnavailable."""
    if settings.embed_endpoint is None:
        return OnnxEmbedder.load(settings.data_dir, settings.embed_threads)
    embedder = HttpEmbedder(settings.embed_endpoint, dims=settings.embed_dims)
    await embedder.connect()
    return embedder


def build_slm(settings: Settings, tokenizer: Tokenizer) -> SLM:
    """The small language model that `settings` name."""
    match settings.slm_impl:
        case "local":
            return LocalSLM(tokenizer)


def build_services(settings: Settings, database: Database, embedder: Embedder) -> Services:
    """Every use case on these parts. Starts nothing."""
    clock = SystemClock()
    tokenizer = SentencePieceTokenizer()
    slm = build_slm(settings, tokenizer)
    fallback = LocalSLM(tokenizer)
    memory_store, user_store, hypothesis_store = MemoryStore(), UserStore(), HypothesisStore()
    tenant_store = TenantStore()
    collector = TrainingDataCollector(
        directory=settings.training_dir,
        is_enabled=settings.enable_training_data_collection,
        max_bytes=int(settings.training_file_max_mb * 1024 * 1024),
    )
    catalogues = CatalogueService(database, tenant_store, embedder, clock, settings.intents_file)
    memories = MemoryService(database, embedder, catalogues, clock, memory_store, user_store)
    ranking = RankingService(database, embedder, LocalReranker(embedder), catalogues, clock, memory_store, user_store)
    personas = PersonaService(database, slm, fallback, collector, clock, user_store)
    hypotheses = HypothesisService(
        database,
        ranking,
        catalogues,
        slm,
        fallback,
        clock,
        memory_store,
        user_store,
        hypothesis_store,
        space=embedder.space.id,
        auto_advance_confidence=settings.auto_advance_confidence,
        k_anonymity=settings.k_anonymity,
    )
    choices = ChoiceService(database, hypotheses, memories, personas, collector, user_store, hypothesis_store)
    context = ContextService(
        database,
        ranking,
        choices,
        catalogues,
        tokenizer,
        clock,
        memory_store,
        user_store,
        hypothesis_store,
        space=embedder.space.id,
        token_budget=settings.token_budget,
        budget_weights=settings.budget_weights,
    )
    return Services(
        settings=settings,
        database=database,
        embedder=embedder,
        keys=build_keys(database),
        catalogues=catalogues,
        memories=memories,
        ranking=ranking,
        hypotheses=hypotheses,
        reflection=ReflectionService(hypotheses, ranking, catalogues, slm, fallback, clock),
        context=context,
        feedback=FeedbackService(
            database, personas, memories, hypotheses, collector, clock, user_store, hypothesis_store
        ),
        personas=personas,
        transfer=TransferService(database, embedder, collector, user_store),
        telemetry=TelemetryReports(database, hypothesis_store),
        collector=collector,
        slm_name=slm.name,
    )
