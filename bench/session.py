"""A session of the wire protocol over a client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from bench.client import Client, Closed, Frame, Target, dial

__all__ = ["Session", "open_session"]


class Session:
    """A connection after `ready`. `on_event` gets every frame from then on, with its time of arrival.

    `dialled`, `connected` and `ready` are times of `time.perf_counter`, in seconds; `greeting` is the frame `ready`."""

    def __init__(self, on_event: Callable[[Frame, float], None]) -> None:
        self.client: Client
        self.dialled = self.connected = self.ready = 0.0
        self.greeting: Frame
        self.on_event = on_event
        self._answer: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()

    def hear(self, frame: Frame, now: float) -> None:
        if self._answer.done():
            self.on_event(frame, now)
        else:
            self.ready = now
            self._answer.set_result(frame)

    async def hello(self, token: str | None, fields: Mapping[str, object]) -> None:
        self.client.send(type="hello", token=token, client={"name": "tidegate-bench", "version": "1"}, **fields)
        await asyncio.wait((self._answer, self.client.closed), return_when=asyncio.FIRST_COMPLETED)
        if not self._answer.done():
            raise Closed(f"closed with {self.client.closed.result()} in place of ready")
        answer = self._answer.result()
        if answer.type != "ready":
            raise Closed(f"{answer.code or answer.type} in place of ready: {answer.message}")
        self.greeting = answer


async def open_session(
    target: Target, on_event: Callable[[Frame, float], None] | None = None, **fields: object
) -> Session:
    """Connect and say hello, with these fields of it too. Raises Closed or OSError."""
    session = Session(on_event or _ignore)
    session.dialled = time.perf_counter()
    session.client = await dial(target, session.hear)
    session.connected = time.perf_counter()
    try:
        await session.hello(target.token, fields)
    except BaseException:
        session.client.abort()
        raise
    return session


def _ignore(frame: Frame, now: float) -> None:
    """Nobody listens yet."""
