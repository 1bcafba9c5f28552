"""What goes out on one connection, and whether it can take more."""

from __future__ import annotations

import asyncio
import socket
from asyncio.transports import Transport
from collections.abc import Sequence

from gateway.transport.inbox import Signal
from gateway.transport.port import HIGH_WATER, LOW_WATER

__all__ = ["Output"]

# What the kernel holds unsent is neither seen as unsent nor merged any more.
_KERNEL_UNSENT_BYTES = 128 * 1024


class Output:
    """The writing half of a transport. `flowing` is False between HIGH_WATER and LOW_WATER."""

    __slots__ = ("_loop", "_pong", "_transport", "_unsent_since", "drained", "flowing")

    def __init__(self, transport: Transport, loop: asyncio.AbstractEventLoop) -> None:
        transport.set_write_buffer_limits(high=HIGH_WATER, low=LOW_WATER)
        _limit_kernel_buffer(transport)
        self._transport = transport
        self._loop = loop
        self._unsent_since = 0.0
        self._pong: bytes | None = None
        self.flowing = True
        self.drained = Signal()

    def put(self, data: bytes) -> None:
        if not self._transport.get_write_buffer_size():
            self._unsent_since = self._loop.time()
        self._transport.write(data)

    def pong(self, pongs: Sequence[bytes]) -> None:
        """A peer that does not read gets a pong for its last ping only (RFC 6455, section 5.5.3): none pile up."""
        if self.flowing:
            self.put(b"".join(pongs))
        else:
            self._pong = pongs[-1]

    def late_pong(self) -> None:
        """Send the pong that had to wait, if there is one."""
        if self._pong is not None:
            pong, self._pong = self._pong, None
            self.put(pong)

    @property
    def unsent_since(self) -> float | None:
        return self._unsent_since if self._transport.get_write_buffer_size() else None

    def pause(self) -> None:
        self.flowing = False

    def resume(self) -> None:
        self.flowing = True
        self._unsent_since = self._loop.time()
        self.drained.wake()


def _limit_kernel_buffer(transport: Transport) -> None:
    connection: socket.socket | None = transport.get_extra_info("socket")
    if connection is None or not hasattr(socket, "TCP_NOTSENT_LOWAT"):
        return
    if connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _KERNEL_UNSENT_BYTES)
