"""Which model a replica serves: what the adapter registry says (docs/bundles.md), or the base model.

The file has one writer, the service; here it is read, and only what a replica needs of it.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.errors import ModelRefused

MAX_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Choice:
    """A model to serve: the name that answers and figures give it, and its folder."""

    name: str
    folder: Path


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Entry(_Part):
    run_id: Annotated[str, Field(min_length=1)]
    checkpoint: str | None


class _Document(_Part):
    schema_version: Literal[1]
    current: str | None = None
    adapters: tuple[_Entry, ...] = ()


@dataclass(frozen=True)
class Registry:
    """The registry at `path` (None: there is none), and the base model's folder (None: there is none either)."""

    path: Path | None
    base: Path | None

    def mark(self) -> str:
        """Differs whenever `choose` may: a digest of the file; empty where it is not there. Raises ModelRefused."""
        content = self._content()
        return "" if content is None else hashlib.sha256(content).hexdigest()

    def choose(self) -> Choice:
        """What is to be served now. Raises ModelRefused, in one line, where that cannot be said."""
        content = self._content()
        current = None if content is None else _current(content, str(self.path))
        if current is None:
            if self.base is None:
                raise ModelRefused(
                    "no adapter is current, and no base model is named (RAY_EMBEDDING__MODEL, RAY_RUNTIME__MODEL)."
                )
            return Choice(self.base.resolve().name, self.base)
        if current.checkpoint is None:
            raise ModelRefused(
                f"{self.path}: {current.run_id} is current and has no checkpoint: "
                "`python -m scripts.build_llm_bundle` makes one."
            )
        assert self.path is not None
        return Choice(current.run_id, self.path.parent / current.checkpoint)

    def _content(self) -> bytes | None:
        if self.path is None:
            return None
        try:
            with self.path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ModelRefused(f"{self.path} cannot be read: {error.strerror}.") from None
        if len(content) > MAX_BYTES:
            raise ModelRefused(f"{self.path} is no adapter registry: it has more than {MAX_BYTES:,} bytes.")
        return content


def _current(content: bytes, name: str) -> _Entry | None:
    """The entry that serves; None: the base model. Raises ModelRefused."""
    try:
        document = _Document.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ModelRefused(f"{name} is no adapter registry: {f'{place}: ' if place else ''}{first['msg']}.") from None
    if document.current is None:
        return None
    found = next((entry for entry in document.adapters if entry.run_id == document.current), None)
    if found is None:
        raise ModelRefused(f"{name} is no adapter registry: current names {document.current}, which is not in it.")
    return found
