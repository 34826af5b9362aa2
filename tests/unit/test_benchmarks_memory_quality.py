"""The benchmark of memory: mem0 beside the service, what is timed, and what is drawn."""

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import numpy as np
import pytest

from benchmarks.memory_quality.data import Conversation, Question, Turn
from benchmarks.memory_quality.latency import Measured, memories_of
from benchmarks.memory_quality.latency_figures import latency_figures, note_of, search_figures
from benchmarks.memory_quality.measures import Score
from benchmarks.memory_quality.peer import find_python, running
from benchmarks.memory_quality.plot import recalls, write_plot
from tests.fakes import FakeEmbedder

MEM0 = """
class Memory:
    @classmethod
    def from_config(cls, config):
        memory = cls()
        memory.name = config["vector_store"]["config"]["collection_name"]
        memory.held = []
        return memory

    def add(self, messages, *, user_id, infer):
        assert not infer
        print("said on the way")
        added = []
        for message in messages:
            vector = self.embedding_model.embed(message["content"], "add")
            added.append({"id": f"{self.name}-{len(self.held)}"})
            self.held.append((added[-1]["id"], user_id, vector))
        return {"results": added}

    def search(self, query, *, filters, top_k):
        asked = self.embedding_model.embed(query, "search")
        own = [(id, vector) for id, user_id, vector in self.held if user_id == filters["user_id"]]
        own.sort(key=lambda each: -sum(a * b for a, b in zip(each[1], asked)))
        return {"results": [{"id": id} for id, _ in own[:top_k]]}
"""


def a_python(folder: Path, *packages: str) -> Path:
    """The Python of an environment with a mem0 that is not the real one, and some empty packages."""
    for name, text in {"mem0": MEM0, **dict.fromkeys(packages, "")}.items():
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(text)
    (folder / "mem0ai-9.8.dist-info").mkdir()
    (folder / "mem0ai-9.8.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: mem0ai\nVersion: 9.8\n")
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nshift\nPYTHONPATH="{folder}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return python


def a_conversation(name: str, texts: Sequence[str]) -> Conversation:
    at = datetime(2025, 3, 3, tzinfo=UTC)
    turns = [Turn(1, number, "Ada", text, at) for number, text in enumerate(texts, 1)]
    return Conversation(name, turns, [Question("what about tea?", "single_hop", frozenset({0}))])


async def test_mem0_remembers_and_finds_with_our_vectors(tmp_path: Path) -> None:
    """Each text is asked for once, a user finds what is theirs, and the process is gone at the end."""
    embedder = FakeEmbedder()
    async with running(a_python(tmp_path), "postgresql://nowhere", embedder) as peer:
        assert (peer.version, peer.is_hybrid) == ("9.8", False)
        await peer.open("talks")
        added = await peer.add("ada", ["I like green tea", "the car is red"])
        await peer.add("ben", ["I like green tea"])
        found = await peer.search("ada", "the car is red", 5)
        talk = a_conversation("talk", ["tea is what I like", "cars are loud"])
        answers = await peer.answer(talk)

    assert list(added.ids) == ["talks-0", "talks-1"]
    assert list(found.ids) == ["talks-1", "talks-0"]
    assert 0 <= found.seconds < 5
    assert len(answers) == 1
    assert sorted(answers[0].turns) == [0, 1]
    assert list(answers[0].sessions) == [1]
    asked = [text for call in embedder.calls for text in call]
    assert len(asked) == len(set(asked)) == 5
    assert peer.process.returncode == 0
    assert not peer.folder.exists()


@pytest.mark.parametrize(("flags", "is_hybrid"), [((), True), (("--plain",), False)])
async def test_mem0_is_hybrid_where_spacy_has_english_unless_told_not_to_be(
    tmp_path: Path, flags: Sequence[str], is_hybrid: bool
) -> None:
    python = a_python(tmp_path, "spacy", "en_core_web_sm")
    async with running(python, "postgresql://nowhere", FakeEmbedder(), *flags) as peer:
        assert peer.is_hybrid is is_hybrid


async def test_mem0_that_fails_says_why(tmp_path: Path) -> None:
    async with running(a_python(tmp_path), "postgresql://nowhere", FakeEmbedder()) as peer:
        with pytest.raises(SystemExit, match="AttributeError"):
            await peer.search("ada", "before a collection is open", 5)


def test_an_environment_that_is_named_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="make install-peer"):
        find_python(tmp_path / "python")


def test_when_all_turns_are_told_they_are_told_again_with_words_changed() -> None:
    talks = [a_conversation("a", ["one cat sleeps", "two dogs bark"]), a_conversation("b", ["three birds sing"])]
    made = memories_of(talks, 5, Random(1))

    assert [draft.content for draft in made[:3]] == ["one cat sleeps", "two dogs bark", "three birds sing"]
    assert made[3].content != made[0].content
    assert len({(draft.session, draft.turn) for draft in made}) == 5
    assert [draft.content for draft in memories_of(talks, 2, Random(1))] == ["one cat sleeps", "two dogs bark"]


def test_times_are_beside_those_of_mem0_and_as_a_ratio() -> None:
    took = {"ours": np.full(40, 0.01), "mem0": np.full(40, 0.02), "mem0/plain": np.full(40, 0.005)}
    measured = Measured(40, 30, took, took, {"ours": 100.0, "mem0": 200.0})
    figures = {figure.path: figure for figure in latency_figures(measured)}

    assert figures["ours/search_ms/p95"].value == pytest.approx(10)
    assert figures["mem0/plain/add_ms/p50"].value == pytest.approx(5)
    assert figures["search_ratio/p50"].value == pytest.approx(0.5)
    assert figures["search_ratio/plain/p95"].value == pytest.approx(2)
    assert figures["add_ratio/p50"].is_met is True
    assert figures["add_ratio/plain/p50"].is_met is None
    assert figures["mem0/bytes_per_memory"].value == 200
    assert "mem0 was not run" in note_of(measured, {})
    of_set = {
        figure.path: figure.value for figure in search_figures("locomo", {"ours": [0.02, 0.02], "mem0": [0.04, 0.04]})
    }
    assert of_set["mem0/locomo/search_ms/p95"] == pytest.approx(40)
    assert of_set["locomo/search_ratio/p50"] == pytest.approx(0.5)


def test_recall_is_drawn_by_type_of_question(tmp_path: Path) -> None:
    def scores(*values: float) -> list[Score]:
        kinds = ("temporal", "open", "open")
        return [Score("talk", kind, {"turn/recall@10": each}) for kind, each in zip(kinds, values, strict=True)]

    answered = {"ours": scores(1, 1, 0.5), "mem0": scores(0, 1, 0)}
    write_plot(tmp_path / "plot.png", {"locomo": answered})

    assert recalls(answered)["ours"] == {"all\n3": pytest.approx(2.5 / 3), "open\n2": 0.75, "temporal\n1": 1}
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
