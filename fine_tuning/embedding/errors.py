"""What can go wrong, in one line that says what to do. No message repeats a text that is trained on."""

from collections.abc import Generator
from contextlib import contextmanager


class FineTuningError(Exception):
    """Base of everything foreseen; nothing was written to the output."""

    exit_status = 2


class BadRows(FineTuningError):
    """The data has rows that cannot be used; one line each, of the first ones."""


class OutOfMemory(FineTuningError):
    """The machine has less memory than a batch needs."""

    exit_status = 1


@contextmanager
def told_when_out_of_memory(advice: str) -> Generator[None]:
    """Raises OutOfMemory with `advice` for whatever Python, torch or CUDA say when there is no more."""
    try:
        yield
    except MemoryError:
        raise OutOfMemory(advice) from None
    except RuntimeError as error:
        if "allocate memory" not in str(error) and "out of memory" not in str(error):
            raise
        raise OutOfMemory(advice) from None


def first_line(error: BaseException) -> str:
    """What a library's error says first; the rest is of use to its authors."""
    return str(error).strip().partition("\n")[0]
