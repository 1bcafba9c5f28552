from __future__ import annotations

import base64
from typing import Any

import pytest

from gateway.core.images import image_type, shown
from protocol.frames import ImagePart

PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)
JPEG = b"\xff\xd8\xff\xe0" + bytes(12)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def image(data: bytes, mime_type: str = "image/png") -> dict[str, str]:
    return {"type": "image", "mime_type": mime_type, "data": encoded(data)}


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (encoded(PNG), "image/png"),
        (encoded(JPEG), "image/jpeg"),
        (encoded(b"GIF87a" + bytes(8)), "image/gif"),
        (encoded(b"GIF89a" + bytes(8)), "image/gif"),
        (encoded(b"RIFF\x10\0\0\0WEBPVP8 "), "image/webp"),
        (encoded(b"RIFF\x10\0\0\0WAVEfmt "), None),
        (encoded(b"<svg/>"), None),
        ("", None),
        ("iVBORw0KGgo", None),
        (encoded(PNG) + "!", None),
        (encoded(PNG)[:-1], None),
        (encoded(PNG)[:20] + "\n" + encoded(PNG)[20:], None),
        ("ü" * 16, None),
    ],
)
def test_an_image_is_known_by_its_first_bytes(data: str, kind: str | None) -> None:
    assert image_type(data) == kind


@pytest.mark.parametrize(
    "result",
    [
        None,
        "text",
        [image(PNG)],
        {"content": "text"},
        {"content": []},
        {"content": {}},
        {"content": [{"type": "text"}]},
        {"content": [{"type": "video", "data": ""}]},
        {"content": [image(PNG), 7]},
        {"content": [image(PNG, "no type")]},
        {"content": [{"type": "text", "text": ""}] * 257},
        {"parts": [image(PNG)]},
    ],
)
def test_results_of_another_shape_are_left_alone(result: Any) -> None:
    assert shown(result) is None


def test_texts_and_images_are_told_apart() -> None:
    parts = [
        {"type": "text", "text": "See:"},
        image(PNG),
        {"type": "resource", "uri": "memo://a"},
        image(JPEG, "image/png"),
        image(b"<svg/>", "image/svg+xml"),
    ]
    seen = shown({"content": parts})
    assert seen is not None
    assert seen.text == "See:\nmemo://a\n(An image of the type image/svg+xml, which can't be shown.)"
    # What is said of an image and what it is have to agree.
    assert seen.images == (
        ImagePart(mime_type="image/png", data=encoded(PNG)),
        ImagePart(mime_type="image/jpeg", data=encoded(JPEG)),
    )


def test_what_stands_beside_the_parts_is_told_first() -> None:
    seen = shown({"uri": "memo://a", "content": [image(PNG)], "structured": {"width": 1}})
    assert seen is not None
    assert seen.text == '{"uri":"memo://a","structured":{"width":1}}'
    assert len(seen.images) == 1
