"""The packages of a release, as `make dist` builds them: each is installed where nothing of the checkout is, and works
with the running service."""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.clients.test_clients import ROOT, TYPESCRIPT, node
from tests.e2e.conftest import running_service  # noqa: F401 - the fixture
from tests.e2e.running import RunningService
from tests.servers import open_folder

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]["version"]
PACKED = ("*.py", "*.yaml", "*.tmpl", "*.sql")
OWN = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "NODE_PATH", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
"""What leads back to the checkout, or to the make that runs the tests."""

PYTHON_SESSION = """
import asyncio, sys
from importlib.metadata import version
from pathlib import Path

import embed_service_client
from embed_service_client import AsyncEmbedService, EmbedService, InvalidInput

url, user = sys.argv[1:]
home = Path(embed_service_client.__file__).parent
assert home.is_relative_to(sys.prefix), home
assert (home / "py.typed").is_file()
with EmbedService(url) as client:
    client.add_memories(user, [{"type": "CONSTRAINT", "content": "Our data has to stay in the EU"}])
    print(client.search_memories(user_id=user, query="where may the data go?").results[0].memory.content)
    try:
        client.search_memories(user_id=user, query="x", limit=-1)
    except InvalidInput as error:
        print(error.status)

async def later():
    async with AsyncEmbedService(url) as client:
        print([memory.type async for memory in client.list_memories(user)])
        await client.erase_user(user)

asyncio.run(later())
print(version("embed-service-client"))
"""

NODE_SESSION = """
import { embedService, listMemories, ok, Problem, type Schemas } from "embed-service-client";

declare const process: { argv: string[] };

const [url, user] = process.argv.slice(2) as [string, string];
const client = embedService(url);
const memory = { type: "CONSTRAINT", content: "Our data has to stay in the EU" } as const;
await ok(client.POST("/v1/memories", { body: { user_id: user, memories: [memory] } }));
const query = { user_id: user, query: "where may the data go?" };
const found: Schemas["SearchOut"] = await ok(client.POST("/v1/memories/search", { body: query }));
console.log(found.results[0]?.memory.content);
try {
  await ok(client.POST("/v1/memories/search", { body: { ...query, limit: -1 } }));
} catch (error) {
  if (error instanceof Problem) console.log(error.status);
}
const types: string[] = [];
for await (const each of listMemories(client, { user_id: user })) types.push(each.type);
console.log(JSON.stringify(types));
await ok(client.DELETE("/v1/users/{user_id}", { params: { path: { user_id: user } } }));
"""


def run(*command: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """What a command prints that knows nothing of the checkout; it has to succeed."""
    outside = {name: value for name, value in os.environ.items() if name not in OWN}
    done = subprocess.run(command, cwd=cwd, env={**outside, **(env or {})}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages."""
    folder = tmp_path_factory.mktemp("dist")
    make = shutil.which("make")
    assert make
    run(make, "dist", f"DIST={folder}", cwd=ROOT)
    return folder


def only(folder: Path, pattern: str) -> Path:
    """The one file of that name."""
    (found,) = folder.glob(pattern)
    return found


def test_what_is_built(packages: Path) -> None:
    """Three packages, two of them as wheel and source, and nothing is left in the checkout."""
    assert {path.name for path in packages.iterdir()} == {
        f"embed_service-{VERSION}-py3-none-any.whl",
        f"embed_service-{VERSION}.tar.gz",
        f"embed_service_client-{VERSION}-py3-none-any.whl",
        f"embed_service_client-{VERSION}.tar.gz",
        f"embed-service-client-{VERSION}.tgz",
    }
    assert not list(ROOT.glob("*.egg-info"))
    assert not (ROOT / "build").exists()


def test_the_python_client_from_its_wheel(
    packages: Path,
    running_service: RunningService,  # noqa: F811
    tmp_path: Path,
) -> None:
    """In an environment of its own with what it says it needs."""
    python = tmp_path / "venv/bin/python"
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    run(python, "-m", "pip", "install", "-q", only(packages, "embed_service_client-*.whl"), cwd=tmp_path)

    said = run(python, "-I", "-c", PYTHON_SESSION, running_service.base_url, "of a wheel", cwd=tmp_path)

    assert said.splitlines() == ["Our data has to stay in the EU", "422", "['CONSTRAINT']", VERSION]


def test_the_source_of_the_python_client_builds_the_same(packages: Path) -> None:
    """What the source holds of the package is what the wheel holds."""
    wheel = zipfile.ZipFile(only(packages, "embed_service_client-*.whl")).namelist()
    with tarfile.open(only(packages, "embed_service_client-*.tar.gz")) as source:
        held = {name.partition("/")[2] for name in source.getnames()}

    assert {name for name in wheel if name.startswith("embed_service_client/")} <= held
    assert {"pyproject.toml", "README.md"} <= held


def test_the_typescript_client_from_its_package(
    packages: Path,
    running_service: RunningService,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Installed by npm in a project of its own, whose compiler finds the types."""
    package = only(packages, "embed-service-client-*.tgz")
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    (tmp_path / "session.ts").write_text(NODE_SESSION)
    run(node("npm"), "install", "--no-audit", "--no-fund", "--ignore-scripts", package, cwd=tmp_path)
    flags = ("--strict", "--target", "es2022", "--module", "nodenext", "session.ts")
    run(TYPESCRIPT / "node_modules/.bin/tsc", *flags, cwd=tmp_path)

    said = run(node("node"), "session.js", running_service.base_url, "of a tarball", cwd=tmp_path)

    assert said.splitlines() == ["Our data has to stay in the EU", "422", '["CONSTRAINT"]']
    with tarfile.open(package) as held:
        names = {name.partition("/")[2] for name in held.getnames()}
    assert {"package.json", "README.md", "dist/src/index.js", "dist/src/index.d.ts"} <= names
    assert not [name for name in names if "test" in name]


def test_the_service_from_its_wheel(packages: Path, tmp_path: Path) -> None:
    """Everything it runs on is in it: it starts beside nothing of the checkout, and makes its database."""
    site = tmp_path / "site"
    with zipfile.ZipFile(only(packages, "embed_service-*.whl")) as wheel:
        wheel.extractall(site)
    for folder in ("app", "bulk", "migrations", "serving"):
        for path in [path for pattern in PACKED for path in (ROOT / folder).rglob(pattern)]:
            assert (site / path.relative_to(ROOT)).is_file(), path
    with open_folder() as folder:
        service = RunningService(folder, {"PYTHONPATH": str(site)})
        own = run(sys.executable, "-c", "import app; print(app.__path__[0])", cwd=folder, env=service.environment)
        assert Path(own.strip()) == site / "app"
        service.start()
        try:
            with service.client() as client:
                memory = {"user_id": "ada", "type": "PROFILE", "content": "I live in Lyon"}
                assert client.post("/v1/memories", json=memory).status_code == 200
        finally:
            service.stop()
