"""Plugs everything together, once, in the open."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import cast

import structlog

from app.api.deps import Services
from app.clients.embeddings.http import DEADLINE_S, HttpEmbedder
from app.clients.embeddings.late import LateEmbedder
from app.clients.embeddings.onnx import OnnxEmbedder
from app.clients.rerank.cross_encoder import CrossEncoderReranker
from app.clients.rerank.local import LocalReranker
from app.clients.rerank.server import ServerReranker
from app.clients.slm import language
from app.clients.slm.local import LocalSLM
from app.clients.slm.model import FEW_ORDERS, BuiltinSLM, ModelSLM, SLMReranker
from app.clients.slm.vllm import VLLMClient, limits_of
from app.clients.tokenizer import SentencePieceTokenizer
from app.clients.upstream import HttpUpstream
from app.domain.decisions import Stakes
from app.domain.labels import MOST_ORDERS
from app.domain.sampling import Sampling
from app.ports import SLM, AdapterServer, Embedder, Reranker, SystemClock, Upstream
from app.services.adapter_policy import AdapterPolicy
from app.services.afterwards import Afterwards
from app.services.answers import AnswerService
from app.services.calibrations import CalibrationService
from app.services.catalogues import CatalogueService
from app.services.chance import Chance
from app.services.chat import ChatService
from app.services.chat_context import ChatContextService
from app.services.choices import ChoiceService
from app.services.clarifying import ClarifyingService
from app.services.consent import ConsentService
from app.services.context import ContextService
from app.services.feedback import FeedbackService
from app.services.gate import GateService
from app.services.hypotheses import HypothesisService
from app.services.imports import ImportService
from app.services.ingest import IngestService
from app.services.jobs.graphs import GraphService
from app.services.jobs.queue import JobQueue
from app.services.keys import DEFAULT_TENANT, KeyService
from app.services.memories import MemoryService
from app.services.models import LLMModelManager
from app.services.persona import PersonaService
from app.services.question_policy import QuestionPolicy
from app.services.ranker_policy import RankerPolicy
from app.services.ranking import RankingService
from app.services.recall_log import RecallLog
from app.services.recalls import RecallService
from app.services.reflection import ReflectionService
from app.services.remembering import Remembering
from app.services.replicas import Reads
from app.services.search_policy import SearchPolicy
from app.services.space_switch import SpaceSwitch
from app.services.spaces import Spaces
from app.services.telemetry import TelemetryReports
from app.services.training.policy import load_policy
from app.services.transfer import TransferService
from app.services.trial_spaces import TrialSpaces
from app.services.trials import TrialService
from app.services.turns import TurnService
from app.settings import Settings
from app.store.calibrations import CalibrationStore
from app.store.engine import Database, open_database
from app.store.facets import FacetStore
from app.store.graphs import GraphStore
from app.store.hypotheses import HypothesisStore
from app.store.ingests import IngestStore
from app.store.jobs import JobStore
from app.store.memories import MemoryStore
from app.store.off_policy import OffPolicyStore
from app.store.quarantine import QuarantineStore
from app.store.recalls import RecallStore
from app.store.replica import Replica
from app.store.space_drops import DropStore
from app.store.space_fills import FillStore
from app.store.spaces import SpaceStore
from app.store.tenants import KeyStore, TenantStore
from app.store.training import DeploymentStore
from app.store.trials import TrialStore
from app.store.users import UserStore
from app.wiring_models import build_models
from app.wiring_training import (
    build_collector,
    build_deployments,
    build_erasure,
    build_preparations,
    build_registry,
    build_runs,
    build_trainer,
    open_adapters,
)

log = structlog.get_logger(__name__)

BULK_DEADLINE_S = 60.0
"""What an embedding server has for an answer where nobody waits: with one slow core, 64 texts take it a while."""


@asynccontextmanager
async def open_services(settings: Settings) -> AsyncGenerator[Services]:
    """The running services: database started and migrated, model loaded; everything is stopped on leaving."""
    async with AsyncExitStack() as stack:
        models = build_models(settings)
        stack.push_async_callback(models.aclose)
        database = await open_database(settings)
        stack.push_async_callback(database.aclose)
        embedder = await open_embedder(settings)
        stack.push_async_callback(embedder.aclose)
        slm = await open_slm(settings, models.sampling)
        stack.push_async_callback(slm.aclose)
        reranker = await open_reranker(settings, embedder, slm)
        stack.push_async_callback(reranker.aclose)
        adapters = open_adapters(settings)
        if adapters is not None:
            stack.push_async_callback(adapters.aclose)
        upstream = open_upstream(settings, slm)
        if upstream is not None:
            stack.push_async_callback(upstream.aclose)
        services = build_services(settings, database, embedder, slm, reranker, adapters, models, upstream)
        stack.push_async_callback(asyncio.to_thread, services.collector.close)
        stack.push_async_callback(services.spaces.aclose)
        stack.push_async_callback(services.ranking.reads.aclose)
        stack.push_async_callback(services.recalls.log.aclose)
        stack.push_async_callback(services.afterwards.aclose)
        stack.push_async_callback(services.preparations.aclose)
        await services.keys.ensure_default_tenant()
        await asyncio.to_thread(services.transfer.training.finish)
        await services.catalogues.warm()
        await services.deployments.publish(DEFAULT_TENANT)
        await services.deployments.begin_loading_served(DEFAULT_TENANT)
        await models.ensure_models_installed()
        yield services


@asynccontextmanager
async def open_keys(settings: Settings) -> AsyncGenerator[KeyService]:
    """The API keys alone, on the database alone: no model is loaded for them."""
    database = await open_database(settings)
    try:
        yield build_keys(database)
    finally:
        await database.aclose()


@asynccontextmanager
async def open_trials(settings: Settings) -> AsyncGenerator[TrialService]:
    """The trials of embedding spaces on the database alone: no model is loaded unless it is needed."""
    async with AsyncExitStack() as stack:
        database, spaces = await _open_spaces(stack, settings)
        afterwards = Afterwards()
        stack.push_async_callback(afterwards.aclose)
        yield build_trials(database, spaces, afterwards)


@asynccontextmanager
async def open_switch(settings: Settings) -> AsyncGenerator[SpaceSwitch]:
    """A change of embedding space, on the database alone: no model is loaded unless it is needed."""
    async with AsyncExitStack() as stack:
        yield build_switch(*await _open_spaces(stack, settings))


async def _open_spaces(stack: AsyncExitStack, settings: Settings) -> tuple[Database, Spaces]:
    database = await open_database(settings)
    stack.push_async_callback(database.aclose)
    return database, await stack.enter_async_context(late_spaces(settings, database))


@asynccontextmanager
async def late_spaces(settings: Settings, database: Database) -> AsyncGenerator[Spaces]:
    """The embedding spaces for work that nobody waits for; a model is loaded when the first text comes."""
    own = LateEmbedder(lambda: open_embedder(settings))
    spaces = build_spaces(settings, database, own, deadline_s=BULK_DEADLINE_S)
    try:
        yield spaces
    finally:
        await spaces.aclose()
        await own.aclose()


def build_spaces(settings: Settings, database: Database, own: Embedder, *, deadline_s: float = DEADLINE_S) -> Spaces:
    """The embedding spaces, whose endpoints have so many seconds for an answer; connects to none yet. Where the own
    embedder is an endpoint's, the built-in model is loaded when somebody has memories in its space."""
    return Spaces(
        database,
        SpaceStore(),
        own,
        partial(HttpEmbedder, deadline_s=deadline_s),
        SystemClock(),
        built_in=own if settings.embed_endpoint is None else LateEmbedder(lambda: _load_built_in(settings)),
        endpoint=settings.embed_endpoint,
        labels=settings.embed_labels,
    )


