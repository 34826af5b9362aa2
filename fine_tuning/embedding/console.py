"""What the commands that train have in common: quiet libraries, one line for what is wrong, an exit status."""

import os
import signal
import sys
import warnings
from collections.abc import Callable

from fine_tuning.embedding.errors import FineTuningError


def exit_status(train: Callable[[], None], interrupted: str) -> int:
    """0 where `train` went well; else its error's status after one line: 130 with `interrupted` for SIGINT and
    SIGTERM, 1 for the disk."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.default_int_handler)
    try:
        train()
    except FineTuningError as error:
        return _say(str(error), error.exit_status)
    except OSError as error:
        return _say(f"{error.filename or 'the disk'} cannot be used: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        return _say(interrupted, 130)
    return 0


def quieten() -> None:
    """Before libraries are loaded: their bars on terminals only, no word of what they deprecate, and threads that
    leave the cores to others while they wait."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.simplefilter("ignore", FutureWarning)


def _say(line: str, status: int) -> int:
    print(line, file=sys.stderr)
    return status
