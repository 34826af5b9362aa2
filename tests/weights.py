"""Where the weights lie that come with a package."""

from importlib.util import find_spec
from pathlib import Path

from app.clients.embeddings import minilm


def _folder() -> Path:
    spec = find_spec(minilm.PACKAGE)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "model"


MINILM = _folder()
"""all-MiniLM-L6-v2 as its package has it: weights, configuration, tokenizer."""