def build_switch(database: Database, spaces: Spaces) -> SpaceSwitch:
    """The use cases about changing the space."""
    return SpaceSwitch(database, spaces, SpaceStore(), FillStore(), DropStore())


@asynccontextmanager
async def open_turns(settings: Settings, database: Database, spaces: Spaces) -> AsyncGenerator[TurnService]:
    """What conversations become, on the database and the spaces alone."""
    async with AsyncExitStack() as stack:
        clock, afterwards = SystemClock(), Afterwards()
        stack.push_async_callback(afterwards.aclose)
        slm = None
        if settings.slm_impl in {"vllm", "openai"}:  # the built-in one would be in memory twice, and rules need none
            slm = await open_slm(settings)
            stack.push_async_callback(slm.aclose)
        reranker = await open_own_reranker(settings, slm)
        if reranker is not None:
            stack.push_async_callback(reranker.aclose)
        catalogues = build_catalogues(settings, database, spaces)
        trials = TrialSpaces(database, TrialStore(), spaces, clock, afterwards)
        memories = build_memories(database, spaces, catalogues, trials)
        yield TurnService(memories, build_gate(memories, reranker), slm)


def build_catalogues(settings: Settings, database: Database, spaces: Spaces) -> CatalogueService:
    """The catalogues of intents, and what tenants decided for themselves."""
    folder = settings.data_dir / "examples"
    return CatalogueService(database, TenantStore(), spaces, SystemClock(), settings.intents_file, folder)


