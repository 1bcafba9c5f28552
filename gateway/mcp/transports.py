"""What carries the messages of one connection to an MCP server, and why it is over.

The SDK's transports are not used as they are: they read lines and bodies of any length, log what a server says, and
tell nobody when it is gone. Of HTTP the SDK's is wrapped (gateway/mcp/http.py), that of processes is ours
(gateway/mcp/stdio.py).
"""

from __future__ import annotations

import asyncio
import contextvars
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Final, Protocol, Self, cast

import mcp_types as types
from mcp.client._transport import ReadStream, TransportStreams
from mcp.shared._stream_protocols import WriteStream
from mcp.shared.message import SessionMessage
from mcp_types import methods
from msgspec import Struct, field
from pydantic import ValidationError

from gateway.tools.port import ToolError

__all__ = [
    "Ending",
    "Facts",
    "Messages",
    "Sending",
    "ServerAway",
    "SessionOver",
    "Transport",
    "TransportStreams",
    "WatchedAnswers",
    "WatchedMessages",
    "sending",
]

Messages = ReadStream[SessionMessage | Exception]

_LISTED: Final = 20
# Values of a message. What is wrong with each of them costs a hundred times as much memory as the value.
_VALUES: Final = 300_000
_FAULTS: Final = 100
_TOOLS: Final = 2_000
# Answers to a server's own requests that wait for it to read them.
_UNREAD: Final = 200


class ServerAway(ToolError):
    """There is no connection to a server, or none any more; in words for the model and the user."""


class SessionOver(ServerAway):
    """The server knows the session no more, and so has not looked at the request: it may be sent again in another."""


class Sending:
    """One request of ours on its way. `unseen`: it was turned away for its session, before anybody looked at it."""

    def __init__(self) -> None:
        self.unseen = False


sending: Final[contextvars.ContextVar[Sending | None]] = contextvars.ContextVar("mcp_sending", default=None)
"""That of the task which waits for the answer: the SDK sends it in the context of that task."""


class Ending:
    """Why a connection is over; the first reason counts. `ours` says that nothing is wrong with the server."""

    def __init__(self) -> None:
        self.words: str | None = None
        self.ours = False
        self.session = False
        self._event = asyncio.Event()

    def set(self, words: str, *, ours: bool = False, session: bool = False) -> None:
        """`words` continue a sentence whose subject is the server. `session`: only the session is over."""
        if self.words is None:
            self.words, self.ours, self.session = words, ours, session
            self._event.set()

    async def wait(self) -> None:
        await self._event.wait()


class Facts(Struct):
    """What a transport learns on its way. `stateful`: the server keeps a session for this connection. `received` are
    bytes. `version` is the
    protocol's, once it is agreed on. `dropped` are tools that the SDK would have refused the whole list for, with the
    reasons. `errors` are the last lines that a process wrote to standard error, without the settings' secrets."""

    stateful: bool = False
    received: int = 0
    version: str | None = None
    dropped: dict[str, str] = field(default_factory=dict[str, str])
    errors: list[str] = field(default_factory=list[str])


class Transport(AbstractAsyncContextManager[TransportStreams], Protocol):
    """Entered and left once, in one task. Raises ServerAway where the server can't be reached."""


class WatchedAnswers:
    """The stream to a server. One that asks and asks, and does not read the answers, ends the connection."""

    def __init__(self, stream: WriteStream[SessionMessage], ending: Ending) -> None:
        self._stream = stream
        self._ending = ending
        self._waiting = 0

    async def send(self, item: SessionMessage, /) -> None:
        if not isinstance(item.message, types.JSONRPCResponse | types.JSONRPCError):
            await self._stream.send(item)
            return
        self._waiting += 1
        if self._waiting > _UNREAD:
            self._ending.set("does not read the answers to what it asks")
        try:
            await self._stream.send(item)
        finally:
            self._waiting -= 1

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> bool | None:
        return await self._stream.__aexit__(exc_type, exc_val, exc_tb)


class WatchedMessages:
    """The stream of a server's messages, with three changes: its end is the connection's, a message of too many values
    is none, and a list of tools comes without those that are none, for which the SDK would refuse the whole list."""

    def __init__(self, stream: Messages, ending: Ending, facts: Facts) -> None:
        self._stream = stream
        self._ending = ending
        self._facts = facts

    @property
    def last_context(self) -> contextvars.Context | None:
        """The SDK runs what answers a message in the context of whoever was waiting for it."""
        return getattr(self._stream, "last_context", None)

    async def receive(self) -> SessionMessage | Exception:
        return self._seen(await self._stream.receive())

    async def aclose(self) -> None:
        await self._stream.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return self._seen(await self._stream.__anext__())
        except StopAsyncIteration:
            self._ending.set("closed the connection")
            raise

    async def __aenter__(self) -> Self:
        await self._stream.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> bool | None:
        return await self._stream.__aexit__(exc_type, exc_val, exc_tb)

    def _seen(self, item: SessionMessage | Exception) -> SessionMessage | Exception:
        if not isinstance(item, SessionMessage):
            return item
        message = item.message
        if isinstance(message, types.JSONRPCResponse):
            result = message.result
            if not _is_moderate(result):
                error = types.ErrorData(code=types.INTERNAL_ERROR, message=f"an answer of more than {_VALUES:,} values")
                return SessionMessage(types.JSONRPCError(jsonrpc="2.0", id=message.id, error=error))
            # No other result has such a list at its top.
            if isinstance(result.get("tools"), list) and self._facts.version is not None:
                result["tools"] = self._tools(result, self._facts.version)
        elif not isinstance(message, types.JSONRPCError) and not _is_moderate(message.params):
            return ValueError("a message of too many values")
        return item

    def _tools(self, result: dict[str, Any], version: str) -> list[Any]:
        tools: list[Any] = result["tools"][:_TOOLS]
        if _fault({**result, "tools": tools}, version) is None:
            return tools
        kept: list[Any] = []
        for tool in tools:
            fault = _fault({**result, "tools": [tool]}, version)
            if fault is None:
                kept.append(tool)
            elif len(self._facts.dropped) < _LISTED:
                name = str(cast("dict[str, Any]", tool).get("name")) if isinstance(tool, dict) else "?"
                self._facts.dropped[name[:64]] = fault
        # A fault that is not a tool's is left for the SDK to find.
        return kept or tools


def _is_moderate(message: Any) -> bool:
    """Whether it has no more than so many values."""
    values = 0
    waiting = [message]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            value = list(cast("dict[str, Any]", value).values())
        if isinstance(value, list):
            values += len(cast("list[Any]", value))
            if values > _VALUES:
                return False
            waiting += [one for one in cast("list[Any]", value) if isinstance(one, dict | list)]
    return True


def _fault(result: dict[str, Any], version: str) -> str | None:
    """What the SDK would refuse the list for."""
    try:
        methods.validate_server_result("tools/list", version, result)
        types.ListToolsResult.model_validate(result, by_name=False)
    except ValidationError as error:
        if error.error_count() > _FAULTS:
            return "hardly anything of it is as it should be"
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(step) for step in first["loc"] if step not in ("tools", 0))
        return f"{place}: {first['msg'].lower()}"
    except KeyError:
        return None
    return None
