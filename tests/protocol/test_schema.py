from __future__ import annotations

import json
import re
from typing import Any, get_args

import msgspec
import pytest

from protocol import frames
from protocol.schema import UNIONS, json_schema, typescript

DEFS: dict[str, Any] = json_schema()["$defs"]


@pytest.mark.parametrize("name", UNIONS)
def test_every_member_of_a_union_is_there_under_its_type(name: str) -> None:
    mapping = DEFS[name]["discriminator"]["mapping"]
    members = {member.__struct_config__.tag: member.__name__ for member in get_args(UNIONS[name])}
    assert mapping == {tag: f"#/$defs/{member}" for tag, member in members.items()}
    assert [one["$ref"] for one in DEFS[name]["anyOf"]] == list(mapping.values())
    for tag, member in members.items():
        assert DEFS[member]["properties"]["type"] == {"enum": [tag]}
        assert "type" in DEFS[member]["required"]


def test_every_struct_is_defined_with_every_field() -> None:
    for name in frames.__all__:
        struct = getattr(frames, name)
        if isinstance(struct, type) and issubclass(struct, msgspec.Struct):
            assert set(DEFS[name]["properties"]) - {"type"} == set(struct.__struct_fields__)


def test_every_reference_leads_somewhere() -> None:
    references = set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(json_schema())))
    assert references - {"client", "server"} <= set(DEFS)
    assert {"client", "server", "event"} <= set(DEFS)


def test_the_order_is_always_the_same() -> None:
    assert json.dumps(json_schema()) == json.dumps(json_schema())
    names = list(DEFS)
    assert names[:3] == ["client", "server", "event"]
    assert names[3:] == sorted(names[3:])


def test_typescript_has_every_definition_and_names_nothing_else() -> None:
    text = typescript()
    exported = re.findall(r"^export (?:interface|type) (\w+)", text, re.MULTILINE)
    assert exported == ["ClientFrame", "ServerFrame", "Event", *list(DEFS)[3:]]
    code = re.sub(r"/\*\*.*?\*/|//[^\n]*|\"[^\"]*\"", "", text, flags=re.DOTALL)
    used = set(re.findall(r"\b[A-Z]\w+", code))
    assert used <= {*exported, "Array", "Record"}
    assert text.count("{") == text.count("}")


@pytest.mark.parametrize(
    "line",
    [
        "export type ClientFrame = Hello | SendMessage | CallTool",
        '  type: "hello";',
        "  cursors?: Record<string, string | null> | null;",
        "  content: string | Array<TextPart | ImagePart | ResourcePart>;",
        "  result: unknown;",
        "  parameters: Record<string, unknown>;",
        "  respond?: boolean;",
        " * A message that is being written, with its text so far.",
    ],
)
def test_typescript(line: str) -> None:
    assert f"\n{line}" in typescript()
