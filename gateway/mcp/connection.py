"""One live connection to an MCP server, for everybody or for one principal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from enum import Enum
from importlib.metadata import version
from typing import Any, Final, Literal, Protocol, TypeVar, cast

import anyio
import httpx2
import mcp_types as types
import structlog
from mcp import Client
from mcp.client.session import IncomingMessage
from mcp.shared.dispatcher import ProgressFnT
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from msgspec.structs import replace
from pydantic import ValidationError

from gateway.mcp.descriptions import clean
from gateway.mcp.follow import Follower
from gateway.mcp.http import http_transport
from gateway.mcp.listing import KINDS, Kind, Listing, read_kind
from gateway.mcp.questions import Questions
from gateway.mcp.settings import McpServerSettings
from gateway.mcp.stdio import stdio_transport
from gateway.mcp.tool import Ask, leave_results_unchecked
from gateway.mcp.transports import (
    Ending,
    Facts,
    Sending,
    ServerAway,
    SessionOver,
    TransportStreams,
    WatchedAnswers,
    WatchedMessages,
    sending,
)

__all__ = ["Change", "Connection", "Observer", "State"]

_log = structlog.stdlib.get_logger(__name__)

Change = Literal["tools", "resources", "prompts", "resource"]

_T = TypeVar("_T")

# What a connection may take to leave: the session's last words, or the three steps in which a process is ended.
_LEAVE: Final = 6.0
# Lists are read again at most so often, however often a server says that they changed.
_RELIST: Final = 0.5
_TOLD: Final = 500
_INFO: Final = types.Implementation(name="tidegate", version=version("tidegate"))


class State(Enum):
    NEW = "new"
    CONNECTING = "connecting"
    READY = "ready"
    ENDING = "ending"
    ENDED = "ended"


_NEXT: Final[dict[State, frozenset[State]]] = {
    State.NEW: frozenset({State.CONNECTING, State.ENDED}),
    State.CONNECTING: frozenset({State.READY, State.ENDED}),
    State.READY: frozenset({State.ENDING}),
    State.ENDING: frozenset({State.ENDED}),
    State.ENDED: frozenset(),
}


class Observer(Protocol):
    """Who is told what becomes of a connection; synchronously, from its task."""

    def ready(self, connection: Connection) -> None:
        """It can be used from now on, and is listed. It may be closed here, before anybody does."""
        ...

    def ended(self, connection: Connection) -> None:
        """It is over, or never came to be; `ending` says why."""
        ...

    def changed(self, connection: Connection, kind: Change, uri: str | None) -> None:
        """A list was read again, or a resource of that URI is not what it was."""
        ...


class Connection:
    """`owner` is whose it is (None: everybody's). It is made once and not again; gateway/mcp/pool.py has the next.

    `run` is the task in which the SDK's client is entered and left. All else may be called from any task of its loop.
    """

    def __init__(
        self,
        server: str,
        settings: McpServerSettings,
        owner: str | None,
        observer: Observer,
        auth: httpx2.Auth | None = None,
    ) -> None:
        self.server = server
        self.owner = owner
        self.state = State.NEW
        self.listing = Listing()
        self.held = 0
        self.ending = Ending()
        self.settled = asyncio.Event()
        """Set when it is ready, or will not be."""
        self.facts = Facts()
        self._scope = anyio.CancelScope()
        self._settings = settings
        self._observer = observer
        self._auth = auth
        self._questions = Questions()
        self._subject = f"the MCP server {server!r} "
        self._stale: set[Kind] = set()
        self._listing_due = asyncio.Event()
        self._client: Client | None = None
        self._follower: Follower | None = None

    # ---- what it is

    @property
    def version(self) -> str | None:
        """The protocol's that is spoken; None before that is agreed on."""
        return self.facts.version

    @property
    def modern(self) -> bool:
        return self.facts.version in MODERN_PROTOCOL_VERSIONS

    @property
    def stateless(self) -> bool:
        """Whether the server can't tell this connection from another one of ours."""
        return self._settings.url is not None and not self.facts.stateful

    @property
    def live(self) -> bool:
        """Whether it takes, or will take, requests."""
        return self.state in (State.NEW, State.CONNECTING, State.READY) and self.ending.words is None

    @property
    def away(self) -> ServerAway:
        """Why it can't be used."""
        return ServerAway(f"{self._subject}{self.ending.words or 'is not connected'}")

    # ---- its life

    async def run(self) -> None:
        """Connect, serve until the server goes or `close` is called, and leave. Raises nothing but CancelledError."""
        self._go(State.CONNECTING)
        scope = self._scope
        scope.deadline = anyio.current_time() + self._settings.start_seconds
        try:
            with scope:
                if self.ending.words is None:
                    await self._serve()
        except ServerAway as error:
            self.ending.set(self._why(error))
        # The boundary to the SDK, whose tasks raise whatever a server provokes, in groups.
        except Exception as error:  # noqa: BLE001
            if self.ending.words is None:
                _log.info("mcp_connection_failed", server=self.server, exc_info=error)
            self.ending.set(self._why(error))
        finally:
            if self.state is State.CONNECTING and scope.cancelled_caught:
                self.ending.set(f"did not start within {self._settings.start_seconds:g} s")
            self.ending.set("was left", ours=True)
            self._client = None
            if self.state is State.READY:
                self._go(State.ENDING)
            self._go(State.ENDED)
            self._observer.ended(self)
            self.settled.set()

    async def _serve(self) -> None:
        async with (
            Client(
                self._transport(),
                client_info=_INFO,
                elicitation_callback=self._questions.answer,
                message_handler=self._hear,
                # What is kept is kept here and by readers of resources, each principal's apart.
                cache=None,
            ) as client,
            anyio.create_task_group() as group,
        ):
            leave_results_unchecked(client.session)
            self.facts.version = client.protocol_version
            await self._read_all(client)
            self._client = client
            self._follower = Follower(client, self.server, self._mark, self._updated)
            group.start_soon(self._follower.run)
            group.start_soon(self._keep_listing, client)
            if self.ending.words is None:
                self._scope.deadline = float("inf")
                self._go(State.READY)
                self._observer.ready(self)
                self.settled.set()
                await self.ending.wait()
                self._go(State.ENDING)
            self._scope.deadline = anyio.current_time() + _LEAVE
            group.cancel_scope.cancel()

    @asynccontextmanager
    async def _transport(self) -> AsyncGenerator[TransportStreams]:
        opened: AbstractAsyncContextManager[TransportStreams]
        if self._settings.url is not None:
            opened = http_transport(self.server, self._settings, self._auth, self.ending, self.facts)
        else:
            opened = stdio_transport(self.server, self._settings, self.ending, self.facts)
        async with opened as (incoming, outgoing):
            yield WatchedMessages(incoming, self.ending, self.facts), WatchedAnswers(outgoing, self.ending)

    def close(self, words: str) -> None:
        """Let it end; `run` ends when that is done."""
        self.ending.set(words, ours=True)
        if self.state is State.CONNECTING:
            self._scope.cancel()

    def _go(self, state: State) -> None:
        if state not in _NEXT[self.state]:
            raise RuntimeError(f"a connection that is {self.state.value} can't be {state.value}")
        self.state = state

    # ---- what it does

    async def call(
        self, tool: str, arguments: dict[str, Any], *, owner: str, progress: ProgressFnT, ask: Ask
    ) -> types.CallToolResult:
        """Call a tool for `owner` by the server's name for it. Cancelled, it tells the server so; it has no limit of
        its own.

        Raises ServerAway (SessionOver where the server has not looked at it), and what `failure` has words for
        (gateway/mcp/results.py)."""

        async def send(client: Client) -> types.CallToolResult:
            async with self._questions.during(ask, owner):
                return await client.call_tool(tool, arguments, progress_callback=progress)

        return await self._request(send)

    async def read(self, uri: str) -> types.ReadResourceResult:
        """Read a resource, and hear from now on when it changes. Raises as `call` does."""

        async def send(client: Client) -> types.ReadResourceResult:
            async with self._questions.during(None):
                return await client.read_resource(uri)

        result = await self._request(send)
        if self._follower is not None:
            self._follower.follow(uri)
        return result

    async def prompt(self, name: str, arguments: dict[str, str]) -> types.GetPromptResult:
        """Raises as `call` does."""

        async def send(client: Client) -> types.GetPromptResult:
            async with self._questions.during(None):
                return await client.get_prompt(name, arguments)

        return await self._request(send)

    async def _request(self, send: Callable[[Client], Awaitable[_T]]) -> _T:
        client = self._client
        if client is None or self.state is not State.READY:
            raise self.away
        sent = Sending()
        token = sending.set(sent)
        try:
            return await send(client)
        except (MCPError, RuntimeError, anyio.ClosedResourceError, anyio.BrokenResourceError) as error:
            # Of what else was on its way the server may have done a part.
            if self.ending.session and sent.unseen:
                raise SessionOver(str(self.away)) from error
            if self.ending.words is not None:
                raise self.away from error
            if isinstance(error, anyio.ClosedResourceError | anyio.BrokenResourceError):
                raise ServerAway(f"{self._subject}closed the connection") from error
            if isinstance(error, MCPError) and error.message.startswith(self._subject):
                # Said by our HTTP client in the server's place.
                raise ServerAway(error.message) from error
            raise
        finally:
            sending.reset(token)

    # ---- what there is at the server

    async def _read_all(self, client: Client) -> None:
        """Every list. Without its tools a server is of no use; of the others it may fail to tell."""
        self.listing = await self._read_kind(client, self.listing, "tools")
        capabilities = client.server_capabilities
        wanted: list[Kind] = []
        if capabilities.resources is not None:
            wanted.extend(("resources", "templates"))
        if capabilities.prompts is not None:
            wanted.append("prompts")
        for kind in wanted:
            await self._try_kind(client, kind)

    async def _try_kind(self, client: Client, kind: Kind) -> bool:
        try:
            self.listing = await self._read_kind(client, self.listing, kind)
        except (MCPError, ValidationError, TimeoutError) as error:
            _log.warning("mcp_list_not_read", server=self.server, kind=kind, why=type(error).__name__)
            return False
        return True

    async def _read_kind(self, client: Client, listing: Listing, kind: Kind) -> Listing:
        most = self.facts.received + 4 * self._settings.max_message_bytes
        if kind == "tools":
            self.facts.dropped.clear()
        found = await read_kind(client, self.server, listing, kind, lambda: self.facts.received > most)
        return replace(found, dropped=dict(self.facts.dropped))

    async def _keep_listing(self, client: Client) -> None:
        while True:
            await self._listing_due.wait()
            self._listing_due.clear()
            stale, self._stale = self._stale, set[Kind]()
            for kind in sorted(stale, key=KINDS.index):
                if await self._try_kind(client, kind):
                    self._observer.changed(self, "resources" if kind == "templates" else kind, None)
            await asyncio.sleep(_RELIST)

    def _mark(self, kind: Kind) -> None:
        self._stale.add(kind)
        self._listing_due.set()

    def _updated(self, uri: str) -> None:
        self._observer.changed(self, "resource", uri)

    async def _hear(self, message: IncomingMessage) -> None:
        if self._follower is not None and not isinstance(message, Exception):
            self._follower.notice(message)

    def _why(self, error: BaseException) -> str:
        """As far as that is known; the rest is in the log."""
        while isinstance(error, BaseExceptionGroup):
            error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
        if isinstance(error, ServerAway) or (isinstance(error, MCPError) and error.code == types.CONNECTION_CLOSED):
            return str(error).removeprefix(self._subject)
        if isinstance(error, MCPError):
            return f"refused the connection: {clean(error.message, _TOLD)}"
        if isinstance(error, ValidationError):
            return "answered with something that is not MCP"
        if isinstance(error, TimeoutError):
            return "did not list its tools in time"
        return "could not be connected to"
