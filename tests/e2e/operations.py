"""Every operation of a running service, and requests for it made of its OpenAPI document."""

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from tests.e2e.running import RunningService

PROBES = {"/healthz", "/v1/healthz", "/readyz", "/info", "/metrics"}
Document = dict[str, Any]


@dataclass(frozen=True)
class Operation:
    """An operation that asks for a key. `document` is what its references lead into."""

    method: str
    path: str
    described: Document
    document: Document

    @property
    def name(self) -> str:
        """As people write it."""
        return f"{self.method} {self.path}"

    @property
    def parameters(self) -> Mapping[str, Document]:
        """Its parameters by name, those of the path and those of the query."""
        return {one["name"]: one for one in self.described.get("parameters", ())}

    @property
    def body(self) -> Document | None:
        """The schema of its JSON body, if it takes one."""
        content = self.described.get("requestBody", {}).get("content", {})
        return content["application/json"]["schema"] if "application/json" in content else None

    @property
    def takes_lines(self) -> bool:
        """Whether it takes a stream of JSON lines."""
        return "application/x-ndjson" in self.described.get("requestBody", {}).get("content", {})

    def names(self, field: str) -> bool:
        """Whether a request can have this field, in path, query or body."""
        return field in self.parameters or (self.body is not None and field in self._properties(self.body))

    def request(self, given: Mapping[str, Any]) -> tuple[str, str, Any]:
        """(method, path with its query, body): all that is required, and all optional parts that `given` has a value
        for, wherever they are. A value of None leaves a part out."""
        path, query = self.path, dict[str, str]()
        for name, parameter in self.parameters.items():
            value = given[name] if name in given else example(parameter["schema"], self.document, given)
            if parameter["in"] == "path":
                path = path.replace(f"{{{name}}}", quote(str(value), safe=""))
            elif value is not None and (name in given or parameter.get("required")):
                query[name] = str(value)
        address = f"{path}?{httpx.QueryParams(query)}" if query else path
        body = example(self.body, self.document, given) if self.body is not None else None
        return self.method, address, body

    def _properties(self, schema: Document) -> set[str]:
        schema = resolved(schema, self.document)
        parts = schema.get("anyOf", schema.get("oneOf", ()))
        return set(schema.get("properties", ())).union(*(self._properties(part) for part in parts))


def operations_of(service: RunningService) -> list[Operation]:
    """Every operation that asks for a key."""
    document = httpx.get(f"{service.base_url}/openapi.json").json()
    return [
        Operation(method.upper(), path, described, document)
        for path, item in document["paths"].items()
        for method, described in item.items()
        if path not in PROBES
    ]


def resolved(schema: Document, document: Document) -> Document:
    """What a reference leads to."""
    while "$ref" in schema:
        found: Any = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        schema = found
    return schema


def example(schema: Document, document: Document, given: Mapping[str, Any]) -> Any:
    """A value that a schema allows, with the values of `given` in all fields that are called so."""
    schema = resolved(schema, document)
    for several in ("anyOf", "oneOf"):
        if several in schema:
            kinds = [resolved(part, document) for part in schema[several]]
            return example(next((each for each in kinds if each.get("type") != "null"), kinds[0]), document, given)
    if "const" in schema or "enum" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    match schema.get("type"):
        case "object":
            return _object(schema, document, given)
        case "array":
            return [example(schema.get("items", {}), document, given)]
        case "boolean":
            return False
        case "integer" | "number":
            return schema.get("minimum", 1)
        case _:
            return _string(schema)


def _object(schema: Document, document: Document, given: Mapping[str, Any]) -> Document:
    required = schema.get("required", ())
    properties = schema.get("properties", {})
    made = {
        name: given.get(name, example(properties[name], document, given)) for name in properties if name in required
    }
    made |= {name: given[name] for name in properties if name in given}
    if not properties and isinstance(schema.get("additionalProperties", {}), dict):
        pattern = schema.get("propertyNames", {}).get("pattern", "")
        made["concise" if re.search("a-z", pattern) else "x"] = example(
            schema.get("additionalProperties", {}), document, given
        )
    return {name: value for name, value in made.items() if value is not None}


def _string(schema: Document) -> str:
    match schema.get("format"):
        case "uuid":
            return str(uuid.uuid4())
        case "date-time":
            return "2026-01-31T12:00:00Z"
        case _:
            return "h1" if "h[1-9]" in schema.get("pattern", "") else "something"
