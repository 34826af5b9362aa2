"""Write what of the Python client is made of something else: its shapes out of the OpenAPI document, and the client
without asyncio out of the one with it.

python scripts/write_python_client.py
"""

import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "api" / "openapi.json"
PACKAGE = ROOT / "clients" / "python" / "embed_service_client"
SHAPES, SYNCHRONOUS, ASYNCHRONOUS = (PACKAGE / f"{name}.py" for name in ("shapes", "synchronous", "asynchronous"))

ADMIN_TAGS = frozenset({"models", "training"})
LEFT_OUT = frozenset(
    {
        "/api/v1/embeddings",  # the same as /v1/embeddings
        "/healthz",  # probes
        "/metrics",
        "/v1/chat/completions",  # OpenAI's own clients speak these
        "/v1/healthz",
        "/v1/models",
        "/v1/settings",  # an admin's
    }
)
"""Paths of operations that the client does not have."""

SHAPES_TOP = '''"""Bodies of requests (TypedDicts) and of answers (dataclasses), named as in docs/api/openapi.json.

Written by `python scripts/write_python_client.py`.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NotRequired, TypedDict
'''

SYNCHRONOUS_TOP = (
    '"""The client without asyncio, written by `python scripts/write_python_client.py` out of `asynchronous.py`."""\n'
)

WITHOUT_ASYNCIO = {
    "AsyncEmbedService": "EmbedService",
    "asyncio": "time",
    "asynccontextmanager": "contextmanager",
    "AsyncGenerator": "Generator",
    "AsyncIterable": "Iterable",
    "AsyncIterator": "Iterator",
    "AsyncClient": "Client",
    "AsyncBaseTransport": "BaseTransport",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "aclose": "close",
    "aread": "read",
    "aiter_bytes": "iter_bytes",
}

Schema = Mapping[str, Any]


def operations_for_users(document: Mapping[str, Any]) -> list[tuple[str, str, Schema]]:
    """Method, path and operation of each that the client has a method for."""
    return [
        (method.upper(), path, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if path not in LEFT_OUT and not ADMIN_TAGS & set(operation["tags"])
    ]


def render_shapes() -> str:
    """The module of the shapes."""
    document = json.loads(DOCUMENT.read_text(encoding="utf-8"))
    schemas: dict[str, Schema] = document["components"]["schemas"]
    operations = [operation for _, _, operation in operations_for_users(document)]
    requests = _needed(schemas, (operation.get("requestBody", {}) for operation in operations))
    answers = _needed(schemas, (operation["responses"] for operation in operations))
    parts = [SHAPES_TOP]
    for name in dict.fromkeys((*requests, *answers)):
        schema = schemas[name]
        if "enum" in schema:
            parts.append(f"{name} = {_type(schema)}\n{_docstring(schema)}")
        else:
            parts.append(_typed_dict(name, schema) if name in requests else _dataclass(name, schema))
    return _formatted("\n\n".join(parts), SHAPES)


def render_synchronous() -> str:
    """The module of the client without asyncio."""
    text = ASYNCHRONOUS.read_text(encoding="utf-8").partition("\n")[2]
    text = re.sub(r"\b(async|await) ", "", text)
    for name, plain in WITHOUT_ASYNCIO.items():
        text = re.sub(rf"\b{name}\b", plain, text)
    return _formatted(SYNCHRONOUS_TOP + text, SYNCHRONOUS)


def _needed(schemas: Mapping[str, Schema], parts: Iterator[Any]) -> list[str]:
    """The schemas that are reached from `parts`, each after those it refers to."""
    found: dict[str, None] = {}

    def reach(part: Any) -> None:
        for name in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(part)):
            if name not in found:
                reach(schemas[name])
                found[name] = None

    for part in parts:
        reach(part)
    return list(found)


def _typed_dict(name: str, schema: Schema) -> str:
    required = schema.get("required", ())
    lines = [
        f"{key}: {_type(of)}" if key in required else f"{key}: NotRequired[{_type(of)}]"
        for key, of in schema["properties"].items()
    ]
    return _class(f"class {name}(TypedDict):", schema, lines)


def _dataclass(name: str, schema: Schema) -> str:
    required = schema.get("required", ())
    lines = [
        f"{key}: {_type(of)}" if key in required else f"{key}: {_type(of)} = {_default(of)}"
        for key, of in schema["properties"].items()
    ]
    return _class(f"@dataclass(frozen=True, kw_only=True)\nclass {name}:", schema, lines)


def _class(head: str, schema: Schema, lines: list[str]) -> str:
    return f"{head}\n{textwrap.indent(_docstring(schema), '    ')}\n\n{textwrap.indent(chr(10).join(lines), '    ')}"


def _docstring(schema: Schema) -> str:
    return f'"""{schema["description"]}"""'


def _default(schema: Schema) -> str:
    """A field's value where an older service leaves it out."""
    kind = schema.get("type")
    if kind in {"array", "object"} and "default" in schema:
        return f"field(default_factory={'list' if kind == 'array' else 'dict'}[{_arguments(schema)}])"
    return repr(schema.get("default", schema.get("const")))


def _arguments(schema: Schema) -> str:
    if schema["type"] == "array":
        return _type(schema["items"])
    values = schema.get("additionalProperties", schema.get("patternProperties", {}))
    if "patternProperties" in schema:
        values = next(iter(schema["patternProperties"].values()))
    return f"str, {_type(values)}"


def _type(schema: Any) -> str:
    """A schema as a type."""
    match schema:
        case {"$ref": reference}:
            return reference.rsplit("/", 1)[-1]
        case {"enum": values}:
            return f"Literal[{', '.join(map(repr, values))}]"
        case {"const": value}:
            return f"Literal[{value!r}]"
        case {"anyOf": kinds} | {"oneOf": kinds}:
            return " | ".join(dict.fromkeys(map(_type, kinds)))
        case {"type": "array"}:
            return f"list[{_arguments(schema)}]"
        case {"type": "object"}:
            return f"dict[{_arguments(schema)}]"
        case {"type": "string", "format": "date-time"}:
            return "datetime"
        case {"type": kind}:
            return {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}[kind]
        case _:
            return "Any"


def _formatted(text: str, path: Path) -> str:
    """In the repository's format, imports sorted, what is not used left out."""
    ruff, names = str(Path(sys.executable).with_name("ruff")), ["--stdin-filename", str(path), "-"]
    fixes = ["check", "--fix", "--unsafe-fixes", "--quiet", "--select", "I,F401,UP028"]
    for command in (fixes, ["format", "--quiet"]):
        done = subprocess.run(  # noqa: S603 - our own arguments
            [ruff, *command, *names], input=text, capture_output=True, text=True, check=True, cwd=ROOT
        )
        text = done.stdout
    return text


if __name__ == "__main__":
    for target, render in ((SHAPES, render_shapes), (SYNCHRONOUS, render_synchronous)):
        target.write_text(render(), encoding="utf-8")
        print(f"wrote {target.relative_to(ROOT)}")
