"""For LangChain: a retriever, and a chat history whose user's words are remembered."""

from collections.abc import Sequence

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.chat_history import BaseChatMessageHistory, InMemoryChatMessageHistory
from langchain_core.documents import Document
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict

from embed_service_client.asynchronous import AsyncEmbedService
from embed_service_client.shapes import MemoryIn, MemoryOut, SearchOut
from embed_service_client.synchronous import EmbedService

MAX_CONTENT = 16_000
"""Characters of one memory."""


class EmbedServiceRetriever(BaseRetriever):
    """The user's memories most relevant to a query. Without `async_client`, `ainvoke` runs `client` in a thread."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    client: EmbedService
    user_id: str
    limit: int = 10
    async_client: AsyncEmbedService | None = None

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        return _documents(self.client.search_memories(user_id=self.user_id, query=query, limit=self.limit))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[Document]:
        if self.async_client is None:
            return await super()._aget_relevant_documents(query, run_manager=run_manager)
        return _documents(await self.async_client.search_memories(user_id=self.user_id, query=query, limit=self.limit))


class EmbedServiceChatMessageHistory(BaseChatMessageHistory):
    """A transcript that is kept elsewhere (in memory, or in `transcript`), whose user's messages the service remembers.

    `clear` empties the transcript; what is remembered stays until it is deleted or the user erased.
    """

    def __init__(self, client: EmbedService, user_id: str, *, transcript: BaseChatMessageHistory | None = None) -> None:
        self.client, self.user_id = client, user_id
        self.transcript = transcript if transcript is not None else InMemoryChatMessageHistory()

    @property
    def messages(self) -> list[BaseMessage]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The transcript."""
        return self.transcript.messages

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Into the transcript; what the user said is remembered, too."""
        self.transcript.add_messages(messages)
        said = [message.text for message in messages if isinstance(message, HumanMessage)]
        memories = [_memory(str(text)) for text in said if str(text).strip()]
        if memories:
            self.client.add_memories(self.user_id, memories)

    def clear(self) -> None:
        """Empty the transcript."""
        self.transcript.clear()


def _memory(text: str) -> MemoryIn:
    return {"type": "HISTORY", "content": text.strip()[:MAX_CONTENT], "source": "langchain"}


def _documents(found: SearchOut) -> list[Document]:
    return [_document(each.memory, each.score) for each in found.results]


def _document(memory: MemoryOut, score: float) -> Document:
    about = {"type": memory.type, "score": score, "tags": memory.tags, "valid_from": memory.valid_from.isoformat()}
    return Document(id=memory.id, page_content=memory.content, metadata=about)
