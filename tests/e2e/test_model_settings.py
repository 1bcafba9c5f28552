"""What the settings put between a model and a turn, seen from a client's socket."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.testing.openai_script import Cut, Finish, Hold, Reply, Stall, Text
from gateway.testing.openai_server import FakeOpenAI, ReceivedRequest
from tests.e2e.gateways import GatewayProcess, free_port
from tests.e2e.wire import Frame, Wire, check_contiguous, spoken

ANSWER = "The answer is here."
SHORT = "timeouts = { connect = 1, first_token = 1, between_tokens = 1 }"


def model(name: str, base_url: str, *lines: str) -> str:
    head = [f"[models.{name}]", 'provider = "openai"', 'model = "m"', f'base_url = "{base_url}"', SHORT]
    return "\n".join([*head, *lines]) + "\n"


def answers(events: list[Frame]) -> list[Frame]:
    """The assistant's messages; each is exactly what its deltas said."""
    events = [event for event in events if event["type"] != "ack"]
    check_contiguous(events)
    found = [event for event in events if event["type"] == "message" and event["role"] == "assistant"]
    for message in found:
        assert message["content"] == spoken(events, message["id"])
    return found


def hits(events: list[Frame]) -> list[int]:
    """For each assistant message, and then the turn, how much came from the gateway's cache."""
    ends = [event for event in events if event["type"] == "turn_end"]
    return [event["usage"].get("cached_responses", 0) for event in (*answers(events), *ends)]


# ---- fallback


@pytest.mark.parametrize("fault", ["gone", "503", "stalls", "cuts", "refuses"])
async def test_a_fallback_answers_and_is_named_in_the_message(tmp_path: Path, fault: str) -> None:
    replies = {
        "503": Reply.failure(503, retry_after="0"),
        "stalls": Reply(steps=[Stall()]),
        "cuts": Reply(steps=[Cut()]),
        "refuses": Reply.failure(401),
    }
    async with (
        FakeOpenAI(default=lambda _: replies[fault]) as first,
        FakeOpenAI(default=lambda _: Reply.text(ANSWER)) as second,
    ):
        url = f"http://127.0.0.1:{free_port()}/v1" if fault == "gone" else first.base_url
        config = model("first", url, "attempts = 2", 'fallback = ["second"]') + model("second", second.base_url)
        async with GatewayProcess(tmp_path, config=config) as gateway, Wire(gateway.ws, gateway.key()) as wire:
            await wire.hello()
            events = await wire.turn("question", "chat")
            # Who asks for the other one gets it under its own name.
            direct = await wire.turn("question", "chat", model="second")
    start = next(event for event in events if event["type"] == "message_start")
    assert (start["model"], start["attempt"]) == ("first", 1)
    assert [(message["model"], message["content"]) for message in answers(events)] == [("second", ANSWER)]
    assert [message["model"] for message in answers(direct)] == ["second"]
    assert len(second.requests) == 2
    assert len(first.requests) == {"gone": 0, "refuses": 1}.get(fault, 2)


async def test_after_the_first_token_the_message_begins_again_with_the_one_that_was_asked(tmp_path: Path) -> None:
    async with FakeOpenAI(Reply(steps=[Text("The "), Cut()]), Reply.text(ANSWER)) as first, FakeOpenAI() as second:
        config = model("first", first.base_url, 'fallback = ["second"]') + model("second", second.base_url)
        async with GatewayProcess(tmp_path, config=config) as gateway, Wire(gateway.ws, gateway.key()) as wire:
            await wire.hello()
            events = await wire.turn("question", "chat")
    assert [event["attempt"] for event in events if event["type"] == "message_start"] == [1, 2]
    assert [(message["model"], message["content"]) for message in answers(events)] == [("first", ANSWER)]
    assert second.requests == []


async def test_a_turn_fails_once_where_all_models_do(tmp_path: Path) -> None:
    async with FakeOpenAI(default=lambda _: Reply.failure(401)) as first:
        config = model("first", first.base_url, 'fallback = ["second"]') + model("second", first.base_url)
        async with GatewayProcess(tmp_path, config=config) as gateway, Wire(gateway.ws, gateway.key()) as wire:
            await wire.hello()
            events = await wire.turn("question", "chat")
    assert (events[-1]["type"], events[-1]["status"]) == ("turn_end", "failed")
    assert len(first.requests) == 2


# ---- cache


async def test_the_second_equal_question_of_a_principal_is_answered_from_the_cache(tmp_path: Path) -> None:
    async with FakeOpenAI(default=lambda _: Reply.text(ANSWER)) as provider:
        config = model("main", provider.base_url, "cache_seconds = 600")
        async with (
            GatewayProcess(tmp_path, config=config) as gateway,
            Wire(gateway.ws, gateway.key("ann")) as ann,
            Wire(gateway.ws, gateway.key("bob")) as bob,
        ):
            await ann.hello()
            await bob.hello()
            assert hits(await ann.turn("question", "one")) == [0, 0]
            events = await ann.turn("question", "two")
            assert hits(events) == [1, 1]
            assert [message["content"] for message in answers(events)] == [ANSWER]
            assert answers(events)[0]["usage"]["output_tokens"] == 0
            assert hits(await ann.turn("another question", "three")) == [0, 0]
            # What was said before is a part of the question.
            assert hits(await ann.turn("question", "three")) == [0, 0]
            assert hits(await bob.turn("question", "two")) == [0, 0]
            assert len(provider.requests) == 4
        assert ANSWER not in gateway.log()
        assert "question" not in gateway.log()


