"""Nested settings: what is read, what is refused, and which folder a model's name means."""

from pathlib import Path

import pytest

from serving.settings import SettingsError
from serving.slm.settings import load_slm_settings
from tests.serving.slm.running import clean_environment


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)


def test_groups_are_read_by_two_underscores(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("EMBEDDING__MODEL_NAME", "local-models/mine"),
        ("EMBEDDING__BACKEND", "torch"),
        ("EMBEDDING__DEVICE", "auto"),
        ("CHAT__CONTEXT", "4096"),
        ("CHAT__THREADS", ""),
        ("PORT", "9000"),
    ):
        monkeypatch.setenv(name, value)

    settings = load_slm_settings()

    assert (settings.port, settings.chat.context, settings.chat.threads) == (9000, 4096, 1)
    serve = settings.for_embeddings()
    assert (serve.backend, serve.device, serve.threads) == ("sentence-transformers", "auto", 1)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("EMBEDDING__BACKEND", "tensorrt", "'onnx'"),
        ("EMBEDDING__DEVICE", "tpu", "cuda"),
        ("EMBEDDING__THREADS", "0", "greater than or equal to 1"),
        ("CHAT__CONTEXT", "many", "integer"),
        ("CHAT__KV_TYPE", "q4", "'q8_0'"),
        ("CHAT__MODLE_PATH", "a.gguf", "no such setting"),
        ("PORT", "70000", "65535"),
    ],
)
def test_a_wrong_value_is_one_line_with_what_it_may_be(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, allowed: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(SettingsError) as refused:
        load_slm_settings()

    assert f"{name}={value!r}" in str(refused.value)
    assert allowed in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_a_group_that_is_no_object_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT", "{")

    with pytest.raises(SettingsError) as refused:
        load_slm_settings()

    assert len(str(refused.value).splitlines()) == 1
    assert "CHAT__" in str(refused.value)


def test_variables_of_the_model_server_have_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_BATCH_SIZE", "nonsense")
    monkeypatch.setenv("SERVE_THREADS", "7")

    serve = load_slm_settings().for_embeddings()

    assert (serve.batch_size, serve.threads) == (32, 1)


def test_a_model_s_name_means_a_folder_of_models_dir_unless_it_is_a_folder(tmp_path: Path) -> None:
    by_name = load_slm_settings(models_dir=tmp_path)
    by_path = load_slm_settings(models_dir=tmp_path, embedding={"model_name": str(tmp_path)})

    assert by_name.embedding_folder == tmp_path / "all-MiniLM-L6-v2"
    assert by_path.embedding_folder == tmp_path
