"""The comparison of statements, on plain texts."""

from app.domain import statements
from app.domain.statements import Statement


def is_duplicate(a: str, b: str, cosine: float) -> bool:
    """As the domain's, on plain texts."""
    return statements.is_duplicate(Statement(a), Statement(b), cosine)


def differing_detail(a: str, b: str) -> str | None:
    """As the domain's, on plain texts."""
    return statements.differing_detail(Statement(a), Statement(b))


def contradiction(draft: str, memory: str, cosine: float) -> str | None:
    """As the domain's, on plain texts."""
    return statements.contradiction(Statement(draft), Statement(memory), cosine)
