"""What a gateway answers that is mounted but not running."""

from __future__ import annotations

import structlog
from starlette.types import Receive, Scope, Send

from gateway.door import refuse_upgrade
from gateway.http.replies import refuse
from protocol.errors import ProtocolError

__all__ = ["Closed"]

_log = structlog.get_logger(__name__)
_RETRY_SECONDS = 5.0


class Closed:
    """An ASGI application that refuses everything as `unavailable`, and says once in the log what is missing."""

    def __init__(self) -> None:
        self._told = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._told:
            self._told = True
            _log.warning("the gateway is not running: the application's lifespan must enter gateway.running()")
        error = ProtocolError("unavailable", "the gateway is not running", retry_after=_RETRY_SECONDS)
        if scope["type"] == "websocket":
            await receive()  # websocket.connect
            await refuse_upgrade(scope, send, error)
        else:
            await refuse(error)(scope, receive, send)
