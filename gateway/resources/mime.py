"""What a resource's bytes are: its MIME type by name, and whether they are text."""

from __future__ import annotations

import codecs
import re
from email.message import Message
from mimetypes import MimeTypes
from pathlib import PurePosixPath
from typing import Final

from gateway.resources.port import ResourceContent

__all__ = ["BINARY", "IMAGES", "content_of", "declared_type", "type_of"]

BINARY: Final = "application/octet-stream"
IMAGES: Final = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
"""Those that models are shown."""

# Not those of the machine, which differ.
_TYPES: Final = MimeTypes(filenames=())
# What is missing there, or says of source text that it is a film.
_OTHERS: Final = {
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".rst": "text/x-rst",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".toml": "application/toml",
    ".jsonl": "application/jsonl",
    ".ts": "text/x-typescript",
    ".tsx": "text/x-typescript",
    ".js": "text/javascript",
    ".webp": "image/webp",
    ".log": "text/plain",
    ".ini": "text/plain",
    ".sql": "application/sql",
}
_CHARSETS: Final = re.compile(r"(utf-8|utf-16|ascii|iso8859-|cp125|koi8|shift_jis|euc_|gb|big5)")
_NOT_TEXT: Final = ("image/", "audio/", "video/", "font/")


def type_of(name: str) -> str | None:
    """By the end of a file's name; None where that tells nothing."""
    return _OTHERS.get(PurePosixPath(name).suffix.lower()) or _TYPES.guess_type(name, strict=True)[0]


def declared_type(header: str) -> tuple[str, str | None]:
    """MIME type and charset of a Content-Type header, both in lower case."""
    message = Message()
    message["content-type"] = header[:256]
    return message.get_content_type(), message.get_content_charset()


def content_of(
    uri: str,
    data: bytes,
    mime_type: str | None,
    *,
    charset: str | None = None,
    etag: str | None = None,
    ttl: float = 0.0,
    private: bool = False,
) -> ResourceContent:
    """The content as text, where the bytes are that in UTF-8 (or in `charset`) and its type does not say otherwise,
    else as a blob."""
    text = None if _holds_no_text(mime_type) else _text(data, charset or "utf-8")
    return ResourceContent(
        uri=uri,
        mime_type=mime_type or (BINARY if text is None else "text/plain"),
        text=text,
        blob=data if text is None else None,
        etag=etag,
        ttl=ttl,
        private=private,
    )


def _holds_no_text(mime_type: str | None) -> bool:
    return mime_type is not None and mime_type.startswith(_NOT_TEXT) and mime_type != "image/svg+xml"


def _text(data: bytes, charset: str) -> str | None:
    try:
        # Others escape, unpack or compute, which text from anywhere must not make them do.
        if _CHARSETS.match(codecs.lookup(charset).name) is None:
            return None
        text = data.decode(charset)
    except (LookupError, UnicodeError):
        return None
    return None if "\0" in text else text
