"""Tools on the client over the bare wire: who may answer, once, when, through what (docs/protocol.md, section 2)."""

from __future__ import annotations

import asyncio
from itertools import count
from pathlib import Path
from typing import Any

from tests.e2e.conftest import EVERYWHERE, SHARED, Launch
from tests.e2e.gateways import GatewayProcess
from tests.e2e.wire import Frame, Wire, check_contiguous

LOCATE = {
    "name": "locate",
    "description": "Where the device is.",
    "parameters": {"type": "object", "properties": {"of": {"type": "string"}}},
}
PAY = {**LOCATE, "name": "pay", "approval": "always"}
CONTEXT = "chat"
_numbers = count()  # several sockets speak in one context


async def called(wire: Wire, content: str = 'call locate {"of": "phone"}', tool: str = "locate") -> Frame:
    """Say it in the context; the call that it leads to."""
    ack = await wire.ask("message", id=f"said{next(_numbers)}", content=content, context_id=CONTEXT)
    assert ack["type"] == "ack", ack
    return await wire.wait(
        lambda frame: frame["type"] == "tool_call" and frame["tool"] == tool and frame["turn_id"] == ack["id"]
    )


async def answer(wire: Wire, call: Frame, **fields: Any) -> Frame:
    given: Frame = {
        "id": f"answer{next(_numbers)}",
        "context_id": CONTEXT,
        "tool_call_id": call["id"],
        "result": {"at": "home"},
        "status": "success",
    }
    return await wire.ask("tool_response", **{**given, **fields})


async def decide(wire: Wire, call: Frame, **fields: Any) -> Frame:
    given = {"id": f"decision{next(_numbers)}", "context_id": CONTEXT, "tool_call_id": call["id"]}
    return await wire.ask("tool_approval", **given, **fields)


async def response_of(wire: Wire, call: Frame) -> Frame:
    return await wire.wait(lambda frame: frame["type"] == "tool_response" and frame["tool_call_id"] == call["id"])


async def spoken_end(wire: Wire, call: Frame) -> str:
    """What the model says of the call, once its turn is over."""
    await wire.wait(lambda frame: frame["type"] == "turn_end" and frame["turn_id"] == call["turn_id"])
    said = [e for e in wire.frames if e["type"] == "message" and e["role"] == "assistant"]
    return said[-1]["content"]


def code(reply: Frame) -> str:
    return reply.get("code", reply["type"])


# ---- who answers


@EVERYWHERE
async def test_a_call_is_its_sessions_alone_and_is_answered_once(gateway: GatewayProcess) -> None:
    async with (
        Wire(gateway.ws, gateway.key()) as phone,
        Wire(gateway.ws, gateway.key()) as tablet,
        Wire(gateway.ws, gateway.key("bob")) as foreign,
    ):
        session = (await phone.hello(tools=[LOCATE]))["session_id"]
        await tablet.hello(tools=[LOCATE], cursors={})
        await foreign.hello(tools=[LOCATE])
        call = await called(phone)
        assert (call["runs_on"], call["session_id"]) == ("client", session)
        await tablet.ask("subscribe", context_id=CONTEXT)
        assert code(await answer(tablet, call)) == "not_found"
        assert code(await answer(foreign, call)) == "not_found"
        assert code(await answer(phone, call, tool_call_id="tool_unknown")) == "not_found"
        for lie in ("complete", "running", None, 1):
            refused = await answer(phone, call, status=lie)
            assert (refused["code"], refused["path"]) == ("invalid_frame", "status")
        replies = await asyncio.gather(*(answer(phone, call, id=f"a{n}", result=n) for n in range(8)))
        taken = [n for n, reply in enumerate(replies) if reply["type"] == "ack"]
        assert len(taken) == 1
        assert {code(reply) for reply in replies} == {"ack", "conflict"}
        again = await answer(phone, call, id=f"a{taken[0]}", result="something else")
        assert again["duplicate"] is True
        assert (await response_of(phone, call))["result"] == taken[0]
        assert f"locate answered: {taken[0]}" in await spoken_end(phone, call)
        check_contiguous(phone.events(CONTEXT))


@SHARED
async def test_the_senders_tool_comes_before_one_that_was_declared_later(gateway: GatewayProcess) -> None:
    async with Wire(gateway.ws, gateway.key()) as phone, Wire(gateway.ws, gateway.key()) as tablet:
        first = (await phone.hello(tools=[LOCATE]))["session_id"]
        last = (await tablet.hello(tools=[LOCATE]))["session_id"]
        assert (await called(phone))["session_id"] == first
        async with Wire(gateway.ws, gateway.key()) as other:
            await other.hello()
            ack = await other.ask("tool_call", tool="locate", parameters={}, context_id="elsewhere")
            direct = await other.wait(lambda frame: frame["type"] == "tool_call" and frame["id"] == ack["id"])
            assert direct["session_id"] == last


