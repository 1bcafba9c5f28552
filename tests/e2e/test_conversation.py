"""A conversation over a real socket with the demo model, as protocol.md describes it."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.e2e.conftest import EVERYWHERE, SHARED
from tests.e2e.gateways import GatewayProcess
from tests.e2e.wire import Frame, Wire, check_contiguous, spoken


def _kinds(events: list[Frame]) -> list[str]:
    kinds: list[str] = []
    for event in events:
        if event["type"] != "delta" or kinds[-1] != "delta":
            kinds.append(event["type"])
    return kinds


@SHARED
async def test_hello_and_ready(gateway: GatewayProcess) -> None:
    async with Wire(gateway.ws, subprotocols=["tidegate.v1.json"]) as wire:
        ready = await wire.hello(token=gateway.key("ann"))
    assert ready["subject"] == "ann"
    assert ready["resumed"] is False
    assert ready["models"] == ["demo"]
    assert ready["default_model"] == "demo"
    assert ready["limits"]["max_unacked"] >= 64
    assert ready["session_id"].startswith("sess_")


@pytest.mark.promise("1")
@EVERYWHERE
async def test_a_message_is_acknowledged_then_streamed(gateway: GatewayProcess) -> None:
    async with Wire(gateway.ws, gateway.key()) as wire:
        await wire.hello()
        frames = await wire.turn("good morning", "chat")
    ack, *events = frames
    assert ack["type"] == "ack"
    assert ack["epoch"]
    assert ack["seq"] == 1 == events[0]["seq"]
    assert _kinds(events) == ["message", "message_start", "delta", "message", "turn_end"]
    check_contiguous(events)
    answer = events[-2]
    assert answer["role"] == "assistant"
    assert "good morning" in answer["content"]
    assert answer["content"] == spoken(events, answer["id"])
    assert events[-1]["status"] == "complete"
    assert events[-1]["steps"] == 1
    assert {event["turn_id"] for event in events} == {ack["id"]}


@EVERYWHERE
async def test_a_context_is_made_where_none_is_named(gateway: GatewayProcess) -> None:
    async with Wire(gateway.ws, gateway.key()) as wire:
        await wire.hello()
        first = await wire.ask("message", id="m1", content="hi")
        again = await wire.ask("message", id="m1", content="hi")
    assert first["context_id"].startswith("conv_")
    assert again["context_id"] == first["context_id"]
    assert again["duplicate"] is True
    assert "duplicate" not in first


@EVERYWHERE
async def test_the_model_calls_a_tool_with_progress(gateway: GatewayProcess) -> None:
    async with Wire(gateway.ws, gateway.key()) as wire:
        await wire.hello()
        events = (await wire.turn("count 3", "chat"))[1:]
    check_contiguous(events)
    call = next(event for event in events if event["type"] == "tool_call")
    answer = next(event for event in events if event["type"] == "tool_response")
    progress = [event["progress"] for event in events if event["type"] == "tool_progress"]
    assert call["tool"] == "countdown"
    assert call["runs_on"] == "server"
    assert progress == sorted(progress)
    assert len(progress) == 3
    assert answer["tool_call_id"] == call["id"]
    assert answer["status"] == "success"
    assert events[-1]["steps"] == 2


@SHARED
async def test_the_calculator_answers_as_in_the_seed(gateway: GatewayProcess) -> None:
    async with Wire(gateway.ws, gateway.key()) as wire:
        await wire.hello()
        call = {"tool": "calculator", "parameters": {"operation": "multiply", "a": 5, "b": 3}, "context_id": "c"}
        ack = await wire.ask("tool_call", id="tool_1", **call)
        await wire.wait(lambda frame: frame["type"] == "turn_end")
        events = wire.events("c")
    assert ack["seq"] == 1
    assert _kinds(events) == ["tool_call", "tool_response", "turn_end"]
    assert events[0]["id"] == events[0]["turn_id"] == "tool_1"
    assert events[1]["result"] == {"result": 15}


@SHARED
async def test_wrong_parameters_are_a_response_and_unknown_tools_an_error(gateway: GatewayProcess) -> None:
    async with Wire(gateway.ws, gateway.key()) as wire:
        await wire.hello()
        wrong = {"operation": "multiply", "a": "five", "b": 3}
        await wire.ask("tool_call", tool="calculator", parameters=wrong, context_id="c")
        response = await wire.wait(lambda frame: frame["type"] == "tool_response")
        unknown = await wire.ask("tool_call", tool="nothing", parameters={}, context_id="c")
    assert response["status"] == "error"
    assert "a" in str(response["result"])
    assert unknown["code"] == "not_found"
    assert unknown["path"] == "tool"


@SHARED
async def test_two_calls_run_beside_the_talk(gateway: GatewayProcess) -> None:
    async with Wire(gateway.ws, gateway.key()) as wire:
        await wire.hello()
        events = (await wire.turn("both", "chat"))[1:]
    calls = [event for event in events if event["type"] == "tool_call"]
    assert {call["tool"] for call in calls} == {"calculator", "countdown"}
    first_message = next(e for e in events if e["type"] == "message" and e["role"] == "assistant")
    assert first_message["content"] == spoken(events, first_message["id"])
    assert calls[0]["seq"] < first_message["seq"]
    response = next(e for e in events if e["type"] == "tool_response")
    assert response["seq"] < first_message["seq"], "a tool starts while the model is still talking"


@pytest.mark.promise("1")
@EVERYWHERE
async def test_every_device_and_history_end_with_the_same(gateway: GatewayProcess) -> None:
    key = gateway.key()
    async with Wire(gateway.ws, key) as one, Wire(gateway.ws, key) as other:
        await one.hello()
        await one.turn("first", "chat")
        await other.hello(cursors={"chat": None})
        snapshot = await other.wait(lambda frame: frame["type"] == "snapshot")
        await one.turn("count 2", "chat")
        await other.wait(lambda frame: frame["type"] == "turn_end")
        durable = [e for e in one.events("chat") if e["type"] not in ("message_start", "delta", "tool_progress")]
        live = [e for e in other.events("chat") if e["type"] not in ("message_start", "delta", "tool_progress")]
    async with httpx.AsyncClient(headers={"X-API-Key": key}) as client:
        history = (await client.get(f"{gateway.url}/v1/contexts/chat/events")).json()["events"]
    assert durable == history
    assert snapshot["events"] + live == history


@pytest.mark.parametrize("busy", ["queue", "interrupt", "steer", "reject"])
@EVERYWHERE
async def test_a_message_while_a_turn_runs(gateway: GatewayProcess, busy: str) -> None:
    async with Wire(gateway.ws, gateway.key()) as wire:
        await wire.hello()
        await wire.ask("message", id="long", content="long 300", context_id="chat")
        await wire.wait(lambda frame: frame["type"] == "delta")
        answer = await wire.ask("message", id="new", content="hello", context_id="chat", when_busy=busy)
        if busy == "reject":
            assert answer["code"] == "busy"
            await wire.ask("cancel", context_id="chat")
        end = await wire.wait(lambda frame: frame["type"] == "turn_end" and frame["turn_id"] == "long")
        if busy in ("queue", "interrupt"):
            second = await wire.wait(lambda frame: frame["type"] == "turn_end" and frame["turn_id"] == "new")
            assert second["status"] == "complete"
            assert second["seq"] > end["seq"]
        events = wire.events("chat")
    check_contiguous(events)
    assert end["status"] == ("cancelled" if busy in ("interrupt", "reject") else "complete")
    if busy == "steer":
        steering = next(event for event in events if event.get("id") == "new")
        assert steering["turn_id"] == "long"
        assert end["steps"] == 2
        assert events[-1] == end


@EVERYWHERE
async def test_cancel_from_another_device(gateway: GatewayProcess) -> None:
    key = gateway.key()
    async with Wire(gateway.ws, key) as one, Wire(gateway.ws, key) as other:
        await one.hello()
        await other.hello()
        await one.ask("message", id="m", content="long 5000", context_id="chat")
        await one.wait(lambda frame: frame["type"] == "delta")
        ack = await other.ask("cancel", id="stop", context_id="chat")
        again = await other.ask("cancel", id="stop", context_id="chat")
        end = await one.wait(lambda frame: frame["type"] == "turn_end")
        message = next(e for e in one.events("chat") if e["type"] == "message" and e["role"] == "assistant")
    assert ack["type"] == "ack"
    assert again["duplicate"] is True
    assert end["status"] == "cancelled"
    assert message["status"] == "cancelled"
    assert message["content"] == spoken(one.events("chat"), message["id"])


@EVERYWHERE
async def test_cancel_of_a_running_tool_answers_its_call(gateway: GatewayProcess) -> None:
    async with Wire(gateway.ws, gateway.key()) as wire:
        await wire.hello()
        await wire.ask("message", content="count 100", context_id="chat")
        call = await wire.wait(lambda frame: frame["type"] == "tool_call")
        await wire.wait(lambda frame: frame["type"] == "tool_progress")
        await wire.ask("cancel", context_id="chat", tool_call_id=call["id"])
        response = await wire.wait(lambda frame: frame["type"] == "tool_response")
        end = await wire.wait(lambda frame: frame["type"] == "turn_end")
    assert response["status"] == "cancelled"
    assert end["status"] == "complete"


@EVERYWHERE
async def test_a_tool_of_the_client(gateway: GatewayProcess) -> None:
    spec = {"name": "where_am_i", "description": "The device's place.", "parameters": {"type": "object"}}
    async with Wire(gateway.ws, gateway.key()) as wire:
        ready = await wire.hello(tools=[spec])
        await wire.ask("message", content="call where_am_i {}", context_id="chat")
        call = await wire.wait(lambda frame: frame["type"] == "tool_call")
        assert call["runs_on"] == "client"
        assert call["session_id"] == ready["session_id"]
        answer = {"tool_call_id": call["id"], "context_id": "chat", "result": {"city": "Ghent"}, "status": "success"}
        ack = await wire.ask("tool_response", id="a1", **answer)
        late = await wire.ask("tool_response", id="a2", **answer)
        end = await wire.wait(lambda frame: frame["type"] == "turn_end")
        last = [e for e in wire.events("chat") if e["type"] == "message"][-1]
    assert ack["type"] == "ack"
    assert late["code"] == "conflict"
    assert end["status"] == "complete"
    assert "Ghent" in last["content"]


@pytest.mark.promise("6")
@EVERYWHERE
async def test_principals_never_meet(gateway: GatewayProcess) -> None:
    async with Wire(gateway.ws, gateway.key("ann")) as ann, Wire(gateway.ws, gateway.key("bob")) as bob:
        ready = await ann.hello()
        assert (await bob.hello(session_id=ready["session_id"]))["resumed"] is False
        await ann.turn("a secret", "chat")
        assert (await bob.ask("subscribe", context_id="chat"))["code"] == "not_found"
        assert (await bob.ask("cancel", context_id="chat"))["code"] == "not_found"
        await bob.turn("hello", "chat")
        assert "secret" not in str(bob.frames)


@EVERYWHERE
async def test_the_log_of_the_process_holds_no_content(gateway: GatewayProcess) -> None:
    key = gateway.key()
    async with Wire(gateway.ws, key) as wire:
        await wire.hello()
        await wire.turn("xyzzy-content", "chat")
        await wire.send_raw("{ xyzzy-garbage")
        await wire.wait(lambda frame: frame["type"] == "error")
    await asyncio.sleep(0)
    assert "xyzzy" not in gateway.log()
    assert key not in gateway.log()
