"""The SLM port's promises, on the rules, and on a model behind a server that tells labels and one that does not."""

from collections.abc import AsyncIterator, Iterator

import pytest

from app.clients.slm.local import LocalSLM
from app.clients.slm.model import ModelSLM
from app.clients.slm.resilience import Limits
from app.clients.slm.vllm import VLLMClient
from app.clients.tokenizer import SentencePieceTokenizer
from app.ports import SLM
from tests.contract.slm import SLMContract
from tests.slm_server import MODEL, ModelServer, model_server


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with model_server() as running:
        yield running


async def on(server: ModelServer, name: str, *, tells_labels: bool = True) -> AsyncIterator[SLM]:
    server.tells_labels = tells_labels
    made = ModelSLM(VLLMClient(server.base_url, MODEL, name=name, limits=Limits()))
    yield made
    await made.aclose()


class TestLocal(SLMContract):
    """Rules: their scores are log-odds already."""

    weighs = False

    @pytest.fixture
    def slm(self) -> SLM:
        return LocalSLM(SentencePieceTokenizer())


class TestModel(SLMContract):
    """A model whose server tells what could stand in a token's place."""

    @pytest.fixture(params=["vllm", "openai"])
    async def slm(self, server: ModelServer, request: pytest.FixtureRequest) -> AsyncIterator[SLM]:
        async for made in on(server, request.param):
            yield made


class TestModelWithoutLogprobs(SLMContract):
    """A model whose server does not."""

    weighs = False

    @pytest.fixture
    async def slm(self, server: ModelServer) -> AsyncIterator[SLM]:
        async for made in on(server, "openai", tells_labels=False):
            yield made
