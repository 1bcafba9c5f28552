"""RedisClient against a real server, and against what stands in its way."""

from __future__ import annotations

import asyncio
import traceback

import pytest

from gateway.servers.valkey import ValkeyServer
from stores.lua_scripts import script
from stores.ports import Unavailable
from stores.records import ContextKey
from stores.redis_cache import RedisCache
from stores.redis_client import RedisClient, RedisUrlError
from stores.redis_keys import checked_prefix, context_tag, digest
from stores.redis_limits import RedisRateLimits
from tests.servers.valkey import fresh_prefix
from tests.stores.redis_clients import open_client
from tests.stores.relay import open_relay


@pytest.mark.parametrize(
    "url", ["http://host", "redis://:pa/secret@host", "redis://host?secret=1", "redis://host?db=secret", "secret", ""]
)
def test_a_url_that_names_nothing_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(RedisUrlError) as caught:
        RedisClient(url)
    assert "secret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("prefix", ["", "a{b}", "a b", "é", "a" * 65])
def test_a_prefix_is_short_and_plain(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        checked_prefix(prefix)


def test_names_are_told_apart_however_they_are_cut() -> None:
    names = [("ab", "c"), ("a", "bc"), ("abc",), ("", "abc"), ("abc", ""), ("a\0b", "c"), ("\ud800",), ("{abc}",)]
    assert len({digest(*name) for name in names}) == len(names)
    assert {len(digest(*name)) for name in names} == {40}
    assert context_tag(ContextKey("ann", "c")) != context_tag(ContextKey("an", "nc"))


async def test_nobody_there() -> None:
    async with open_client("redis://:" + "-".join("word") + "@127.0.0.1:1") as client:
        with pytest.raises(Unavailable) as caught:
            await client.call("PING", resend=True)
    assert caught.value.__cause__ is not None
    assert "w-o-r-d" not in "".join(traceback.format_exception(caught.value))


async def test_what_a_server_repeats_of_a_command_is_cut_off(valkey: ValkeyServer) -> None:
    async with open_client(valkey.url) as client:
        with pytest.raises(Unavailable) as caught:
            await client.call("HEAR", "-".join("words"), resend=True)
    assert "unknown command" in str(caught.value.__cause__)
    assert "w-o-r-d-s" not in "".join(traceback.format_exception(caught.value))


async def test_a_password_is_not_repeated_by_who_does_not_want_it(valkey: ValkeyServer) -> None:
    async with open_client(valkey.url.replace("://", "://ann:" + "-".join("word") + "@")) as client:
        with pytest.raises(Unavailable) as caught:
            await client.call("PING", resend=True)
    assert "w-o-r-d" not in "".join(traceback.format_exception(caught.value))


async def test_a_server_that_is_silent_is_waited_for_once(valkey: ValkeyServer) -> None:
    async with open_relay(valkey.url) as (relay, url), open_client(url, patience=0.2) as client:
        relay.silent = True
        async with asyncio.timeout(5):
            for _ in range(2):
                with pytest.raises(Unavailable):
                    await client.call("PING", resend=True)
        relay.silent = False
        assert await client.call("ECHO", "a", resend=True) == b"a"


async def test_waiting_for_a_connection_counts_as_waiting(valkey: ValkeyServer) -> None:
    async with open_relay(valkey.url) as (relay, url), open_client(url, patience=0.3, max_connections=2) as client:
        await asyncio.gather(*(client.call("PING", resend=True) for _ in range(10)))
        assert relay.connections <= 2
        relay.silent = True
        async with asyncio.timeout(5):
            outcomes = await asyncio.gather(
                *(client.call("PING", resend=False) for _ in range(10)), return_exceptions=True
            )
        assert all(isinstance(outcome, Unavailable) for outcome in outcomes)
        relay.silent = False
        await asyncio.gather(*(client.call("PING", resend=True) for _ in range(10)))


async def test_a_call_that_is_given_up_leaves_its_reply_to_nobody(valkey: ValkeyServer) -> None:
    async with open_relay(valkey.url) as (relay, url), open_client(url, max_connections=1) as client:
        assert await client.call("ECHO", "1", resend=False) == b"1"
        relay.silent = True
        given_up = asyncio.create_task(client.call("ECHO", "2", resend=False))
        await relay.held.wait()
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        relay.silent = False
        for text in ("3", "4"):
            assert await client.call("ECHO", text, resend=False) == text.encode()


async def test_a_cut_reply_is_asked_for_again_where_that_is_the_same(valkey: ValkeyServer) -> None:
    async with open_relay(valkey.url) as (relay, url), open_client(url) as client:
        cache = RedisCache(client, prefix=fresh_prefix())
        await cache.set("a", b"1", 60)
        relay.cuts = 1
        assert await cache.get("a") == b"1"
        relay.cuts = 1
        await cache.set("a", b"2", 60)
        assert await cache.get("a") == b"2"
        relay.cuts = 2
        with pytest.raises(Unavailable):
            await cache.get("a")
        assert relay.cuts == 0


async def test_a_cut_reply_is_not_asked_for_again_where_that_would_lie(valkey: ValkeyServer) -> None:
    async with open_relay(valkey.url) as (relay, url), open_client(url) as client:
        prefix = fresh_prefix()
        cache = RedisCache(client, prefix=prefix)
        limits = RedisRateLimits(client, prefix=prefix)
        assert await cache.get("a") is None
        relay.cuts = 1
        with pytest.raises(Unavailable):
            await cache.add("a", b"1", 60)
        assert await cache.get("a") == b"1"
        relay.cuts = 1
        with pytest.raises(Unavailable):
            await cache.take("a")
        assert await cache.take("a") is None
        assert await limits.take("n", 1, 0.001, 3) == 0
        relay.cuts = 1
        with pytest.raises(Unavailable):
            await limits.take("n", 1, 0.001, 3)
        assert await limits.take("n", 1, 0.001, 3) == 0
        assert await limits.take("n", 1, 0.001, 3) > 0


async def test_connections_that_died_unused_are_no_failure(valkey: ValkeyServer) -> None:
    async with open_client(valkey.url) as client, open_client(valkey.url) as other:
        cache = RedisCache(client, prefix=fresh_prefix())
        await cache.set("a", b"1", 60)
        await other.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes", resend=False)
        assert await cache.take("a") == b"1"


async def test_a_server_that_forgot_a_script_is_given_it(valkey: ValkeyServer) -> None:
    async with open_client(valkey.url) as client:
        limits = RedisRateLimits(client, prefix=fresh_prefix())
        await client.call("SCRIPT", "FLUSH", resend=True)
        assert await limits.take("n", 1, 0.001, 2) == 0
        assert await limits.take("n", 1, 0.001, 2) == 0
        assert await limits.take("n", 1, 0.001, 2) > 0
    with pytest.raises(FileNotFoundError):
        script("no_such")


async def test_a_client_that_was_closed_does_not_connect_again(valkey: ValkeyServer) -> None:
    async with open_relay(valkey.url) as (relay, url):
        client = RedisClient(url)
        assert await client.call("ECHO", "1", resend=False) == b"1"
        relay.silent = True
        waits = asyncio.create_task(client.call("ECHO", "2", resend=True))
        await relay.held.wait()
        await client.close()
        await client.close()
        for call in (waits, client.call("ECHO", "3", resend=True)):
            with pytest.raises(Unavailable):
                await call
        assert relay.connections == 1
