"""Responses that follow a context, over a hub and a log that are real and an ASGI server that is played."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Any

import pytest
from starlette.types import Message, Receive, Send

from gateway.auth.principal import Principal
from gateway.core.fold import Transcript
from gateway.http.event_stream import EventStream, event_stream_headers, told_in
from gateway.http.streams import Following, Streams
from gateway.http.tidegate_format import TidegateFormat
from gateway.throttle import Connections
from gateway.transport.port import HIGH_WATER
from gateway.wheel import Wheel
from protocol.codec import decode_server
from protocol.errors import ProtocolError
from protocol.frames import ContextChanged, Event, Snapshot
from protocol.ids import Cursor
from stores.ports import NotFound
from tests.gateway.test_hub import KEY, World, hubbing, settled, words

ANN = Principal(tenant="t", subject="s")


class Place:
    """Streams over a world, and how many of a principal may be open."""

    def __init__(self, world: World, limit: int = 2) -> None:
        self.world = world
        self.connections = Connections(limit)
        self.wheel = Wheel()
        self.streams = Streams(world.hub, self.connections, self.wheel, 25)

    @property
    def readers(self) -> int:
        return len(list(self.world.hub.readers()))

    async def response(self, cursor: Cursor | None = None) -> tuple[EventStream, Following]:
        async with AsyncExitStack() as stack:
            following = await stack.enter_async_context(self.streams.admit(ANN))
            await following.open(KEY, cursor)
            format = TidegateFormat()
            pieces = told_in(format, following, following)
            return EventStream(pieces, event_stream_headers(format), following, stack.pop_all()), following


class Server:
    """An ASGI server with one client, which reads while `reading` is set and is there until `leave`."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.gone = asyncio.Event()
        self.reading = asyncio.Event()
        self.reading.set()
        self.raises = False

    def leave(self) -> None:
        self.gone.set()
        self.reading.set()

    async def receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if self.gone.is_set() and self.raises:
            raise OSError("the client is gone")
        await self.reading.wait()
        if not self.gone.is_set():
            self.sent.append(message)

    @property
    def ended(self) -> bool:
        return self.sent[-1].get("more_body") is False

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()

    def transcript(self) -> Transcript:
        transcript = Transcript(KEY.id)
        for line in self.text.splitlines():
            if line.startswith("data: "):
                frame = decode_server(line.removeprefix("data: "))
                if isinstance(frame, Snapshot):
                    transcript.snapshot(frame)
                else:
                    assert isinstance(frame, Event)
                    transcript.apply(frame)
        return transcript


def _serve(response: EventStream, receive: Receive, send: Send) -> asyncio.Task[None]:
    return asyncio.create_task(response({"type": "http"}, receive, send))


def test_a_client_that_reads_nothing_is_held_little_for_and_ends_with_everything() -> None:
    async def test(world: World) -> None:
        place, server = Place(world), Server()
        response, _ = await place.response()
        serving = _serve(response, server.receive, server.send)
        await settled()
        server.reading.clear()
        for word in words(20_000):
            await world.say(word)
        outlet = next(iter(world.hub.readers())).outlet
        assert not outlet.writable
        assert getattr(outlet, "unsent", 0) < 3 * HIGH_WATER
        server.reading.set()
        await settled()
        assert server.transcript().partial["m"].text == "".join(words(20_000))
        server.leave()
        await serving
        assert place.readers == 0

    hubbing(test, max_bytes=64 * 1024)


@pytest.mark.parametrize("raises", [False, True])
def test_a_client_that_leaves_while_it_is_written_to_leaves_nothing(raises: bool) -> None:
    async def test(world: World) -> None:
        place, server = Place(world), Server()
        server.raises = raises
        response, _ = await place.response()
        serving = _serve(response, server.receive, server.send)
        await settled()
        assert (len(place.streams), place.connections.count(ANN.owner), place.readers) == (1, 1, 1)
        server.reading.clear()
        await world.say("a")
        await settled()
        server.leave()
        await serving
        assert (len(place.streams), place.connections.count(ANN.owner), place.readers) == (0, 0, 0)
        assert world.hub.contexts == 0

    hubbing(test)


def test_a_response_that_is_cancelled_leaves_nothing() -> None:
    async def test(world: World) -> None:
        place, server = Place(world), Server()
        response, _ = await place.response()
        serving = _serve(response, server.receive, server.send)
        await settled()
        serving.cancel()
        await asyncio.wait((serving,))
        assert (len(place.streams), place.connections.count(ANN.owner), place.readers) == (0, 0, 0)

    hubbing(test)


