"""The vectors of catalogues' examples: embedded once for each space, however many ask for them at a time."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from contextvars import Context
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import structlog

from app.domain.embeddings import Vectors
from app.domain.errors import ModelUnavailable, Overloaded
from app.domain.spaces import Embedded, StoredSpace
from app.services.spaces import Spaces

log = structlog.get_logger(__name__)

CHUNK = 16
"""Texts of one call: what else has to be embedded comes between."""

MAX_HELD = 128
"""Catalogues in spaces."""

PACKAGED = Path(__file__).with_name("example_vectors")
"""Vectors of the service's own examples by its own model, written by `scripts/write_example_vectors.py`: a service that
starts does not have to make them."""

REST_S = 30.0
"""Where what embeds in a space failed, nothing is prepared for it so long."""


def file_name(examples: Sequence[str], space_id: str) -> str:
    """The file of some examples' vectors in a space: another one, when a word of them changes."""
    return blake2b("\n".join((space_id, *examples)).encode(), digest_size=16).hexdigest() + ".npy"


def _read(file: Path, shape: tuple[int, int]) -> Vectors | None:
    """Vectors that were kept; None where there are none that can be used."""
    try:
        vectors = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return vectors.astype(np.float32) if vectors.shape == shape else None


def _keep(file: Path, vectors: Vectors) -> None:
    """Keep vectors, whole or not at all; where they cannot be, the next process makes them anew."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=file.parent, suffix=".tmp") as folder:
            made = Path(folder) / file.name
            np.save(made, vectors.astype(np.float32))
            made.replace(file)


class ExampleVectors:
    """What was embedded, and what is being embedded. Nobody who gives up waiting ends the work for the others."""

    def __init__(self, spaces: Spaces, folder: Path | None = None) -> None:
        """`folder`: where vectors are kept, for the next process that wants the same ones."""
        self._spaces = spaces
        self._folder = folder
        self._made: OrderedDict[tuple[bytes, int], asyncio.Task[Embedded]] = OrderedDict()
        self._rests_until: dict[int, float] = {}

    async def of(self, key: bytes, examples: Sequence[str], space: StoredSpace) -> Embedded:
        """The vectors of the catalogue called `key` in a space. Raises ModelUnavailable and Overloaded."""
        return await asyncio.shield(self._begun(key, examples, space))

    def prepare(self, key: bytes, examples: Sequence[str], space: StoredSpace) -> None:
        """Have them embedded in the background in a space that may serve soon."""
        is_resting = asyncio.get_running_loop().time() < self._rests_until.get(space.number, 0.0)
        if (key, space.number) not in self._made and not is_resting:
            self._begun(key, examples, space)

    def _begun(self, key: bytes, examples: Sequence[str], space: StoredSpace) -> asyncio.Task[Embedded]:
        place = (key, space.number)
        task = self._made.get(place)
        if task is None or task.get_loop() is not asyncio.get_running_loop():
            # In a context of its own: it is not held to the time that one request has.
            task = asyncio.create_task(self._embed(examples, space), context=Context())
            task.add_done_callback(lambda done: self._note(place, done))
            self._made[place] = task
            while len(self._made) > MAX_HELD:
                self._made.popitem(last=False)
        self._made.move_to_end(place)
        return task

    async def _embed(self, examples: Sequence[str], space: StoredSpace) -> Embedded:
        name = file_name(examples, space.id)
        file = None if self._folder is None else self._folder / name
        shape = len(examples), space.space.dimension
        for each in (PACKAGED / name, file):
            held = None if each is None else await asyncio.to_thread(_read, each, shape)
            if held is not None:
                return Embedded(space, held)
        chunks = [
            (await self._spaces.embed_in(space, examples[at : at + CHUNK])).vectors
            for at in range(0, len(examples), CHUNK)
        ]
        vectors = np.concatenate(chunks)
        if file is not None:
            await asyncio.to_thread(_keep, file, vectors)
        return Embedded(space, vectors)

    def _note(self, place: tuple[bytes, int], done: asyncio.Task[Embedded]) -> None:
        """One that failed is begun anew by who asks next."""
        error = None if done.cancelled() else done.exception()
        if error is None and not done.cancelled():
            return
        if self._made.get(place) is done:
            del self._made[place]
        self._rests_until[place[1]] = done.get_loop().time() + REST_S
        if isinstance(error, ModelUnavailable | Overloaded):
            log.warning("examples_unavailable", reason=str(error))
