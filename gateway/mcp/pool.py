"""The connections to one MCP server: one for everybody, or one for each principal."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Protocol
from weakref import WeakValueDictionary

import httpx2
import structlog

from gateway.mcp.backoff import Backoff
from gateway.mcp.connection import Change, Connection, State
from gateway.mcp.listing import Listing
from gateway.mcp.settings import McpServerSettings
from gateway.mcp.transports import ServerAway

__all__ = ["AuthFactory", "Pool", "Spawn"]

_log = structlog.stdlib.get_logger(__name__)

Spawn = Callable[[Coroutine[Any, Any, None]], object]
AuthFactory = Callable[[str, str], httpx2.Auth | None]
"""By server and owner, what authenticates the requests of the owner's connection; None where nothing does."""

# What is remembered of principals without a connection: a listing, a failure.
_REMEMBERED: Final = 20


class Hook(Protocol):
    """What a pool's user is told: a list was read again or may have become another one, or a resource of that URI is
    not what it was (`uri` None: any), for the principal `owner` (None: for all)."""

    def __call__(self, server: str, owner: str | None, kind: Change, uri: str | None, /) -> None: ...


class _Place:
    """What is known for one owner, and their connection, if there is one."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.begun = 0.0
        self.ready_at: float | None = None
        self.used = 0.0
        self.listing: Listing | None = None
        self.backoff = Backoff()


class Pool:
    """Nobody gets a connection, or sees a list, that is another principal's.

    Whether all principals have one connection is a setting; where it is not set, the first connection to a remote
    server that is told no credentials shows whether the server keeps a session. Until that is known one principal
    connects, and the others wait for what it shows.
    """

    def __init__(
        self, server: str, settings: McpServerSettings, spawn: Spawn, hook: Hook, auth: AuthFactory | None = None
    ) -> None:
        self.server = server
        self.settings = settings
        self._spawn = spawn
        self._hook = hook
        self._auth = auth
        self._places: OrderedDict[str | None, _Place] = OrderedDict()
        self._running: set[Connection] = set()
        self._shared = _known(settings)
        self._scouting = Backoff()
        self._listings: WeakValueDictionary[bytes, Listing] = WeakValueDictionary()
        self._closed = False
        self.errors: tuple[str, ...] = ()
        """The last lines that a connection's process wrote to standard error before it failed."""

    @property
    def shared(self) -> bool | None:
        """None: it is not known yet."""
        return self._shared

    @property
    def connections(self) -> list[Connection]:
        """All that run, those that are ending as well."""
        return list(self._running)

    @property
    def trouble(self) -> str | None:
        """What was said of the last failure, if no connection of the same principal came to be since."""
        known = (self._scouting, *(place.backoff for place in self._places.values()))
        return next((backoff.words for backoff in known if backoff.words), None)

    # ---- for users

    @asynccontextmanager
    async def use(self, owner: str) -> AsyncGenerator[Connection]:
        """A connection that is ready, waited for `connect_seconds` at most; it is not closed for being idle meanwhile.
        Raises ServerAway."""
        connection = await self._ready(owner, self._now() + self.settings.connect_seconds)
        connection.held += 1
        try:
            yield connection
        finally:
            connection.held -= 1
            if (place := self._of(connection)) is not None:
                place.used = self._now()

    async def listing(self, owner: str) -> Listing | None:
        """What the server offers the principal, as it was known last; None where it was never told, or is not told
        within `connect_seconds` from the attempt's begin. A server that is away is tried again by the way."""
        place = self._places.get(self._key(owner))
        if place is not None and place.listing is not None:
            self._try_again(owner, place)
            return place.listing
        # An attempt that takes long is not waited for by each who asks what there is.
        waiting = [one.begun for one in self._places.values() if one.connection is not None and one.connection.live]
        mine = place is not None and place.connection is not None and place.connection.live
        begun = place.begun if place is not None and mine else self._now()
        if self._shared is None and waiting:
            begun = min(waiting)
        try:
            await self._ready(owner, begun + self.settings.connect_seconds)
        except ServerAway as error:
            _log.info("mcp_server_away", server=self.server, reason=str(error))
        return self.known(owner)

    def known(self, owner: str) -> Listing | None:
        """The last listing, without asking anybody."""
        place = self._places.get(self._key(owner))
        return place.listing if place is not None else None

    def forget(self, owner: str) -> None:
        """Of a principal whose credentials have changed, or who is gone: the connection is closed, nothing is kept."""
        place = self._places.pop(owner, None)
        if place is not None and place.connection is not None:
            place.connection.close("was closed, as its credentials have changed")
        # What readers keep was read with them.
        self._tell(owner, ("tools", "resources", "prompts"))

    # ---- for the host

    def sweep(self) -> None:
        """Close what nobody uses, and forget what nobody asked for."""
        idle, now = self.settings.idle_seconds, self._now()
        for place in self._places.values():
            connection = place.connection
            if idle and connection is not None and _idle(connection) and now - place.used >= idle:
                connection.close("was idle")
        unused = [key for key, place in self._places.items() if place.connection is None and key is not None]
        for key in unused[: max(0, len(unused) - _REMEMBERED * self.settings.max_connections)]:
            del self._places[key]

    def close(self) -> None:
        """Let all connections end; whoever runs them waits for that."""
        self._closed = True
        for connection in self.connections:
            connection.close("was closed, as the gateway is stopping")

    # ---- connections

    async def _ready(self, owner: str, deadline: float) -> Connection:
        while True:
            connection = self._attempt(owner)
            if connection.state is State.READY and connection.owner in (None, owner):
                return connection
            try:
                async with asyncio.timeout_at(deadline):
                    await connection.settled.wait()
            except TimeoutError:
                raise ServerAway(f"the MCP server {self.server!r} is still starting") from None

    def _attempt(self, owner: str) -> Connection:
        """The connection that is to be waited for: the principal's, a new one, or one that shows whether to share.
        Raises ServerAway, also while a server that failed is not tried again."""
        if self._closed:
            raise ServerAway(f"the MCP server {self.server!r} is not called any more: the gateway is stopping")
        place = self._place(owner)
        if place.connection is not None and place.connection.live:
            return place.connection
        self._let_go(place)
        backoff = self._backoff(place)
        if backoff.waits(self._now()):
            raise ServerAway(backoff.words)
        if self._shared is None:
            scout = next((one for one in self._running if one.live), None)
            if scout is not None:
                return scout
        return self._begin(self._key(owner), place)

    def _try_again(self, owner: str, place: _Place) -> None:
        """Of a server that failed, without waiting for it."""
        if place.connection is not None and place.connection.live:
            return
        self._let_go(place)
        if not self._closed and place.backoff.failures and not place.backoff.waits(self._now()):
            with suppress(ServerAway):
                self._begin(self._key(owner), place)

    def _begin(self, key: str | None, place: _Place) -> Connection:
        """Raises ServerAway where there are too many that are busy, or the host does not run."""
        self._make_room()
        auth = self._auth(self.server, key) if self._auth is not None and key is not None else None
        connection = Connection(self.server, self.settings, key, self, auth)
        # It begins later than this; where it can't, nothing has happened.
        self._spawn(connection.run())
        place.connection = connection
        place.begun = place.used = self._now()
        place.ready_at = None
        self._running.add(connection)
        return connection

    def _make_room(self) -> None:
        live = [place for place in self._places.values() if place.connection is not None and place.connection.live]
        most = self.settings.max_connections
        if len(live) < most:
            return
        idle = [place for place in live if place.connection is not None and _idle(place.connection)]
        if not idle:
            raise ServerAway(f"all {most} connections to the MCP server {self.server!r} are in use")
        oldest = min(idle, key=lambda place: place.used).connection
        if oldest is not None:
            oldest.close("was idle, and others needed its place")

    def _key(self, owner: str) -> str | None:
        return None if self._shared else owner

    def _place(self, owner: str) -> _Place:
        key = self._key(owner)
        place = self._places.setdefault(key, _Place())
        self._places.move_to_end(key)
        return place

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    # ---- what connections tell

    def ready(self, connection: Connection) -> None:
        if self._shared is None:
            self._shared = connection.stateless
            if self._shared:
                self._share(connection)
        elif self._shared and self.settings.shared is None and not connection.stateless:
            # The server is another one than it was: from now on everybody has their own session.
            self._shared = False
            self._places.pop(None, None)
            connection.close("keeps sessions now, and so can't be shared")
            self._tell(None, ("tools", "resources", "prompts"))
            return
        place = self._of(connection)
        if place is not None:
            place.ready_at = self._now()
            self._scouting.words = place.backoff.words = ""
            place.listing = self._same(connection.listing)
            self._tell(connection.owner, ("tools", "resources", "prompts"))

    def ended(self, connection: Connection) -> None:
        self._running.discard(connection)
        place = self._of(connection)
        if place is not None:
            self._let_go(place)

    def _let_go(self, place: _Place) -> None:
        """Of a connection that is over, or about to be."""
        connection, place.connection = place.connection, None
        if connection is None:
            return
        lasted = self._now() - place.ready_at if place.ready_at is not None else 0.0
        ending = connection.ending
        if not ending.ours or (ending.session and place.ready_at is None):
            self._backoff(place).failed(self._now(), lasted, str(connection.away))
            self.errors = tuple(connection.facts.errors)
            _log.warning("mcp_connection_lost", server=self.server, reason=ending.words)
        # What readers keep of its resources, nobody will tell them to forget.
        self._tell(connection.owner, ("resources",))

    def _backoff(self, place: _Place) -> Backoff:
        """While it is not known whether to share, the failures of all are those of one."""
        return self._scouting if self._shared is None else place.backoff

    def changed(self, connection: Connection, kind: Change, uri: str | None) -> None:
        place = self._of(connection)
        if place is not None:
            place.listing = self._same(connection.listing)
            self._hook(self.server, connection.owner, kind, uri)

    def _share(self, connection: Connection) -> None:
        """Make the first connection everybody's."""
        place = self._places.pop(connection.owner, None)
        self._places.clear()
        if place is not None:
            self._places[None] = place
        connection.owner = None

    def _same(self, listing: Listing) -> Listing:
        """One object for what is listed in the same way for many."""
        return self._listings.setdefault(listing.digest(), listing)

    def _of(self, connection: Connection) -> _Place | None:
        place = self._places.get(connection.owner)
        return place if place is not None and place.connection is connection else None

    def _tell(self, owner: str | None, kinds: tuple[Change, ...]) -> None:
        for kind in kinds:
            self._hook(self.server, owner, kind, None)

    def __iter__(self) -> Iterator[tuple[str | None, Listing | None]]:
        """Owners and what is listed for them."""
        return iter([(key, place.listing) for key, place in self._places.items()])


def _known(settings: McpServerSettings) -> bool | None:
    if settings.shared is not None:
        return settings.shared
    return None if settings.url is not None and not settings.credentials else False


def _idle(connection: Connection) -> bool:
    return connection.state is State.READY and connection.live and connection.held == 0
