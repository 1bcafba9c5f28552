"""Contexts that are deleted on one instance, as the others learn of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.contexts import Contexts
from gateway.hub import Hub
from protocol.frames import ContextChanged, Hello, Subscribed
from stores.ports import Follower, NotFound, Unavailable
from stores.records import ContextKey
from tests.gateway.parts_world import KEY, Device, Instance, Shared, shared

MOST = 20.0


def managed(instance: Instance) -> Contexts:
    return instance.parts._managed  # pyright: ignore[reportPrivateUsage]


def hub_of(instance: Instance) -> Hub:
    return instance.parts._hub  # pyright: ignore[reportPrivateUsage]


async def followers(one: Instance, two: Instance) -> list[Device]:
    devices = [await one.connect(Hello(cursors={KEY.id: None})), await two.connect(Hello(cursors={KEY.id: None}))]
    for device in devices:
        await device.until(Subscribed)
    return devices


async def told(device: Device) -> None:
    async with asyncio.timeout(MOST):
        while not (await device.until(ContextChanged)).deleted:
            pass


async def test_followers_on_another_instance_are_told_that_it_was_deleted(tmp_path: Path) -> None:
    async with shared(tmp_path) as world, world.instance() as one, world.instance() as two:
        await world.store.create_context(KEY, None, None)
        devices = await followers(one, two)
        await managed(one).delete(KEY)
        for device in devices:
            await told(device)
        async with asyncio.timeout(MOST):
            while hub_of(two).contexts:
                await asyncio.sleep(0.001)
        assert hub_of(one).contexts == 0


async def test_they_are_told_though_the_end_of_its_log_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shared(tmp_path) as world, world.instance() as one, world.instance() as two:
        await world.store.create_context(KEY, None, None)
        _deaf(world, monkeypatch)
        devices = await followers(one, two)
        before = devices[1].cursor
        await managed(one).delete(KEY)
        assert before is not None
        epoch, _, seq = before.partition(":")
        for device in devices:
            await told(device)
            assert device.cursor == f"{epoch}:{int(seq) + 1}"


async def test_they_are_told_though_nobody_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with shared(tmp_path) as world, world.instance() as one, world.instance() as two:
        await world.store.create_context(KEY, None, None)
        _deaf(world, monkeypatch)
        _, there = await followers(one, two)

        async def publish(channel: str, payload: bytes) -> None:
            raise Unavailable("away")

        monkeypatch.setattr(world.bus, "publish", publish)
        with pytest.raises(Unavailable):
            await managed(one).delete(KEY)
        await hub_of(two).compare()
        await told(there)
        # Done again, it goes as far as it can.
        monkeypatch.undo()
        with pytest.raises(NotFound):
            await managed(one).delete(KEY)


async def test_what_another_instance_kept_of_it_is_forgotten(tmp_path: Path) -> None:
    async with shared(tmp_path) as world, world.instance() as one, world.instance() as two:
        device = await two.connect(Hello(cursors={}))
        await device.say("hello")
        await two.idle()
        active = two.parts._active  # pyright: ignore[reportPrivateUsage]
        assert len(active) == 1
        await managed(one).delete(KEY)
        async with asyncio.timeout(MOST):
            while len(active):
                await asyncio.sleep(0.001)
        assert world.threads is not None
        assert await world.threads.load(KEY) is None
        fresh = await two.connect(Hello(cursors={}))
        await fresh.say("again")
        assert world.model.given[-1] == world.model.cold[-1]
        assert len(world.model.given[-1]) == 1


async def test_a_call_that_names_no_context_is_nothing(tmp_path: Path) -> None:
    async with shared(tmp_path) as world, world.instance() as one:
        await world.store.create_context(KEY, None, None)
        for payload in (b"", b"[]", b'["t/ann"]', b'["t/ann","chat"]', b'["t/ann","never"]'):
            await world.bus.publish("contexts-deleted", payload)
        await asyncio.sleep(0)
        assert (await managed(one).read(KEY)).key == KEY


def _deaf(world: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is published of contexts is lost."""

    async def follow(key: ContextKey, follower: Follower) -> object:
        async def stop() -> None: ...

        return stop

    monkeypatch.setattr(world.log, "follow", follow)