@SHARED
async def test_a_tool_of_the_gateway_comes_before_a_clients_of_its_name(gateway: GatewayProcess) -> None:
    async with Wire(gateway.ws, gateway.key()) as wire:
        await wire.hello(tools=[{**LOCATE, "name": "calculator"}])
        events = await wire.turn("calc 2 + 3", CONTEXT)
    (call,) = [event for event in events if event["type"] == "tool_call"]
    assert call["runs_on"] == "server"


# ---- what may be declared


@SHARED
async def test_what_no_model_can_be_shown_is_refused_and_hello_may_be_said_again(gateway: GatewayProcess) -> None:
    wrong: list[tuple[Any, str]] = [
        ([LOCATE, {**LOCATE, "name": "other", "parameters": {"type": "array"}}], "tools[1].parameters"),
        ([{**LOCATE, "parameters": {"properties": {"of": {"type": "words"}}}}], "tools[0].parameters"),
        ([{**LOCATE, "parameters": {"properties": {"of": {"$ref": "http://10.0.0.1/"}}}}], "tools[0].parameters"),
        ([LOCATE, LOCATE], "tools[1].name"),
        ([{**LOCATE, "name": "no name"}], "tools[0].name"),
        ([{**LOCATE, "approval": "maybe"}], "tools[0].approval"),
        ([{**LOCATE, "name": f"tool{n}"} for n in range(129)], "tools"),
    ]
    async with Wire(gateway.ws, gateway.key()) as wire:
        for tools, path in wrong:
            seen = len(wire.frames)
            await wire.send({"type": "hello", "tools": tools})
            await wire.wait(lambda frame: frame in wire.frames[seen:] and frame["type"] == "error")  # noqa: B023 - awaited
            assert (wire.frames[-1]["code"], wire.frames[-1]["path"]) == ("invalid_frame", path)
        many = [{**LOCATE, "name": f"tool{n}", "parameters": {}} for n in range(128)]
        assert (await wire.hello(tools=many))["type"] == "ready"
        assert (await called(wire, "call tool127 {}", "tool127"))["runs_on"] == "client"


# ---- people first


@EVERYWHERE
async def test_a_person_decides_before_the_client_acts(gateway: GatewayProcess) -> None:
    async with Wire(gateway.ws, gateway.key()) as phone, Wire(gateway.ws, gateway.key()) as tablet:
        await phone.hello(tools=[PAY])
        await tablet.hello()
        call = await called(phone, 'call pay {"of": "rent"}', "pay")
        assert (call["runs_on"], call["approval"]) == ("client", "required")
        early = await answer(phone, call)
        assert (early["code"], early["path"]) == ("conflict", "tool_call_id")
        decided = await decide(tablet, call, approved=True, parameters={"of": "half"})
        assert decided["type"] == "ack"
        seen = await phone.wait(lambda frame: frame["type"] == "tool_approval")
        assert seen["parameters"] == {"of": "half"}
        assert (await answer(phone, call))["type"] == "ack"
        await spoken_end(phone, call)


@SHARED
async def test_what_was_denied_takes_no_answer(gateway: GatewayProcess) -> None:
    async with Wire(gateway.ws, gateway.key()) as phone:
        await phone.hello(tools=[PAY])
        call = await called(phone, "call pay {}", "pay")
        ack, late = await asyncio.gather(
            decide(phone, call, approved=False),
            answer(phone, call),
        )
        assert (ack["type"], late["code"]) == ("ack", "conflict")
        assert (await response_of(phone, call))["status"] == "denied"


@SHARED
async def test_what_was_cancelled_takes_no_answer(gateway: GatewayProcess) -> None:
    async with Wire(gateway.ws, gateway.key()) as phone:
        await phone.hello(tools=[LOCATE])
        one = await called(phone)
        await phone.ask("cancel", context_id=CONTEXT, tool_call_id=one["id"])
        assert (await response_of(phone, one))["status"] == "cancelled"
        assert code(await answer(phone, one)) == "conflict"
        await spoken_end(phone, one)
        other = await called(phone)
        await phone.ask("cancel", context_id=CONTEXT, turn_id=other["turn_id"])
        assert (await response_of(phone, other))["status"] == "cancelled"
        assert code(await answer(phone, other)) == "conflict"


@SHARED
async def test_a_result_that_is_larger_than_a_frame_may_be_ends_the_socket_and_not_the_call(
    gateway: GatewayProcess,
) -> None:
    key = gateway.key()
    async with Wire(gateway.ws, key) as phone:
        session = (await phone.hello(tools=[LOCATE]))["session_id"]
        call = await called(phone)
        await phone.send_raw("x" * 2_000_000)
        assert await phone.wait_closed() == 1009
    async with Wire(gateway.ws, key) as phone:
        await phone.hello(session_id=session, attempt=1)
        snapshot = await phone.wait(lambda frame: frame["type"] == "snapshot")
        assert [running["call"]["id"] for running in snapshot["running"]] == [call["id"]]
        assert (await answer(phone, call))["type"] == "ack"


# ---- who comes back


