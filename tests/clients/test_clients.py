"""The clients of other worlds against the running service: TypeScript under Node, LangChain and LlamaIndex."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import running_service  # noqa: F401 - the fixture
from tests.e2e.running import RunningService

pytestmark = pytest.mark.clients

ROOT = Path(__file__).parents[2]
TYPESCRIPT, PYTHON = ROOT / "clients" / "typescript", ROOT / "clients" / "python"
OWN_PYTHON = ROOT / "venv-clients" / "bin" / "python"


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    """What a command prints; it has to succeed."""
    done = subprocess.run(command, cwd=cwd, env=os.environ | env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def node(name: str) -> str:
    """npm or npx."""
    found = shutil.which(name)
    assert found, f"{name} is not installed"
    return found


def test_the_typescript_types_are_those_of_the_document(tmp_path: Path) -> None:
    """`npm run generate` renews them."""
    written = tmp_path / "document.ts"
    flags = ["--default-non-nullable", "false", "--output", str(written)]
    run(node("npx"), "openapi-typescript", str(ROOT / "docs/api/openapi.json"), *flags, cwd=TYPESCRIPT)
    kept = (TYPESCRIPT / "src/document.ts").read_text("utf8")
    assert kept == written.read_text("utf8"), "run: make clients"


def test_the_typescript_client_compiles_and_talks_to_the_service(running_service: RunningService) -> None:  # noqa: F811
    """`tsc --strict`, then Node's own test runner; nothing is skipped."""
    said = run(node("npm"), "test", cwd=TYPESCRIPT, EMBED_SERVICE_URL=running_service.base_url)
    assert "# fail 0" in said
    assert "# skipped 0" in said


def test_the_adapters_work_with_the_real_libraries(running_service: RunningService) -> None:  # noqa: F811
    """In an environment of their own, where the service is not installed."""
    url = {"EMBED_SERVICE_URL": running_service.base_url, "PYTHONPATH": str(PYTHON)}
    said = run(OWN_PYTHON, "-m", "pytest", "-p", "no:cacheprovider", "tests", cwd=PYTHON, **url)
    assert "6 passed" in said
