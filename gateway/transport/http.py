"""uvicorn's `http` protocol class, which lets a response abort its connection (gateway/transport/abort.py)."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.transport.abort import ABORT_EXTENSION

__all__ = ["HttpProtocol"]


class HttpProtocol(HttpToolsProtocol):
    """One connection. uvicorn closes one only once its client has taken all that was written."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._app = self.app
        self.app = self._run
        self._aborted = False
        self._lost = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._lost.set()

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"] = {**scope.get("extensions", {}), ABORT_EXTENSION: self._abort}
        await self._app(scope, receive, send)  # type: ignore[arg-type]
        if self._aborted:
            await self._lost.wait()  # or uvicorn would say that the response is not complete

    def _abort(self) -> None:
        self._aborted = True
        self.transport.abort()
