"""Edit and resend, regenerate, and going on from an earlier message: the model is given the chosen path."""

from __future__ import annotations

from pathlib import Path

from gateway.testing.openai_script import Reply
from gateway.testing.openai_server import FakeOpenAI
from tests.e2e.provider import asked, gateway_of, prompts
from tests.e2e.wire import Wire, check_contiguous


def echo() -> FakeOpenAI:
    return FakeOpenAI(default=lambda request: Reply.text(f"re {asked(request)}"))


async def test_the_model_is_given_the_path_that_was_chosen(tmp_path: Path) -> None:
    async with echo() as provider, gateway_of(provider, tmp_path) as gateway, Wire(gateway.ws, gateway.key()) as wire:
        await wire.hello()
        await wire.turn("one", "chat", id="m1")
        await wire.turn("two", "chat", id="m2")
        await wire.turn("two, edited", "chat", id="m3", replaces="m2")
        await wire.turn("three", "chat", id="m4")
        await wire.turn("another three", "chat", id="m5", parent_id="m2")
        await wire.turn("from the start", "chat", id="m6", replaces="m1")
        assert prompts(provider)[2:] == [
            ["one", "re one", "two, edited"],
            ["one", "re one", "two, edited", "re two, edited", "three"],
            ["one", "re one", "two", "re two", "another three"],
            ["from the start"],
        ]
        events = wire.events("chat")
        check_contiguous(events)
        named = {e["id"]: (e.get("parent_id"), e.get("replaces")) for e in events if e["type"] == "message"}
        assert (named["m3"], named["m5"]) == ((None, "m2"), ("m2", None))


async def test_an_answer_is_made_again(tmp_path: Path) -> None:
    async with echo() as provider, gateway_of(provider, tmp_path) as gateway, Wire(gateway.ws, gateway.key()) as wire:
        await wire.hello()
        await wire.turn("one", "chat", id="m1")
        events = await wire.turn("two", "chat", id="m2")
        answer = next(event["id"] for event in events if event["type"] == "message" and event["role"] == "assistant")
        await wire.turn("two", "chat", id="m3", replaces=answer)
        assert prompts(provider)[-1] == ["one", "re one", "two"]


async def test_the_path_is_the_same_after_a_restart(tmp_path: Path) -> None:
    async with echo() as provider, gateway_of(provider, tmp_path) as gateway:
        key = gateway.key()
        async with Wire(gateway.ws, key) as wire:
            await wire.hello()
            await wire.turn("one", "chat", id="m1")
            await wire.turn("two", "chat", id="m2")
            await wire.turn("edited", "chat", id="m3", replaces="m2")
        gateway.kill()
        await gateway.start()
        async with Wire(gateway.ws, key) as wire:
            await wire.hello()
            await wire.turn("three", "chat", id="m4")
        assert prompts(provider)[-1] == ["one", "re one", "edited", "re edited", "three"]


async def test_an_edit_of_what_is_being_answered_stops_the_answer(tmp_path: Path) -> None:
    from gateway.testing.openai_script import Stall, Text

    slow = Reply(steps=[Text("I think "), Stall()])
    async with FakeOpenAI(slow, default=lambda request: Reply.text(f"re {asked(request)}")) as provider:
        async with gateway_of(provider, tmp_path) as gateway, Wire(gateway.ws, gateway.key()) as wire:
            await wire.hello()
            await wire.ask("message", content="one", context_id="chat", id="m1")
            await wire.wait(lambda frame: frame["type"] == "delta")
            events = await wire.turn("one, edited", "chat", id="m2", replaces="m1", when_busy="interrupt")
            ends = {e["turn_id"]: e["status"] for e in wire.events("chat") if e["type"] == "turn_end"}
            assert ends == {"m1": "cancelled", "m2": "complete"}
            assert events[-1]["turn_id"] == "m2"
        assert prompts(provider)[-1] == ["one, edited"]


async def test_a_place_that_does_not_exist_is_refused_and_nothing_is_stored(tmp_path: Path) -> None:
    async with echo() as provider, gateway_of(provider, tmp_path) as gateway:
        key = gateway.key()
        async with Wire(gateway.ws, key) as wire, Wire(gateway.ws, gateway.key("bob")) as other:
            await wire.hello()
            await other.hello()
            await other.turn("secret", "chat", id="b1")
            await wire.turn("one", "chat", id="m1")

            async def refused(**fields: str) -> tuple[str, str]:
                error = await wire.ask("message", content="x", context_id="chat", **fields)
                return error["code"], error["path"]

            assert await refused(parent_id="b1") == ("not_found", "parent_id")
            assert await refused(replaces="nothing") == ("not_found", "replaces")
            assert await refused(replaces="m1", parent_id="m1") == ("invalid_frame", "parent_id")
            assert await refused(replaces="m1", when_busy="steer") == ("invalid_frame", "replaces")
            assert await refused(replaces="not an id") == ("invalid_frame", "replaces")
            assert await refused(id="m9", replaces="m9") == ("not_found", "replaces")
            await wire.turn("two", "chat")
        assert prompts(provider)[-1] == ["one", "re one", "two"]
