"""The wrapper of a checkpoint: its manifest, stamped, and the module that loads it by that."""

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from fine_tuning.embedding.errors import FineTuningError
from serving.errors import ModelRefused
from serving.llm2vec.manifest import EXPORTED, TRAINED, Manifest, artifact, parse_manifest

MANIFEST_VERSION = 1
WRAPPER = Path(__file__).with_name("llm2vec_wrapper.py")


def export_wrapper(folder: Path, base_model: str | None = None, export_dir: Path | None = None) -> Manifest:
    """Write `wrapper/config.json` and `wrapper/llm2vec_wrapper.py` of a checkpoint's folder; the manifest as exported.

    It is what the training knows, `wrapper_config.json`, with the moment, the export's version and directory (where the
    folder will lie: `export_dir`, by default where it lies), and `base_model` where another name is given. Raises
    FineTuningError for a folder that cannot be exported; an older export is then as it was.
    """
    trained = folder / TRAINED
    try:
        manifest = parse_manifest(trained.read_bytes(), str(trained))
        for name in ("tokenizer", "adapters", "merged", "gguf"):
            artifact(folder, manifest, name)
    except OSError as error:
        raise FineTuningError(f"{trained} cannot be read: {error.strerror}. Is {folder} of the pipeline?") from None
    except ModelRefused as error:
        raise FineTuningError(str(error)) from None
    exported = replace(
        manifest,
        base_model=base_model or manifest.base_model,
        manifest_version=MANIFEST_VERSION,
        created_at=datetime.now(UTC).replace(microsecond=0),
        export_dir=str((export_dir or folder).resolve()),
    )
    file = folder / EXPORTED
    exported.write(file)
    draft = file.with_name(f".{WRAPPER.name}.new")
    shutil.copyfile(WRAPPER, draft)
    draft.replace(file.with_name(WRAPPER.name))
    return exported
