"""The models that roles stand for: which they are, and that they are there."""

from app.services.models.manager import LLMModelManager

__all__ = ["LLMModelManager"]