def test_a_client_that_takes_nothing_for_five_minutes_is_cut() -> None:
    async def test(world: World) -> None:
        place, server = Place(world), Server()
        response, _ = await place.response()
        serving = _serve(response, server.receive, server.send)
        await settled()
        server.reading.clear()
        await world.say("a")
        await asyncio.sleep(280)
        assert not serving.done()
        await asyncio.sleep(30)
        assert serving.done()
        assert not server.ended, "it must not look whole"
        assert place.readers == 0

    hubbing(test)


def test_the_end_does_not_wait_for_a_client_that_takes_nothing() -> None:
    async def test(world: World) -> None:
        place, server = Place(world), Server()
        response, _ = await place.response()
        serving = _serve(response, server.receive, server.send)
        await settled()
        server.reading.clear()
        await world.say("a")
        await settled()
        before = asyncio.get_running_loop().time()
        await place.streams.close(2)
        assert asyncio.get_running_loop().time() - before <= 2
        await asyncio.sleep(6)
        assert serving.done()

    hubbing(test)


def test_draining_says_what_is_there_and_ends_every_response() -> None:
    async def test(world: World) -> None:
        place = Place(world)
        servers = [Server(), Server()]
        serving = [_serve((await place.response())[0], server.receive, server.send) for server in servers]
        await settled()
        place.streams.goaway()
        with pytest.raises(ProtocolError) as refused:
            await place.response()
        assert (refused.value.code, refused.value.retry_after) == ("unavailable", 5.0)
        await world.say("last words")
        await place.streams.close(2)
        await asyncio.wait(serving)
        for server in servers:
            assert server.ended
            assert server.transcript().partial["m"].text == "last words"
            assert server.text.endswith(": the instance restarts\n\n")

    hubbing(test)


def test_nothing_is_open_beyond_the_limit_and_what_was_refused_is_not_counted() -> None:
    async def test(world: World) -> None:
        place = Place(world, limit=1)
        _, following = await place.response()
        for _ in range(2):
            with pytest.raises(ProtocolError) as refused:
                await place.response()
            assert refused.value.code == "rate_limited"
        assert len(place.streams) == 1
        await following.close()

    hubbing(test)


def test_a_context_that_is_not_there_leaves_nothing_behind() -> None:
    async def test(world: World) -> None:
        place = Place(world)
        await world.store.delete_context(KEY)
        world.epochs.forget(KEY)
        await world.log.drop(KEY)
        with pytest.raises(NotFound):
            await place.response()
        assert (len(place.streams), place.connections.count(ANN.owner)) == (0, 0)

    hubbing(test)


def test_a_sign_of_life_each_heartbeat_and_the_end_of_the_credentials() -> None:
    async def test(world: World) -> None:
        place, server = Place(world), Server()
        async with AsyncExitStack() as stack:
            principal = Principal(tenant="t", subject="s", expires_at=time.time() + 60)
            following = await stack.enter_async_context(place.streams.admit(principal))
            await following.open(KEY, None)
            pieces = told_in(TidegateFormat(), following, following)
            serving = _serve(EventStream(pieces, {}, following, stack.pop_all()), server.receive, server.send)
        for _ in range(55):
            place.wheel.turn()
            await asyncio.sleep(0.1)
        assert server.text.count(": keep-alive") == 2
        assert not serving.done()
        for _ in range(10):
            place.wheel.turn()
        await serving
        assert server.ended
        assert ": the credentials have expired\n\n" in server.text

    hubbing(test)


@pytest.mark.parametrize("behind", [False, True])
def test_a_context_that_is_deleted_ends_its_responses(behind: bool) -> None:
    async def test(world: World) -> None:
        place, server = Place(world), Server()
        response, _ = await place.response()
        serving = _serve(response, server.receive, server.send)
        await settled()
        if behind:
            server.reading.clear()
            for word in words(5_000):
                await world.say(word)
        await world.append(ContextChanged(context_id=KEY.id, deleted=True))
        await world.hub.close_context(KEY)
        server.reading.set()
        await serving
        assert server.ended
        assert server.text.endswith(": the context was deleted\n\n")
        assert ('"deleted":true' in server.text) is not behind

    hubbing(test)


def test_under_a_new_epoch_the_cursors_are_of_that_epoch() -> None:
    async def test(world: World) -> None:
        place, server = Place(world), Server()
        response, _ = await place.response()
        serving = _serve(response, server.receive, server.send)
        await settled()
        await world.say("a")
        await world.log.drop(KEY)
        await world.store_message("u1")
        await settled()
        server.leave()
        await serving
        ids: list[Any] = [line for line in server.text.splitlines() if line.startswith("id: ")]
        assert [one.split(":")[1].strip() for one in (ids[0], ids[-1])] == ["1", "2"]
        assert str(server.transcript().cursor) == ids[-1].removeprefix("id: ")

    hubbing(test)
