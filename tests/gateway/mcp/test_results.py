from __future__ import annotations

import base64
from typing import Any

import mcp_types as types
import pytest
from mcp.client import InputRequiredRoundsExceededError
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError

from gateway.core.images import shown
from gateway.mcp.results import MAX_IMAGES, failure, result_of
from gateway.testing.mcp_script import IMAGE
from gateway.tools.port import ToolError

PIXEL = {"type": "image", "mime_type": "image/png", "data": IMAGE}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def result(*content: types.ContentBlock, **more: Any) -> Any:
    return result_of(types.CallToolResult(content=list(content), **more))


def test_one_text_is_the_result() -> None:
    assert result(types.TextContent(text="It rains.")) == "It rains."
    assert result() == ""


def test_several_are_parts() -> None:
    assert result(types.TextContent(text="one"), types.TextContent(text="two")) == {
        "content": [text("one"), text("two")]
    }


@pytest.mark.parametrize("value", [{"sum": 3}, [1, 2], 7, "seven", False])
def test_what_is_structured_is_the_result_as_it_is(value: Any) -> None:
    assert result(types.TextContent(text="the same in words"), structured_content=value) == value


def test_what_is_structured_stands_beside_images() -> None:
    image = types.ImageContent(data=IMAGE, mime_type="image/png")
    assert result(image, structured_content={"w": 1}) == {"content": [PIXEL], "structured": {"w": 1}}


def test_an_image_is_what_its_bytes_are() -> None:
    assert result(types.ImageContent(data=IMAGE, mime_type="image/jpeg")) == {"content": [PIXEL]}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("PHN2Zy8+", "(An image of the type image/svg+xml, 6 bytes, which is not shown.)"),
        ("PHN2Zy8=", "(An image of the type image/svg+xml, 5 bytes, which is not shown.)"),
        ("<svg/>", "(An image of the type image/svg+xml, 6 characters that are not base64, which is not shown.)"),
        (IMAGE[:-1], "(An image of the type image/svg+xml, 95 characters that are not base64, which is not shown.)"),
    ],
)
def test_an_image_that_no_model_takes_is_named(data: str, words: str) -> None:
    assert result(types.ImageContent(data=data, mime_type="image/svg+xml")) == words


def test_images_that_are_too_large_together_are_named() -> None:
    half = base64.b64encode(base64.b64decode(IMAGE) + bytes(MAX_IMAGES * 3 // 8)).decode()
    image = types.ImageContent(data=half, mime_type="image/png")
    first, second, third = result(image, image, types.ImageContent(data=IMAGE, mime_type="image/png"))["content"]
    assert (first["type"], third) == ("image", PIXEL)
    assert second == text(
        f"(An image of the type image/png, {len(base64.b64decode(half)):,} bytes, which is too large to be shown.)"
    )


def test_blocks_of_every_kind() -> None:
    contents = [
        types.TextResourceContents(uri="memo://a", mime_type="text/plain", text="A memo."),
        types.BlobResourceContents(uri="memo://b", mime_type="application/zip", blob="UEsFBg=="),
        types.BlobResourceContents(uri="memo://c\u202e", mime_type=None, blob="UEsFBg=="),
        types.BlobResourceContents(uri="memo://d", mime_type="image/png", blob=IMAGE),
    ]
    link = types.ResourceLink(
        name="n", title="Memo", uri="memo://a", description="All\u200b of it", mime_type="text/plain"
    )
    assert result(
        types.AudioContent(data="UklGRg==", mime_type="audio/wav"),
        *(types.EmbeddedResource(resource=resource) for resource in contents),
        link,
        types.ResourceLink(name="bare", uri="x" * 3_000),
    ) == {
        "content": [
            text("(Audio of the type audio/wav, 4 bytes, which is not shown.)"),
            text("memo://a:\nA memo."),
            text("(The resource memo://b of the type application/zip, 4 bytes.)"),
            text("(The resource memo://c of the type unknown, 4 bytes.)"),
            PIXEL,
            text("(The resource memo://a of the type text/plain: Memo, All of it.)"),
            {"type": "resource", "uri": "memo://a"},
            text(f"(The resource {'x' * 2_044} […]: bare.)"),
        ]
    }


def test_parts_are_what_models_are_shown() -> None:
    made = result(types.TextContent(text="See"), types.ImageContent(data=IMAGE, mime_type="image/png"))
    seen = shown(made)
    assert seen is not None
    assert (seen.text, [image.data for image in seen.images]) == ("See", [IMAGE])


@pytest.mark.parametrize(
    ("content", "structured", "words"),
    [
        ([types.TextContent(text="no such city")], None, "no such city"),
        ([types.TextContent(text="a"), types.TextContent(text="b")], {"code": 1}, "a\nb"),
        ([], {"code": 1}, '{"code":1}'),
        ([types.TextContent(text=" ")], None, "the tool failed, and did not say why"),
    ],
)
def test_a_failure_is_told_in_the_tools_words(content: Any, structured: Any, words: str) -> None:
    with pytest.raises(ToolError) as raised:
        result(*content, structured_content=structured, is_error=True)
    assert str(raised.value) == words


@pytest.mark.parametrize(
    ("code", "message", "words"),
    [
        (types.INVALID_PARAMS, "city\x00 is\u202e missing", "refused the call: city is missing"),
        (types.METHOD_NOT_FOUND, "gone", "has no such tool any more: gone"),
        (types.CONNECTION_CLOSED, "", "went away before it answered; whether the call had an effect is not known"),
        (types.REQUEST_TIMEOUT, "", "did not answer in time"),
        (-32050, "x" * 5_000, f"refused the call: {'x' * 1_996} […]"),
    ],
)
def test_an_error_of_the_protocol_in_words(code: int, message: str, words: str) -> None:
    assert str(failure(MCPError(code, message), "weather")) == f"the MCP server 'weather' {words}"


def test_what_is_no_answer_in_words() -> None:
    with pytest.raises(ValidationError) as raised:
        types.CallToolResult.model_validate({"content": 7})
    assert str(failure(raised.value, "s")) == "the MCP server 's' answered with something that is not MCP"
    assert str(failure(InputRequiredRoundsExceededError(3), "s")) == "the MCP server 's' went on asking without end"
