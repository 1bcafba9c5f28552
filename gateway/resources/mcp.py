"""The resources of MCP servers: what a server calls `<uri>` is `mcp://<server>/<uri>` here."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Final
from weakref import WeakKeyDictionary

import mcp_types as types
import structlog
from mcp.shared.exceptions import MCPError

from gateway.auth.principal import Principal
from gateway.mcp.connection import Change as McpChange
from gateway.mcp.descriptions import clean
from gateway.mcp.host import McpHost
from gateway.mcp.listing import Listing
from gateway.resources.mime import BINARY
from gateway.resources.port import (
    Change,
    NotFound,
    ResourceContent,
    ResourceInfo,
    ResourceProvider,
    TemplateInfo,
    TooLarge,
    Unavailable,
    Unchanged,
)
from gateway.resources.uris import InvalidUri, server_uri
from gateway.tools.port import ToolError

__all__ = ["McpResources", "content_of_server", "mcp_providers"]

_log = structlog.stdlib.get_logger(__name__)

_LONGEST: Final = 24 * 3600.0
_NAME: Final = 256
_LIST_SECONDS: Final = 2.0
# What servers say of a resource that they do not have (MCP specification, Resources, Error Handling).
_UNKNOWN: Final = (-32002, types.INVALID_PARAMS)


def mcp_providers(host: McpHost) -> list[ResourceProvider]:
    """One for each server, in the order of the settings. Of names that differ in capitals only the first one counts:
    a URI does not tell them apart."""
    names: dict[str, str] = {}
    for server in host.servers:
        if names.setdefault(server.lower(), server) != server:
            _log.warning("the resources of an MCP server are left out: another has its name", server=server)
    return [McpResources(host, server) for server in names.values()]


class McpResources:
    """One server's. The server is asked for the URI in the spelling of its list, where that has it, else in the
    canonical one; it may also be one that it lists nowhere.

    What it says is for the principal alone whose connection it came over. Where all principals share one, it is for
    all if the server says "public". It is kept for as long as the server says, and no longer than until it tells of a
    change.
    """

    def __init__(self, host: McpHost, server: str) -> None:
        self.name = f"mcp://{server.lower()}"
        self.permission = host.servers[server].permission
        self._host = host
        self._server = server
        self._prefix = f"{self.name}/"
        self._known: WeakKeyDictionary[Listing, dict[str, types.Resource]] = WeakKeyDictionary()

    def private(self, uri: str | None) -> bool:
        return not self._host.shared(self._server)

    async def list(self, principal: Principal) -> Sequence[ResourceInfo]:
        listed_by_uri = self._by_uri(await self._listing(principal))
        return [
            ResourceInfo(
                uri=uri,
                name=clean(listed.title or listed.name, _NAME),
                mime_type=listed.mime_type,
                description=clean(listed.description) if listed.description else None,
                size=listed.size,
            )
            for uri, listed in listed_by_uri.items()
        ]

    async def templates(self, principal: Principal) -> Sequence[TemplateInfo]:
        return [
            TemplateInfo(
                uri_template=self._prefix + listed.uri_template,
                name=clean(listed.title or listed.name, _NAME),
                mime_type=listed.mime_type,
                description=clean(listed.description) if listed.description else None,
            )
            for listed in (await self._listing(principal)).templates
        ]

    async def covers(self, principal: Principal, uri: str) -> bool:
        return uri.startswith(self._prefix)

    async def read(
        self, principal: Principal, uri: str, *, etag: str | None, max_bytes: int
    ) -> ResourceContent | Unchanged:
        spelt, listed_type = await self._spelling(principal, uri)
        try:
            result = await self._host.read_resource(principal, self._server, spelt)
        except ToolError as error:
            cause = error.__cause__
            if isinstance(cause, MCPError) and cause.code in _UNKNOWN:
                raise NotFound("There is no such resource.") from error
            raise Unavailable(f"The resource was not read: {error}.") from error
        content = content_of_server(uri, result.contents, listed_type, max_bytes)
        return ResourceContent(
            uri=uri,
            mime_type=content.mime_type,
            text=content.text,
            blob=content.blob,
            ttl=min(result.ttl_ms / 1000, _LONGEST),
            # Asked after the reading: the connection may have become the principal's own meanwhile.
            private=result.cache_scope != "public" or self.private(uri),
        )

    def on_change(self, listener: Callable[[Change], None]) -> None:
        def changed(server: str, owner: str | None, kind: McpChange, uri: str | None) -> None:
            if server != self._server or kind not in ("resources", "resource"):
                return
            try:
                named = server_uri(server, uri) if kind == "resource" and uri is not None else None
            except InvalidUri:
                named = None
            listener(Change(uri=named, owner=owner))

        self._host.on_change(changed)

    async def close(self) -> None:
        """The host closes its connections itself."""

    async def _listing(self, principal: Principal) -> Listing:
        return await self._host.listing(principal, self._server) or Listing()

    async def _spelling(self, principal: Principal, uri: str) -> tuple[str, str | None]:
        """How the server spells the URI, and the MIME type that it lists. Its list is not waited for long: it matters
        to odd spellings only."""
        plain = uri.removeprefix(self._prefix)
        try:
            async with asyncio.timeout(_LIST_SECONDS):
                listed = self._by_uri(await self._listing(principal)).get(uri)
        except TimeoutError:
            return plain, None
        return (plain, None) if listed is None else (listed.uri, listed.mime_type)

    def _by_uri(self, listing: Listing) -> dict[str, types.Resource]:
        """By our URIs; of two that are the same one here, the first."""
        found = self._known.get(listing)
        if found is None:
            found = dict[str, types.Resource]()
            for listed in listing.resources:
                try:
                    found.setdefault(server_uri(self._server, listed.uri), listed)
                except InvalidUri:
                    _log.info("a resource of an MCP server has no URI", server=self._server, uri=listed.uri[:_NAME])
            self._known[listing] = found
        return found


def content_of_server(
    uri: str,
    contents: Sequence[types.TextResourceContents | types.BlobResourceContents],
    listed_type: str | None,
    max_bytes: int,
) -> ResourceContent:
    """One content as it is; of several, such as the files of a folder, all texts, each under its URI. Raises NotFound,
    TooLarge, Unavailable."""
    if not contents:
        raise NotFound("There is no such resource.")
    # In characters of text and of base64, which no content can have fewer bytes than three quarters of.
    size = sum(len(one.text if isinstance(one, types.TextResourceContents) else one.blob) for one in contents)
    if size * 3 // 4 > max_bytes:
        raise TooLarge(f"The resource has more than the {max_bytes} bytes that are allowed.")
    if len(contents) > 1:
        texts = [f"{clean(one.uri, _NAME)}:\n{_words(one)}" for one in contents]
        return ResourceContent(uri=uri, mime_type="text/plain", text=_carried("\n\n".join(texts)))
    (one,) = contents
    mime_type = one.mime_type or listed_type
    if isinstance(one, types.TextResourceContents):
        return ResourceContent(uri=uri, mime_type=mime_type or "text/plain", text=_carried(one.text))
    try:
        blob = base64.b64decode(one.blob, validate=True)
    except binascii.Error as error:
        raise Unavailable("The resource was not read: its server answered with what is not base64.") from error
    return ResourceContent(uri=uri, mime_type=mime_type or BINARY, blob=blob)


def _words(one: types.TextResourceContents | types.BlobResourceContents) -> str:
    return one.text if isinstance(one, types.TextResourceContents) else "(Binary data.)"


def _carried(text: str) -> str:
    """Without lone surrogates, which JSON can say and UTF-8 can't."""
    return text.encode("utf-8", "replace").decode()
