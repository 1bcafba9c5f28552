"""What an MCP server offers, read page by page."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal, TypeVar

import anyio
import mcp_types as types
import structlog
from mcp import Client
from mcp.shared.exceptions import MCPError
from msgspec import Struct, field
from msgspec.structs import replace

__all__ = ["KINDS", "MAX_ITEMS", "MAX_PAGES", "Kind", "Listing", "read_kind"]

_log = structlog.stdlib.get_logger(__name__)

Kind = Literal["tools", "resources", "templates", "prompts"]
KINDS: Final[tuple[Kind, ...]] = ("tools", "resources", "templates", "prompts")

MAX_PAGES: Final = 50
MAX_ITEMS: Final = 2_000
_SECONDS: Final = 10.0

_Page = TypeVar("_Page", bound=types.PaginatedResult)


class Listing(Struct, frozen=True, eq=False, weakref=True):
    """`dropped` are tools that can't even be listed, with the reasons."""

    tools: tuple[types.Tool, ...] = ()
    resources: tuple[types.Resource, ...] = ()
    templates: tuple[types.ResourceTemplate, ...] = ()
    prompts: tuple[types.Prompt, ...] = ()
    dropped: dict[str, str] = field(default_factory=dict[str, str])

    def digest(self) -> bytes:
        """The same for listings that say the same."""
        said = hashlib.sha256(repr(sorted(self.dropped.items())).encode("utf-8", "surrogatepass"))
        for kind in (self.tools, self.resources, self.templates, self.prompts):
            said.update(b"\0")
            for item in kind:
                said.update(item.model_dump_json(by_alias=True).encode())
        return said.digest()


async def read_kind(client: Client, server: str, listing: Listing, kind: Kind, enough: Callable[[], bool]) -> Listing:
    """The listing with what there is of one kind now, as far as so many pages tell and `enough` is not true. Raises
    MCPError or pydantic's ValidationError where the server does not tell, TimeoutError where it takes more than 10
    seconds."""
    with anyio.fail_after(_SECONDS):
        if kind == "tools":
            found = await _all(server, client.list_tools, lambda page: page.tools, enough)
        elif kind == "resources":
            found = await _all(server, client.list_resources, lambda page: page.resources, enough)
        elif kind == "templates":
            found = await _all(server, client.list_resource_templates, lambda page: page.resource_templates, enough)
        else:
            found = await _all(server, client.list_prompts, lambda page: page.prompts, enough)
    return replace(listing, **{kind: found})


async def _all(
    server: str,
    fetch: Callable[..., Awaitable[_Page]],
    items: Callable[[_Page], list[Any]],
    enough: Callable[[], bool],
) -> tuple[Any, ...]:
    found: list[Any] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        try:
            page = await fetch(cursor=cursor)
        except MCPError as error:
            if error.code == types.METHOD_NOT_FOUND and cursor is None:
                return ()
            raise
        found += items(page)
        previous, cursor = cursor, page.next_cursor
        if cursor is None:
            return tuple(found[:MAX_ITEMS])
        if cursor == previous or len(found) >= MAX_ITEMS or enough():
            break
    _log.warning("mcp_listing_cut", server=server, items=min(len(found), MAX_ITEMS))
    return tuple(found[:MAX_ITEMS])
