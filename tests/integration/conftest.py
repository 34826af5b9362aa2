"""The use cases on real parts: the session's embedded PostgreSQL and the built-in model, loaded once."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from app.api.deps import Services
from app.clients.embeddings.onnx import OnnxEmbedder
from app.domain.embeddings import EmbeddingSpace, Vectors
from app.domain.errors import ModelUnavailable
from app.domain.memory import Draft, MemoryType
from app.domain.turns import Utterance
from app.services.choices import ExecuteRequest
from app.services.context import Execution
from app.services.feedback import Feedback
from app.services.hypotheses import HypothesisSet
from app.services.ranking import SearchRequest
from app.settings import Settings
from app.store.engine import Database
from app.store.tenants import TenantStore
from app.wiring import build_services


class FaultyEmbedder:
    """The real model until `is_down`; then it answers like one that is out of service."""

    def __init__(self, real: OnnxEmbedder) -> None:
        self._real = real
        self.is_down = False

    @property
    def space(self) -> EmbeddingSpace:
        return self._real.space

    @property
    def backend(self) -> str:
        return self._real.backend

    async def embed(self, texts: Sequence[str]) -> Vectors:
        if self.is_down:
            raise ModelUnavailable("The embedding model is being replaced.")
        return await self._real.embed(texts)

    def count_tokens(self, texts: Sequence[str]) -> int:
        return self._real.count_tokens(texts)

    async def aclose(self) -> None:
        """The real model belongs to the session."""


@pytest.fixture(scope="session")
async def embedder(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OnnxEmbedder]:
    """The built-in model."""
    loaded = OnnxEmbedder.load(tmp_path_factory.mktemp("models"))
    yield loaded
    await loaded.aclose()


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """The defaults, with training data collected into a folder of the session."""
    folder = tmp_path_factory.mktemp("service")
    own = {"data_dir": folder, "local_models_dir": folder / "models", "train_venv": folder / "venv"}
    return Settings(_env_file=None, database_url=None, enable_training_data_collection=True, **own)


@pytest.fixture(scope="session")
async def services(settings: Settings, database: Database, embedder: OnnxEmbedder) -> Services:
    """Every use case, as the service itself has them."""
    built = build_services(settings, database, embedder)
    await built.catalogues.warm()
    return built


@pytest.fixture
async def tenant(tenant: str, database: Database) -> str:
    """A tenant of this test's own, with its row."""
    await create_tenant(database, tenant)
    return tenant


@pytest.fixture
async def other_tenant(tenant: str, database: Database) -> str:
    """A second tenant of this test's own."""
    await create_tenant(database, f"{tenant}-other")
    return f"{tenant}-other"


async def create_tenant(database: Database, name: str) -> None:
    """Write the row of a tenant."""
    async with database.begin(name) as connection:
        await TenantStore().ensure(connection, name)


def facts(*contents: str, kind: MemoryType = MemoryType.PREFERENCE) -> list[Draft]:
    """Drafts of one type."""
    return [Draft(kind, content) for content in contents]


async def choose(
    services: Services, tenant: str, user: str, text: str, chosen: str = "h1"
) -> tuple[HypothesisSet, Execution]:
    """Ask about a text and take one of the hypotheses."""
    made = await services.hypotheses.hypothesize(tenant, user, text)
    request = ExecuteRequest(text, made.set_id, chosen)
    return made, await services.context.execute(tenant, user, request)


async def live_a_little(services: Services, tenant: str, user: str, word: str) -> None:
    """Leave a trace of a user in every table and training file, `word` in each text that is theirs."""
    memories = services.memories
    drafts = facts(f"I write Python and deploy with Docker on AWS, says {word}", f"My editor is {word}")
    added = await memories.add(tenant, user, [*drafts, Draft(MemoryType.HISTORY, f"{word} went by", tags=(word,))])
    await memories.add(tenant, user, facts("My editor is Emacs"))
    await memories.update(tenant, added.ids[2], {"content": f"{word} came back"})
    said = Utterance("user", f"I heard of {word} today.", datetime(2026, 3, 1, tzinfo=UTC))
    await services.turns.take(tenant, user, [replace(said, content=f"I need to call {word} today.")], f"with {word}")
    await services.ingest.begin(tenant, user, [said], f"about {word}")
    await services.ranking.search(tenant, user, SearchRequest(f"what of {word}?"))
    await services.recalls.log.aclose()
    _, executed = await choose(services, tenant, user, f"deploy my app {word}")
    comment = f"too long, I prefer {word}"
    await services.feedback.give(
        tenant, user, Feedback(executed.execution_id, rating=-0.5, comment=comment, rejected_ids=("h2",))
    )
    await services.context.execute(tenant, user, ExecuteRequest("and now?", custom_answer=f"I want to see {word}"))
    await services.feedback.prefer(
        tenant, user, hypothesis_a=f"a {word}", hypothesis_b="b", preferred="tie", reward=0.5
    )
