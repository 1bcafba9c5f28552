from __future__ import annotations

from msgspec.structs import replace

from gateway.core.resources import READ_RESOURCE, is_read, uris_of
from protocol.frames import ResourcePart, TextPart
from tests.gateway.core.conversations import call, message


def test_a_message_names_resources_beside_its_content_and_in_it() -> None:
    parts = [ResourcePart(uri="docs:b"), TextPart(text="and"), ResourcePart(uri="docs:c"), ResourcePart(uri="docs:a")]
    assert uris_of(message("u", "t", content=parts, resources=["docs:a", "docs:b"])) == ["docs:a", "docs:b", "docs:c"]
    assert uris_of(message("u", "t", content="docs:a")) == []


def test_a_read_for_a_message_is_told_from_other_calls_of_the_tool() -> None:
    read = replace(call("c", "t", None), tool=READ_RESOURCE)
    assert is_read(read)
    assert not is_read(call("c", "t", None))
    assert not is_read(replace(read, message_id="a"))
    assert not is_read(replace(read, asked_by="d"))
