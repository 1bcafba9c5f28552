"""What RedisLog does beyond the contract (test_event_log.py): servers that restart, replies that are cut, room."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from gateway.servers.valkey import ValkeyServer, run_valkey
from protocol.codec import encode
from protocol.frames import ToolProgress
from stores.ports import EpochOver, EventLog, StaleFence, StoreError, Unavailable
from stores.records import ContextKey, Head, LogBatch, Publication
from stores.redis_hot import RedisHot
from tests.servers.hot import running
from tests.servers.proxy import FaultyProxy, faulty_proxy
from tests.servers.valkey import command, fresh_prefix, keys_of
from tests.stores.log_events import A, append, batch, live, said, start, text
from tests.stores.received import Received

ALL = 1 << 20


@pytest.fixture
async def proxy(valkey: ValkeyServer) -> AsyncGenerator[FaultyProxy]:
    async with faulty_proxy(str(valkey.socket)) as faulty:
        yield faulty


@pytest.fixture
async def hot(proxy: FaultyProxy) -> AsyncGenerator[RedisHot]:
    async with running(RedisHot(proxy.url, prefix=fresh_prefix(), timeout=1)) as opened:
        yield opened


async def answered(log: EventLog, one: LogBatch) -> dict[str, int] | StoreError:
    (answer,) = await log.append([one])
    return answer


# ---- a server that restarts


async def over(log: EventLog) -> None:
    """Nothing of epoch 1 counts any more, and another one can begin."""
    assert await log.head(A) is None
    assert await log.heads([A]) == [None]
    assert await log.fold(A) is None
    assert await log.read(A, 1, 0, ALL) is None
    assert await log.ids(A, 1, 9) is None
    await log.recorded(A, 1, 1)
    assert isinstance(await answered(log, batch(said("u9"))), EpochOver)
    assert await log.begin(A, 2, 7)
    assert await append(log, said("u1"), epoch=2) == {"u1": 8}
    fold = await log.fold(A)
    assert fold is not None
    assert (dict(fold.ids), list(fold.open)) == ({"u1": 8}, [])


async def first_answer(log: EventLog) -> None:
    """Wait until the server answers: connections of before are found dead once."""
    async with asyncio.timeout(5):
        while True:
            try:
                await log.check()
            except Unavailable:
                await asyncio.sleep(0.01)
            else:
                return


@pytest.mark.parametrize("kept", ["all", "nothing", "not the last"])
async def test_after_a_restart_every_log_is_over_whatever_was_kept(tmp_path: Path, kept: str) -> None:
    folder = tmp_path / "data"
    server = ValkeyServer(folder, appendonly=True)
    server.start()
    try:
        async with running(RedisHot(server.url, timeout=1)) as hot:
            await hot.log.begin(A, 1, 0)
            await append(hot.log, said("u1"), start(), text("a"))
            if kept == "not the last":
                shutil.copytree(folder / "appendonlydir", tmp_path / "before")
                await append(hot.log, said("u2"))
            server.stop()
            if kept == "nothing":
                shutil.rmtree(folder)
            if kept == "not the last":
                shutil.rmtree(folder / "appendonlydir")
                (tmp_path / "before").rename(folder / "appendonlydir")
            server.start()
            if kept != "nothing":
                assert command(server.url, "DBSIZE") > 0
            await first_answer(hot.log)
            await over(hot.log)
    finally:
        server.stop()


# ---- connections


async def test_a_batch_whose_reply_was_cut_is_not_appended_twice(proxy: FaultyProxy, hot: RedisHot) -> None:
    await hot.log.begin(A, 1, 0)
    sent = [batch(said("u1"), text("a"), turn="t1", fence=1), batch(text("b"), turn="t2", fence=1)]
    for budget in (0, 1, 5):
        proxy.budget = budget
        with pytest.raises(Unavailable):
            await hot.log.append(sent)
        proxy.budget = None
    assert await hot.log.append(sent) == [{"u1": 1}, {}]
    assert await hot.log.head(A) == Head(1, 3)


async def test_a_turns_last_batch_is_known_however_much_others_wrote_since(hot: RedisHot) -> None:
    await hot.log.begin(A, 1, 0)
    sent = batch(text("a"), turn="t1", fence=1)
    assert await answered(hot.log, sent) == {}
    for _ in range(40):
        await append(hot.log, text("x"))
    assert await answered(hot.log, sent) == {}
    assert await hot.log.head(A) == Head(1, 41)


async def test_a_silent_server_is_unavailable_and_comes_back(proxy: FaultyProxy, hot: RedisHot) -> None:
    await hot.log.begin(A, 1, 0)
    proxy.silent = True
    with pytest.raises(Unavailable):
        await hot.log.head(A)
    with pytest.raises(Unavailable):
        await hot.log.check()
    proxy.silent = False
    proxy.cut()
    assert await hot.log.head(A) == Head(1, 0)


async def test_a_call_that_is_cancelled_leaves_no_reply_to_the_next(proxy: FaultyProxy, hot: RedisHot) -> None:
    await hot.log.begin(A, 1, 0)
    requests = proxy.requests
    proxy.delay = 0.05
    call = asyncio.create_task(hot.log.append([batch(said("u1"))]))
    while proxy.requests == requests:
        await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    proxy.delay = 0.0
    assert await append(hot.log, said("u2")) in ({"u2": 2}, {"u2": 1})
    assert await hot.log.head(A) is not None


async def test_a_call_that_is_cancelled_costs_no_other_connection(proxy: FaultyProxy, hot: RedisHot) -> None:
    await asyncio.gather(*(hot.log.head(A) for _ in range(4)))
    made, requests = proxy.connections, proxy.requests
    proxy.delay = 0.05
    call = asyncio.create_task(hot.log.head(A))
    while proxy.requests == requests:
        await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await asyncio.gather(*(hot.log.head(A) for _ in range(4)))
    assert proxy.connections == made + 1


async def test_connections_are_bounded(proxy: FaultyProxy) -> None:
    async with running(RedisHot(proxy.url, prefix=fresh_prefix(), connections=2)) as hot:
        await asyncio.gather(*(hot.log.head(ContextKey("o", str(n))) for n in range(50)))
    assert proxy.connections <= 3  # with the subscriber's


async def test_many_batches_take_one_round_trip(proxy: FaultyProxy, hot: RedisHot) -> None:
    keys = [ContextKey("o", str(n)) for n in range(50)]
    for key in keys:
        await hot.log.begin(key, 1, 0)
    await append(hot.log, text("a"), key=keys[0])  # from here on the server knows the script
    await hot.log.head(A)
    before = proxy.requests
    answers = await hot.log.append([batch(text("b"), said("u1"), key=key) for key in keys])
    assert answers == [{"u1": 3}] + [{"u1": 2}] * 49
    assert proxy.requests == before + 1
    assert await hot.log.heads(keys) == [Head(1, 3)] + [Head(1, 2)] * 49
    assert proxy.requests == before + 2


async def test_scripts_that_the_server_forgot_are_loaded_and_nothing_happens_twice(
    valkey: ValkeyServer, hot: RedisHot
) -> None:
    await hot.log.begin(A, 1, 0)
    for n in range(3):
        command(valkey.url, "SCRIPT", "FLUSH")
        sent = [batch(text("a"), turn="t", fence=1, writer=f"t/1/{n}"), batch(said(f"u{n}"))]
        assert await hot.log.append(sent) == [{}, {f"u{n}": 2 * n + 2}]
    assert await hot.log.head(A) == Head(1, 6)


async def test_what_the_server_refuses_costs_only_its_batch_and_nothing_of_it_is_kept(tmp_path: Path) -> None:
    with run_valkey(tmp_path) as server:
        async with running(RedisHot(server.url, timeout=1)) as hot:
            await hot.log.begin(A, 1, 0)
            await append(hot.log, said("u1"))
            command(server.url, "CONFIG", "SET", "maxmemory", "1")
            answers = await hot.log.append([batch(said("u2")), batch(said("x"), epoch=9)])
            assert isinstance(answers[0], Unavailable)
            assert isinstance(answers[1], EpochOver)
            assert await hot.log.head(A) == Head(1, 1)
            command(server.url, "CONFIG", "SET", "maxmemory", "0")
            assert await append(hot.log, said("u2")) == {"u2": 2}
            command(server.url, "CONFIG", "SET", "min-replicas-to-write", "1")
            with pytest.raises(Unavailable):
                await hot.log.begin(A, 2, 0)


async def test_a_password_and_a_database_are_in_the_url_and_in_no_error(tmp_path: Path) -> None:
    with run_valkey(tmp_path, unix=False, password="a secret/é") as server:
        async with running(RedisHot(f"{server.url}/3")) as hot:
            assert await hot.log.begin(A, 1, 0)
        wrong = RedisHot(server.url.replace("a%20", "wrong"))
        with pytest.raises(Unavailable) as refused:
            await wrong.log.head(A)
        assert "secret" not in repr(refused.value) + repr(refused.value.__cause__)
        await wrong.close()


# ---- what is kept, and for how long


async def test_a_log_that_lost_a_part_of_it_is_over(valkey: ValkeyServer) -> None:
    prefix = fresh_prefix()
    async with running(RedisHot(valkey.url, prefix=prefix)) as hot:
        for n in range(5):
            epoch = 2 * n + 1
            await hot.log.begin(A, epoch, 0)
            await append(hot.log, said("u1"), start(), text("a"), epoch=epoch)
            keys = keys_of(valkey.url, prefix)
            assert len(keys) == 5
            command(valkey.url, "DEL", keys[n])
            assert await hot.log.head(A) is None
            assert isinstance(await answered(hot.log, batch(said("u1"), epoch=epoch)), EpochOver)


async def test_a_log_that_nobody_asks_for_expires_and_one_that_is_followed_stays(valkey: ValkeyServer) -> None:
    prefix = fresh_prefix()
    async with running(RedisHot(valkey.url, prefix=prefix, ttl=100)) as hot:
        await hot.log.begin(A, 1, 0)
        await append(hot.log, said("u1"), start(), text("a"))
        keys = keys_of(valkey.url, prefix)
        for ask in (
            hot.log.head(A),
            hot.log.heads([A]),
            hot.log.fold(A),
            hot.log.read(A, 1, 0, 1),
            hot.log.ids(A, 1, 9),
        ):
            for key in keys:
                command(valkey.url, "PEXPIRE", key, 5000)
            await ask
            assert all(command(valkey.url, "PTTL", key) > 90_000 for key in keys)
        # All of it goes in the same moment.
        assert len({command(valkey.url, "PEXPIRETIME", key) for key in keys}) == 1
        for key in keys:
            command(valkey.url, "PEXPIRE", key, 0)
        assert await hot.log.head(A) is None
        assert keys_of(valkey.url, prefix) == []


async def test_the_room_of_a_log_is_bounded(valkey: ValkeyServer) -> None:
    prefix = fresh_prefix()

    def room() -> int:
        return sum(command(valkey.url, "MEMORY", "USAGE", key, "SAMPLES", 0) for key in keys_of(valkey.url, prefix))

    async with running(RedisHot(valkey.url, prefix=prefix, max_bytes=20_000)) as hot:
        await hot.log.begin(A, 1, 0)
        assert room() < 1000  # without events
        await append(hot.log, said("u1"))
        assert room() < 2000  # idle
        for n in range(60):
            reply = [text("word ") for _ in range(20)]
            await append(hot.log, start(f"m{n}"), *[text("word ", f"m{n}") for _ in reply], said(f"m{n}"))
            await hot.log.recorded(A, 1, 23 * n)
        assert room() < 20_000 * 1.5 + 15_000
        await hot.log.drop(A)
        assert keys_of(valkey.url, prefix) == []


async def test_fences_of_the_last_thousand_turns_are_known(valkey: ValkeyServer) -> None:
    prefix = fresh_prefix()
    async with running(RedisHot(valkey.url, prefix=prefix)) as hot:
        await hot.log.begin(A, 1, 0)
        for first in range(0, 1200, 100):
            turns = [batch(turn=f"t{n}", fence=2) for n in range(first, first + 100)]
            assert await hot.log.append(turns) == [{}] * 100
        assert isinstance(await answered(hot.log, batch(turn="t1199", fence=1)), StaleFence)
        assert isinstance(await answered(hot.log, batch(turn="t200", fence=1)), StaleFence)
        assert await answered(hot.log, batch(turn="t0", fence=1)) == {}
        turns_key = next(key for key in keys_of(valkey.url, prefix) if key.endswith(b":turns"))
        assert command(valkey.url, "HLEN", turns_key) <= 1024 + 64 + 2 * 16


async def test_ids_are_forgotten_some_time_after_they_were_recorded(valkey: ValkeyServer) -> None:
    async with running(RedisHot(valkey.url, prefix=fresh_prefix(), keep_ids=0)) as hot:
        await hot.log.begin(A, 1, 0)
        await append(hot.log, said("u1"), said("u2"), said("u3"))
        await hot.log.recorded(A, 1, 2)
        fold = await hot.log.fold(A)
        assert fold is not None
        assert dict(fold.ids) == {"u3": 3}
        assert await append(hot.log, said("u3")) == {"u3": 3}


async def test_marks_of_what_was_recorded_are_few(valkey: ValkeyServer) -> None:
    prefix = fresh_prefix()
    async with running(RedisHot(valkey.url, prefix=prefix)) as hot:
        await hot.log.begin(A, 1, 0)
        for n in range(100):
            await append(hot.log, said(f"u{n}"))
            await hot.log.recorded(A, 1, n + 1)
        assert await hot.log.ids(A, 1, 1000) == {}
        meta = next(key for key in keys_of(valkey.url, prefix) if key.endswith(b":meta"))
        assert len(command(valkey.url, "HGET", meta, "marks")) < 100


# ---- what is written and published


async def test_what_is_published_is_what_is_read_byte_for_byte(valkey: ValkeyServer) -> None:
    async with running(RedisHot(valkey.url, prefix=fresh_prefix())) as hot:
        await hot.log.begin(A, 7, 9_000_000_000_000)
        received = Received[Publication]()
        await hot.log.follow(A, received)
        events = [text('é\n"\\\r\0\u2028\U0001f600' * (n % 50)) for n in range(300)]
        await append(hot.log, *events, epoch=7)
        (publication,) = await received.reach(1)
        entries = await hot.log.read(A, 7, 9_000_000_000_000, ALL)
        assert list(publication.entries) == entries
        assert len(publication.entries) == 300
        assert publication.epoch == 7


async def test_messages_that_are_open_together_keep_their_texts_apart(valkey: ValkeyServer) -> None:
    async with running(RedisHot(valkey.url, prefix=fresh_prefix())) as hot:
        await hot.log.begin(A, 1, 0)
        await append(hot.log, start("m1"), start("m2", turn="t2"), text("a", "m1"), text("x", "m2"), text("b", "m1"))
        await append(hot.log, text("c", "m1"), said("m2"), text("d", "m1"), start("m3"), text("é", "m3"))
        fold = await hot.log.fold(A)
        assert fold is not None
        assert [(opened.message_id, opened.text) for opened in fold.open] == [("m1", "abcd"), ("m3", "é")]
        await append(hot.log, start("m1", attempt=2), text("again", "m1"))
        fold = await hot.log.fold(A)
        assert fold is not None
        assert [(opened.message_id, opened.text) for opened in fold.open] == [("m1", "again"), ("m3", "é")]


async def test_progress_of_many_calls_is_the_last_of_each(valkey: ValkeyServer) -> None:
    async with running(RedisHot(valkey.url, prefix=fresh_prefix())) as hot:
        await hot.log.begin(A, 1, 0)
        for n in range(3):
            progress = [
                ToolProgress(context_id="conv_a", tool_call_id=f"c{call}", progress=n + 0.5, message="ü")
                for call in range(4)
            ]
            assert all(encode(one) for one in progress)
            await append(hot.log, *map(live, progress))
        fold = await hot.log.fold(A)
        assert fold is not None
        assert {call: last.progress for call, last in fold.progress.items()} == {f"c{n}": 2.5 for n in range(4)}


async def test_a_server_that_is_no_primary_any_more_is_left_for_the_one_at_its_address(tmp_path: Path) -> None:
    with run_valkey(tmp_path) as server:
        async with running(RedisHot(server.url)) as hot:
            assert await hot.log.begin(A, 1, 0)
            command(server.url, "REPLICAOF", "127.0.0.1", "1")
            with pytest.raises(Unavailable, match="ReadOnlyError"):
                await hot.log.begin(A, 2, 0)
            with pytest.raises(Unavailable, match="ReadOnlyError"):
                await hot.log.append([batch(said("m1"))])
            command(server.url, "REPLICAOF", "NO", "ONE")
            # It is the same process, and nothing was lost.
            assert await append(hot.log, said("m1")) == {"m1": 1}
