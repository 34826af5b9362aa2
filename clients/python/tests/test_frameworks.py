"""The adapters on the real libraries and the service that EMBED_SERVICE_URL names."""

import os

import pytest
from langchain_core.chat_history import InMemoryChatMessageHistory
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables.history import RunnableWithMessageHistory
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.memory import Memory

from embed_service_client import AsyncEmbedService, EmbedService, NotFound
from embed_service_client.langchain import EmbedServiceChatMessageHistory, EmbedServiceRetriever
from embed_service_client.llamaindex import EmbedServiceMemoryBlock

URL = os.environ["EMBED_SERVICE_URL"]


@pytest.fixture
def client():
    with EmbedService(URL) as opened:
        yield opened


def test_a_retriever_finds_memories(client: EmbedService) -> None:
    """Best first, with what they are."""
    client.add_memories(
        "langchain",
        [
            {"type": "CONSTRAINT", "content": "Our data has to stay in the EU", "tags": ["law"]},
            {"type": "PREFERENCE", "content": "I like green tea"},
        ],
    )
    (found,) = EmbedServiceRetriever(client=client, user_id="langchain", limit=1).invoke("where may the data be kept?")
    assert found.page_content == "Our data has to stay in the EU"
    assert (found.metadata["type"], found.metadata["tags"]) == ("CONSTRAINT", ["law"])
    client.erase_user("langchain")


@pytest.mark.asyncio
@pytest.mark.parametrize("has_own", [True, False])
async def test_a_retriever_finds_them_with_await(has_own: bool) -> None:
    """On the loop with a client for it, in a thread without one."""
    async with AsyncEmbedService(URL) as later:
        await later.add_memories("later", [{"type": "PREFERENCE", "content": "I like green tea"}])
        with EmbedService(URL) as client:
            retriever = EmbedServiceRetriever(client=client, user_id="later", async_client=later if has_own else None)
            found = await retriever.ainvoke("tea")
        assert [each.page_content for each in found] == ["I like green tea"]
        await later.erase_user("later")


def test_a_chain_with_history_remembers_what_the_user_said(client: EmbedService) -> None:
    """In LangChain's own runnable: the transcript is whole, and the user's words are memories; not the model's."""
    transcript = InMemoryChatMessageHistory()
    history = EmbedServiceChatMessageHistory(client, "chain", transcript=transcript)
    prompt = ChatPromptTemplate.from_messages([MessagesPlaceholder("history"), ("human", "{text}")])
    model = FakeListChatModel(responses=["Noted.", "In Lyon."])
    chain = RunnableWithMessageHistory(
        prompt | model, lambda _: history, input_messages_key="text", history_messages_key="history"
    )
    options = {"configurable": {"session_id": "s"}}
    chain.invoke({"text": "I live in Lyon"}, options)
    assert chain.invoke({"text": "Where do I live?"}, options).content == "In Lyon."
    assert [type(message) for message in history.messages] == [HumanMessage, AIMessage] * 2
    assert {memory.content for memory in client.list_memories("chain")} == {"I live in Lyon", "Where do I live?"}
    history.clear()
    assert transcript.messages == []
    assert len(list(client.list_memories("chain"))) == 2
    client.erase_user("chain")


def test_a_history_of_nothing_says_nothing(client: EmbedService) -> None:
    """Blank messages and the model's own make nobody known to the service."""
    EmbedServiceChatMessageHistory(client, "silent").add_messages([HumanMessage("  "), AIMessage("Hello")])
    with pytest.raises(NotFound):
        list(client.list_memories("silent"))


@pytest.mark.asyncio
async def test_llamaindex_s_memory_recalls_what_left_it() -> None:
    """Messages that no longer fit into the short-term memory are found again by what is asked."""
    async with AsyncEmbedService(URL) as client:
        block = EmbedServiceMemoryBlock(client=client, user_id="llama", limit=2)
        memory = Memory.from_defaults(
            session_id="s", token_limit=120, chat_history_token_ratio=0.5, token_flush_size=20, memory_blocks=[block]
        )
        for number in range(6):
            text = "I live in Lyon" if number == 0 else f"Tell me more about topic number {number}, please, at length"
            await memory.aput(ChatMessage(role="user", content=text))
            await memory.aput(ChatMessage(role="assistant", content=f"Here is what I know about number {number}"))
        held = [each.content async for each in client.list_memories("llama")]
        assert "I live in Lyon" in held
        assert not any(text.startswith("Here is") for text in held)
        await memory.aput(ChatMessage(role="user", content="Which city do I live in?"))
        shown = "\n".join(str(message.content) for message in await memory.aget())
        assert "I live in Lyon" in shown
        await client.erase_user("llama")
