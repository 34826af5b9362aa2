"""What a tenant may call its users."""

import re

from app.domain.errors import InvalidInput

NO_CONTROL = r"^[^\x00-\x1f\x7f-\x9f]+$"
MAX_USER_ID = 256

_USER_ID = re.compile(NO_CONTROL)


def check_user_id(user_id: str) -> str:
    """`user_id`, where it has 1 to MAX_USER_ID characters and no control characters. Raises InvalidInput."""
    try:
        user_id.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidInput("user_id contains half a character (a lone surrogate)", "user_id") from None
    if not _USER_ID.fullmatch(user_id) or len(user_id) > MAX_USER_ID:
        raise InvalidInput("user_id has 1 to 256 characters and no control characters", "user_id")
    return user_id
