"""Weights for tests of what is around them: they count up from the last word of a conversation."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers

from serving.errors import LLMRuntimeError
from serving.llm2vec.grammar import Grammars
from serving.llm2vec.manifest import TRAINED, Artifacts, Chat, Embedding, Manifest
from serving.llm2vec.plan import LoadPlan
from serving.llm2vec.writing import Logits
from tests.serving.fakes import FakeBackend

CONTEXT = 64
END, START, POISON, COUNT = 0, 1, 2, 40
"""Tokens: the end, the template's mark, one on which a step fails, and the first of the numbers."""

_WORDS = ["<end>", "<start>", "poison", *(f"word{n}" for n in range(COUNT - 3)), *map(str, range(60))]
_PLAN = LoadPlan("merged", "cpu", "float32", None)


class FakeTokenizer:
    """Words are tokens; a conversation is its texts and a mark."""

    chat_template = "yes"

    def __init__(self) -> None:
        self.backend_tokenizer = Tokenizer(
            models.WordLevel({word: place for place, word in enumerate(_WORDS)}, unk_token="word0")
        )
        self.backend_tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()

    def apply_chat_template(self, messages: Sequence[dict[str, str]], **_: Any) -> str:
        """The texts one after another; a conversation that begins with the assistant is refused."""
        if messages[0]["role"] == "assistant":
            raise ValueError("roles must alternate")
        return " ".join(["<start>", *(each["content"] for each in messages)])


class FakeWeights(FakeBackend):
    """After the number 7 comes 8, up to 59, and then the end; other words count from 0. `gate` closed: runs wait."""

    gate_of_all = threading.Event()
    gate_of_all.set()
    loads = 0

    def __init__(self, folder: Path, manifest: Manifest, plan: LoadPlan, threads: int) -> None:
        super().__init__(folder.resolve().name)
        assert plan is _PLAN
        type(self).loads += 1
        self.gate = self.gate_of_all
        self.tokenizer = FakeTokenizer()
        self.context = CONTEXT
        self.ends = {END}
        self.grammars = Grammars(self.tokenizer.backend_tokenizer, self.ends)

    def step(self, tokens: Sequence[int], cache: Any) -> tuple[Logits, Any]:
        """What follows the last of the tokens."""
        assert self.gate.wait(timeout=30)
        if POISON in tokens:
            raise LLMRuntimeError("the model failed on this conversation (RuntimeError)")
        following = max(tokens[-1] + 1, COUNT)
        logits = np.zeros(len(_WORDS), np.float32)
        logits[END if following == len(_WORDS) else following] = 2.0
        return logits, [*(cache or []), *tokens]


def fake_plan(*_: Any) -> LoadPlan:
    """In place of `make_plan`, which asks torch."""
    return _PLAN


def write_fake(folder: Path, **chat: Any) -> Path:
    """A folder that FakeWeights are opened for."""
    embedding = Embedding(dimension=16)
    Manifest(base_model="base", embedding=embedding, artifacts=Artifacts(merged="merged"), chat=Chat(**chat)).write(
        folder / TRAINED
    )
    return folder
