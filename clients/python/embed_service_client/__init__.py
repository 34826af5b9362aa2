"""The client of Embed Service: `EmbedService`, and `AsyncEmbedService` for asyncio."""

from embed_service_client.asynchronous import AsyncEmbedService
from embed_service_client.errors import (
    Conflict,
    EmbedServiceError,
    FieldError,
    Forbidden,
    InvalidInput,
    NotFound,
    Overloaded,
    Problem,
    Unauthenticated,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
)
from embed_service_client.retries import Retries
from embed_service_client.synchronous import EmbedService

__all__ = [
    "AsyncEmbedService",
    "Conflict",
    "EmbedService",
    "EmbedServiceError",
    "FieldError",
    "Forbidden",
    "InvalidInput",
    "NotFound",
    "Overloaded",
    "Problem",
    "Retries",
    "Unauthenticated",
    "Unavailable",
    "UnexpectedAnswer",
    "Unreachable",
]