@EVERYWHERE
async def test_a_call_waits_for_its_session_whatever_that_declares_when_it_comes_back(gateway: GatewayProcess) -> None:
    key = gateway.key()
    async with Wire(gateway.ws, key) as phone:
        session = (await phone.hello(tools=[LOCATE, PAY], attempt=1))["session_id"]
        call = await called(phone)
        phone.abort()
    async with Wire(gateway.ws, key) as first, Wire(gateway.ws, key) as second:
        assert (await first.hello(session_id=session, attempt=2, tools=[PAY]))["resumed"]
        # The later of two sockets is the session; what the earlier one still says comes too late, or is its own.
        assert (await second.hello(session_id=session, attempt=3, tools=[]))["resumed"]
        assert await first.wait_closed() == 4409
        snapshot = await second.wait(lambda frame: frame["type"] == "snapshot")
        assert [running["call"]["id"] for running in snapshot["running"]] == [call["id"]]
        assert (await answer(second, call))["type"] == "ack"
        assert '{"at":"home"}' in (await spoken_end(second, call)).replace(" ", "")
        assert "no tool named locate" in await _said(second, "call locate {}")


def _calls(frame: Frame) -> list[Frame]:
    """What of the frame is a call without an answer."""
    return [frame] if frame["type"] == "tool_call" else [running["call"] for running in frame.get("running", ())]


async def _said(wire: Wire, content: str) -> str:
    events = await wire.turn(content, CONTEXT, id=f"said{next(_numbers)}")
    return next(e["content"] for e in events if e["type"] == "message" and e["role"] == "assistant")


async def test_a_call_waits_through_the_death_of_the_gateway(launch: Launch) -> None:
    async with launch('[models.demo]\nprovider = "demo"\ndelay = 2\n') as gateway:
        key = gateway.key()
        async with Wire(gateway.ws, key) as phone:
            session = (await phone.hello(tools=[LOCATE]))["session_id"]
            call = await called(phone)
            gateway.kill()
        await gateway.start()
        async with Wire(gateway.ws, key) as phone:
            assert (await phone.hello(session_id=session, attempt=1))["resumed"]
            # What had no seq when the gateway died is an event of the new log, or else in its first snapshot.
            await phone.wait(lambda frame: call["id"] in [shown["id"] for shown in _calls(frame)])
            assert (await answer(phone, call))["type"] == "ack"
            assert code(await answer(phone, call)) == "conflict"
            assert "locate answered" in await spoken_end(phone, call)


# ---- until when

HURRIED = """
[models.demo]
provider = "demo"
delay = 2
[limits]
client_tool_seconds = 0.8
approval_seconds = 0.6
"""


async def test_who_does_not_come_in_time_is_waited_for_no_longer(tmp_path: Path) -> None:
    async with GatewayProcess(tmp_path, config=HURRIED) as gateway, Wire(gateway.ws, gateway.key()) as phone:
        await phone.hello(tools=[LOCATE, PAY])
        parked = await called(phone)
        response = await response_of(phone, parked)
        assert (response["status"], "within 0.8 s" in response["result"]) == ("timeout", True)
        assert code(await answer(phone, parked)) == "conflict"
        assert "did not answer" in await spoken_end(phone, parked)
        # Beside a tool that runs the turn is not parked.
        beside = await called(phone, 'call countdown {"count": 25}\ncall locate {}')
        assert (await response_of(phone, beside))["status"] == "timeout"
        assert len([frame for frame in phone.frames if frame["type"] == "tool_progress"]) < 25
        await spoken_end(phone, beside)
        undecided = await called(phone, "call pay {}", "pay")
        assert "Nobody decided" in (await response_of(phone, undecided))["result"]
        late = await decide(phone, undecided, approved=True)
        assert code(late) == "conflict"
        # A decision in time gives the client all of its own.
        await spoken_end(phone, undecided)
        allowed = await called(phone, "call pay {}", "pay")
        await decide(phone, allowed, approved=True)
        assert "did not answer" in (await response_of(phone, allowed))["result"]


async def test_a_deadline_that_passes_while_no_gateway_is_up_is_kept_by_the_next(tmp_path: Path) -> None:
    async with GatewayProcess(tmp_path, config=HURRIED) as gateway:
        key = gateway.key()
        async with Wire(gateway.ws, key) as phone:
            session = (await phone.hello(tools=[LOCATE]))["session_id"]
            call = await called(phone)
            gateway.kill()
        await asyncio.sleep(1)  # the very time that the call had
        await gateway.start()
        async with Wire(gateway.ws, key) as phone, asyncio.timeout(8):
            await phone.hello(session_id=session, attempt=1)
            while (await _status(phone, call)) != "timeout":
                await asyncio.sleep(0.05)
            assert code(await answer(phone, call)) == "conflict"


async def _status(wire: Wire, call: Frame) -> str | None:
    """Of the call's answer, in any frame that came."""
    events = [event for frame in wire.frames for event in (frame.get("events") or [frame])]
    found = [e for e in events if e["type"] == "tool_response" and e["tool_call_id"] == call["id"]]
    await asyncio.sleep(0)
    return found[0]["status"] if found else None
