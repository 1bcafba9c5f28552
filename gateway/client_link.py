"""The client's socket: connects, says hello, reads and writes, and connects again until it is told to stop."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import msgspec
import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from gateway.client_effects import Effect, IllegalTransition, Phase
from gateway.client_retry import Retry, Stop, Wait
from gateway.client_state import ClientState
from protocol.codec import decode_server, encode

__all__ = ["Credentials", "Link", "Tokens", "socket_url"]

Credentials = Callable[[], Awaitable[str]]

_log = structlog.get_logger(__name__)
_SUBPROTOCOL: Final = Subprotocol("tidegate.v1.json")
_MAX_FRAME: Final = 64 * 1024 * 1024
_HELLO_SECONDS: Final = 15.0
_CLOSE_SECONDS: Final = 2.0
_PROTOCOL_ERROR: Final = 1002


def socket_url(url: str) -> str:
    """The WebSocket's URL for a gateway's: `http` and `https` stand for `ws` and `wss`, the path ends in /v1/ws."""
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.hostname:
        raise ValueError(f"{url!r} is no http, https, ws or wss URL")
    path = parts.path if parts.path.endswith("/v1/ws") else parts.path.rstrip("/") + "/v1/ws"
    return urlunsplit((scheme, parts.netloc, path, parts.query, ""))


class Tokens:
    """The token to show: a fixed one, or what `credentials` gave last."""

    def __init__(self, token: str | None, credentials: Credentials | None) -> None:
        self._token = token
        self._credentials = credentials

    @property
    def renewable(self) -> bool:
        return self._credentials is not None

    async def get(self, *, renew: bool) -> str | None:
        """The token; a fresh one where there is none yet, or on `renew`. Raises what `credentials` raises."""
        if self._credentials is not None and (renew or self._token is None):
            self._token = await self._credentials()
        return self._token


class Link:
    """Runs `state` over one socket after another. `carry_out` is given the state's effects in order, `after_frame`
    is awaited before the next frame is read."""

    def __init__(
        self,
        url: str,
        state: ClientState,
        tokens: Tokens,
        retry: Retry,
        carry_out: Callable[[Effect], None],
        after_frame: Callable[[], Awaitable[None]],
        *,
        compression: str | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.failure: Exception | None = None
        self._url = socket_url(url)
        self._state = state
        self._tokens = tokens
        self._retry = retry
        self._carry_out = carry_out
        self._after_frame = after_frame
        self._compression = compression
        self._tls = tls
        self._renew = False
        self._work = asyncio.Event()

    def wake(self) -> None:
        """There may be something to write."""
        self._work.set()

    async def run(self) -> Stop:
        """Stay connected; why that is over."""
        while True:
            verdict = await self._connect()
            if isinstance(verdict, Stop):
                return verdict
            self._renew = self._renew or verdict.renew
            await asyncio.sleep(verdict.seconds)

    async def _connect(self) -> Wait | Stop:
        try:
            token = await self._tokens.get(renew=self._renew)
        except Exception as error:  # noqa: BLE001 - the boundary to the user's callback, which may fail as any network does
            _log.warning("no credentials", exc_info=True)
            self.failure = error
            return self._retry.failed()
        self._renew = False
        try:
            socket = await connect(
                self._url,
                subprotocols=[_SUBPROTOCOL],
                compression=self._compression,
                max_size=_MAX_FRAME,
                close_timeout=_CLOSE_SECONDS,
                ssl=(self._tls or True) if self._url.startswith("wss:") else None,
            )
        except InvalidStatus as error:
            self.failure = error
            return self._retry.refused(error.response.status_code)
        except (OSError, TimeoutError, WebSocketException) as error:
            self.failure = error
            return self._retry.failed()
        try:
            return await self._talk(socket, token)
        finally:
            await socket.close()

    async def _talk(self, socket: ClientConnection, token: str | None) -> Wait | Stop:
        state = self._state
        hello = encode(state.hello(token))
        self._work.set()
        try:
            async with asyncio.TaskGroup() as group:
                writer = group.create_task(self._write(socket, hello))
                try:
                    ended = await self._read(socket)
                finally:
                    writer.cancel()
        finally:
            state.lost()
        if isinstance(ended, Stop):
            return ended
        return self._retry.closed(socket.close_code, state.last_error, state.goaway, ended)

    async def _read(self, socket: ClientConnection) -> float | Stop:
        """Read until the socket is closed; for how many seconds the session was open."""
        loop = asyncio.get_running_loop()
        opened: float | None = None
        try:
            async with asyncio.timeout(_HELLO_SECONDS) as limit:
                while True:
                    frame = decode_server(await socket.recv(decode=False))
                    for effect in self._state.receive(frame):
                        self._carry_out(effect)
                    self._work.set()
                    if opened is None and self._state.phase is not Phase.OPENING:
                        opened = loop.time()
                        limit.reschedule(None)
                    await self._after_frame()
        except ConnectionClosed as error:
            self.failure = error
        except TimeoutError as error:
            self.failure = error
            return 0.0
        except (msgspec.DecodeError, ValueError, IllegalTransition) as error:
            # Without this frame nothing after it can be trusted, and it would come again.
            self.failure = error
            await socket.close(_PROTOCOL_ERROR)
            return Stop(_PROTOCOL_ERROR, f"the server does not speak this protocol: {error}")
        return 0.0 if opened is None else max(loop.time() - opened, 1e-9)

    async def _write(self, socket: ClientConnection, hello: bytes) -> None:
        try:
            await socket.send(hello, text=True)
            while True:
                while (frame := self._state.next_frame()) is not None:
                    await socket.send(encode(frame), text=True)
                self._work.clear()
                await self._work.wait()
        except ConnectionClosed:
            return  # the reader learns it too, and what was not acknowledged is written again
