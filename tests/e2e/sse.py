"""A reader of Server-Sent Events that knows nothing of us: what an EventSource, or a fetch, does with a response."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx

from tests.e2e.wire import Frame

__all__ = ["Sse", "SseEvent", "following", "http_client", "posting", "raw_request"]


class SseEvent(NamedTuple):
    id: str | None
    type: str
    data: str

    @property
    def frame(self) -> Frame:
        return json.loads(self.data)


class Sse:
    """One response. `events` and `comments` are all that came, `last_id` what a reconnect would send."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.events: list[SseEvent] = []
        self.comments: list[str] = []
        self.last_id: str | None = None
        self.cut = False
        self.ended = False
        self._lines = response.aiter_lines()
        self._block: dict[str, str] = {}

    @property
    def frames(self) -> list[Frame]:
        return [event.frame for event in self.events]

    async def _more(self) -> bool:
        """Read one line; False at the end, which a cut is too."""
        try:
            line = await anext(self._lines)
        except StopAsyncIteration:
            self.ended = True
            return False
        except httpx.TransportError:
            self.cut = self.ended = True
            return False
        if line.startswith(":"):
            self.comments.append(line[1:].strip())
        elif line:
            name, _, value = line.partition(": ")
            self._block[name] = value
        elif "data" in self._block:
            self.last_id = self._block.get("id", self.last_id)
            self.events.append(SseEvent(self.last_id, self._block.get("event", "message"), self._block["data"]))
            self._block = {}
        return True

    async def wait(self, wanted: Callable[[Frame], bool], seconds: float = 20) -> Frame:
        """The first frame, of those that came and come, that is wanted."""
        place = 0
        async with asyncio.timeout(seconds):
            while True:
                for event in self.events[place:]:
                    place += 1
                    if wanted(event.frame):
                        return event.frame
                if not await self._more():
                    raise ConnectionError(f"the response ended: {self.comments[-1:]} {self.events[-2:]}")

    async def wait_comment(self, words: str, seconds: float = 20) -> None:
        async with asyncio.timeout(seconds):
            while not any(words in comment for comment in self.comments):
                if not await self._more():
                    raise ConnectionError(f"the response ended: {self.comments}")

    async def rest(self, seconds: float = 30) -> list[Frame]:
        """Everything up to the end of the response."""
        async with asyncio.timeout(seconds):
            while await self._more():
                pass
        return self.frames


def http_client(url: str, key: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, headers={"X-API-Key": key}, trust_env=False, timeout=30)


@asynccontextmanager
async def following(http: httpx.AsyncClient, context_id: str, cursor: str | None = None) -> AsyncGenerator[Sse]:
    headers = {"Last-Event-ID": cursor} if cursor is not None else {}
    async with http.stream("GET", f"/v1/contexts/{context_id}/stream", headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        yield Sse(response)


@asynccontextmanager
async def posting(
    http: httpx.AsyncClient, context_id: str, cursor: str | None = None, **message: Any
) -> AsyncGenerator[Sse]:
    headers = {"Last-Event-ID": cursor} if cursor is not None else {}
    path = f"/v1/contexts/{context_id}/messages"
    async with http.stream("POST", path, json=message, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        yield Sse(response)


def raw_request(path: str, key: str) -> bytes:
    """A GET for a client that has only a TCP connection."""
    return f"GET {path} HTTP/1.1\r\nHost: gateway\r\nX-API-Key: {key}\r\n\r\n".encode()
