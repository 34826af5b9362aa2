"""Golden vectors are checked before anybody gets a vector."""

from pathlib import Path

import numpy as np
import pytest

from serving.backends import open_backend
from serving.errors import ModelRefused
from serving.golden import FILE, least_cosine, read_golden, write_golden
from serving.settings import ServeSettings
from tests.serving.fakes import FakeBackend
from tests.serving.folders import change_folder, link_folder
from tests.serving.running import open_client

TEXTS = ["The cat sat on the mat.", "Interest rates rose by half a point."]


@pytest.fixture
def folder(minilm_folder: Path, tmp_path: Path) -> Path:
    """A folder of the test's own with the golden vectors of its model."""
    own = link_folder(minilm_folder, tmp_path / "own")
    backend = open_backend(ServeSettings(_env_file=None, model=own))
    write_golden(own, TEXTS, np.concatenate([backend.run([backend.split(text).ids]) for text in TEXTS]))
    return own


def settings_of(folder: Path) -> ServeSettings:
    return ServeSettings(_env_file=None, model=folder, device="cpu")


async def test_a_model_with_its_golden_vectors_is_ready(folder: Path) -> None:
    settings = settings_of(folder)
    async with open_client(lambda: open_backend(settings), settings) as client:
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.get("/info")).json()["golden_cosine"] > 0.99999


async def test_a_model_with_another_pooling_is_not_ready_and_says_why(folder: Path) -> None:
    change_folder(folder, {"1_Pooling/config.json": {"pooling_mode": "cls"}})
    settings = settings_of(folder)
    async with open_client(lambda: open_backend(settings), settings) as client:
        ready, health = await client.get("/readyz"), (await client.get("/healthz")).json()
        refused = await client.post("/embed", json={"inputs": ["text"]})

    assert ready.status_code == 503
    assert "golden" in ready.json()["detail"]
    assert (health["status"], health["model"]) == ("ok", "failed")
    assert "least cosine" in health["reason"]
    assert refused.status_code == 503


async def test_a_quantized_model_may_state_its_own_tolerance(folder: Path) -> None:
    golden = read_golden(folder / FILE)
    assert golden is not None
    noise = np.random.default_rng(0).normal(scale=0.01, size=golden.vectors.shape).astype(np.float32)
    settings = settings_of(folder)
    for least, status in ((0.999, 503), (0.95, 200)):
        write_golden(folder, TEXTS, golden.vectors + noise, least_cosine=least)
        async with open_client(lambda: open_backend(settings), settings) as client:
            assert (await client.get("/readyz")).status_code == status


def test_written_vectors_are_read_back_exactly(tmp_path: Path) -> None:
    vectors = np.random.default_rng(1).normal(size=(2, 16)).astype(np.float32)

    golden = read_golden(write_golden(tmp_path, TEXTS, vectors, 0.99))

    assert golden is not None
    np.testing.assert_array_equal(golden.vectors, vectors)
    assert (list(golden.texts), golden.least_cosine) == (TEXTS, 0.99)


def test_another_dimension_is_another_model(tmp_path: Path) -> None:
    golden = read_golden(write_golden(tmp_path, TEXTS, np.ones((2, 5), np.float32)))

    assert golden is not None
    assert least_cosine(FakeBackend(), golden) == 0


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"texts": ["a"], "vectors": []}', '{"texts": ["a"], "vectors": ["?"]}']
)
def test_a_damaged_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)

    with pytest.raises(ModelRefused, match="holds no golden vectors"):
        read_golden(tmp_path / FILE)
