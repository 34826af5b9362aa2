"""The manifest as a file that may change while the service runs: a good one is taken over, a bad one is not."""

import stat
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from app.domain.errors import InvalidInput
from app.domain.manifest import Manifest, Profile, parse_manifest
from app.domain.manifest_json import MAX_BYTES

log = structlog.get_logger(__name__)

CHECKOUT_MANIFEST = Path(__file__).parents[3] / "configs" / "llm_models.json"
"""Where a checkout keeps its own."""

DEFAULT_PROFILE = "default"

Seen = tuple[int, int, int, int]
"""What tells one writing of a file from the next: inode, size, times of content and entry."""


@dataclass(frozen=True)
class Loaded:
    """The manifest that holds, and why the file that is there now does not, if that is so."""

    manifest: Manifest
    problem: str | None = None


class ManifestFile:
    """Reads the manifest again when its file has changed and somebody asks."""

    def __init__(self, path: Path | None, profile: str, overrides: Mapping[str, Any] | None = None) -> None:
        """Reads the file; without a `path` the checkout's, and where there is none the profile `default` has no roles.
        Raises InvalidInput for one that cannot be used."""
        self.path = path or CHECKOUT_MANIFEST
        self.profile = profile
        self.overrides = overrides or {}
        self._lock = threading.Lock()
        self._seen = _seen(self.path)
        if path is None and self._seen is None and profile == DEFAULT_PROFILE:
            self._loaded = Loaded(Manifest(Profile(profile), (profile,)))
        else:
            self._loaded = Loaded(self._read())

    @property
    def active(self) -> Profile:
        """The active profile, as it was last read."""
        return self._loaded.manifest.active

    def current(self) -> Loaded:
        """The manifest now. Blocks for a look at the file; a bad new one leaves the old one in force."""
        with self._lock:
            seen = _seen(self.path)
            if seen != self._seen:
                self._seen = seen
                try:
                    self._loaded = Loaded(self._read())
                    log.info("models_manifest_loaded", profile=self.profile, roles=list(self.active.roles))
                except InvalidInput as error:
                    self._loaded = replace(self._loaded, problem=str(error))
                    log.warning("models_manifest_refused", reason=str(error))
            return self._loaded

    def _read(self) -> Manifest:
        try:
            return parse_manifest(_content(self.path), self.profile, self.overrides)
        except InvalidInput as error:
            raise InvalidInput(f"{self.path.name}: {error}", field="LLM_MODELS_MANIFEST") from None
        except OSError as error:
            message = f"{self.path.name}: cannot be read: {error.strerror}"
            raise InvalidInput(message, field="LLM_MODELS_MANIFEST") from None


def _content(path: Path) -> bytes:
    """What a file holds. Raises InvalidInput for what is no file, or far too large for a manifest."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise InvalidInput("is no file")
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _seen(path: Path) -> Seen | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
