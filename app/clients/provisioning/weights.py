"""Whether a file of weights is whole, by what its own header says of its length. Only headers are read.

safetensors: https://github.com/huggingface/safetensors#format; GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson

from app.domain.errors import ProvisionFailed

MAX_HEADER = 100_000_000
"""Bytes of a safetensors header, by its specification."""

MAX_ENTRIES = 1_000_000
"""Tensors, values and elements of an array in a GGUF header."""

MAX_TEXT = 16 * 1024 * 1024

GGUF_BLOCKS: Mapping[int, tuple[int, int]] = {
    0: (1, 4),
    1: (1, 2),
    2: (32, 18),
    3: (32, 20),
    6: (32, 22),
    7: (32, 24),
    8: (32, 34),
    9: (32, 36),
    10: (256, 84),
    11: (256, 110),
    12: (256, 144),
    13: (256, 176),
    14: (256, 210),
    15: (256, 292),
    16: (256, 66),
    17: (256, 74),
    18: (256, 98),
    19: (256, 50),
    20: (32, 18),
    21: (256, 110),
    22: (256, 82),
    23: (256, 136),
    24: (1, 1),
    25: (1, 2),
    26: (1, 4),
    27: (1, 8),
    28: (1, 8),
    29: (256, 56),
    30: (1, 2),
    34: (256, 54),
    35: (256, 66),
    39: (32, 17),
}
"""For each of ggml's types: how many weights a block has, and how many bytes. Of a newer type only the start of its
tensor is known."""

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9


def check_weights(path: Path, name: str) -> None:
    """Raises ProvisionFailed for weights, called `name`, that are cut off or something else. Knows files by their
    endings: safetensors and GGUF by their headers, any other is only not empty."""
    size = path.stat().st_size
    if size == 0:
        raise ProvisionFailed(f"{name} is empty")
    check: Callable[[BinaryIO, int, str], None] | None = _CHECKS.get(path.suffix)
    if check is None:
        return
    with path.open("rb") as file:
        try:
            check(file, size, name)
        except (struct.error, ValueError, TypeError, LookupError, OverflowError, MemoryError):
            raise ProvisionFailed(f"{name} is damaged: its header cannot be read") from None


def _check_safetensors(file: BinaryIO, size: int, name: str) -> None:
    length = int(struct.unpack("<Q", file.read(8))[0])
    if length > min(MAX_HEADER, size - 8):
        raise ProvisionFailed(f"{name} is no safetensors file, or cut off within its header")
    header: Any = orjson.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError
    ends = [8 + length]
    for tensor, about in cast("dict[str, Any]", header).items():
        if tensor != "__metadata__":
            start, end = (int(offset) for offset in about["data_offsets"])
            if not 0 <= start <= end:
                raise ValueError
            ends.append(8 + length + end)
    _check_size(name, size, max(ends), is_exact=True)


def _check_gguf(file: BinaryIO, size: int, name: str) -> None:
    if file.read(4) != b"GGUF":
        raise ProvisionFailed(f"{name} is not a GGUF file")
    version, tensors, values = struct.unpack("<IQQ", file.read(20))
    if version not in {2, 3} or max(tensors, values) > MAX_ENTRIES:
        raise ProvisionFailed(f"{name} is a GGUF file of a version that is not known")
    alignment = 32
    for _ in range(values):
        key = _text(file)
        value = _value(file, _number(file, "I"))
        if key == b"general.alignment" and isinstance(value, int) and value > 0:
            alignment = value
    ends = [_tensor_end(file) for _ in range(tensors)]
    start = -(-file.tell() // alignment) * alignment
    _check_size(name, size, start + max(ends, default=0))


def _tensor_end(file: BinaryIO) -> int:
    """Where a tensor ends, in bytes from the start of the data."""
    _text(file)
    dimensions = _number(file, "I")
    if dimensions > 8:
        raise ValueError
    weights = math.prod(_number(file, "Q") for _ in range(dimensions))
    kind, offset = _number(file, "I"), _number(file, "Q")
    per_block, block_bytes = GGUF_BLOCKS.get(kind, (1, 0))
    return offset + weights // per_block * block_bytes


def _value(file: BinaryIO, kind: int) -> object:
    if kind == _TEXT:
        return _text(file)
    if kind != _ARRAY:
        return _number(file, _SCALARS.get(kind, ""))
    inner, count = _number(file, "I"), _number(file, "Q")
    if count > MAX_ENTRIES * 16:
        raise ValueError
    if inner in _SCALARS:
        _skip(file, count * struct.calcsize("<" + _SCALARS[inner]))
    else:
        for _ in range(count):
            _value(file, inner) if inner == _ARRAY else _text(file)
    return None


def _text(file: BinaryIO) -> bytes:
    length = _number(file, "Q")
    if length > MAX_TEXT:
        raise ValueError
    text = file.read(length)
    if len(text) < length:
        raise ValueError
    return text


def _number(file: BinaryIO, form: str) -> int:
    if not form:
        raise ValueError
    return struct.unpack("<" + form, file.read(struct.calcsize("<" + form)))[0]


def _skip(file: BinaryIO, count: int) -> None:
    file.seek(count, 1)


def _check_size(name: str, size: int, expected: int, *, is_exact: bool = False) -> None:
    if size < expected:
        raise ProvisionFailed(f"{name} is cut off: it has {size:,} bytes of {expected:,}")
    if is_exact and size > expected:
        raise ProvisionFailed(f"{name} has {size:,} bytes, and its header knows of {expected:,}")


_CHECKS: Mapping[str, Callable[[BinaryIO, int, str], None]] = {
    ".safetensors": _check_safetensors,
    ".gguf": _check_gguf,
}
