"""Clients without a socket: one that follows a context as Server-Sent Events, and one that posts a message and reads
its turn (docs/protocol.md, section 6)."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator

import httpx

from tests.torture.frames import DURABLE, Cursor, Frame
from tests.torture.world import Place, World

__all__ = ["Follower", "post_message"]

_TIMEOUT = httpx.Timeout(20, connect=10)
_BUSY = {429, 502, 503}


async def _events(response: httpx.Response) -> AsyncGenerator[tuple[Cursor, Frame]]:
    """The events of a response with their cursors, until it ends or is cut."""
    cursor: Cursor | None = None
    async for line in response.aiter_lines():
        name, _, value = line.partition(": ")
        if name == "id":
            cursor = Cursor.parse(value)
        elif name == "data":
            assert cursor is not None, "an event without an id"
            yield cursor, json.loads(value)


class Follower:
    """Follows one context over one response after the other, until it is cancelled."""

    def __init__(self, world: World, place: Place, name: str) -> None:
        self.name = name
        self.place = place
        self.transcript = world.transcript(place, name)
        self._world = world
        self._rng = world.rng(name)
        self._last: deque[str] = deque(maxlen=12)

    async def run(self) -> None:
        async with httpx.AsyncClient(headers=self.place.user.headers, timeout=_TIMEOUT, trust_env=False) as http:
            while True:
                try:
                    await self._follow(http)
                except httpx.HTTPError:
                    pass
                finally:
                    self.transcript.lost()
                self._world.counts["reconnects"] += 1
                await asyncio.sleep(self._rng.uniform(0.05, 0.6))

    async def _follow(self, http: httpx.AsyncClient) -> None:
        url = f"http://127.0.0.1:{self._world.port(self._rng)}/v1/contexts/{self.place.context_id}/stream"
        cursor = self.transcript.cursor
        headers = {"Last-Event-ID": str(cursor)} if cursor is not None else {}
        async with http.stream("GET", url, headers=headers) as response:
            if response.status_code != 200:
                if response.status_code not in _BUSY:
                    self._wrong("refused", f"{response.status_code}: {await response.aread()!r}")
                return
            self.transcript.resumed()
            async for at, frame in _events(response):
                self._take(at, frame)

    def _take(self, at: Cursor, frame: Frame) -> None:
        self._world.counts["frames"] += 1
        self._last.append(f"{at} {json.dumps(frame)}")
        if frame["type"] == "snapshot":
            self._world.counts["snapshots"] += 1
            found = self.transcript.snapshot(frame)
            for event in frame["events"]:
                self._world.observe(self.place, event)
        else:
            found = self.transcript.event(frame, at.epoch)
            self._world.observe(self.place, frame)
        if at.seq != frame["seq"]:
            self._wrong("cursor", f"the id {at} is not that of {frame['seq']}")
        self._world.problems(found, self.place, self.name, tuple(self._last))

    def _wrong(self, kind: str, words: str) -> None:
        self._world.violate(kind, self.place.name, self.name, words, tuple(self._last))


async def post_message(world: World, place: Place, who: str, frame: Frame) -> None:
    """Post a message until it is stored, and then until its turn was read to its end."""
    entry, rng = world.sent(place, frame), world.rng(frame["id"])
    last: Cursor | None = None
    async with httpx.AsyncClient(headers=place.user.headers, timeout=_TIMEOUT, trust_env=False) as http:
        while True:
            url = f"http://127.0.0.1:{world.port(rng)}/v1/contexts/{place.context_id}/messages"
            headers = {"Last-Event-ID": str(last)} if last is not None and rng.random() < 0.7 else {}
            entry.written += 1
            try:
                async with http.stream("POST", url, json=frame, headers=headers) as response:
                    if response.status_code != 200:
                        code = json.loads(await response.aread())["error"]["code"]
                        if response.status_code not in _BUSY:
                            _refused(world, place, who, frame["id"], code)
                            return
                    else:
                        world.journal.acknowledge(frame["id"])
                        async for at, event in _events(response):
                            last = at
                            world.counts["frames"] += 1
                            if _read(world, place, who, event):
                                return
            except (httpx.HTTPError, ValueError):
                pass
            await asyncio.sleep(rng.uniform(0.1, 0.8))


def _refused(world: World, place: Place, who: str, frame_id: str, code: str) -> None:
    world.refused(place, frame_id, code)
    if code != "busy":
        world.violate("refused", place.name, who, f"{frame_id} was refused as {code}")


def _read(world: World, place: Place, who: str, event: Frame) -> bool:
    """Whether the turn has been read to its end."""
    events = event["events"] if event["type"] == "snapshot" else [event]
    for one in events:
        if one["type"] in DURABLE:
            world.tell(place, one, who)
    # A message that was not to be answered is the one event of its response.
    return any(one["type"] == "turn_end" for one in events) or event.get("turn_id", "") is None
