from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.transport.port import Frames
from gateway.vigil import Vigil
from gateway.wheel import Wheel

HEARTBEAT, HELLO = 20, 10


class Socket:
    """A fake outlet whose signs of life the test sets, in seconds ago."""

    writable = True

    def __init__(self) -> None:
        self.pings = 0
        self.seen_ago = 0.0
        self.unsent_ago: float | None = None

    @property
    def last_seen(self) -> float:
        return asyncio.get_running_loop().time() - self.seen_ago

    @property
    def unsent_since(self) -> float | None:
        return None if self.unsent_ago is None else asyncio.get_running_loop().time() - self.unsent_ago

    def ping(self) -> None:
        self.pings += 1

    def write(self, frames: Frames) -> None: ...

    def write_one(self, payload: bytes) -> None: ...

    def on_drain(self, callback: Callable[[], None]) -> None: ...

    def close(self, code: int, reason: str) -> None: ...


class Watched:
    def __init__(self) -> None:
        self.socket = Socket()
        self.closed: list[int] = []
        self.warned = 0
        self._wheel = Wheel()
        self.vigil = Vigil(self._wheel, self.socket, HEARTBEAT, HELLO, self.closed.append)

    def warn(self) -> None:
        self.warned += 1

    def seconds(self, count: int) -> None:
        for _ in range(count):
            self._wheel.turn()


async def test_no_hello_in_time_closes() -> None:
    watched = Watched()
    watched.seconds(HELLO)
    assert watched.closed == []
    watched.seconds(1)
    assert watched.closed == [4408]


async def test_after_hello_it_asks_for_signs_of_life() -> None:
    watched = Watched()
    watched.vigil.welcome()
    watched.vigil.welcome()
    watched.seconds(3 * (HEARTBEAT + 1))
    assert (watched.closed, watched.socket.pings) == ([], 3)


async def test_silence_closes_once_and_is_not_asked_again() -> None:
    watched = Watched()
    watched.vigil.welcome()
    watched.socket.seen_ago = 2.1 * HEARTBEAT
    watched.seconds(HEARTBEAT + 1)
    assert (watched.closed, watched.socket.pings) == ([], 1)
    watched.socket.seen_ago = 2.3 * HEARTBEAT
    watched.seconds(5 * HEARTBEAT)
    assert (watched.closed, watched.socket.pings) == ([4408], 1)


async def test_a_socket_that_is_written_to_is_slow_for_five_minutes_before_it_is_dead() -> None:
    watched = Watched()
    watched.vigil.welcome()
    watched.socket.seen_ago = 1000.0
    watched.socket.unsent_ago = 299.0
    watched.seconds(HEARTBEAT + 1)
    assert watched.closed == []
    watched.socket.unsent_ago = 301.0
    watched.seconds(HEARTBEAT + 1)
    assert watched.closed == [4408]


async def test_credentials_that_end_are_warned_of_a_minute_before() -> None:
    watched = Watched()
    watched.vigil.welcome()
    watched.vigil.expire(100, watched.warn)
    watched.seconds(40)
    assert (watched.warned, watched.closed) == (0, [])
    watched.seconds(1)
    assert (watched.warned, watched.closed) == (1, [])
    watched.seconds(59)
    assert watched.closed == []
    watched.seconds(1)
    assert (watched.warned, watched.closed) == (1, [4401])


async def test_credentials_that_end_within_the_minute_are_warned_of_at_once() -> None:
    watched = Watched()
    watched.vigil.welcome()
    watched.vigil.expire(3, watched.warn)
    watched.seconds(1)
    assert watched.warned == 1
    watched.seconds(3)
    assert watched.closed == [4401]


async def test_renewed_credentials_end_no_more() -> None:
    watched = Watched()
    watched.vigil.welcome()
    watched.vigil.expire(100, watched.warn)
    watched.vigil.renew()
    watched.seconds(200)
    assert (watched.warned, watched.closed) == (0, [])


async def test_an_ended_vigil_does_nothing() -> None:
    watched = Watched()
    watched.vigil.expire(15, watched.warn)
    watched.vigil.end()
    watched.seconds(200)
    assert (watched.warned, watched.closed, watched.socket.pings) == (0, [], 0)
