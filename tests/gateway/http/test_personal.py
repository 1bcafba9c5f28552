"""A download whose client reads no more, or is gone (gateway/http/personal.py); the rest is in tests/e2e."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, MutableMapping
from typing import Any, cast

import pytest

from gateway.auth.principal import Principal
from gateway.export import Exports
from gateway.http import personal
from gateway.http.replies import Guard, Handler
from gateway.transport.abort import ABORT_EXTENSION
from protocol.errors import ProtocolError

Message = MutableMapping[str, Any]
ANN = Principal(tenant="t", subject="ann")
SCOPE: dict[str, Any] = {"type": "http", "asgi": {"spec_version": "2.3"}}


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


async def test_the_end_of_one_export_does_not_hide_the_next_one() -> None:
    class Documents:
        async def document(self, principal: Principal) -> AsyncGenerator[bytes]:
            yield b"{}"

    class Open:
        def __call__(self, handler: Handler) -> Handler:
            return handler

    unused: Any = None
    guard, documents = cast("Guard", Open()), cast("Exports", Documents())
    (export,) = (
        cast("Handler", route.endpoint)
        for route in personal.personal_routes(guard, unused, unused, documents)
        if route.path == "/v1/export"
    )
    may_end = asyncio.Event()

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def slow_to_end(message: Message) -> None:
        if message.get("more_body") is False:
            ended.set()
            await may_end.wait()

    async def takes_nothing(message: Message) -> None:
        begun.set()
        await asyncio.Event().wait()

    ended, begun = asyncio.Event(), asyncio.Event()
    one = asyncio.create_task((await export(unused, ANN))(SCOPE, receive, slow_to_end))
    await ended.wait()
    other = asyncio.create_task((await export(unused, ANN))(SCOPE, receive, takes_nothing))
    await begun.wait()
    may_end.set()
    await one
    with pytest.raises(ProtocolError, match="one export at a time"):
        await export(unused, ANN)
    other.cancel()
    await asyncio.wait((other,))
    await (await export(unused, ANN))(SCOPE, receive, slow_to_end)


async def test_a_client_that_takes_nothing_loses_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(personal, "_STALLED_SECONDS", 0.01)
    aborted = asyncio.Event()

    async def never(*_: Message) -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async with asyncio.timeout(5):
        await download(Source())({**SCOPE, "extensions": {ABORT_EXTENSION: aborted.set}}, never, never)
    assert aborted.is_set()
