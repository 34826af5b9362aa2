"""Write the vectors of the service's own examples (of intents, of attributes) by its built-in model.

    python scripts/write_example_vectors.py

To be run when a sentence of `app/domain/intents.yaml` or `app/domain/attributes.yaml` changes, or the built-in model.
"""

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from app.clients.embeddings.onnx import OnnxEmbedder
from app.domain.attributes import examples
from app.domain.catalogue import parse_catalogue
from app.services.catalogues import BUILT_IN, read_document
from app.services.examples import PACKAGED, file_name


def sets() -> list[Sequence[str]]:
    """The examples that come with the service."""
    catalogue = parse_catalogue(read_document(BUILT_IN))
    return [[example for _, example in catalogue.examples], examples()]


async def main() -> None:
    """Write them, and remove what is out of date."""
    PACKAGED.mkdir(exist_ok=True)
    written: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        model = OnnxEmbedder.load(Path(folder))
        for texts in sets():
            name = file_name(texts, model.space.id)
            np.save(PACKAGED / name, (await model.embed(texts)).astype(np.float16))
            written.add(name)
            print(f"wrote {name}: {len(texts)} sentences")
        await model.aclose()
    for file in PACKAGED.glob("*.npy"):
        if file.name not in written:
            file.unlink()


if __name__ == "__main__":
    asyncio.run(main())
