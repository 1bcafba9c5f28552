"""The port between the gateway and whatever carries its frames to one client."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Protocol

__all__ = ["CLOSE_SECONDS", "HIGH_WATER", "LOW_WATER", "OUTLET_EXTENSION", "Frames", "Outlet", "text_frame"]

OUTLET_EXTENSION = "tidegate.socket"
"""The key of a connection's `Outlet` in the `extensions` of its ASGI scope."""

HIGH_WATER = 64 * 1024
"""Unsent bytes beyond which an outlet is not writable."""

LOW_WATER = 16 * 1024
"""Unsent bytes at which it is writable again."""

CLOSE_SECONDS = 5.0
"""How long a closing handshake, with the output before it, may take."""

_FIN_TEXT = 0x81


def text_frame(payload: bytes) -> bytes:
    """The unmasked WebSocket frame of one whole text message (RFC 6455, section 5.2)."""
    length = len(payload)
    if length < 126:
        return bytes((_FIN_TEXT, length)) + payload
    if length < 65536:
        return struct.pack("!BBH", _FIN_TEXT, 126, length) + payload
    return struct.pack("!BBQ", _FIN_TEXT, 127, length) + payload


class Frames:
    """Text messages in order, UTF-8, that go to any number of sockets."""

    __slots__ = ("_wire", "payloads")

    def __init__(self, payloads: Sequence[bytes]) -> None:
        self.payloads = payloads
        self._wire: bytes | None = None

    @property
    def wire(self) -> bytes:
        """The WebSocket bytes of all of them, built at the first use and shared by all sockets."""
        if self._wire is None:
            self._wire = b"".join(map(text_frame, self.payloads))
        return self._wire


class Outlet(Protocol):
    """Where a connection's frames go. Nothing here blocks or raises; on a socket that is not open nothing happens.

    Frames leave in the order of the calls. What is written while `writable` is False is kept all the same, so the
    writer bounds its output by looking at `writable`. Times are those of the event loop, in seconds.
    """

    def write(self, frames: Frames) -> None:
        """Send all frames."""
        ...

    def write_one(self, payload: bytes) -> None:
        """Send one text message that goes to this socket only."""
        ...

    @property
    def writable(self) -> bool:
        """False from HIGH_WATER unsent bytes until they are down to LOW_WATER, and once the socket is not open."""
        ...

    def on_drain(self, callback: Callable[[], None]) -> None:
        """Set what is called each time the socket becomes writable again, and when the connection is lost, so that
        nobody waits for a peer that is gone. It replaces the one before."""
        ...

    def close(self, code: int, reason: str) -> None:
        """Close with a code that may be sent (RFC 6455, section 7.4), after what was written. `receive` then answers
        with `websocket.disconnect` at once; the connection is cut when the peer takes longer than CLOSE_SECONDS."""
        ...

    def ping(self) -> None:
        """Ask for a sign of life. It queues behind what is unsent."""
        ...

    @property
    def last_seen(self) -> float:
        """When the last byte was received."""
        ...

    @property
    def unsent_since(self) -> float | None:
        """Since when output has been unsent, without a break or progress; None if the network has everything."""
        ...
