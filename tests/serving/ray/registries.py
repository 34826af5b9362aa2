"""Adapter registries as the service writes them."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from app.domain.adapters import Adapter, Registry

AT = datetime(2026, 1, 31, 12, tzinfo=UTC)


def write_registry(file: Path, current: str | None, checkpoints: Mapping[str, Path | None]) -> Path:
    """A registry of these runs, by one rename; paths are relative where they lie in its folder."""

    def seen(path: Path) -> str:
        return str(path.relative_to(file.parent)) if path.is_relative_to(file.parent) else str(path)

    adapters = tuple(
        Adapter(
            run_id=run_id,
            name=run_id,
            path=f"{run_id}/adapter",
            checkpoint=None if checkpoint is None else seen(checkpoint),
            sha256="0" * 64,
            base_model="base",
            created_at=AT,
        )
        for run_id, checkpoint in checkpoints.items()
    )
    draft = file.with_name(f".{file.name}.draft")
    draft.write_text(Registry(updated_at=AT, current=current, adapters=adapters).model_dump_json(), "utf8")
    draft.replace(file)
    return file
