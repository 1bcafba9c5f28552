"""The port between the client and whatever carries its frames to a gateway: a WebSocket, or a pair of queues."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

__all__ = ["Channel", "Closed", "NotOpened", "Open"]


class Closed(Exception):
    """The channel is closed, from either side. `code` is the close code, None where there was none."""

    def __init__(self, code: int | None) -> None:
        super().__init__("closed" if code is None else f"closed with {code}")
        self.code = code


class NotOpened(Exception):
    """There is no channel. `status` is the HTTP status of a refused upgrade; None: the gateway was not reached.
    `final`: it never will be."""

    def __init__(self, reason: str, *, status: int | None = None, final: bool = False) -> None:
        super().__init__(reason)
        self.status = status
        self.final = final


class Channel(Protocol):
    """One connection to a gateway: whole text messages, UTF-8, in order, both ways. One task receives, one sends."""

    async def send(self, payload: bytes) -> None:
        """Waits while the gateway takes no more. Raises Closed; cancelled, the message was sent or was not."""
        ...

    async def receive(self) -> bytes:
        """The next message; what came before a close is received before it is told. Raises Closed; cancelled, it loses
        no message."""
        ...

    async def close(self, code: int = 1000) -> None:
        """Close it, and wait a moment for the other side. The second time nothing happens."""
        ...


Open = Callable[[], Awaitable[Channel]]
"""Opens a new channel. Raises NotOpened; cancelled, it leaves none behind."""
