from __future__ import annotations

import pytest

from gateway.resources.mime import content_of, declared_type, type_of


@pytest.mark.parametrize(
    ("name", "mime_type"),
    [
        ("a.md", "text/markdown"),
        ("A.MD", "text/markdown"),
        ("a.ts", "text/x-typescript"),
        ("a.html", "text/html"),
        ("a.png", "image/png"),
        ("a.tar.gz", "application/x-tar"),
        ("Makefile", None),
        ("a.unheard", None),
    ],
)
def test_types_by_name(name: str, mime_type: str | None) -> None:
    assert type_of(name) == mime_type


@pytest.mark.parametrize(
    ("header", "declared"),
    [
        ("text/plain", ("text/plain", None)),
        ('Text/HTML; Charset="ISO-8859-1"', ("text/html", "iso-8859-1")),
        ("nonsense", ("text/plain", None)),
        ("", ("text/plain", None)),
    ],
)
def test_declared_types(header: str, declared: tuple[str, str | None]) -> None:
    assert declared_type(header) == declared


@pytest.mark.parametrize(
    ("data", "mime_type", "charset", "text"),
    [
        ("größe".encode(), None, None, "größe"),
        ("größe".encode("latin-1"), "text/plain", None, None),
        ("größe".encode("latin-1"), "text/plain", "iso-8859-1", "größe"),
        ("größe".encode("utf-16"), "text/plain", "utf-16", "größe"),
        (b"x\x9c", "text/plain", "zlib", None),
        (b"+AGE-", "text/plain", "utf-7", None),
        (b"abc", "text/plain", "unheard-of", None),
        (b"abc", "audio/wav", None, None),
        (b"a\0c", "text/plain", None, None),
    ],
)
def test_what_is_text(data: bytes, mime_type: str | None, charset: str | None, text: str | None) -> None:
    content = content_of("x:y", data, mime_type, charset=charset)
    assert content.text == text
    assert content.blob == (data if text is None else None)
    assert content.data == (data if text is None else text.encode())
