"""Limits of tools: what counts together, who waits and in which order, how a place ends, and a store that is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gateway.auth.principal import Principal
from gateway.servers.valkey import ValkeyServer
from gateway.tool_limits import ToolLimit, ToolLimits
from gateway.tools.port import ToolContext, ToolOutcome
from stores.memory_leases import MemoryLeases
from stores.memory_limits import MemoryRateLimits
from stores.redis_client import RedisClient
from stores.redis_leases import RedisLeases
from stores.redis_limits import RedisRateLimits
from tests.servers.proxy import FaultyProxy, faulty_proxy
from tests.servers.valkey import age_leases, fresh_prefix
from tests.virtual_time import run_virtually

ANN, BOB = Principal(tenant="t", subject="ann"), Principal(tenant="t", subject="bob")


class World:
    """Two instances over the same ports; calls note what became of them, in their order."""

    def __init__(self, **limits: ToolLimit) -> None:
        clock = asyncio.get_running_loop().time
        self.leases, rates = MemoryLeases(clock=clock), MemoryRateLimits(clock=clock)
        named = {name.replace("ALL", "*"): limit for name, limit in limits.items()}
        self.one, self.other = (ToolLimits(named, rates, self.leases, spread=lambda: 0.5) for _ in range(2))
        self.log: list[str] = []
        self.told: list[str] = []
        self.most = self._running = 0

    def context(self, principal: Principal = ANN, call_id: str = "c") -> ToolContext:
        return ToolContext(principal, "chat", call_id, lambda _progress, _total, _message: self.told.append(call_id))

    async def use(
        self,
        name: str,
        tool: str = "web__get",
        *,
        seconds: float = 1.0,
        principal: Principal = ANN,
        limits: ToolLimits | None = None,
    ) -> ToolOutcome | None:
        async with (limits or self.one).admit(self.context(principal, name), tool) as refusal:
            if refusal is not None:
                self.log.append(f"{name} refused")
                return refusal
            self.log.append(name)
            self._running += 1
            self.most = max(self.most, self._running)
            try:
                await asyncio.sleep(seconds)
            finally:
                self._running -= 1
        return None


def virtually(main: Coroutine[Any, Any, None]) -> None:
    run_virtually(main)


def now() -> float:
    return asyncio.get_running_loop().time()


def refused(outcome: ToolOutcome | None) -> tuple[str, str, str]:
    assert outcome is not None
    return outcome.status, outcome.code or "", outcome.result


# ---- numbers


def test_a_tool_without_limits_runs_at_once() -> None:
    async def main() -> None:
        world = World(web__ALL=ToolLimit(concurrent=1))
        await asyncio.gather(*(world.use(f"c{number}", "calculator") for number in range(20)))
        assert (world.most, now()) == (20, 1.0)
        assert len(world.leases) == 0

    virtually(main())


def test_no_more_than_so_many_run_at_a_time_and_they_come_in_order() -> None:
    async def main() -> None:
        world = World(web__ALL=ToolLimit(concurrent=2, wait_seconds=60))
        names = [f"c{number}" for number in range(7)]
        # What waits is told so, once; what the pattern matches counts together.
        await asyncio.gather(*(world.use(name, f"web__{name}") for name in names))
        assert (world.log, world.most) == (names, 2)
        assert sorted(world.told) == names[2:]
        assert now() == pytest.approx(4.0), "the next one comes when one ends, not when it looks again"

    virtually(main())


def test_instances_and_principals() -> None:
    async def main() -> None:
        world = World(web__ALL=ToolLimit(concurrent=2, wait_seconds=60))
        calls = [world.use(f"c{n}", limits=(world.one, world.other)[n % 2]) for n in range(6)]
        await asyncio.gather(*calls)
        assert world.most == 2, "of both instances together"
        await asyncio.gather(*(world.use("x", principal=principal) for principal in (ANN, ANN, BOB, BOB)))
        assert world.most == 4, "each principal has its own"

    virtually(main())


def test_who_waits_too_long_is_refused_with_a_reason() -> None:
    async def main() -> None:
        world = World(web__ALL=ToolLimit(concurrent=1, wait_seconds=3))
        calls = [world.use("long", seconds=10), world.use("a"), world.use("b"), world.use("late", limits=world.other)]
        _, *outcomes = await asyncio.gather(*calls)
        words = "web__get runs 1 at a time at most for each user, and none of them ended"
        assert [refused(outcome) for outcome in outcomes] == [("error", "rate_limited", words)] * 3
        assert now() == 10.0
        await world.use("next")
        assert world.log[-1] == "next"

    virtually(main())


def test_who_does_not_wait_is_refused_at_once() -> None:
    async def main() -> None:
        world = World(web__ALL=ToolLimit(concurrent=1, per_minute=600, wait_seconds=0))
        outcomes = await asyncio.gather(*(world.use(f"c{number}") for number in range(3)))
        assert [outcome is not None for outcome in outcomes] == [False, True, True]
        assert (now(), world.told) == (1.0, []), "who does not wait is not said to"

    virtually(main())


def test_too_many_that_wait_are_refused_at_once() -> None:
    async def main() -> None:
        world = World(web__ALL=ToolLimit(concurrent=1, wait_seconds=1000))
        outcomes = await asyncio.gather(*(world.use(f"c{number}", seconds=2) for number in range(110)))
        assert sum(outcome is not None for outcome in outcomes) in (9, 10)
        assert world.log.index("c105 refused") < 20
        assert refused(outcomes[109])[2].endswith("and too many calls wait")

    virtually(main())


def test_the_longest_pattern_counts_and_each_kind_for_itself() -> None:
    async def main() -> None:
        world = World(
            ALL=ToolLimit(concurrent=1, per_minute=60_000),
            web__ALL=ToolLimit(concurrent=3),
            web__getALL=ToolLimit(per_minute=2, wait_seconds=1),
        )
        await asyncio.gather(*(world.use("x", "web__put") for _ in range(3)))
        assert world.most == 3, "not the one place of all tools"
        outcomes = await asyncio.gather(*(world.use("x", "web__get") for _ in range(3)))
        assert [outcome is not None for outcome in outcomes] == [False, False, True]
        await asyncio.gather(*(world.use("x", "calculator") for _ in range(2)))
        assert now() == pytest.approx(4.0)

    virtually(main())


# ---- rates


def test_a_minutes_worth_comes_at_once_then_each_in_its_time() -> None:
    async def main() -> None:
        world = World(web__ALL=ToolLimit(per_minute=6, wait_seconds=30))
        began: dict[str, float] = {}

        async def use(number: int) -> ToolOutcome | None:
            limits = (world.one, world.other)[number % 2]
            async with limits.admit(world.context(call_id=f"c{number}"), "web__get") as refusal:
                if refusal is None:
                    began[f"c{number}"] = now()
                return refusal

        outcomes = await asyncio.gather(*(use(number) for number in range(12)))
        assert sorted(round(at) for at in began.values()) == [0] * 6 + [10, 20, 30]
        last = [outcome for outcome in outcomes if outcome is not None]
        assert {refused(outcome)[:2] for outcome in last} == {("error", "rate_limited")}
        assert refused(last[0])[2].startswith("web__get runs 6 times a minute at most for each user")

    virtually(main())


def test_a_wait_that_would_be_too_long_is_not_begun() -> None:
    async def main() -> None:
        world = World(web__ALL=ToolLimit(per_minute=1, wait_seconds=30))
        await world.use("first", seconds=0)
        outcome = await world.use("second")
        assert refused(outcome)[2] == "web__get runs 1 times a minute at most for each user; try again in 60 s"
        assert now() == 0

    virtually(main())


def test_less_than_one_a_minute_is_a_rate_too() -> None:
    async def main() -> None:
        world = World(web__ALL=ToolLimit(per_minute=0.5, wait_seconds=200))
        for name in ("first", "second"):
            await world.use(name, seconds=0)
        assert now() == pytest.approx(120)

    virtually(main())


# ---- how a place ends


def test_a_place_is_kept_while_the_call_runs_and_given_up_at_its_end() -> None:
    async def main() -> None:
        world = World(web__ALL=ToolLimit(concurrent=1, wait_seconds=500))
        await asyncio.gather(world.use("long", seconds=100), world.use("next", limits=world.other))
        assert (world.most, world.log) == (1, ["long", "next"])
        await world.one.close()
        await world.other.close()
        assert len(world.leases) == 0

    virtually(main())


def test_a_call_that_fails_or_is_cancelled_gives_its_place_up() -> None:
    async def main() -> None:
        world = World(web__ALL=ToolLimit(concurrent=1, wait_seconds=500))
        with pytest.raises(ZeroDivisionError):
            async with world.one.admit(world.context(), "web__get"):
                raise ZeroDivisionError
        running = asyncio.create_task(world.use("running", seconds=100))
        await asyncio.sleep(1)
        waiting = [asyncio.create_task(world.use(f"w{number}")) for number in range(3)]
        await asyncio.sleep(1)
        # The first of those that wait, then one that runs: the others come all the same.
        for task in (waiting[0], running):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await asyncio.gather(*waiting[1:])
        assert world.log == ["running", "w1", "w2"]
        assert now() == pytest.approx(4.0)
        await world.one.close()
        assert len(world.leases) == 0

    virtually(main())


def test_the_place_of_an_instance_that_died_is_free_in_time() -> None:
    async def main() -> None:
        world = World(web__ALL=ToolLimit(concurrent=1, wait_seconds=60))
        name = "tool:t/ann:web__*"
        assert await world.leases.acquire(name, "somebody who died", 1, 10)
        await world.use("next", seconds=0)
        assert now() == pytest.approx(10, abs=1.1)

    virtually(main())


# ---- a server that is away


@asynccontextmanager
async def over(proxy: FaultyProxy, prefix: str, **limits: ToolLimit) -> AsyncGenerator[ToolLimits]:
    client = RedisClient(proxy.url, timeout=0.5)
    named = {name.replace("ALL", "*"): limit for name, limit in limits.items()}
    rates, leases = RedisRateLimits(client, prefix=prefix), RedisLeases(client, prefix=prefix)
    made = ToolLimits(named, rates, leases, lease_seconds=0.6)
    try:
        yield made
    finally:
        await made.close()
        await client.close()


def context() -> ToolContext:
    return ToolContext(ANN, "chat", "c", lambda _progress, _total, _message: None)


async def test_a_call_that_runs_goes_on_without_the_server_and_has_its_place_again(valkey: ValkeyServer) -> None:
    prefix = fresh_prefix()
    async with (
        asyncio.timeout(20),
        faulty_proxy(str(valkey.socket)) as proxy,
        over(proxy, prefix, web=ToolLimit(concurrent=1, wait_seconds=0)) as limits,
    ):
        async with limits.admit(context(), "web") as refusal:
            assert refusal is None
            proxy.closed = True
            proxy.cut()
            # While it can't be renewed its time ends.
            age_leases(valkey.url, prefix, 10)
            proxy.closed = False
            requests = proxy.requests
            while proxy.requests < requests + 2:
                await asyncio.sleep(0.01)
            async with limits.admit(context(), "web") as second:
                assert refused(second)[1] == "rate_limited"
        await limits.close()
        async with limits.admit(context(), "web") as third:
            assert third is None


@pytest.mark.parametrize(
    "limit", [ToolLimit(concurrent=1, wait_seconds=0.3), ToolLimit(per_minute=1, wait_seconds=0.3)]
)
async def test_a_call_that_can_not_be_counted_waits_and_does_not_run(valkey: ValkeyServer, limit: ToolLimit) -> None:
    async with (
        asyncio.timeout(20),
        faulty_proxy(str(valkey.socket)) as proxy,
        over(proxy, fresh_prefix(), web=limit) as limits,
    ):
        proxy.closed = True
        began = now()
        async with limits.admit(context(), "web") as refusal:
            words = "web can't be run now: its limits are not known for the moment"
            assert refused(refusal) == ("error", "unavailable", words)
        assert 0.3 <= now() - began < 5


@pytest.mark.parametrize("limit", [ToolLimit(concurrent=1, wait_seconds=15), ToolLimit(per_minute=9, wait_seconds=15)])
async def test_a_call_runs_once_the_server_is_there_again(valkey: ValkeyServer, limit: ToolLimit) -> None:
    told = asyncio.Event()
    waiting = ToolContext(ANN, "chat", "c", lambda _progress, _total, _message: told.set())
    async with (
        asyncio.timeout(20),
        faulty_proxy(str(valkey.socket)) as proxy,
        over(proxy, fresh_prefix(), web=limit) as limits,
    ):
        proxy.closed = True

        async def use() -> ToolOutcome | None:
            async with limits.admit(waiting, "web") as refusal:
                return refusal

        async with asyncio.TaskGroup() as group:
            call = group.create_task(use())
            await told.wait()
            proxy.closed = False
        assert call.result() is None
