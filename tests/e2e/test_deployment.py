"""deploy/: Compose's schema takes compose.yaml, the image's files are enough, the database that is made serves."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from jsonschema.validators import validator_for

from app.store.embedded import find_binaries, start_embedded
from app.store.engine import prepare_database
from tests.serving.running import ROOT
from tests.unit.test_deployment import copied

pytestmark = pytest.mark.slow

DEPLOY = ROOT / "deploy"
SCRIPT = DEPLOY / "helm/embed-service/files/create-database.sh"


def test_compose_takes_the_file() -> None:
    spec = find_spec("check_jsonschema")
    assert spec
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0]) / "builtin_schemas" / "vendor"
    schema = json.loads((folder / "compose-spec.json").read_text("utf8"))
    document = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf8"))

    assert [error.message for error in validator_for(schema)(schema).iter_errors(document)] == []


def test_the_linter_of_dockerfiles_finds_nothing() -> None:
    command = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert command
    done = subprocess.run([command, DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "")


def test_what_is_in_the_image_is_enough_to_start_from(tmp_path: Path) -> None:
    for source in copied():
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, tmp_path / source)
        else:
            shutil.copy2(ROOT / source, tmp_path / source)
    program = """
import app.main, app.cli, app.wiring_judge, serving.command
from app.demo import CONVERSATION
from app.services.models.manifest_file import CHECKOUT_MANIFEST
from app.services.training.policy import CHECKOUT_POLICY
from app.store.engine import MIGRATIONS
for path in (CONVERSATION, CHECKOUT_MANIFEST, CHECKOUT_POLICY, MIGRATIONS / "env.py"):
    print(path.is_file(), path)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert [line.split(" ", 1)[0] for line in done.stdout.splitlines()] == ["True"] * 4
    assert all(str(tmp_path) in line for line in done.stdout.splitlines())


async def test_the_database_that_is_made_is_one_the_service_takes(tmp_path: Path) -> None:
    server = await start_embedded(tmp_path)
    try:
        (place,) = parse_qs(urlsplit(server.url).query)["host"]
        given = {"PATH": f"{find_binaries().folder}:{os.environ['PATH']}", "PGHOST": place, "EMBED_PASSWORD": "it's"}
        # As the image does it: the file is read by a shell that ends at the first failure.
        made = await asyncio.create_subprocess_exec(
            "bash", "-c", "set -Eeo pipefail; . ./create-database.sh", cwd=SCRIPT.parent, env=given
        )
        assert await made.wait() == 0

        prepared = await prepare_database(f"postgresql://embed@/embed?host={place}")

        assert prepared.role is None  # the login itself cannot bypass row-level security
    finally:
        await server.stop()


def test_shellcheck_finds_nothing() -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, SCRIPT], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (0, "")