def build_memories(
    database: Database, spaces: Spaces, catalogues: CatalogueService, trials: TrialSpaces
) -> MemoryService:
    """The use cases about single memories."""
    clock, graphs = SystemClock(), build_graphs(database)
    return MemoryService(database, spaces, catalogues, clock, MemoryStore(), SpaceStore(), UserStore(), trials, graphs)


def build_gate(memories: MemoryService, reranker: Reranker | None = None) -> GateService:
    """The write gate; a reranker that only applies the built-in rules knows no more than the gate."""
    judge = None if isinstance(reranker, LocalReranker) else reranker
    return GateService(memories, QuarantineStore(), RecallStore(), memories.clock, judge)


@asynccontextmanager
async def open_search_policy(settings: Settings) -> AsyncGenerator[SearchPolicy]:
    """How searches weigh, on the database alone."""
    async with AsyncExitStack() as stack:
        database, spaces = await _open_spaces(stack, settings)
        clock = SystemClock()
        catalogues = build_catalogues(settings, database, spaces)
        yield SearchPolicy(database, catalogues, RecallStore(), clock)


@asynccontextmanager
async def open_question_policy(settings: Settings) -> AsyncGenerator[QuestionPolicy]:
    """When users are asked, on the database alone."""
    async with AsyncExitStack() as stack:
        database, spaces = await _open_spaces(stack, settings)
        catalogues = build_catalogues(settings, database, spaces)
        yield QuestionPolicy(database, catalogues, HypothesisStore(), SystemClock())


@asynccontextmanager
async def open_reports(settings: Settings) -> AsyncGenerator[TelemetryReports]:
    """What became of decisions, on the database alone."""
    database = await open_database(settings)
    try:
        yield build_reports(database, settings.slm_impl)
    finally:
        await database.aclose()


def build_reports(database: Database, source: str) -> TelemetryReports:
    """Figures about decisions, and the calibration of a source of readings."""
    return TelemetryReports(database, HypothesisStore(), CalibrationStore(), source)


@asynccontextmanager
async def open_ranker_policy(settings: Settings) -> AsyncGenerator[RankerPolicy]:
    """Which readings come first, on the database alone."""
    async with AsyncExitStack() as stack:
        database, spaces = await _open_spaces(stack, settings)
        catalogues = build_catalogues(settings, database, spaces)
        yield RankerPolicy(database, catalogues, OffPolicyStore(), CalibrationStore(), SystemClock())


@asynccontextmanager
async def open_adapter_policy(settings: Settings) -> AsyncGenerator[AdapterPolicy]:
    """Whether the adapter that is tried is better, on the database alone."""
    async with AsyncExitStack() as stack:
        database = await open_database(settings)
        stack.push_async_callback(database.aclose)
        yield AdapterPolicy(database, DeploymentStore(), OffPolicyStore(), SystemClock())


def build_trials(database: Database, spaces: Spaces, afterwards: Afterwards) -> TrialService:
    """The use cases about trials."""
    store, clock = TrialStore(), SystemClock()
    trial_spaces = TrialSpaces(database, store, spaces, clock, afterwards)
    return TrialService(database, spaces, trial_spaces, store, SpaceStore(), clock)


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


