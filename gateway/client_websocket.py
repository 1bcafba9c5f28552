"""The client's channel over a WebSocket."""

from __future__ import annotations

import ssl
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.typing import Subprotocol

from gateway.client_port import Channel, Closed, NotOpened, Open

__all__ = ["over_websocket", "socket_url"]

_SUBPROTOCOL: Final = Subprotocol("tidegate.v1.json")
_MAX_FRAME: Final = 64 * 1024 * 1024
_CLOSE_SECONDS: Final = 2.0


def socket_url(url: str) -> str:
    """The WebSocket's URL for a gateway's: `http` and `https` stand for `ws` and `wss`, the path ends in /v1/ws."""
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.hostname:
        raise ValueError(f"{url!r} is no http, https, ws or wss URL")
    path = parts.path if parts.path.endswith("/v1/ws") else parts.path.rstrip("/") + "/v1/ws"
    return urlunsplit((scheme, parts.netloc, path, parts.query, ""))


def over_websocket(url: str, *, compression: str | None = None, tls: ssl.SSLContext | None = None) -> Open:
    """Opens WebSockets to the gateway at `url`. Raises ValueError for a URL that is none."""
    target = socket_url(url)

    async def open_socket() -> Channel:
        try:
            socket = await connect(
                target,
                subprotocols=[_SUBPROTOCOL],
                compression=compression,
                max_size=_MAX_FRAME,
                close_timeout=_CLOSE_SECONDS,
                ssl=(tls or True) if target.startswith("wss:") else None,
            )
        except InvalidStatus as error:
            raise NotOpened("the upgrade was refused", status=error.response.status_code) from error
        except (OSError, TimeoutError, WebSocketException) as error:
            raise NotOpened("the gateway was not reached") from error
        return _WebSocket(socket)

    return open_socket


class _WebSocket:
    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    async def send(self, payload: bytes) -> None:
        try:
            await self._socket.send(payload, text=True)
        except ConnectionClosed as error:
            raise Closed(self._socket.close_code) from error

    async def receive(self) -> bytes:
        try:
            return await self._socket.recv(decode=False)
        except ConnectionClosed as error:
            raise Closed(self._socket.close_code) from error

    async def close(self, code: int = 1000) -> None:
        await self._socket.close(code)
