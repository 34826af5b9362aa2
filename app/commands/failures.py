"""What is told of a failure that was foreseen: one line that says what is wrong and what to do."""

import errno
import re
from collections.abc import Mapping
from pathlib import Path

from app.domain.errors import StoreUnavailable
from app.store.embedded import EmbeddedServerError

DOCTOR = "embed-service doctor says what is wrong"

_WORDS: Mapping[int, str] = {
    errno.ENOENT: "there is no file {name}: name one that exists",
    errno.EISDIR: "{name} is a folder: name a file",
    errno.ENOTDIR: "{name} cannot be: a part of that path is a file and no folder; name another",
    errno.EEXIST: "{name} is there already: remove it, or name another",
    errno.EACCES: "{name} is closed to this user: change its permissions, or run as the user that owns it",
    errno.EPERM: "{name} is closed to this user: change its permissions, or run as the user that owns it",
    errno.EROFS: "{name} is on a disk that only lets itself be read: name another place",
    errno.ENOSPC: "no space is left for {name}: free some, or name a place on another disk",
    errno.EDQUOT: "no space is left for {name}: free some, or name a place on another disk",
    errno.EPIPE: "whoever read {name} is gone: run the command again to see the rest",
    errno.EADDRINUSE: "the address is in use: stop what listens there, or set PORT to another",
    errno.ENAMETOOLONG: "{name} is too long a name: take a shorter one",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n)",
}
"""What is said of an error of the system, by its number."""

_NUMBER = re.compile(r"\[Errno -?\d+\] ")
"""How Python begins what it says of the system's errors, which others repeat."""

_UNNAMED = {errno.EPIPE: "the output", errno.ENOSPC: "what is written", errno.EDQUOT: "what is written"}


def told(error: Exception) -> str:
    """The line, without `error: ` before it."""
    if isinstance(error, OSError):
        said = _of_the_system(error)
    elif isinstance(error, StoreUnavailable) and not isinstance(error, EmbeddedServerError):
        said = f"{error}; {DOCTOR}"
    else:
        said = str(error)
    return " ".join(_NUMBER.sub("", said).split())


def _of_the_system(error: OSError) -> str:
    """An error of the operating system, with the file it is about where it names one."""
    name = repr(str(error.filename)) if error.filename is not None else _UNNAMED.get(error.errno or 0, "a file")
    if error.errno == errno.ENOENT and error.filename is not None:
        folder = Path(str(error.filename)).parent
        if not folder.exists():
            return f"there is no folder {str(folder)!r}: make it, or name another"
    words = _WORDS.get(error.errno or 0)
    if words is not None:
        return words.format(name=name)
    about = f" ({name})" if error.filename is not None else ""
    return f"{error.strerror or error}{about}; {DOCTOR}"
