"""A broken manifest: each kind of fault is one clear line with its place, and the old profile goes on serving."""

import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from app.clients.provisioning.llamacpp import LlamaCppProvider
from app.clients.provisioning.local import LocalProvider
from app.domain.errors import InvalidInput
from app.domain.manifest import Provider
from app.domain.sampling import Sampling
from app.ports import ModelProvider
from app.services.models import LLMModelManager
from app.services.models.manifest_file import ManifestFile
from tests.model_files import gguf, safetensors

WHOLE = {"name": "tiny", "provider": "local", "parameters": {"temperature": 0.4}}
A = "profiles.default.models.a"


def manifest(role: Any, **others: Any) -> bytes:
    """A manifest whose role `a` is this."""
    return json.dumps({"profiles": {"default": {"models": {"a": role, **others}}}}).encode()


def parameters(**given: Any) -> bytes:
    """A manifest whose role `a` has these parameters."""
    return manifest({"name": "m", "parameters": given})


def nested(depth: int) -> bytes:
    return b'{"profiles": {"default": {"models": {"a": ' + b'{"name": ' * depth + b'"m"' + b"}" * depth + b"}}}}"


FAULTS: Mapping[str, tuple[bytes, str]] = {
    "empty file": (b"", "is empty"),
    "spaces only": (b" \n", "is empty"),
    "not UTF-8": (b'{"profiles": "\xff"}', "is not UTF-8: see byte 14"),
    "UTF-16": ('{"profiles": {}}'.encode("utf-16"), "is not UTF-8: see byte 0"),
    "byte order mark": (b"\xef\xbb\xbf" + manifest("m"), "is not JSON: Unexpected UTF-8 BOM"),
    "not JSON": (b"profiles:\n  default: {}\n", "is not JSON: Expecting value, line 1, column 1"),
    "half": (manifest("m")[:-3], "is not JSON: Expecting"),
    "comma too many": (b'{"profiles": {"default": {"models": {"a": "m",}}}}', "is not JSON:"),
    "two documents": (manifest("m") * 2, "is not JSON: Extra data"),
    "100 MB": (b" " * 100_000_000, "has more than 1,048,576 bytes"),
    "nested without end": (b"[" * 200_000, "is nested deeper than 32 levels"),
    "nested too deeply": (nested(40), "is nested deeper than 32 levels"),
    "endless number": (b'{"profiles": ' + b"9" * 5000 + b"}", "holds a number that is too long"),
    "a list": (b"[]", "has to be an object, not a list"),
    "null": (b"null", "the manifest has to be an object"),
    "no profiles": (b"{}", "profiles is missing: it has to be an object of profiles"),
    "profiles of another type": (b'{"profiles": []}', "profiles has to be an object of profiles, not a list"),
    "empty profiles": (b'{"profiles": {}}', "profiles is empty: a manifest has at least one profile"),
    "unknown key at the top": (b'{"profile": {}, "profiles": {}}', "profile is not known; did you mean profiles?"),
    "unknown profile": (b'{"profiles": {"other": {"models": {"a": "m"}}}}', "there is no profile default"),
    "profile of another type": (b'{"profiles": {"default": 7}}', "profiles.default has to be an object, not 7"),
    "profile without models": (b'{"profiles": {"default": {}}}', "profiles.default.models is missing"),
    "missing role": (b'{"profiles": {"default": {"models": {}}}}', "profiles.default.models is empty: a profile has"),
    "fault in another profile": (
        b'{"profiles": {"default": {"models": {"a": "m"}}, "spare": {"models": {"b": {}}}}}',
        "profiles.spare.models.b has no name",
    ),
    "role's name": (manifest("m", **{"../a": "m"}), 'profiles.default.models."../a" is no name'),
    "role of another type": (manifest(7), f"{A} has to be a model's name, the name of a role, or an object, not 7"),
    "role is null": (manifest(None), f"{A} is missing: it has to be a model's name"),
    "key twice": (b'{"profiles": {"default": {"models": {"a": "m", "a": "n"}}}}', f"{A} is there twice"),
    "key of a model twice": (
        b'{"profiles": {"default": {"models": {"a": {"name": "m", "name": "n"}}}}}',
        f"{A}.name is there twice",
    ),
    "no name": (manifest({"provider": "vllm"}), f"{A} has no name"),
    "empty name": (manifest({"name": ""}), f"{A}.name has to be a model's name"),
    "name of another type": (manifest({"name": ["m"]}), f"{A}.name has to be text, not a list"),
    "name with a line end": (manifest({"name": "m\nn"}), f"{A}.name holds a character that is no text"),
    "name with half a character": (manifest({"name": "m\ud800"}), f"{A}.name holds a character that is no text"),
    "name that is a path": (manifest("../../etc/passwd"), f"{A} has to be a model as Ollama names it"),
    "repository that is a path": (
        manifest({"name": "../etc", "provider": "huggingface"}),
        f"{A}.name has to be a repository's name",
    ),
    "unknown provider": (manifest({"name": "m", "provider": "openai"}), f"{A}.provider is no provider: it is one of"),
    "provider of another type": (manifest({"name": "m", "provider": []}), f"{A}.provider is no provider"),
    "unknown key": (manifest({"name": "m", "paramters": {}}), f"{A}.paramters is not known; did you mean parameters?"),
    "another provider's key": (manifest({"name": "m", "revision": "x"}), f"{A}.revision is for huggingface, and the"),
    "alias of itself": (manifest("a"), f"{A} is an alias that leads back to itself: a → a"),
    "cyclic alias": (manifest("b", b="c", c="a"), f"{A} is an alias that leads back to itself: a → b → c → a"),
    "flag of another type": (manifest({"name": "m", "auto_download": "yes"}), f"{A}.auto_download has to be true or"),
    "parameters of another type": (manifest({"name": "m", "parameters": 7}), f"{A}.parameters has to be an object"),
    "unknown parameter": (
        parameters(temprature=1),
        f"{A}.parameters.temprature is not known; did you mean temperature?",
    ),
    "NaN": (parameters(temperature=float("nan")), f"{A}.parameters.temperature is nan: it has to be a number from 0"),
    "infinite": (parameters(temperature=float("inf")), f"{A}.parameters.temperature is inf: it has to be"),
    "number as text": (parameters(temperature="0.5"), f"{A}.parameters.temperature has to be a number from 0 to 2"),
    "flag as number": (parameters(top_p=True), f"{A}.parameters.top_p has to be above 0, 1 at most, not true or"),
    "top_p of none": (parameters(top_p=0), f"{A}.parameters.top_p is 0: it has to be above 0"),
    "negative tokens": (parameters(num_predict=-1), f"{A}.parameters.num_predict is -1: it has to be a whole number"),
    "broken tokens": (parameters(max_tokens=1.5), f"{A}.parameters.max_tokens is 1.5: it has to be a whole number"),
    "one parameter in two words": (
        parameters(max_tokens=1, num_predict=2),
        f"{A}.parameters.num_predict says the same as max_tokens",
    ),
    "url": (manifest({"name": "m", "url": "localhost:11434"}), f"{A}.url has to be an http:// or https:// address"),
    "url with a password": (manifest({"name": "m", "url": "http://u:p@h"}), f"{A}.url holds a user or password"),
    "path escape": (
        manifest({"name": "m", "provider": "local", "path": "a/../../b"}),
        f"{A}.path has to be a path below its folder",
    ),
    "absolute path": (manifest({"name": "m", "provider": "local", "path": "/etc"}), f"{A}.path has to be a path below"),
    "name as escaping folder": (manifest({"name": "../x", "provider": "local"}), f"{A}.name has to be a path below"),
    "file's path escape": (
        manifest({"name": "m", "provider": "local", "files": {"../x": None}}),
        f'{A}.files."../x" has to be a path below',
    ),
    "hash": (
        manifest({"name": "m", "provider": "local", "files": {"x": "ABC"}}),
        f"{A}.files.x has to be a SHA-256",
    ),
    "neither server nor file": (manifest({"name": "m", "provider": "llamacpp"}), f"{A} needs a url (a running server)"),
    "hash of no file": (
        manifest({"name": "m", "provider": "llamacpp", "url": "http://h", "sha256": "0" * 64}),
        f"{A}.sha256 is that of the file at path",
    ),
    "revision": (manifest({"name": "m", "provider": "huggingface", "revision": "a/../b"}), f"{A}.revision has to be a"),
}


