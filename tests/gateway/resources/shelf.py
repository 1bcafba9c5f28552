"""A provider whose resources are in memory, which counts its readings and can be held up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from gateway.auth.principal import Principal
from gateway.resources.port import (
    Change,
    NotFound,
    ResourceContent,
    ResourceInfo,
    TemplateInfo,
    Unchanged,
)

__all__ = ["ANN", "BOB", "Shelf"]

ANN = Principal(tenant="t", subject="ann")
BOB = Principal(tenant="t", subject="bob")


class Shelf:
    """`texts` by URI. With `private` each principal gets what says its name; with `says_private` too, but that is found
    out by reading only. `gate` is waited for by each reading, `failure` is raised by everything."""

    def __init__(
        self,
        name: str = "shelf",
        texts: dict[str, str] | None = None,
        *,
        private: bool = False,
        says_private: bool = False,
        ttl: float = 10.0,
        etags: bool = True,
        permission: str | None = None,
    ) -> None:
        self.name = name
        self.permission = permission
        self.texts = texts if texts is not None else {f"{name}://a": "text of a"}
        self.via: dict[str, tuple[str, ...]] = {}
        self.readings: list[tuple[str, str, str | None]] = []
        self.lists = 0
        self.begun = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.closed = False
        self.change: Callable[[Change], None] = lambda change: None
        self._private = private
        self._says_private = says_private
        self._ttl = ttl
        self._etags = etags

    def private(self, uri: str | None) -> bool:
        return self._private

    async def list(self, principal: Principal) -> Sequence[ResourceInfo]:
        self.lists += 1
        await self._reach()
        return [ResourceInfo(uri=uri, name=uri) for uri in self.texts]

    async def templates(self, principal: Principal) -> Sequence[TemplateInfo]:
        await self._reach()
        return [
            TemplateInfo(uri_template=f"{self.name}://{{name}}", name="any"),
            TemplateInfo(uri_template=f"{self.name}://{{", name="none"),
        ]

    async def covers(self, principal: Principal, uri: str) -> bool:
        return uri.startswith(f"{self.name}://")

    async def read(
        self, principal: Principal, uri: str, *, etag: str | None, max_bytes: int
    ) -> ResourceContent | Unchanged:
        self.readings.append((principal.subject, uri, etag))
        self.begun.set()
        try:
            await self._reach()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if uri not in self.texts:
            raise NotFound("There is no such resource.")
        own = self._private or self._says_private
        text = f"{self.texts[uri]} for {principal.subject}" if own else self.texts[uri]
        if etag == text:
            return Unchanged(ttl=self._ttl)
        return ResourceContent(
            uri=uri,
            mime_type="text/plain",
            text=text,
            etag=text if self._etags else None,
            ttl=self._ttl,
            private=own,
            via=self.via.get(uri, ()),
        )

    def on_change(self, listener: Callable[[Change], None]) -> None:
        self.change = listener

    async def close(self) -> None:
        self.closed = True

    async def _reach(self) -> None:
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
