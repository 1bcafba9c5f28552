"""The wire protocol as JSON Schema and as TypeScript types, both made from the structs of `protocol.frames`."""

from __future__ import annotations

import json
from typing import Any, Final, cast

import msgspec

from protocol.frames import ClientFrame, Event, ServerFrame

__all__ = ["UNIONS", "json_schema", "typescript"]

UNIONS: Final = {"client": ClientFrame, "server": ServerFrame, "event": Event}
"""What a client sends, all that a server sends, and the events of a context, which are among the latter."""

Schema = dict[str, Any]

_REF = "#/$defs/"
_PLAIN = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}


def json_schema() -> Schema:
    """A JSON Schema (draft 2020-12) of any frame. `$defs` has every struct under its name, and the unions under
    "client", "server" and "event"; all in the same order at each call."""
    unions, structs = msgspec.json.schema_components(UNIONS.values(), ref_template=_REF + "{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Tidegate wire protocol, version 1",
        "anyOf": [{"$ref": f"{_REF}client"}, {"$ref": f"{_REF}server"}],
        "$defs": {**dict(zip(UNIONS, unions, strict=True)), **dict(sorted(structs.items()))},
    }


def typescript() -> str:
    """A TypeScript module with a type for every struct, and for each union, which `type` discriminates."""
    schema = json_schema()
    lines = [f"// {schema['title']}"]
    for name, definition in cast("dict[str, Schema]", schema["$defs"]).items():
        title = {"client": "ClientFrame", "server": "ServerFrame", "event": "Event"}.get(name, name)
        lines.append("")
        if "description" in definition:
            lines.extend(_comment(definition["description"]))
        if "properties" in definition:
            lines.append(f"export interface {title} {{")
            lines.extend(_properties(definition))
            lines.append("}")
        else:
            lines.append(f"export type {title} = {_type(definition)};")
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return ["/**", *(f" * {line.strip()}".rstrip() for line in text.splitlines()), " */"]


def _properties(definition: Schema) -> list[str]:
    required = set(cast("list[str]", definition.get("required", [])))
    properties = cast("dict[str, Schema]", definition["properties"])
    return [f"  {name}{'' if name in required else '?'}: {_type(kind)};" for name, kind in properties.items()]


def _type(kind: Schema) -> str:
    if "$ref" in kind:
        return str(kind["$ref"]).removeprefix(_REF)
    if "enum" in kind:
        return " | ".join(json.dumps(value) for value in kind["enum"])
    if "anyOf" in kind:
        return " | ".join(dict.fromkeys(_type(one) for one in cast("list[Schema]", kind["anyOf"])))
    match kind.get("type"):
        case None:
            return "unknown"
        case "array":
            return f"Array<{_type(kind['items'])}>"
        case "object":
            entry = kind.get("additionalProperties", {})
            return f"Record<string, {_type(entry)}>"
        case name:
            return _PLAIN[name]