@pytest.fixture
async def models(tmp_path: Path) -> AsyncIterator[LLMModelManager]:
    """A manager on a good manifest with one model that is there."""
    folder = tmp_path / "models" / "tiny"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(safetensors())
    file = tmp_path / "llm_models.json"
    file.write_bytes(manifest(WHOLE, general="a"))
    providers: dict[Provider, ModelProvider] = {
        "local": LocalProvider(tmp_path / "models"),
        "llamacpp": LlamaCppProvider(tmp_path / "models"),
    }
    manager = LLMModelManager(ManifestFile(file, "default"), providers)
    yield manager
    await manager.aclose()


def test_there_are_at_least_forty_kinds() -> None:
    assert len(FAULTS) + len(DISK_FAULTS) >= 40


@pytest.mark.parametrize("kind", FAULTS)
async def test_a_broken_manifest_is_one_line_and_the_old_profile_serves(models: LLMModelManager, kind: str) -> None:
    content, line = FAULTS[kind]
    models.manifest.path.write_bytes(content)

    listing = await models.list()
    made = await models.provision(["a"])

    assert listing.problem is not None
    assert "\n" not in listing.problem
    assert len(listing.problem) < 300
    assert listing.problem.removeprefix("llm_models.json: ").startswith(line), listing.problem
    assert made.problem == listing.problem
    assert made.status == "provisioned"
    assert models.resolve("general").model.name == "tiny"
    assert models.sampling("hypotheses") == Sampling(temperature=0.4)


