"""What was received and not yet consumed, within bounds."""

from __future__ import annotations

import asyncio

from starlette.types import Message

__all__ = ["Inbox", "Signal"]

_MAX_MESSAGES = 64
_MAX_BYTES = 1024 * 1024


class Signal:
    """Wakes whoever waits. A waiter looks again at what it waits for, so that its cancellation loses nothing."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class Inbox:
    """ASGI messages in order, and then the one that ends them, as often as it is asked for.

    It does not refuse what goes beyond its bound of 64 messages or 1 MiB: who fills it stops reading when it is full.
    """

    __slots__ = ("_bytes", "_last", "_messages", "_news")

    def __init__(self) -> None:
        # A list, because an empty deque takes 760 bytes, and most sockets are idle.
        self._messages: list[tuple[Message, int]] = []
        self._bytes = 0
        self._last: Message | None = None
        self._news = Signal()

    @property
    def full(self) -> bool:
        return len(self._messages) >= _MAX_MESSAGES or self._bytes >= _MAX_BYTES

    @property
    def has_room(self) -> bool:
        """Enough has been consumed that reading on is worth its system call."""
        return len(self._messages) <= _MAX_MESSAGES // 2 and self._bytes <= _MAX_BYTES // 2

    def put(self, message: Message, size: int) -> None:
        """Add a message of so many bytes; after the end, nothing."""
        if self._last is None:
            self._messages.append((message, size))
            self._bytes += size
            self._news.wake()

    def end(self, message: Message, *, drop: bool) -> None:
        """Set the last message, the first time. `drop` forgets what was not consumed before it."""
        if self._last is None:
            self._last = message
        if drop:
            self._messages.clear()
            self._bytes = 0
        self._news.wake()

    async def take(self) -> Message:
        """The next message; waits for it."""
        while not self._messages:
            if self._last is not None:
                return self._last
            await self._news.wait()
        message, size = self._messages.pop(0)
        self._bytes -= size
        return message
