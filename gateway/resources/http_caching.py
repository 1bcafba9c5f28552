"""How long what an HTTP server answered may be kept, and for whom (RFC 9111)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

__all__ = ["Keeping", "conditions", "keeping"]

_LONGEST: Final = 24 * 3600.0
_DIRECTIVE: Final = re.compile(r'\s*([a-z-]+)\s*(?:=\s*(?:"([^"]*)"|([^,\s]*)))?\s*(?:,|$)', re.IGNORECASE)
_MODIFIED: Final = "modified "


class Keeping(Struct, frozen=True, kw_only=True):
    """`etag` is a validator for `conditions`, `ttl` are seconds."""

    etag: str | None = None
    ttl: float = 0.0
    private: bool = False


def keeping(headers: Mapping[str, str], ttl: float) -> Keeping:
    """`headers` by their names in small letters; `ttl` counts where the server says nothing about time."""
    said = {name.lower(): quoted or bare for name, quoted, bare in _DIRECTIVE.findall(headers.get("cache-control", ""))}
    private = "private" in said
    if "no-store" in said or headers.get("vary", "").strip() == "*":
        return Keeping(private=private)
    seconds = _number(said.get("s-maxage" if "s-maxage" in said else "max-age"))
    if "no-cache" in said:
        seconds = 0.0
    elif seconds is not None:
        seconds = min(max(0.0, seconds - (_number(headers.get("age")) or 0.0)), _LONGEST)
    modified = headers.get("last-modified")
    etag = headers.get("etag") or (f"{_MODIFIED}{modified}" if modified else None)
    return Keeping(etag=etag, ttl=ttl if seconds is None else seconds, private=private)


def conditions(etag: str | None) -> dict[str, str]:
    """The headers that ask for what is not what `etag` stands for."""
    if etag is None:
        return {}
    if etag.startswith(_MODIFIED):
        return {"if-modified-since": etag.removeprefix(_MODIFIED)}
    return {"if-none-match": etag}


def _number(text: str | None) -> float | None:
    return float(text) if text is not None and re.fullmatch("[0-9]{1,10}", text.strip()) else None