@pytest.mark.parametrize("kind", FAULTS)
def test_a_start_with_a_broken_manifest_is_refused_with_the_same_line(tmp_path: Path, kind: str) -> None:
    content, line = FAULTS[kind]
    file = tmp_path / "llm_models.json"
    file.write_bytes(content)

    with pytest.raises(InvalidInput) as caught:
        ManifestFile(file, "default")

    assert str(caught.value).startswith(f"llm_models.json: {line}")


async def test_a_manifest_that_is_mended_is_taken_over(models: LLMModelManager) -> None:
    models.manifest.path.write_bytes(b"{")
    assert (await models.list()).problem is not None
    models.manifest.path.write_bytes(manifest(WHOLE, coding="a"))

    listing = await models.list()

    assert listing.problem is None
    assert list(listing.active.roles) == ["a", "coding"]


async def test_a_manifest_that_is_gone_leaves_the_old_one(models: LLMModelManager) -> None:
    models.manifest.path.unlink()

    assert (await models.list()).problem == "llm_models.json: cannot be read: No such file or directory"
    assert models.resolve("a").model.name == "tiny"


async def test_a_manifest_that_is_no_file_leaves_the_old_one(models: LLMModelManager) -> None:
    models.manifest.path.unlink()
    os.mkfifo(models.manifest.path)

    assert (await models.list()).problem == "llm_models.json: is no file"


def truncate(path: Path, count: int = 10) -> None:
    path.write_bytes(path.read_bytes()[:-count])


def link_out(folder: Path) -> None:
    (folder.parents[1] / "secret").write_text("x")
    (folder / "secret").symlink_to(folder.parents[1] / "secret")


def move_out(folder: Path) -> None:
    elsewhere = folder.parents[1] / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)