async def test_a_shared_answer_is_everybodys(tmp_path: Path) -> None:
    async with FakeOpenAI(default=lambda _: Reply.text(ANSWER)) as provider:
        config = model("main", provider.base_url, "cache_seconds = 600", "cache_shared = true")
        async with (
            GatewayProcess(tmp_path, config=config) as gateway,
            Wire(gateway.ws, gateway.key("ann")) as ann,
            Wire(gateway.ws, gateway.key("bob")) as bob,
        ):
            await ann.hello()
            await bob.hello()
            assert hits(await ann.turn("question", "one")) == [0, 0]
            assert hits(await bob.turn("question", "one")) == [1, 1]
            assert len(provider.requests) == 1


async def test_without_the_setting_nothing_is_kept(tmp_path: Path) -> None:
    async with FakeOpenAI(default=lambda _: Reply.text(ANSWER)) as provider:
        config = model("main", provider.base_url)
        async with GatewayProcess(tmp_path, config=config) as gateway, Wire(gateway.ws, gateway.key()) as wire:
            await wire.hello()
            for context in ("one", "two"):
                assert hits(await wire.turn("question", context)) == [0, 0]


def _loop(request: ReceivedRequest) -> Reply:
    """Calls a tool, then answers."""
    if request.body["messages"][-1]["role"] == "tool":
        return Reply.text(ANSWER)
    return Reply.calls(("calculator", {"operation": "add", "a": 1, "b": 2}), before="Let me see. ")


async def test_a_kept_call_runs_again_and_its_answer_is_kept_as_well(tmp_path: Path) -> None:
    async with FakeOpenAI(default=_loop) as provider:
        config = model("main", provider.base_url, "cache_seconds = 600")
        async with GatewayProcess(tmp_path, config=config) as gateway, Wire(gateway.ws, gateway.key()) as wire:
            await wire.hello()
            assert hits(await wire.turn("question", "one")) == [0, 0, 0]
            events = await wire.turn("question", "two")
            # The ids of the calls differ: equal conversations meet all the same.
            assert hits(events) == [1, 1, 2]
            assert [event["type"] for event in events].count("tool_call") == 1
            assert [event["status"] for event in events if event["type"] == "tool_response"] == ["success"]
            assert len(provider.requests) == 2


async def test_with_other_tools_it_is_another_question(tmp_path: Path) -> None:
    async with FakeOpenAI(default=lambda _: Reply.text(ANSWER)) as provider:
        config = model("main", provider.base_url, "cache_seconds = 600")
        async with GatewayProcess(tmp_path, config=config) as gateway, Wire(gateway.ws, gateway.key()) as wire:
            await wire.hello()
            assert hits(await wire.turn("question", "one")) == [0, 0]
            assert hits(await wire.turn("question", "two", tools=["calculator"])) == [0, 0]
            assert hits(await wire.turn("question", "three", tools=[])) == [0, 0]
            assert hits(await wire.turn("question", "four", tools=["calculator"])) == [1, 1]
            assert len(provider.requests) == 3


async def test_a_restart_forgets_what_was_kept(tmp_path: Path) -> None:
    async with FakeOpenAI(default=lambda _: Reply.text(ANSWER)) as provider:
        gateway = GatewayProcess(tmp_path, config=model("main", provider.base_url, "cache_seconds = 600"))
        key = gateway.key()
        for context in ("one", "two"):
            async with gateway, Wire(gateway.ws, key) as wire:
                await wire.hello()
                assert hits(await wire.turn("question", context)) == [0, 0]


# ---- concurrency


async def test_turns_wait_for_a_place_and_one_that_waits_can_be_cancelled(tmp_path: Path) -> None:
    go = asyncio.Event()
    held = Reply(steps=[Text("The "), Hold(go), Text("answer"), Finish()])
    async with FakeOpenAI(held, default=lambda _: Reply.text(ANSWER)) as provider:
        config = model("main", provider.base_url, "concurrency = 1").replace(
            "between_tokens = 1", "between_tokens = 60"
        )
        async with GatewayProcess(tmp_path, config=config) as gateway, Wire(gateway.ws, gateway.key()) as wire:
            await wire.hello()
            first = await wire.ask("message", content="question", context_id="one")
            await wire.wait(lambda frame: frame["type"] == "delta")
            waiting = {
                context: (await wire.ask("message", content="question", context_id=context))["id"]
                for context in ("two", "three")
            }
            for context in waiting:
                await wire.wait(lambda f, c=context: f["type"] == "message_start" and f["context_id"] == c)
            await wire.ask("cancel", context_id="two", turn_id=waiting["two"])
            end = await wire.wait(lambda f: f["type"] == "turn_end" and f["turn_id"] == waiting["two"])
            assert end["status"] == "cancelled"
            assert len(provider.requests) == 1
            go.set()
            for turn in (first["id"], waiting["three"]):
                end = await wire.wait(lambda f, t=turn: f["type"] == "turn_end" and f["turn_id"] == t)
                assert end["status"] == "complete"
    assert len(provider.requests) == 2


# ---- settings


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('fallback = ["nobody"]', 'models.main.fallback: there is no model "nobody"'),
        ('fallback = ["main"]', "models.main.fallback: leads back to where it began"),
    ],
)
async def test_a_fallback_that_can_not_be_stops_the_start(tmp_path: Path, line: str, message: str) -> None:
    gateway = GatewayProcess(tmp_path, config=model("main", "http://127.0.0.1:1/v1", line))
    with pytest.raises(RuntimeError) as caught:
        await gateway.start()
    assert message in " ".join(str(caught.value).split())
    assert "Traceback" not in str(caught.value)
