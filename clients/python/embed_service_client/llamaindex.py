"""For LlamaIndex: a block of its `Memory`, which keeps the last messages itself and asks this for what was before."""

from typing import Any

from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.memory import BaseMemoryBlock
from pydantic import ConfigDict, Field

from embed_service_client.asynchronous import AsyncEmbedService
from embed_service_client.shapes import MemoryIn

MAX_CONTENT = 16_000
MAX_QUERY = 32_000
"""Characters of one memory, and of a query."""


class EmbedServiceMemoryBlock(BaseMemoryBlock[str]):
    """What the user's memories say about what they said last; what they say is remembered when it leaves the short-term
    memory."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    client: AsyncEmbedService = Field(exclude=True)
    user_id: str
    limit: int = 10
    name: str = "embed_service"

    async def _aget(self, messages: list[ChatMessage] | None = None, **block_kwargs: Any) -> str:
        said = _of_user(messages or [])
        if not said:
            return ""
        found = await self.client.search_memories(user_id=self.user_id, query=said[-1][:MAX_QUERY], limit=self.limit)
        return "\n".join(f"- {each.memory.content}" for each in found.results)

    async def _aput(self, messages: list[ChatMessage]) -> None:
        memories: list[MemoryIn] = [
            {"type": "HISTORY", "content": text[:MAX_CONTENT], "source": "llamaindex"} for text in _of_user(messages)
        ]
        if memories:
            await self.client.add_memories(self.user_id, memories)


def _of_user(messages: list[ChatMessage]) -> list[str]:
    texts = [(message.content or "").strip() for message in messages if message.role == MessageRole.USER]
    return [text for text in texts if text]
