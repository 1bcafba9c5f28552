"""The port between readers of resources and where they come from: folders, HTTP servers, databases, MCP servers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from msgspec import Struct

from gateway.auth.principal import Principal

__all__ = [
    "Change",
    "Invalid",
    "NotFound",
    "Refused",
    "ResourceContent",
    "ResourceError",
    "ResourceInfo",
    "ResourceProvider",
    "TemplateInfo",
    "TooLarge",
    "Unavailable",
    "Unchanged",
]


class ResourceError(Exception):
    """A resource was not read; the words are for the model and the user, and hold no secret."""


class NotFound(ResourceError):
    """There is no such resource, for whoever asks."""


class Refused(ResourceError):
    """It is there, or could be, and is not given out: an address that is not allowed, say."""


class Invalid(ResourceError):
    """The URI is one of the provider's, and something in it does not fit: a parameter."""


class TooLarge(Refused):
    """It is longer than a resource may be."""


class Unavailable(ResourceError):
    """Its provider did not answer, or not in time; later it may."""


class ResourceInfo(Struct, frozen=True, kw_only=True):
    """A resource in a list. `size` is in bytes, where it is known."""

    uri: str
    name: str
    mime_type: str | None = None
    description: str | None = None
    size: int | None = None


class TemplateInfo(Struct, frozen=True, kw_only=True):
    """Resources that can't be listed, by their URI template (gateway/resources/uri_templates.py)."""

    uri_template: str
    name: str
    mime_type: str | None = None
    description: str | None = None


class ResourceContent(Struct, frozen=True, kw_only=True):
    """A resource as it was read: `text` or `blob`, never both.

    `etag` is what tells the provider that this is what one has (None: it can't be asked); `ttl` are the seconds for
    which it need not be asked (0: each time); `private` content is for the principal alone that it was read for. `via`
    are the canonical URIs that the reading was led through, each of which the reader must be allowed to read as well.
    """

    uri: str
    mime_type: str
    text: str | None = None
    blob: bytes | None = None
    etag: str | None = None
    ttl: float = 0.0
    private: bool = False
    via: tuple[str, ...] = ()

    @property
    def data(self) -> bytes:
        """The bytes; those of a text as UTF-8."""
        return self.blob if self.blob is not None else (self.text or "").encode()


class Unchanged(Struct, frozen=True, kw_only=True):
    """What one has is what there is, for `ttl` seconds more."""

    ttl: float = 0.0


class Change(Struct, frozen=True, kw_only=True):
    """Something is not what it was: `uri`, canonical (None: anything that the provider has), for the principals of
    `owner` (None: for all)."""

    uri: str | None = None
    owner: str | None = None


class ResourceProvider(Protocol):
    """One place that resources come from. All URIs are canonical (gateway/resources/uris.py); what a principal may read
    of them is decided before a provider is asked."""

    @property
    def name(self) -> str: ...

    @property
    def permission(self) -> str | None:
        """What a role needs to have, besides the resource's own permission (None: nothing)."""
        ...

    def private(self, uri: str | None) -> bool:
        """Whether what the URI names (None: the lists) may differ between principals: then no two share a reading."""
        ...

    async def list(self, principal: Principal) -> Sequence[ResourceInfo]:
        """What can be listed: 10,000 at most, each URI once, in any order. Raises Unavailable."""
        ...

    async def templates(self, principal: Principal) -> Sequence[TemplateInfo]:
        """Raises Unavailable."""
        ...

    async def covers(self, principal: Principal, uri: str) -> bool:
        """Whether a reading of the URI belongs here, which it may even if nothing is there. Reads nothing but, at most,
        lists that are kept. Raises Unavailable."""
        ...

    async def read(
        self, principal: Principal, uri: str, *, etag: str | None, max_bytes: int
    ) -> ResourceContent | Unchanged:
        """The resource, or Unchanged where `etag` is that of what there is. Reads `max_bytes` and little more of it.
        Raises NotFound, Invalid, Refused, TooLarge, Unavailable; may be cancelled at any time."""
        ...

    def on_change(self, listener: Callable[[Change], None]) -> None:
        """Call it, in the event loop, whenever something is known to have changed. One listener; before the first
        reading."""
        ...

    async def close(self) -> None:
        """Let go of what it holds. Afterwards it is not used."""
        ...
