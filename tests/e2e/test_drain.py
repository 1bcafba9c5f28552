"""SIGTERM: clients are told to go, running turns end or go on after the restart, and the exit status is 0."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Launch
from tests.e2e.wire import Wire, check_contiguous, spoken

CONFIG = """
[server]
drain_seconds = {seconds}
[models.demo]
provider = "demo"
delay = 5
"""


async def test_a_running_turn_ends_before_the_gateway_does(launch: Launch) -> None:
    async with launch(CONFIG.format(seconds=20)) as gateway:
        async with Wire(gateway.ws, gateway.key()) as wire:
            await wire.hello()
            await wire.ask("message", id="m", content="long 200", context_id="chat")
            await wire.wait(lambda frame: frame["type"] == "delta")
            gateway.terminate()
            goaway = await wire.wait(lambda frame: frame["type"] == "goaway")
            refused = await wire.ask("message", content="too late", context_id="chat")
            end = await wire.wait(lambda frame: frame["type"] == "turn_end")
            assert await wire.wait_closed() in (1001, 1012)
        assert goaway["retry_after"] > 0
        assert refused["code"] == "unavailable"
        assert end["status"] == "complete"
        check_contiguous(wire.events("chat"))
        assert await gateway.died() == 0


@pytest.mark.promise("4")
async def test_a_turn_that_is_too_long_goes_on_after_the_restart(launch: Launch) -> None:
    async with launch(CONFIG.format(seconds=0.1)) as gateway:
        key = gateway.key()
        async with Wire(gateway.ws, key) as wire:
            await wire.hello()
            await wire.ask("message", id="m", content="long 300", context_id="chat")
            await wire.wait(lambda frame: frame["type"] == "delta")
            gateway.terminate()
            assert await wire.wait_closed() in (1001, 1012)
        assert await gateway.died() == 0
        await gateway.start()
        async with Wire(gateway.ws, key) as wire:
            await wire.hello(cursors={"chat": None})
            await wire.wait(lambda frame: frame["type"] == "turn_end")
            events = wire.events("chat")
            snapshot = next(frame for frame in wire.frames if frame["type"] == "snapshot")
    answer = next(event for event in events if event["type"] == "message" and event["role"] == "assistant")
    assert answer["status"] == "complete"
    spoken_before = "".join(partial["text"] for partial in snapshot["partial"])
    assert answer["content"] in (spoken(events, answer["id"]), spoken_before + spoken(events, answer["id"]))
