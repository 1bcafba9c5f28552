"""A download whose client reads no more, or is gone (gateway/http/personal.py); the rest is in tests/e2e."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, MutableMapping
from typing import Any

import pytest

from gateway.http import personal

Message = MutableMapping[str, Any]
SCOPE = {"type": "http", "asgi": {"spec_version": "2.3"}}


class Source:
    """Pieces without end, and what became of them."""

    def __init__(self) -> None:
        self.made = 0
        self.closed = False
        self.done = 0

    async def pieces(self) -> AsyncGenerator[bytes]:
        try:
            while True:
                self.made += 1
                yield b"x" * 1000
        finally:
            self.closed = True

    def finish(self) -> None:
        self.done += 1


def download(source: Source) -> Any:
    return personal._Download(source.pieces(), "name.json", source.finish)  # pyright: ignore[reportPrivateUsage]


async def test_a_client_that_takes_nothing_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(personal, "_STALLED_SECONDS", 0.01)
    source, sent = Source(), list[Message]()

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)
        if len(sent) == 3:
            await asyncio.Event().wait()

    async with asyncio.timeout(5):
        await download(source)(SCOPE, receive, send)
    assert len(sent) == 3
    assert all(message.get("more_body", True) for message in sent), "the document's end is missing"
    assert source.made == 2, "nothing was made ahead of the client"
    assert source.closed
    assert source.done == 1


async def test_a_client_that_is_gone_ends_it() -> None:
    source, gone = Source(), asyncio.Event()

    async def receive() -> Message:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        await asyncio.sleep(0)
        if source.made == 3:
            gone.set()

    async with asyncio.timeout(5):
        await download(source)(SCOPE, receive, send)
    assert source.closed
    assert source.done == 1