async def _load_built_in(settings: Settings) -> Embedder:
    return await asyncio.to_thread(OnnxEmbedder.load, settings.data_dir, settings.embed_threads)


async def open_slm(settings: Settings, sampling: Callable[[str], Sampling] | None = None) -> SLM:
    """The small language model that `settings` name, with a role's parameters for each call. Raises ModelUnavailable
    when the built-in one cannot start; a server that is down is no reason not to start."""
    limits = limits_of(settings)
    match settings.slm_impl:
        case "local":
            return LocalSLM(SentencePieceTokenizer())
        case "vllm":
            address, model = settings.vllm_base_url, settings.vllm_model_name
        case "openai":
            address, model = cast(str, settings.slm_base_url), settings.slm_model
        case "builtin":
            return await BuiltinSLM.open(settings, limits, sampling)
    client = VLLMClient(
        address,
        model,
        name=settings.slm_impl,
        api_key=settings.slm_key,
        limits=limits,
        sampling=sampling,
        label_orders=MOST_ORDERS if settings.slm_impl == "vllm" else FEW_ORDERS,
    )
    await asyncio.to_thread(language.warm)
    return ModelSLM(client)


def open_upstream(settings: Settings, slm: SLM) -> Upstream | None:
    """The model server that chats are passed on to: the one that `settings` name, else the SLM's; None where there is
    none. Connects to nothing yet."""
    if settings.upstream_base_url is not None:
        return HttpUpstream(settings.upstream_base_url, settings.upstream_key)
    match settings.slm_impl:
        case "local":
            return None
        case "vllm":
            return HttpUpstream(settings.vllm_base_url, settings.slm_key)
        case "openai":
            return HttpUpstream(cast(str, settings.slm_base_url), settings.slm_key)
        case "builtin":
            server = cast(BuiltinSLM, slm).server
            return HttpUpstream(server.base_url, server.api_key)


async def open_reranker(settings: Settings, embedder: Embedder, slm: SLM) -> Reranker:
    """The reranker that `settings` name; else the SLM where it is a server's, else the built-in rules."""
    return await open_own_reranker(settings, slm) or LocalReranker(embedder)


async def open_own_reranker(settings: Settings, slm: SLM | None) -> Reranker | None:
    """A model that reads a query with a document, where there is one."""
    if settings.vllm_rerank_url is not None:
        return ServerReranker(settings.vllm_rerank_url, api_key=settings.slm_key)
    if settings.rerank_model is not None:
        return await asyncio.to_thread(
            CrossEncoderReranker.load, settings.rerank_model, settings.data_dir, settings.embed_threads
        )
    if isinstance(slm, ModelSLM) and settings.slm_impl != "builtin":
        return SLMReranker(slm)
    return None


def build_graphs(database: Database) -> GraphService:
    """The graphs of large users."""
    return GraphService(database, GraphStore(), SpaceStore(), JobQueue(database, JobStore()))


def build_ingest(database: Database) -> IngestService:
    """Conversations that are handed in."""
    return IngestService(database, JobQueue(database, JobStore()), IngestStore(), UserStore(), SystemClock())


def build_reads(settings: Settings, database: Database) -> Reads:
    """Where searches read: on the replica too, if there is one."""
    url, pool_size = settings.database_replica_url, settings.database_pool_size
    return Reads(database, Replica(url, database, pool_size=pool_size) if url else None, SystemClock())


def build_imports(services: Services) -> ImportService:
    """The use case about other assistants' exports."""
    return ImportService(
        services.database, services.transfer, services.catalogues, services.transfer.users, services.memories.clock
    )


