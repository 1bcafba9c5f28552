"""The responses that follow a context: counted with the sockets, kept alive, and ended when the instance drains."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from gateway.auth.principal import Principal
from gateway.feed import Reader
from gateway.http.outlet import ResponseOutlet
from gateway.http.told import Told
from gateway.hub import Hub
from gateway.throttle import Connections
from gateway.transport.port import CLOSE_SECONDS
from gateway.wheel import Wheel
from protocol.codec import decode_server
from protocol.errors import ProtocolError
from protocol.frames import ContextChanged, Event, Snapshot
from protocol.ids import Cursor
from stores.records import ContextKey

__all__ = ["Following", "Streams"]

_STALLED_SECONDS = 300.0
_RETRY_SECONDS = 5.0


class Following:
    """One response's place in a context: `open`, then `read` until it answers None.

    `reason` says why it ended; None while it goes on, and where the client went away.
    """

    def __init__(self, hub: Hub, wheel: Wheel, heartbeat: float, expires_at: float | None) -> None:
        self._hub = hub
        self._wheel = wheel
        self._heartbeat = heartbeat
        self._outlet = ResponseOutlet()
        self._reader: Reader | None = None
        self._epoch = 0
        self._limit: asyncio.Timeout | None = None
        self._over = False
        self.reason: ProtocolError | None = None
        self._beat = wheel.after(heartbeat, self._look)
        self._expiry: Callable[[], None] | None = None
        if expires_at is not None:
            self._expiry = wheel.after(max(0.0, expires_at - time.time()), self._expired)

    async def open(self, key: ContextKey, cursor: Cursor | None) -> None:
        """Follow the context after `cursor`, with a snapshot first where it does not reach back to it. Raises NotFound,
        Unavailable."""
        start = await self._hub.follow(key, self._outlet, cursor)
        reader = self._reader = start.reader
        self._epoch = start.cursor.epoch
        self._outlet.on_drain(lambda: self._hub.pump(reader))
        if start.snapshot is not None:
            self._outlet.write_one(start.snapshot)
        self._hub.uncork(reader)

    async def read(self) -> list[Told] | None:
        """What came since; waits for it. Empty where it is time for a sign of life."""
        payloads = await self._outlet.take()
        if payloads is None:
            return None
        told = [self._told(data) for data in payloads]
        if self._deserted:
            self.end(ProtocolError("not_found", "the context was deleted"))
        return told

    def _told(self, data: bytes) -> Told:
        frame = decode_server(data)
        # Nothing but a snapshot leads from one epoch to another.
        if isinstance(frame, Snapshot):
            self._epoch = int(frame.epoch)
        assert isinstance(frame, Snapshot | Event)  # noqa: S101 - a reader is given nothing else
        if isinstance(frame, ContextChanged) and frame.deleted:
            self.end(ProtocolError("not_found", "the context was deleted"))
        return Told(frame, data, f"{self._epoch}:{frame.seq}")

    @property
    def turn_end(self) -> None:
        """A context has no end."""

    @property
    def caught_up(self) -> bool:
        """Whether everything was read that there is."""
        reader = self._reader
        return reader is not None and self._outlet.empty and reader.seq >= reader.feed.head

    @property
    def _deserted(self) -> bool:
        """Whether the context was deleted under a reader that was too far behind to be told."""
        return self._reader is not None and self._reader not in self._reader.feed.readers

    def end(self, reason: ProtocolError) -> None:
        """Read what is there, and then no more."""
        if not self._over:
            self._over = True
            self.reason = reason
            self._outlet.close(1000, "")
            if self._limit is not None and not self._limit.expired():
                self._limit.reschedule(asyncio.get_running_loop().time() + CLOSE_SECONDS)

    def hang_up(self) -> None:
        """The client is gone."""
        self._over = True
        self._outlet.drop()

    async def taken(self, sending: Awaitable[None]) -> None:
        """Wait until the client takes what it is sent. Raises TimeoutError where it does not for five minutes, as a
        socket would be closed, or for a moment after the end."""
        async with asyncio.timeout(CLOSE_SECONDS if self._over else _STALLED_SECONDS) as self._limit:
            try:
                await sending
            finally:
                self._limit = None

    def _look(self) -> None:
        self._outlet.nudge()
        self._beat = self._wheel.after(self._heartbeat, self._look)

    def _expired(self) -> None:
        self.end(ProtocolError("unauthenticated", "the credentials have expired"))

    async def close(self) -> None:
        """Follow no more, whether or not it did."""
        self._beat()
        if self._expiry is not None:
            self._expiry()
        self.hang_up()
        if self._reader is not None:
            await self._hub.unfollow(self._reader)


class Streams:
    """`connections` counts sockets and responses together; times are in seconds."""

    def __init__(self, hub: Hub, connections: Connections, wheel: Wheel, heartbeat: float) -> None:
        self._hub = hub
        self._connections = connections
        self._wheel = wheel
        self._heartbeat = heartbeat
        self._open: set[Following] = set()
        self._all_gone = asyncio.Event()
        self._draining = False

    def __len__(self) -> int:
        return len(self._open)

    @asynccontextmanager
    async def admit(self, principal: Principal) -> AsyncGenerator[Following]:
        """A place for one response, until it is left. Raises ProtocolError `unavailable` while the instance drains,
        `rate_limited` where the principal has too many."""
        if self._draining:
            raise ProtocolError("unavailable", "this instance is draining; try again", retry_after=_RETRY_SECONDS)
        if not self._connections.acquire(principal.owner):
            raise ProtocolError("rate_limited", "too many sockets and streams are open", retry_after=30)
        following = Following(self._hub, self._wheel, self._heartbeat, principal.expires_at)
        self._open.add(following)
        try:
            yield following
        finally:
            self._connections.release(principal.owner)
            self._open.discard(following)
            if not self._open:
                self._all_gone.set()
            await following.close()

    # ---- draining

    def goaway(self) -> None:
        """Accept nobody any more; what is open goes on, as the running turns do."""
        self._draining = True

    async def close(self, seconds: float) -> None:
        """End every response and wait so long for that."""
        self._draining = True
        self._all_gone.clear()
        for following in tuple(self._open):
            following.end(ProtocolError("unavailable", "the instance restarts", retry_after=1))
        if self._open:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._all_gone.wait()
