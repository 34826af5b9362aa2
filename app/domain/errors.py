"""What can go wrong, in the words of the domain. The API translates these to problem answers in one table."""


class DomainError(Exception):
    """Base of every expected failure; `str(error)` is a sentence for the caller and holds no user text."""


class NotFound(DomainError):
    """What was asked for does not exist, or belongs to someone else: the two are not told apart."""


class InvalidInput(DomainError):
    """The request is well-formed but means nothing; `field` names the part to change."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class VersionConflict(DomainError):
    """Someone else changed it first: load it again, then retry."""


class NotReady(DomainError):
    """It exists, and what it needs first is missing; `str(error)` says what to do."""


class NotFilled(NotReady):
    """A new embedding space lacks something: nothing was changed."""


class AdapterRefused(DomainError):
    """A model server will not take an adapter; `str(error)` says why, as far as it says."""


class ProvisionFailed(DomainError):
    """A model is not there and could not be brought; `str(error)` is one line that says why and what to do."""


class UserErased(DomainError):
    """The user was erased while something about them was under way; what was under way is dropped."""


class Unauthenticated(DomainError):
    """No valid key where one is needed."""


class Forbidden(DomainError):
    """The key is valid and lacks the scope."""


class ModelUnavailable(DomainError):
    """A model did not answer in time or answered nonsense; the caller falls back to a local one.

    `cause` is one word for logs and metrics, e.g. `timeout`, `unreachable`, `wrong_shape`.
    """

    def __init__(self, message: str, cause: str = "failed") -> None:
        super().__init__(message)
        self.cause = cause


class OtherSpace(ModelUnavailable):
    """What embeds in a space gives vectors of another one, which nobody may compare with those of before."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "other_space")


class UpstreamUnavailable(DomainError):
    """The model server behind the chat proxy gave no answer that could be passed on; `cause` is one word for logs."""

    def __init__(self, message: str, cause: str) -> None:
        super().__init__(message)
        self.cause = cause


class Overloaded(DomainError):
    """The queue in front of a model is full; `retry_after_s` says when to come back."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StoreUnavailable(DomainError):
    """The database cannot be reached, was lost on the way, or cannot be used; `str(error)` says why."""


class StaleSpace(StoreUnavailable):
    """A vector was made in an embedding space that the tenant does not use so any more: make it anew, then retry."""
