"""A client's request to become a WebSocket, until it is answered."""

from __future__ import annotations

import email.utils
import logging
from asyncio.transports import Transport
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.types import Scope
from uvicorn.config import Config
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from websockets.datastructures import Headers
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.http11 import Request, Response
from websockets.protocol import Protocol, Side, State
from websockets.server import ServerProtocol

__all__ = ["Upgrade", "UpgradeRefused", "refusal"]

# The library logs frames at DEBUG: their content must not be logged, whatever the level of the root logger.
_LOGGER = logging.getLogger("gateway.transport.wire")
_LOGGER.setLevel(logging.WARNING)

_DEFLATE = ServerPerMessageDeflateFactory(
    server_max_window_bits=12, client_max_window_bits=12, compress_settings={"memLevel": 5}
)

RawHeaders = Iterable[tuple[bytes, bytes]]


class UpgradeRefused(Exception):
    """The request is no valid WebSocket handshake. `response` is the HTTP response that says so."""

    def __init__(self, response: bytes) -> None:
        super().__init__("not a WebSocket handshake")
        self.response = response


class Upgrade:
    """It is dropped when it is answered, and the request's headers with it."""

    __slots__ = ("_handshake", "_max_size", "_request", "_response")

    def __init__(self, request: bytes, config: Config) -> None:
        """`request` is the whole head of an HTTP request. Raises UpgradeRefused."""
        self._max_size = config.ws_max_size
        self._handshake = ServerProtocol(
            extensions=[_DEFLATE] if config.ws_per_message_deflate else [], max_size=None, logger=_LOGGER
        )
        self._handshake.receive_data(request)
        events = self._handshake.events_received()
        if not events or not isinstance(events[0], Request):
            raise UpgradeRefused(b"".join(self._handshake.data_to_send()))
        self._request = events[0]
        self._response = self._handshake.accept(self._request)
        if self._response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            raise UpgradeRefused(self._response.serialize())

    def scope(self, config: Config, transport: Transport, state: dict[str, Any]) -> Scope:
        """The ASGI connection scope."""
        root_path = config.root_path
        path, _, query = self._request.path.partition("?")
        raw_path = path.encode("ascii", "surrogateescape")
        offered = self._request.headers.get_all("Sec-WebSocket-Protocol")
        return {
            "type": "websocket",
            "asgi": {"version": config.asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "wss" if is_ssl(transport) else "ws",
            "server": get_local_addr(transport),
            "client": get_remote_addr(transport),
            "root_path": root_path,
            "path": root_path + unquote_to_bytes(raw_path).decode(errors="replace"),
            "raw_path": root_path.encode() + raw_path,
            "query_string": query.encode("ascii", "surrogateescape"),
            "headers": [
                (name.lower().encode("ascii"), value.encode("ascii", "surrogateescape"))
                for name, value in self._request.headers.raw_items()
            ],
            "subprotocols": [name.strip() for value in offered for name in value.split(",")],
            "state": state,
            "extensions": {"websocket.http.response": {}},
        }

    def accept(self, headers: RawHeaders, subprotocol: str | None) -> tuple[bytes, Protocol]:
        """The response, and the protocol that goes on from here: a new one, because the handshake's holds on to the
        request."""
        response = self._response
        del response.headers["Date"]
        response.headers.update(_decoded(headers))
        if subprotocol is not None:
            response.headers["Sec-WebSocket-Protocol"] = subprotocol
        wire = Protocol(Side.SERVER, state=State.OPEN, max_size=self._max_size, logger=_LOGGER)
        wire.extensions = self._handshake.extensions
        return response.serialize(), wire


def refusal(status: int, headers: RawHeaders, body: bytes) -> bytes:
    """An HTTP response that ends the connection. Raises ValueError for a status that HTTP does not know."""
    fields = Headers(_decoded(headers))
    fields.setdefault("Date", email.utils.formatdate(usegmt=True))
    fields.setdefault("Content-Type", "text/plain; charset=utf-8")
    for name, value in (("Content-Length", str(len(body))), ("Connection", "close")):
        if name in fields:
            del fields[name]
        fields[name] = value
    return Response(status, HTTPStatus(status).phrase, fields, body).serialize()


def _decoded(headers: RawHeaders) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]
