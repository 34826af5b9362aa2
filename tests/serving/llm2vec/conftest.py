"""Checkpoints: a fake one where nothing needs torch, and real ones where tests are run with it."""

from pathlib import Path

import pytest

import serving.runtime
from tests.serving.llm2vec.checkpoints import SMOLLM2, write_smollm2, write_tiny
from tests.serving.llm2vec.fakes import FakeWeights, fake_plan, write_fake


@pytest.fixture
def fake_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint with fake weights."""
    monkeypatch.setattr(serving.runtime, "Weights", FakeWeights)
    monkeypatch.setattr(serving.runtime, "make_plan", fake_plan)
    monkeypatch.setattr(FakeWeights, "loads", 0)
    return write_fake(tmp_path / "fake-checkpoint")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama. Not to be changed: copy it."""
    pytest.importorskip("torch")
    return write_tiny(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture(scope="session")
def smollm2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2, merged only. Not to be changed."""
    pytest.importorskip("torch")
    if not SMOLLM2.is_dir():
        pytest.skip("scripts/unpack_smollm2.py has not made the model")
    return write_smollm2(tmp_path_factory.mktemp("checkpoints") / "smollm2")