def pinned(name: str, digest: str | None) -> dict[str, Any]:
    return {"name": "tiny", "provider": "local", "files": {name: digest}}


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


INDEX = b'{"weight_map": {"w": "model-00002-of-00002.safetensors"}}'
DISK_FAULTS: Mapping[str, tuple[Callable[[Path], object], Any, str]] = {
    "no folder": (lambda folder: None, {"name": "nowhere", "provider": "local"}, "nowhere is no folder in models"),
    "truncated weights": (
        lambda f: truncate(f / "model.safetensors"),
        WHOLE,
        "tiny/model.safetensors is cut off: it has",
    ),
    "weights cut within the header": (
        write("model.safetensors", safetensors()[:20]),
        WHOLE,
        "tiny/model.safetensors is no",
    ),
    "empty weights": (write("model.safetensors", b""), WHOLE, "tiny/model.safetensors is empty"),
    "weights that are none": (write("model.safetensors", b"x" * 99), WHOLE, "tiny/model.safetensors is no safetensors"),
    "weights with something behind": (
        write("model.safetensors", safetensors() + b"x"),
        WHOLE,
        "tiny/model.safetensors has 4,",
    ),
    "truncated GGUF": (write("model.gguf", gguf()[:-1]), WHOLE, "tiny/model.gguf is cut off"),
    "GGUF cut within the header": (write("model.gguf", gguf()[:50]), WHOLE, "tiny/model.gguf is damaged"),
    "GGUF that is none": (write("model.gguf", b"<html>"), WHOLE, "tiny/model.gguf is not a GGUF file"),
    "no weights": (lambda f: (f / "model.safetensors").rename(f / "notes.txt"), WHOLE, "tiny holds no weights"),
    "missing file": (lambda folder: None, pinned("tokenizer.json", None), "tiny/tokenizer.json is missing"),
    "wrong hash": (
        lambda folder: None,
        pinned("model.safetensors", "0" * 64),
        "tiny/model.safetensors has the SHA-256",
    ),
    "symlink out of the folder": (link_out, WHOLE, "tiny/secret leads out of tiny by a symbolic link"),
    "folder elsewhere": (move_out, WHOLE, "tiny leads out of models by a symbolic link"),
    "dangling link": (lambda f: (f / "x").symlink_to("y"), WHOLE, "tiny/x is no file"),
    "pipe": (lambda f: os.mkfifo(f / "x"), WHOLE, "tiny/x is no file"),
    "damaged config": (write("config.json", b"{"), WHOLE, "tiny/config.json is damaged: it is not JSON"),
    "missing shard": (
        write("model.safetensors.index.json", INDEX),
        WHOLE,
        "tiny/model.safetensors.index.json names mod",
    ),
    "no GGUF for llama.cpp": (
        lambda folder: None,
        {"name": "m", "provider": "llamacpp", "path": "m.gguf"},
        "m.gguf is not in models",
    ),
    "wrong hash for llama.cpp": (
        write("m.gguf", gguf()),
        {"name": "m", "provider": "llamacpp", "path": "tiny/m.gguf", "sha256": "0" * 64},
        "tiny/m.gguf has the SHA-256",
    ),
}


@pytest.mark.parametrize("kind", DISK_FAULTS)
async def test_a_broken_model_is_one_line_and_its_profile_serves(models: LLMModelManager, kind: str) -> None:
    damage, role, line = DISK_FAULTS[kind]
    damage(models.manifest.path.parent / "models" / "tiny")
    models.manifest.path.write_bytes(manifest(role, general={"name": "b", "parameters": {"temperature": 0.4}}))

    made = await models.provision(["a"])

    assert made.status == "failed"
    assert made.problem is None
    assert made.reports[0].detail.startswith(line), made.reports[0].detail
    assert "\n" not in made.reports[0].detail
    assert models.sampling("hypotheses") == Sampling(temperature=0.4)
