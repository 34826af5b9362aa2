"""Path and query parameters that several routes share."""

import re
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Path, Query

from app.api.middleware import SLASH
from app.api.schemas import NO_CONTROL
from app.domain.errors import InvalidInput

_USER_ID = re.compile(NO_CONTROL)
_SCHEMA: dict[str, Any] = {"minLength": 1, "maxLength": 256, "pattern": NO_CONTROL}
_ABOUT = "The tenant's own name for a user."


def check_user_id(user_id: str) -> str:
    """A user id as the contract allows it. Raises InvalidInput."""
    try:
        user_id.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidInput("user_id contains half a character (a lone surrogate)", "user_id") from None
    if not _USER_ID.fullmatch(user_id) or len(user_id) > 256:
        raise InvalidInput("user_id has 1 to 256 characters and no control characters", "user_id")
    return user_id


def _from_path(user_id: Annotated[str, Path(description=_ABOUT, json_schema_extra=_SCHEMA)]) -> str:
    return check_user_id(user_id.replace(SLASH, "/"))


def _from_query(user_id: Annotated[str, Query(description=_ABOUT, json_schema_extra=_SCHEMA)]) -> str:
    return check_user_id(user_id)


PathUserId = Annotated[str, Depends(_from_path)]
QueryUserId = Annotated[str, Depends(_from_query)]
MemoryId = Annotated[UUID, Path(description="A memory's id.")]
"""In a path as `{memory_id:uuid}`: what is no id is no path either."""
