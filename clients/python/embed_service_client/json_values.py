"""JSON to the answers' types and back."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin

from embed_service_client.errors import UnexpectedAnswer

T = TypeVar("T")


def decode(kind: type[T], value: object) -> T:
    """A JSON value as `kind`. Fields that `kind` does not know are left out: a newer service may have more.

    Raises UnexpectedAnswer where the value is none of that kind.
    """
    return _decode(kind, value, "the answer")


def _decode(kind: Any, value: Any, place: str) -> Any:
    if is_dataclass(kind):
        return _record(kind, value, place)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in {Union, UnionType}:
        return None if value is None and NoneType in arguments else _either(arguments, value, place)
    if origin is list and isinstance(value, list):
        items = cast("list[Any]", value)
        return [_decode(arguments[0], item, f"{place}[{index}]") for index, item in enumerate(items)]
    if origin is dict and isinstance(value, dict):
        held = cast("dict[str, Any]", value)
        return {name: _decode(arguments[1], item, f"{place}.{name}") for name, item in held.items()}
    if origin is Literal and value in arguments:
        return value
    if kind is datetime and isinstance(value, str):
        return _moment(value, place)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is Any or (isinstance(kind, type) and type(value) is kind):
        return value
    raise UnexpectedAnswer(f"{place} is not {getattr(kind, '__name__', kind)}")


def _record(kind: Any, value: Any, place: str) -> Any:
    if not isinstance(value, dict):
        raise UnexpectedAnswer(f"{place} is not {kind.__name__}")
    given: dict[str, Any] = {}
    for name, (type_, is_required) in _fields_of(kind).items():
        if name in value:
            given[name] = _decode(type_, value[name], f"{place}.{name}")
        elif is_required:
            raise UnexpectedAnswer(f"{place}.{name} is missing")
    return kind(**given)


@cache
def _fields_of(kind: Any) -> Mapping[str, tuple[Any, bool]]:
    return {
        field.name: (field.type, field.default is MISSING and field.default_factory is MISSING)
        for field in fields(kind)
    }


def _either(kinds: tuple[Any, ...], value: Any, place: str) -> Any:
    for kind in kinds:
        with suppress(UnexpectedAnswer):
            return _decode(kind, value, place)
    raise UnexpectedAnswer(f"{place} is none of {kinds}")


def _moment(value: str, place: str) -> datetime:
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        raise UnexpectedAnswer(f"{place} is not a moment") from None


def encodable(value: object) -> object:
    """What `json.dumps` does with a value it does not know: moments become RFC 3339. Raises TypeError for others, and
    for a moment without a time zone."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise TypeError("a moment needs a time zone, e.g. datetime.now(UTC)")
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is no JSON value")