def build_services(
    settings: Settings,
    database: Database,
    embedder: Embedder,
    slm: SLM | None = None,
    reranker: Reranker | None = None,
    adapters: AdapterServer | None = None,
    models: LLMModelManager | None = None,
    upstream: Upstream | None = None,
) -> Services:
    """Every use case on these parts; the built-in rules where no model is given. Starts nothing."""
    clock = SystemClock()
    tokenizer = SentencePieceTokenizer()
    fallback = LocalSLM(tokenizer)
    slm = slm or fallback
    fallback_reranker = LocalReranker(embedder)
    reranker = reranker or fallback_reranker
    afterwards = Afterwards()
    memory_store, user_store, hypothesis_store = MemoryStore(), UserStore(), HypothesisStore()
    collector = build_collector(settings)
    trainer = build_trainer(collector)
    erasure = build_erasure(settings, trainer)
    spaces = build_spaces(settings, database, embedder)
    catalogues = build_catalogues(settings, database, spaces)
    trials = TrialSpaces(database, TrialStore(), spaces, clock, afterwards)
    memories = build_memories(database, spaces, catalogues, trials)
    gate = build_gate(memories, reranker)
    recall_store = RecallStore()
    recall_log = RecallLog(database, recall_store, clock, is_kept=settings.recalls_kept_days > 0)
    ranking = RankingService(
        database,
        build_reads(settings, database),
        spaces,
        reranker,
        fallback_reranker,
        catalogues,
        clock,
        memory_store,
        user_store,
        trials,
        tokenizer,
        recall_log,
        is_reranking=not isinstance(reranker, LocalReranker),
    )
    policy, registry = load_policy(settings.promotion_policy), build_registry(settings)
    deployments = build_deployments(database, adapters, afterwards, policy, registry)
    personas = PersonaService(
        database,
        slm,
        fallback,
        collector,
        clock,
        user_store,
        FacetStore(),
        half_life_days=settings.facet_half_life_days,
    )
    hypotheses = HypothesisService(
        database,
        ranking,
        catalogues,
        slm,
        fallback,
        clock,
        user_store,
        hypothesis_store,
        deployments,
        CalibrationService(database, CalibrationStore(), clock),
        stakes=Stakes(settings.question_cost, floor=settings.auto_advance_confidence),
        k_anonymity=settings.k_anonymity,
        chance=Chance(settings.order_shuffle),
        facet_half_life_days=settings.facet_half_life_days,
    )
    choices = ChoiceService(database, hypotheses, gate, personas, collector, user_store, hypothesis_store, deployments)
    context = ContextService(
        database,
        ranking,
        choices,
        catalogues,
        tokenizer,
        clock,
        user_store,
        hypothesis_store,
        slm,
        fallback,
        afterwards,
        token_budget=settings.token_budget,
        budget_weights=settings.budget_weights,
    )
    feedback = FeedbackService(
        database, personas, gate, hypotheses, collector, clock, user_store, hypothesis_store, deployments
    )
    ingest = build_ingest(database)
    return Services(
        settings=settings,
        database=database,
        embedder=embedder,
        keys=build_keys(database),
        catalogues=catalogues,
        memories=memories,
        ingest=ingest,
        turns=TurnService(memories, gate, slm),
        gate=gate,
        recalls=RecallService(database, ranking, recall_store, memory_store, recall_log),
        spaces=spaces,
        trials=trials,
        ranking=ranking,
        hypotheses=hypotheses,
        answers=AnswerService(hypotheses),
        reflection=ReflectionService(hypotheses, catalogues, slm, fallback, clock),
        context=context,
        chat=ChatService(
            upstream,
            ChatContextService(
                database,
                ranking,
                catalogues,
                memory_store,
                user_store,
                tokenizer,
                clock,
                token_budget=settings.chat_token_budget,
                facet_half_life_days=settings.facet_half_life_days,
            ),
            ClarifyingService(database, hypotheses, context, feedback, hypothesis_store),
            Remembering(gate),
            afterwards,
            clock,
        ),
        feedback=feedback,
        personas=personas,
        transfer=TransferService(database, spaces, erasure, user_store, memories.graphs, ingest),
        consent=ConsentService(database, user_store, erasure, clock),
        telemetry=build_reports(database, slm.name),
        collector=collector,
        slm=slm,
        afterwards=afterwards,
        deployments=deployments,
        trainer=trainer,
        runs=build_runs(settings, database, trainer),
        preparations=build_preparations(settings),
        models=models or build_models(settings),
    )
