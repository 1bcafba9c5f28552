"""What followers are told when publications may have been lost, and that they hear again after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest

from gateway.servers.valkey import ValkeyServer
from stores.ports import Unavailable
from stores.records import ContextKey, Head, Publication
from stores.redis_hot import RedisHot
from stores.redis_log_wire import names_of
from tests.servers.hot import running
from tests.servers.proxy import FaultyProxy, faulty_proxy
from tests.servers.valkey import command, fresh_prefix
from tests.stores.log_events import A, append, batch, text
from tests.stores.received import Received

LOOK = Publication(A, 0, [])


@pytest.fixture
def prefix() -> str:
    return fresh_prefix()


@pytest.fixture
async def proxy(valkey: ValkeyServer) -> AsyncGenerator[FaultyProxy]:
    async with faulty_proxy(str(valkey.socket)) as faulty:
        yield faulty


@pytest.fixture
async def writer(valkey: ValkeyServer, prefix: str) -> AsyncGenerator[RedisHot]:
    """Another instance, which no fault reaches."""
    async with running(RedisHot(valkey.url, prefix=prefix)) as hot:
        await hot.log.begin(A, 1, 0)
        yield hot


@pytest.fixture
async def hot(proxy: FaultyProxy, prefix: str) -> AsyncGenerator[RedisHot]:
    async with running(RedisHot(proxy.url, prefix=prefix, timeout=2, ping=0.05)) as opened:
        yield opened


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.005)


async def works(check: Callable[[], Awaitable[None]]) -> bool:
    try:
        await check()
    except Unavailable:
        return False
    return True


def said_in(received: Received[Publication]) -> list[list[int]]:
    return [[entry.seq for entry in one.entries] for one in received.items]


async def test_after_each_reconnect_followers_are_told_to_look(
    proxy: FaultyProxy, hot: RedisHot, writer: RedisHot
) -> None:
    received = [Received[Publication](), Received[Publication]()]
    for one in received:
        await hot.log.follow(A, one)
    await append(writer.log, text("a"))
    for n in range(3):
        for one in received:
            await one.reach(2 * n + 1)
        proxy.cut()
        for one in received:
            await one.reach(2 * n + 2)
        await append(writer.log, text("b"))
    for one in received:
        await one.reach(7)
        assert said_in(one) == [[1], [], [2], [], [3], [], [4]]
        assert one.items[1] == LOOK


async def test_what_is_lost_while_away_is_told_of(proxy: FaultyProxy, hot: RedisHot, writer: RedisHot) -> None:
    received = Received[Publication]()
    await hot.log.follow(A, received)
    proxy.closed = True
    proxy.cut()
    await until(lambda: proxy.connections > 0)
    await append(writer.log, text("a"))
    assert not await works(hot.log.check)
    with pytest.raises(Unavailable):
        await hot.log.follow(ContextKey("o", "other"), received)
    proxy.closed = False
    assert await received.reach(1) == [LOOK]
    await append(writer.log, text("b"))
    await received.reach(2)
    assert said_in(received) == [[], [2]]
    async with asyncio.timeout(5):
        while not await works(hot.log.check):
            await asyncio.sleep(0.01)


async def test_a_subscription_that_the_server_ends_is_told_of_and_asked_for_again(
    proxy: FaultyProxy, hot: RedisHot, writer: RedisHot, prefix: str
) -> None:
    received = Received[Publication]()
    await hot.log.follow(A, received)
    channel = names_of(prefix, A).channel
    for n in range(2):
        proxy.say(b"*3\r\n$12\r\nsunsubscribe\r\n$%d\r\n%b\r\n:0\r\n" % (len(channel), channel))
        await received.reach(3 * n + 2)  # for its end, and for its confirmation
        await append(writer.log, text("a"))
        await received.reach(3 * n + 3)
    assert said_in(received) == [[], [], [1], [], [], [2]]


async def test_a_server_that_says_what_nobody_asked_for_is_left(
    proxy: FaultyProxy, hot: RedisHot, writer: RedisHot
) -> None:
    received = Received[Publication]()
    await hot.log.follow(A, received)
    await hot.log.head(A)
    for n, lie in enumerate((b"-ERR no\r\n", b"?\r\n", b"*1000000\r\n-", b"*1\r\n$-1\r\n")):
        proxy.say(lie)
        await asyncio.sleep(0.01)
        proxy.cut()
        await received.reach(n + 1)
        assert await hot.log.head(A) == Head(1, 0)
    assert received.items == [LOOK] * 4


async def test_a_silent_connection_is_given_up(proxy: FaultyProxy, hot: RedisHot, writer: RedisHot) -> None:
    received = Received[Publication]()
    await hot.log.follow(A, received)
    connections = proxy.connections
    proxy.silent = True
    async with asyncio.timeout(5):
        while proxy.connections == connections:
            await asyncio.sleep(0.005)
    with pytest.raises(Unavailable):
        await hot.log.check()
    await append(writer.log, text("lost"))
    proxy.silent = False
    proxy.cut()
    assert await received.reach(1) == [LOOK]


async def test_pings_keep_an_idle_connection(proxy: FaultyProxy, hot: RedisHot, writer: RedisHot) -> None:
    received = Received[Publication]()
    await hot.log.follow(A, received)
    requests, connections = proxy.requests, proxy.connections
    await until(lambda: proxy.requests >= requests + 6)
    assert proxy.connections == connections
    assert received.items == []


async def test_followers_share_a_subscription_and_the_last_ends_it(
    valkey: ValkeyServer, hot: RedisHot, writer: RedisHot, prefix: str
) -> None:
    channel = names_of(prefix, A).channel

    def subscribed() -> int:
        return command(valkey.url, "PUBSUB", "SHARDNUMSUB", channel)[1]

    received = Received[Publication]()
    stops = [await hot.log.follow(A, received) for _ in range(3)]
    assert subscribed() == 1
    await append(writer.log, text("a"))
    await received.reach(3)
    for stop in stops[:2]:
        await stop()
    assert subscribed() == 1
    await stops[2]()
    await stops[2]()
    await until(lambda: subscribed() == 0)


async def test_following_anew_at_once_hears_all_that_comes_after(hot: RedisHot, writer: RedisHot) -> None:
    for n in range(50):
        received = Received[Publication]()
        stop = await hot.log.follow(A, received)
        if n % 2:
            await asyncio.sleep(0)  # the server is told that it ended, or is not
        await append(writer.log, text("a"))
        await received.reach(1)
        assert [seqs for seqs in said_in(received) if seqs] == [[n + 1]]
        await stop()


async def test_a_follower_that_fails_costs_no_other(hot: RedisHot, writer: RedisHot) -> None:
    def fail(_: Publication) -> None:
        raise RuntimeError

    received = Received[Publication]()
    await hot.log.follow(A, fail)
    await hot.log.follow(A, received)
    for n in range(2):
        await append(writer.log, text("a"))
        await received.reach(n + 1)


async def test_what_is_none_of_ours_is_told_of_as_a_loss(
    valkey: ValkeyServer, hot: RedisHot, writer: RedisHot, prefix: str
) -> None:
    received = Received[Publication]()
    await hot.log.follow(A, received)
    channel = names_of(prefix, A).channel
    for payload in (b"", b"x y\n{}", b"1\n{}", b"1 2 3\n"):
        command(valkey.url, "SPUBLISH", channel, payload)
    assert await received.reach(4) == [LOOK] * 4
    await append(writer.log, text("a"))
    await received.reach(5)


async def test_a_follow_that_is_cancelled_leaves_nothing(proxy: FaultyProxy, hot: RedisHot, writer: RedisHot) -> None:
    received = Received[Publication]()
    await hot.log.follow(ContextKey("o", "first"), received)
    proxy.delay = 0.05
    following = asyncio.create_task(hot.log.follow(A, received))
    await asyncio.sleep(0)
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
    proxy.delay = 0.0
    stop = await hot.log.follow(A, received)
    await append(writer.log, text("a"))
    await until(lambda: [1] in said_in(received))
    await stop()


async def test_a_subscriber_that_the_server_drops_for_its_backlog_looks(
    valkey: ValkeyServer, writer: RedisHot, proxy: FaultyProxy, prefix: str
) -> None:
    def dropped() -> int:
        return command(valkey.url, "INFO", "stats")["client_output_buffer_limit_disconnections"]

    received, before = Received[Publication](), dropped()
    (limits,) = command(valkey.url, "CONFIG", "GET", "client-output-buffer-limit").values()
    async with running(RedisHot(proxy.url, prefix=prefix)) as hot:
        await hot.log.follow(A, received)
        command(valkey.url, "CONFIG", "SET", "client-output-buffer-limit", "pubsub 32kb 0 0")
        try:
            proxy.flowing.clear()
            # Small ones: the server may keep large ones by reference, and count them as nothing.
            await writer.log.append([batch(text("x" * 8000)) for _ in range(500)])
            assert dropped() > before
        finally:
            command(valkey.url, "CONFIG", "SET", "client-output-buffer-limit", limits)
        proxy.flowing.set()
        await until(lambda: LOOK in received.items)
        await append(writer.log, text("a"))
        await until(lambda: [501] in said_in(received))


async def test_a_thousand_contexts_are_followed_again(proxy: FaultyProxy, hot: RedisHot) -> None:
    received = Received[Publication]()
    keys = [ContextKey("o", str(n)) for n in range(1000)]
    await asyncio.gather(*(hot.log.follow(key, received) for key in keys))
    proxy.cut()
    await received.reach(1000)
    assert {one.key for one in received.items} == set(keys)


async def test_a_bus_that_was_away_hears_again(proxy: FaultyProxy, hot: RedisHot, writer: RedisHot) -> None:
    received = Received[bytes]()
    await hot.bus.listen("wake", received)
    proxy.cut()
    async with asyncio.timeout(5):
        while not received.items:
            await writer.bus.publish("wake", b"up")
            await asyncio.sleep(0.01)
