"""Files of weights are whole or not, by their headers: cut off anywhere, none passes."""

import contextlib
import random
from pathlib import Path

import pytest

from app.clients.provisioning.weights import GGUF_BLOCKS, check_weights
from app.domain.errors import ProvisionFailed
from tests.model_files import gguf, safetensors
from tests.weights import MINILM

FILES = {"model.safetensors": safetensors(10), "model.gguf": gguf(10)}


def check(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    check_weights(folder / name, name)


@pytest.mark.parametrize("name", FILES)
def test_a_whole_file_passes_and_none_that_is_cut_off_anywhere(tmp_path: Path, name: str) -> None:
    content = FILES[name]
    check(tmp_path, name, content)
    for length in range(len(content)):
        with pytest.raises(ProvisionFailed, match=f"^{name} "):
            check(tmp_path, name, content[:length])


@pytest.mark.parametrize("kind", GGUF_BLOCKS)
def test_the_length_of_every_type_of_ggml_is_known(tmp_path: Path, kind: int) -> None:
    whole = gguf(512, kind, GGUF_BLOCKS[kind])
    check(tmp_path, "m.gguf", whole)
    with pytest.raises(ProvisionFailed, match="is cut off: it has"):
        check(tmp_path, "m.gguf", whole[:-1])


@pytest.mark.parametrize("name", FILES)
def test_any_damage_to_a_header_is_told_or_harmless(tmp_path: Path, name: str) -> None:
    dice = random.Random(3)
    for _ in range(300):
        damaged = bytearray(FILES[name])
        for _ in range(dice.randint(1, 4)):
            damaged[dice.randrange(min(200, len(damaged)))] = dice.randrange(256)
        with contextlib.suppress(ProvisionFailed):  # any other error fails the test
            check(tmp_path, name, bytes(damaged))


def test_real_weights_pass() -> None:
    check_weights(MINILM / "model.safetensors", "model.safetensors")
