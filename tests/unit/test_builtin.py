"""Which model the built-in server gets, and what is said when it can have none."""

import hashlib
import importlib.machinery
from collections.abc import Callable
from pathlib import Path

import pytest

from app.clients.slm import builtin
from app.clients.slm.builtin import BuiltinServer, backoff_s, find_model
from app.domain.errors import ModelUnavailable


def make_model(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"GGUF and so on")
    return path.resolve()


def package_in(folder: Path | None) -> Callable[[str], importlib.machinery.ModuleSpec | None]:
    """A `find_spec` that finds every package in `folder`, or none at all."""

    def find_spec(name: str) -> importlib.machinery.ModuleSpec | None:
        if folder is None:
            return None
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        return spec

    return find_spec


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The packaged model, replaced by a small file that counts as the expected one."""
    model = make_model(tmp_path / "package" / builtin.PACKAGE_FILE)
    monkeypatch.setattr(builtin, "find_spec", package_in(model.parent))
    monkeypatch.setattr(builtin, "PACKAGE_SHA256", hashlib.sha256(model.read_bytes()).hexdigest())
    return model


def test_the_named_model_goes_before_all_others(tmp_path: Path, package: Path) -> None:
    named = make_model(tmp_path / "elsewhere" / "named.gguf")
    make_model(tmp_path / "local-models" / "other.gguf")

    assert find_model(named, tmp_path / "local-models") == named


@pytest.mark.parametrize("place", ["one.gguf", "folder/one.gguf", "folder/one-00001-of-00002.gguf"])
def test_the_only_local_model_goes_before_the_packages(tmp_path: Path, package: Path, place: str) -> None:
    only = make_model(tmp_path / "local-models" / place)
    make_model(tmp_path / "local-models" / "folder" / "one-00002-of-00002.gguf")
    make_model(tmp_path / "local-models" / "much" / "deeper" / "two.gguf")
    (tmp_path / "local-models" / "README.md").write_text("")

    assert find_model(None, tmp_path / "local-models") == only


def test_several_local_models_are_named_and_none_is_guessed(tmp_path: Path, package: Path) -> None:
    models = [make_model(tmp_path / "local-models" / place) for place in ("one.gguf", "folder/two.gguf")]

    with pytest.raises(ModelUnavailable, match="set BUILTIN_MODEL to one of them") as caught:
        find_model(None, tmp_path / "local-models")

    assert all(str(model) in str(caught.value) for model in models)


@pytest.mark.parametrize("exists", [True, False])
def test_without_a_local_model_it_is_the_packages(tmp_path: Path, package: Path, exists: bool) -> None:
    if exists:
        (tmp_path / "local-models").mkdir()

    assert find_model(None, tmp_path / "local-models") == package


def test_a_changed_packaged_model_is_refused(tmp_path: Path, package: Path) -> None:
    package.write_bytes(b"GGUF and something else")

    with pytest.raises(ModelUnavailable, match="not the expected file"):
        find_model(None, tmp_path / "local-models")


def test_a_missing_packaged_model_is_refused(tmp_path: Path, package: Path) -> None:
    package.unlink()

    with pytest.raises(ModelUnavailable, match="cannot be read"):
        find_model(None, tmp_path / "local-models")


def test_without_the_package_it_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin, "find_spec", package_in(None))

    with pytest.raises(ModelUnavailable, match="make install-builtin"):
        find_model(None, tmp_path)


async def test_without_the_runtime_it_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin, "find_spec", package_in(None))
    server = BuiltinServer(make_model(tmp_path / "one.gguf"), tmp_path / "slm.log")

    with pytest.raises(ModelUnavailable, match="make install-builtin"):
        await server.start()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "BUILTIN_MODEL .*named.gguf cannot be read"), (b"PK", "BUILTIN_MODEL .*named.gguf is not a GGUF file")],
)
def test_a_named_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    named = tmp_path / "named.gguf"
    if content is not None:
        named.write_bytes(content)

    with pytest.raises(ModelUnavailable, match=message):
        find_model(named, tmp_path)


def test_a_folder_as_the_named_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="cannot be read: Is a directory"):
        find_model(tmp_path, tmp_path)


def test_the_packaged_model_is_the_expected_one(tmp_path: Path) -> None:
    assert find_model(None, tmp_path).name == builtin.PACKAGE_FILE


def test_its_name_is_the_files_and_every_server_has_a_key_of_its_own(tmp_path: Path) -> None:
    model = make_model(tmp_path / "Small-Q4.gguf")
    one, two = (BuiltinServer(model, tmp_path / "slm.log") for _ in range(2))

    assert one.model == "Small-Q4"
    assert len(one.api_key) >= 32
    assert one.api_key != two.api_key


def test_the_address_is_known_only_once_started(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="not started"):
        _ = BuiltinServer(make_model(tmp_path / "one.gguf"), tmp_path / "slm.log").base_url


def test_pauses_grow_with_each_failure_and_stay_bearable() -> None:
    pauses = [backoff_s(failures) for failures in range(30)]

    assert pauses[0] == 0
    assert pauses == sorted(pauses)
    assert pauses[1] <= 0.2
    assert pauses[-1] == 10


def test_a_failed_start_is_explained_by_the_last_it_said(tmp_path: Path) -> None:
    log = tmp_path / "slm.log"
    before = "0.00.001 E of an earlier start\n"
    log.write_text(before + "0.00.002.578 E gguf_init: invalid magic\n0.00.003 E srv  init: exiting\n")
    server = BuiltinServer(make_model(tmp_path / "one.gguf"), log)

    explanation = server._explain(len(before))

    assert "gguf_init: invalid magic; srv  init: exiting" in explanation
    assert "earlier" not in explanation
    assert str(log) in explanation


def test_a_long_log_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin, "_LOG_LIMIT_BYTES", 10)
    log = tmp_path / "logs" / "slm.log"
    server = BuiltinServer(make_model(tmp_path / "one.gguf"), log)
    assert server._open_log() == 0
    log.write_text("more than ten bytes")

    assert server._open_log() == 0
    assert log.with_suffix(".log.1").read_text() == "more than ten bytes"
    assert log.stat().st_mode & 0o777 == 0o600
