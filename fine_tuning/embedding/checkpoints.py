"""Checkpoints that a kill cannot spoil: one counts once its files are on the disk and written down."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

WHOLE = "whole.json"


class WholeCheckpoints(TrainerCallback):
    """Writes down a checkpoint's files once all are on the disk: what tells a whole one from one cut short."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After each checkpoint."""
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != WHOLE)
        for path in files:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        sizes = {str(path.relative_to(folder)): path.stat().st_size for path in files}
        (folder / f"{WHOLE}.new").write_text(json.dumps(sizes), "utf8")
        (folder / f"{WHOLE}.new").replace(folder / WHOLE)


def newest_whole_checkpoint(folder: Path) -> Path | None:
    """Where to go on from. Later checkpoints that a kill cut short are removed, and one of the very last step, after
    which there would be nothing left to train."""
    for each in sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        if _is_whole(each) and not _is_last_step(each):
            return each
        shutil.rmtree(each)
    return None


def _is_whole(folder: Path) -> bool:
    noted = folder / WHOLE
    sizes: dict[str, int] = json.loads(noted.read_text("utf8")) if noted.is_file() else {}
    return bool(sizes) and all(
        (folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items()
    )


def _is_last_step(folder: Path) -> bool:
    state = json.loads((folder / "trainer_state.json").read_text("utf8"))
    return state["global_step"] >= state["max_steps"]
