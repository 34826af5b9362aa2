"""What can go wrong, in the server's own words. No message repeats a user's text."""


class ServingError(Exception):
    """Base of everything foreseen."""


class ModelRefused(ServingError):
    """The folder cannot be served, in one line; found at the start."""


class InvalidInput(ServingError):
    """The request asks for something that is not possible; `field` is the part to blame."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class NotFound(ServingError):
    """There is no such model, or the model cannot do this."""


class Overloaded(ServingError):
    """The queue is full now."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ModelUnavailable(ServingError):
    """The model is not ready, has failed on these texts, or is shut down."""


class LLMRuntimeError(ModelUnavailable):
    """The model that talks and embeds cannot be loaded, or has failed on this request."""
