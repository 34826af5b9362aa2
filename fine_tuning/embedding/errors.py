"""What can go wrong, in one line that says what to do. No message repeats a text that is trained on."""


class FineTuningError(Exception):
    """Base of everything foreseen; nothing was written to the output."""


class BadRows(FineTuningError):
    """The data has rows that cannot be used; one line each, of the first ones."""


class OutOfMemory(FineTuningError):
    """The machine has less memory than a batch needs."""


def first_line(error: BaseException) -> str:
    """What a library's error says first; the rest is of use to its authors."""
    return str(error).strip().partition("\n")[0]
