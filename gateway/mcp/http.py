"""A connection to an MCP server over Streamable HTTP.

The SDK's transport does the protocol; the HTTP client that it is given bounds it. A request that fails costs its own
call only, where the SDK would end the whole connection. Credentials go to the configured origin: the SDK follows no
redirect that leaves it, cookies are not kept, and bodies come as they are, so that their size can be seen.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx2
import msgspec
import structlog
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CONNECTION_CLOSED

from gateway.mcp.settings import McpServerSettings, shown_url
from gateway.mcp.transports import Ending, Facts, ServerAway, SessionOver, TransportStreams, sending

__all__ = ["http_transport"]

_log = structlog.stdlib.get_logger(__name__)

_SESSION: Final = "mcp-session-id"
_CONNECT: Final = 10.0
_WRITE: Final = 30.0
_POOL: Final = 30.0
_FAREWELL: Final = 2.0
_SOCKETS: Final = 200


@asynccontextmanager
async def http_transport(
    server: str, settings: McpServerSettings, auth: httpx2.Auth | None, ending: Ending, facts: Facts
) -> AsyncGenerator[TransportStreams]:
    client = _Client(
        server,
        ending,
        facts,
        transport=_Bounded(settings.max_message_bytes, facts),
        headers={**settings.headers, "Accept-Encoding": "identity"},
        auth=auth,
        # Answers take as long as tools run, and a stream of notices is silent for hours: calls have limits of their
        # own, and a peer that is gone is found by TCP.
        timeout=httpx2.Timeout(connect=_CONNECT, write=_WRITE, pool=_POOL, read=None),
    )
    longest = settings.max_message_bytes
    url = settings.url or ""
    async with client, streamable_http_client(url, http_client=client, max_sse_event_size=longest) as streams:
        yield streams


class _Client(httpx2.AsyncClient):
    """Answers in the server's place where it does not: the SDK passes on a JSON-RPC error to whoever waits for it."""

    def __init__(self, server: str, ending: Ending, facts: Facts, **options: Any) -> None:
        super().__init__(**options)
        self._server = server
        self._ending = ending
        self._facts = facts

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        if request.method == "DELETE":
            # The end of a session is said once, and not waited for.
            request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), _FAREWELL)
        try:
            response = await super().send(request, **options)
        except ServerAway as error:
            # What a principal's authentication says, which has its own words.
            if isinstance(error, SessionOver):
                self._session_over("was connected anew")
            return self._answer(request, str(error))
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            _log.info(
                "mcp_server_not_reached", server=self._server, url=shown_url(str(request.url)), why=type(error).__name__
            )
            self._ending.set("can't be reached")
            return self._answer(request, f"the MCP server {self._server!r} can't be reached")
        except (httpx2.RequestError, httpx2.StreamError) as error:
            _log.info(
                "mcp_request_failed", server=self._server, url=shown_url(str(request.url)), why=type(error).__name__
            )
            return self._answer(request, f"the MCP server {self._server!r} broke the connection")
        if _SESSION in response.headers:
            self._facts.stateful = True
        if response.status_code == 404 and _SESSION in request.headers:
            self._session_over("has ended the session")
        if response.status_code in (401, 403, 429) or response.status_code >= 500:
            return await self._refusal(request, response)
        if response.headers.get("content-type", "").startswith("application/json"):
            return await self._read(request, response)
        return response

    def _session_over(self, words: str) -> None:
        self._ending.set(words, ours=True, session=True)
        if (sent := sending.get()) is not None:
            sent.unseen = True

    async def _read(self, request: httpx2.Request, response: httpx2.Response) -> httpx2.Response:
        """The SDK reads it as a whole as well, but takes a fault for an answer that can't be understood."""
        try:
            await response.aread()
        except _TooLarge as error:
            return self._answer(request, f"the MCP server {self._server!r} {error}")
        except httpx2.StreamError:
            return self._answer(request, f"the MCP server {self._server!r} broke the connection")
        finally:
            if not response.is_closed:
                await response.aclose()
        return response

    async def _refusal(self, request: httpx2.Request, response: httpx2.Response) -> httpx2.Response:
        """A status that the SDK would not mention, unless the server says more in the protocol's own way."""
        if response.status_code >= 500 and "json" in response.headers.get("content-type", ""):
            return response
        await response.aclose()
        status = f"{response.status_code} {response.reason_phrase}".strip()
        _log.info("mcp_request_refused", server=self._server, url=shown_url(str(request.url)), status=status)
        return self._answer(request, f"the MCP server {self._server!r} answered {status}")

    def _answer(self, request: httpx2.Request, words: str) -> httpx2.Response:
        error = {"jsonrpc": "2.0", "id": None, "error": {"code": CONNECTION_CLOSED, "message": words}}
        body = msgspec.json.encode(error)
        return httpx2.Response(502, headers={"content-type": "application/json"}, content=body, request=request)


class _Bounded(httpx2.AsyncBaseTransport):
    """Passes on no body that is larger than a message may be. Of a stream of events the SDK bounds each event."""

    def __init__(self, longest: int, facts: Facts) -> None:
        self._longest = longest
        self._facts = facts
        options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
        for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, name):
                options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
        limits = httpx2.Limits(max_connections=_SOCKETS, max_keepalive_connections=20)
        self._inner = httpx2.AsyncHTTPTransport(limits=limits, socket_options=options)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._inner.handle_async_request(request)
        if response.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
            await response.aclose()
            raise httpx2.DecodingError("an encoding that was not asked for", request=request)
        for name in ("set-cookie", "set-cookie2"):
            response.headers.pop(name, None)
        bound = None if response.headers.get("content-type", "").startswith("text/event-stream") else self._longest
        response.stream = _Counted(response.stream, bound, self._facts)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class _TooLarge(httpx2.StreamError):
    pass


class _Counted(httpx2.AsyncByteStream):
    def __init__(self, stream: Any, longest: int | None, facts: Facts) -> None:
        self._stream = stream
        self._longest = longest
        self._facts = facts

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        try:
            async for chunk in self._stream:
                size += len(chunk)
                self._facts.received += len(chunk)
                if self._longest is not None and size > self._longest:
                    raise _TooLarge(f"sent a message of more than {self._longest:,} bytes")
                yield chunk
        except httpx2.TransportError as error:
            # The SDK takes this for an answer that can't be read; the other would end the connection.
            raise httpx2.StreamError("the connection broke") from error

    async def aclose(self) -> None:
        await self._stream.aclose()
