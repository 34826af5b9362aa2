"""llama.cpp's own server on a GGUF file, for chat or for embeddings."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx


@dataclass(frozen=True)
class Llama:
    """A running server."""

    url: str

    def embed(self, text: str) -> list[float]:
        """A text's vector."""
        answer = httpx.post(f"{self.url}/v1/embeddings", json={"input": text}, timeout=60).raise_for_status()
        return answer.json()["data"][0]["embedding"]

    def chat(self, text: str) -> str:
        """The answer to a user's words."""
        asked = {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 16}
        answer = httpx.post(f"{self.url}/v1/chat/completions", json=asked, timeout=60).raise_for_status()
        return answer.json()["choices"][0]["message"]["content"]


@contextmanager
def running_llama(file: Path, *, embeds: bool) -> Generator[Llama]:
    """A server with one slot, because llama.cpp's vectors of several at once are not those of one. It ends with the
    block."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(file)
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    parameters.n_parallel = 1
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = 1024
    parameters.fit_params = False
    parameters.use_jinja = True
    parameters.verbosity = 1
    parameters.embedding = embeds  # the file says how tokens become a vector
    server = xllamacpp.Server(parameters)
    try:
        yield Llama(server.listening_address)
    finally:
        del server
