"""Tools that a Python client serves, through cancels, reconnects and restarts, over real sockets."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway import ToolContext, tool
from gateway.client import Client, connect
from protocol.frames import Snapshot, ToolCall, ToolResponse
from tests.e2e.conftest import EVERYWHERE, SHARED
from tests.e2e.gateways import GatewayProcess

CONTEXT = "chat"


class Device:
    """Tools that wait for the test. `runs` are the calls as they began, `cancelled` those that were told to stop."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, dict[str, Any]]] = []
        self.cancelled: list[str] = []
        self.begun, self.go_on, self.stopped = asyncio.Event(), asyncio.Event(), asyncio.Event()

        @tool
        async def act(ctx: ToolContext, n: int = 0) -> str:
            """What must not happen twice."""
            return await self._wait("act", ctx, n=n)

        @tool(idempotent=True)
        async def look(ctx: ToolContext) -> str:
            """What may happen any number of times."""
            return await self._wait("look", ctx)

        @tool(approval="always")
        async def pay(ctx: ToolContext, amount: int) -> str:
            """What a person allows."""
            return await self._wait("pay", ctx, amount=amount)

        self.tools = [act, look, pay]

    async def _wait(self, name: str, ctx: ToolContext, **parameters: Any) -> str:
        self.runs.append((name, parameters))
        self.begun.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            assert ctx.cancelled
            self.cancelled.append(name)
            self.stopped.set()
            raise
        return f"{name} done"


async def _call(client: Client, name: str) -> ToolCall:
    """The call of the tool, as it is seen in the context."""
    chat = await client.subscribe(CONTEXT)
    events = chat.events()
    while True:
        for running in chat.transcript.running.values():
            if running.call.tool == name:
                return running.call
        await anext(events)


async def _responses(client: Client, count: int) -> dict[str, ToolResponse]:
    """By tool, so many responses as the context has."""
    chat = await client.subscribe(CONTEXT)
    events = chat.events()
    while True:
        known = chat.transcript.events
        tools = {event.id: event.tool for event in known if isinstance(event, ToolCall)}
        found = [event for event in known if isinstance(event, ToolResponse)]
        if len(found) >= count:
            return {tools[event.tool_call_id]: event for event in found}
        await anext(events)


@EVERYWHERE
async def test_a_run_is_told_to_stop_when_its_call_is_cancelled(gateway: GatewayProcess) -> None:
    device, key = Device(), gateway.key()
    async with (
        asyncio.timeout(20),
        connect(gateway.url, token=key, tools=device.tools) as client,
        connect(gateway.url, token=key) as other,
    ):
        await client.send("call act {}", CONTEXT)
        await device.begun.wait()
        call = await _call(other, "act")
        await other.cancel(CONTEXT, tool_call_id=call.id)
        await device.stopped.wait()
        assert (await _responses(client, 1))["act"].status == "cancelled"
    assert (device.runs, device.cancelled) == ([("act", {"n": 0})], ["act"])


@EVERYWHERE
async def test_a_run_begins_when_a_person_allows_it_and_with_what_was_allowed(gateway: GatewayProcess) -> None:
    device, key = Device(), gateway.key()
    device.go_on.set()
    async with (
        asyncio.timeout(20),
        connect(gateway.url, token=key, tools=device.tools) as client,
        connect(gateway.url, token=key) as other,
    ):
        await client.send('call pay {"amount": 100}\ncall look {}', CONTEXT)
        assert (await _responses(client, 1))["look"].result == "look done"
        assert [name for name, _ in device.runs] == ["look"]
        call = await _call(other, "pay")
        await other.approve(CONTEXT, call.id, parameters={"amount": 1})
        assert (await _responses(client, 2))["pay"].status == "success"
    assert device.runs[1:] == [("pay", {"amount": 1})]


async def test_a_run_goes_on_through_the_death_of_the_gateway_and_is_answered_once(gateway: GatewayProcess) -> None:
    device = Device()
    async with asyncio.timeout(40), connect(gateway.url, token=gateway.key(), tools=device.tools) as client:
        turn = await client.ask('call act {"n": 7}', CONTEXT)
        await device.begun.wait()
        gateway.kill()
        await gateway.start()
        device.go_on.set()
        responses = [frame async for frame in turn if isinstance(frame, ToolResponse)]
        assert len(responses) <= 1, "or it stood in a snapshot"
        assert (await _responses(client, 1))["act"].result == "act done"
        assert turn.end is not None
        assert turn.end.status == "complete"
    assert device.runs == [("act", {"n": 7})]


@SHARED
async def test_a_client_that_is_started_again_reruns_only_what_does_no_harm(gateway: GatewayProcess) -> None:
    before, after, key = Device(), Device(), gateway.key()
    after.go_on.set()
    async with asyncio.timeout(20):
        async with connect(gateway.url, token=key, tools=before.tools) as client:
            session_id = client.session_id
            await client.send('call act {}\ncall look {}\ncall pay {"amount": 3}', CONTEXT)
            while len(before.runs) < 2:
                await asyncio.sleep(0.01)
        assert sorted(before.cancelled) == ["act", "look"]
        async with connect(gateway.url, token=key, tools=after.tools, session_id=session_id) as client:
            found = await _responses(client, 2)
            assert {name: found[name].status for name in ("act", "look")} == {"act": "interrupted", "look": "success"}
            # What nobody had decided, nobody can have run.
            call = await _call(client, "pay")
            await client.approve(CONTEXT, call.id)
            assert (await _responses(client, 3))["pay"].result == "pay done"
    assert after.runs == [("look", {}), ("pay", {"amount": 3})]


@SHARED
async def test_a_call_for_a_client_that_was_away_is_run_when_it_is_back(gateway: GatewayProcess) -> None:
    device, key = Device(), gateway.key()
    device.go_on.set()
    async with asyncio.timeout(20), connect(gateway.url, token=key) as other:
        async with connect(gateway.url, token=key, tools=device.tools) as client:
            session_id = client.session_id
            await client.subscribe((await client.send("hello", CONTEXT)).context_id)
        response = asyncio.create_task(other.call_tool("look", {}, CONTEXT))
        events = other.events_of(CONTEXT)
        async for frame in events:
            calls = [each.call for each in frame.running] if isinstance(frame, Snapshot) else [frame]
            if any(isinstance(call, ToolCall) and call.session_id == session_id for call in calls):
                break
        async with connect(gateway.url, token=key, tools=device.tools, session_id=session_id):
            assert (await response).result == "look done"
