"""The MCP servers of a gateway: their tools, resources and prompts, for each principal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextvars import Context
from typing import Any, Final, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import mcp_types as types
import structlog
from mcp.shared.dispatcher import ProgressFnT
from mcp.shared.exceptions import MCPError
from msgspec import Struct
from pydantic import ValidationError

from gateway.auth.principal import Principal
from gateway.mcp.connection import Change, Connection, State
from gateway.mcp.listing import Listing
from gateway.mcp.names import SEPARATOR, Dropped, NameRules
from gateway.mcp.pool import AuthFactory, Hook, Pool
from gateway.mcp.results import failure
from gateway.mcp.settings import McpServerSettings
from gateway.mcp.tool import Ask, Definition, McpTool, define
from gateway.mcp.transports import ServerAway, SessionOver
from gateway.tools.port import Tool, ToolError, ToolSettings

__all__ = ["McpHost", "Offer", "ServerStatus"]

_log = structlog.stdlib.get_logger(__name__)

_SWEEP: Final = 5.0

_T = TypeVar("_T")


class Offer(NamedTuple):
    """What a server lists for a principal."""

    server: str
    listing: Listing


class ServerStatus(Struct, frozen=True, kw_only=True):
    """`version` is the protocol's that is spoken (None: nothing is connected), `shared` whether all principals use one
    connection (None: not known yet), `calls` those in flight. `dropped` are tools that are not offered, and why.
    `trouble` are the words of a failure after which there was no other connection, `errors` the last lines that it
    wrote to standard error before it failed."""

    server: str
    version: str | None = None
    shared: bool | None = None
    connections: int = 0
    ready: int = 0
    calls: int = 0
    tools: tuple[str, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    trouble: str | None = None
    errors: tuple[str, ...] = ()


class _Tools(NamedTuple):
    by_name: dict[str, Definition]
    dropped: list[Dropped]


class McpHost:
    """A ToolSource (gateway/tools/port.py). Servers are connected to when somebody needs them, while `run` runs."""

    def __init__(
        self,
        servers: Mapping[str, McpServerSettings],
        *,
        auth: AuthFactory | None = None,
        sweep_seconds: float = _SWEEP,
    ) -> None:
        """`servers` are as `configured_servers` makes them (gateway/mcp/servers_file.py); each `sweep_seconds` it is
        looked for connections that nobody uses."""
        self._sweep_seconds = sweep_seconds
        self._pools = {
            name: Pool(name, settings, self._spawn, self._changed, auth) for name, settings in servers.items()
        }
        self._listeners: list[Hook] = []
        self._group: asyncio.TaskGroup | None = None
        self._tools: WeakKeyDictionary[Listing, _Tools] = WeakKeyDictionary()

    # ---- its life

    async def run(self) -> None:
        """Own the connections until it is cancelled; then close them, within some seconds."""
        stopped: asyncio.CancelledError | None = None
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                while True:
                    await asyncio.sleep(self._sweep_seconds)
                    for pool in self._pools.values():
                        pool.sweep()
            except asyncio.CancelledError as error:
                # The connections are not cancelled: they are told to end, so that servers hear of it.
                stopped = error
            self.close()
        self._group = None
        raise stopped

    def close(self) -> None:
        """Begin no connection any more, and let all end that there are."""
        for pool in self._pools.values():
            pool.close()

    def on_change(self, listener: Hook) -> None:
        """Call it with (server, owner or None for all, kind, URI or None for any) when something may be another."""
        self._listeners.append(listener)

    def forget(self, server: str, owner: str) -> None:
        """Close the principal's connection and keep nothing: their credentials have changed, or they are gone. Another
        instance may tell of a server that there is not here."""
        if (pool := self._pools.get(server)) is not None:
            pool.forget(owner)

    def forget_owner(self, owner: str) -> None:
        """Of a principal who is gone: at no server anything of theirs goes on."""
        for pool in self._pools.values():
            pool.forget(owner)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if self._group is None:
            work.close()
            raise ServerAway("no MCP server is connected to before the gateway runs")
        # Without the context of the call that happens to be first: what a server asks later is not asked for it.
        self._group.create_task(_contained(work), context=Context())

    def _changed(self, server: str, owner: str | None, kind: Change, uri: str | None) -> None:
        for listener in self._listeners:
            listener(server, owner, kind, uri)

    # ---- tools

    async def tools(self, principal: Principal) -> Sequence[Tool]:
        return [
            McpTool(definition, _Caller(self._pools[offer.server], principal.owner))
            for offer in await self.offers(principal)
            for definition in self._tools_of(offer.server, offer.listing).by_name.values()
        ]

    async def find(self, principal: Principal, name: str) -> Tool | None:
        owner = principal.owner
        for server, pool in self._pools.items():
            # No other server has a tool of that name, and so none else is waited for.
            if name.startswith(f"{server}{SEPARATOR}") or name in pool.settings.rename.values():
                listing = await pool.listing(owner)
                definition = self._tools_of(server, listing).by_name.get(name) if listing is not None else None
                if definition is not None:
                    return McpTool(definition, _Caller(pool, owner))
        return None

    def _tools_of(self, server: str, listing: Listing) -> _Tools:
        known = self._tools.get(listing)
        if known is None:
            settings = self._pools[server].settings
            defined = define(
                server,
                listing.tools,
                rules=NameRules(include=settings.include, exclude=settings.exclude, rename=settings.rename),
                settings=ToolSettings(
                    timeout=settings.timeout,
                    idle_timeout=settings.idle_timeout,
                    approval=settings.approval,
                    permission=settings.permission,
                ),
                trust_annotations=settings.trust_annotations,
            )
            unlisted = [Dropped(tool, f"it is no tool: {reason}") for tool, reason in listing.dropped.items()]
            known = _Tools({one.name: one for one in defined.tools}, [*defined.dropped, *unlisted])
            self._tools[listing] = known
            if known.dropped:
                _log.warning("mcp_tools_dropped", server=server, tools=[dropped.tool for dropped in known.dropped])
        return known

    # ---- resources and prompts

    async def offers(self, principal: Principal) -> list[Offer]:
        """What each server lists for the principal, in the order of the settings. Those that never told are left out;
        those that were not connected to before are waited for together, some seconds at most."""
        owner = principal.owner
        listings = await asyncio.gather(*(pool.listing(owner) for pool in self._pools.values()))
        return [Offer(server, one) for server, one in zip(self._pools, listings, strict=True) if one is not None]

    async def listing(self, principal: Principal, server: str) -> Listing | None:
        """What one server lists for the principal; no other one is waited for. Raises KeyError for a server that there
        is not."""
        return await self._pools[server].listing(principal.owner)

    def shared(self, server: str) -> bool | None:
        """Whether all principals use one connection (None: not known yet). Raises KeyError."""
        return self._pools[server].shared

    async def read_resource(self, principal: Principal, server: str, uri: str) -> types.ReadResourceResult:
        """Raises ToolError, KeyError for a server that there is not."""
        return await self._ask(principal, server, lambda connection: connection.read(uri))

    async def get_prompt(
        self, principal: Principal, server: str, name: str, arguments: Mapping[str, str]
    ) -> types.GetPromptResult:
        """Raises ToolError, KeyError for a server that there is not."""
        return await self._ask(principal, server, lambda connection: connection.prompt(name, dict(arguments)))

    async def _ask(
        self, principal: Principal, server: str, send: Callable[[Connection], Coroutine[Any, Any, _T]]
    ) -> _T:
        pool = self._pools[server]
        try:
            async with asyncio.timeout(pool.settings.idle_timeout):
                return await _once_more(pool, principal.owner, send)
        except TimeoutError:
            raise ToolError(f"the MCP server {server!r} did not answer in time") from None
        except (MCPError, ValidationError) as error:
            raise failure(error, server) from error

    # ---- for people who look after it

    @property
    def servers(self) -> Mapping[str, McpServerSettings]:
        return {name: pool.settings for name, pool in self._pools.items()}

    def status(self) -> list[ServerStatus]:
        """Each server as it is now, without asking it."""
        return [self._status(pool) for pool in self._pools.values()]

    def _status(self, pool: Pool) -> ServerStatus:
        running = pool.connections
        # Those of many principals are mostly the same one.
        listings = _distinct(listing for _, listing in pool if listing is not None)
        found = [self._tools_of(pool.server, listing) for listing in listings]
        return ServerStatus(
            server=pool.server,
            version=next((one.version for one in running if one.state is State.READY), None),
            shared=pool.shared,
            connections=len(running),
            ready=sum(one.state is State.READY for one in running),
            calls=sum(one.held for one in running),
            tools=tuple(_distinct(name for tools in found for name in tools.by_name)),
            dropped=tuple(_distinct(dropped for tools in found for dropped in tools.dropped)),
            trouble=pool.trouble,
            errors=pool.errors,
        )


class _Caller:
    """CallTool (gateway/mcp/tool.py) of one principal."""

    def __init__(self, pool: Pool, owner: str) -> None:
        self._pool = pool
        self._owner = owner

    async def __call__(
        self, tool: str, arguments: dict[str, Any], *, progress: ProgressFnT, ask: Ask
    ) -> types.CallToolResult:
        return await _once_more(
            self._pool,
            self._owner,
            lambda connection: connection.call(tool, arguments, owner=self._owner, progress=progress, ask=ask),
        )


async def _once_more(pool: Pool, owner: str, send: Callable[[Connection], Coroutine[Any, Any, _T]]) -> _T:
    """A server that was started anew knows none of its sessions; in another one it has not seen the request."""
    try:
        async with pool.use(owner) as connection:
            return await send(connection)
    except SessionOver:
        async with pool.use(owner) as connection:
            return await send(connection)


async def _contained(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    # The boundary of one connection: a bug in it must not end the others, and the gateway with them.
    except Exception:  # noqa: BLE001
        _log.exception("mcp_connection_crashed")


def _distinct(items: Iterable[_T]) -> Iterable[_T]:
    return dict.fromkeys(items)
