"""Calls that wait for a person, over real sockets: which, who decides, how often, and for how long (docs/tools.md)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from protocol.ids import new_id
from tests.e2e.gateways import GatewayProcess
from tests.e2e.wire import Frame, Wire

CONFIG = """
[models.demo]
provider = "demo"
delay = 0
[tools]
modules = ["tests.e2e.paying_tools"]
approval = { "loo*" = "always" }
[roles.trusted]
permissions = ["context:*", "tool:*"]
approval = { look = "never" }
[users.eve]
permissions = ["!tool:pay"]
[server]
drain_seconds = 0.1
"""


class Desk:
    """One user's devices at a gateway."""

    def __init__(self, gateway: GatewayProcess, key: str, wire: Wire) -> None:
        self.gateway = gateway
        self.key = key
        self.wire = wire

    async def say(self, content: str, context_id: str = "chat") -> str:
        ack = await self.wire.ask("message", content=content, context_id=context_id)
        assert ack["type"] == "ack", ack
        return ack["id"]

    async def end(self, turn_id: str) -> list[Frame]:
        """The calls' answers of the turn, once it is over."""
        await self.wire.wait(lambda f: f["type"] == "turn_end" and f["turn_id"] == turn_id)
        return [f for f in self.wire.frames if f["type"] == "tool_response" and f["turn_id"] == turn_id]

    async def waiting(self, turn_id: str, place: int = 0) -> str:
        """The id of the turn's call of that place that waits for a person."""

        def calls() -> list[str]:
            waits = [f for f in self.wire.frames if f["type"] == "tool_call" and f["turn_id"] == turn_id]
            return [f["id"] for f in waits if f.get("approval") == "required"]

        await self.wire.wait(lambda _: len(calls()) > place)
        return calls()[place]

    async def ran_at_once(self, content: str, context_id: str = "chat") -> bool:
        """Whether its one call ran without anybody's word."""
        turn = await self.say(content, context_id)
        await self.wire.wait(lambda f: f["type"] == "tool_call" and f["turn_id"] == turn)
        call = next(f for f in self.wire.frames if f["type"] == "tool_call" and f["turn_id"] == turn)
        if call.get("approval") == "required":
            await self.decide(call["id"], approved=False, context_id=context_id)
        (answer,) = await self.end(turn)
        return answer["status"] == "success"

    async def decide(self, call_id: str, wire: Wire | None = None, **fields: Any) -> Frame:
        # Every device counts its frames by itself, and a context knows each id once.
        frame = {"id": new_id("d_"), "context_id": "chat", "tool_call_id": call_id, **fields}
        return await (wire or self.wire).ask("tool_approval", **frame)

    @property
    def runs(self) -> list[str]:
        trace = self.gateway.folder / "trace"
        return trace.read_text().splitlines() if trace.exists() else []


@asynccontextmanager
async def desk(folder: Path, subject: str = "ann", *more: str) -> AsyncGenerator[Desk]:
    gateway = GatewayProcess(folder, config=CONFIG)
    gateway.env["PAYING_TRACE"] = str(folder / "trace")
    async with gateway:
        key = gateway.key(subject, *more)
        async with Wire(gateway.ws, key) as wire:
            await wire.hello()
            yield Desk(gateway, key, wire)


async def test_the_rules_say_which_calls_wait(tmp_path: Path) -> None:
    async with desk(tmp_path) as ann:
        assert await ann.ran_at_once('call pay {"amount": 100, "to": "bob"}')
        assert not await ann.ran_at_once('call pay {"amount": 101, "to": "bob"}')
        # What can't be judged waits.
        assert not await ann.ran_at_once('call pay {"amount": "101", "to": "bob"}')
        assert not await ann.ran_at_once('call look {"at": "this"}')
        assert ann.runs == ["pay 100 bob"]
        # A role may be trusted with more, and one user with less.
        trusted = ann.gateway.key("trudy", "--role", "trusted")
        async with Wire(ann.gateway.ws, trusted) as wire:
            await wire.hello()
            assert await Desk(ann.gateway, trusted, wire).ran_at_once('call look {"at": "this"}')
        async with httpx.AsyncClient(base_url=ann.gateway.url) as http:
            for subject, has in (("eve", False), ("bob", True)):
                tools = (await http.get("/v1/tools", headers={"X-API-Key": ann.gateway.key(subject)})).json()["tools"]
                assert ("pay" in {tool["name"] for tool in tools}) is has


async def test_another_device_decides_once_with_other_parameters(tmp_path: Path) -> None:
    async with (
        desk(tmp_path) as ann,
        Wire(ann.gateway.ws, ann.key) as phone,
        Wire(ann.gateway.ws, ann.gateway.key("bob")) as stranger,
    ):
        await phone.hello()
        await stranger.hello()
        turn = await ann.say('call pay {"amount": 500, "to": "bob"}')
        call = await ann.waiting(turn)
        assert (await ann.decide(call, stranger, approved=True))["code"] == "not_found"
        assert (await ann.decide(call, phone, approved=True, parameters={"amount": 50, "to": "bob"}))["type"] == "ack"
        assert (await ann.decide(call, approved=False))["code"] == "conflict"
        (answer,) = await ann.end(turn)
        assert answer["result"] == "paid 50 to bob"
        # Other parameters are a person's word, not a way around what the tool takes.
        turn = await ann.say('call pay {"amount": 500, "to": "bob"}')
        call = await ann.waiting(turn)
        await ann.decide(call, phone, approved=True, parameters={"amount": "many"})
        (answer,) = await ann.end(turn)
        assert answer["status"] == "error"
        assert ann.runs == ["pay 50 bob"]


async def test_calls_of_one_tool_are_told_apart(tmp_path: Path) -> None:
    async with desk(tmp_path) as ann:
        turn = await ann.say('call look {"at": "this"}\ncall look {"at": "that"}')
        first, second = await ann.waiting(turn), await ann.waiting(turn, 1)
        await ann.decide(second, approved=True)
        await ann.decide(first, approved=False, reason="not this one")
        answers = {answer["tool_call_id"]: answer for answer in await ann.end(turn)}
        assert (answers[first]["status"], answers[second]["result"]) == ("denied", "saw that")
        assert ann.runs == ["look that"]
        # The model is told of it.
        said = [f["content"] for f in ann.wire.frames if f["type"] == "message" and f["role"] == "assistant"]
        assert "not this one" in said[-1]


@pytest.mark.parametrize("approved", [True, False])
async def test_what_a_person_wants_remembered_counts_in_that_context(tmp_path: Path, approved: bool) -> None:
    async with desk(tmp_path) as ann:
        turn = await ann.say('call look {"at": "one"}')
        await ann.decide(await ann.waiting(turn), approved=approved, remember="context")
        await ann.end(turn)
        turn = await ann.say('call look {"at": "two"}')
        (answer,) = await ann.end(turn)
        assert answer["status"] == ("success" if approved else "denied")
        assert ann.runs == (["look one", "look two"] if approved else [])
        assert not await ann.ran_at_once('call look {"at": "three"}', "elsewhere")
        # Whoever calls it by hand has changed their mind, and is asked.
        ack = await ann.wire.ask("tool_call", tool="look", parameters={"at": "four"}, context_id="chat")
        if not approved:
            await ann.decide(await ann.waiting(ack["id"]), approved=True)
        (answer,) = await ann.end(ack["id"])
        assert answer["result"] == "saw four"


async def test_what_is_remembered_is_exported_and_deleted_with_its_context(tmp_path: Path) -> None:
    async with desk(tmp_path) as ann:
        turn = await ann.say('call look {"at": "one"}')
        await ann.decide(await ann.waiting(turn), approved=True, remember="context")
        await ann.end(turn)
        headers = {"X-API-Key": ann.key}
        async with httpx.AsyncClient(base_url=ann.gateway.url, headers=headers, trust_env=False) as http:
            (context,) = (await http.get("/v1/export")).json()["contexts"]
            assert context["remembered"] == [{"tool": "look", "approved": True}]
            assert (await http.delete("/v1/contexts/chat")).status_code < 300
        assert not await ann.ran_at_once('call look {"at": "two"}')


async def test_a_tool_that_changed_while_its_call_waited_is_asked_about_again(tmp_path: Path) -> None:
    """What is remembered is what somebody saw, not what the tool has become by the time of the decision."""

    def declared(description: str) -> list[dict[str, Any]]:
        return [{"name": "lookup", "description": description, "parameters": {"type": "object"}}]

    async with (
        desk(tmp_path) as ann,
        Wire(ann.gateway.ws, ann.key) as phone,
        Wire(ann.gateway.ws, ann.key) as tablet,
    ):
        await phone.hello(tools=declared("Looks something up."))
        turn = await ann.say("call lookup {}")
        call = await ann.waiting(turn)
        await tablet.hello(tools=declared("Sells something."))
        assert (await ann.decide(call, approved=True, remember="context"))["type"] == "ack"
        answer = {"id": "a", "context_id": "chat", "tool_call_id": call, "result": "found", "status": "success"}
        assert (await phone.ask("tool_response", **answer))["type"] == "ack"
        (found,) = await ann.end(turn)
        assert found["result"] == "found"
        assert not await ann.ran_at_once("call lookup {}")


async def test_a_decision_over_http_is_remembered_too(tmp_path: Path) -> None:
    async with desk(tmp_path) as ann:
        turn = await ann.say('call look {"at": "one"}')
        call = await ann.waiting(turn)
        headers = {"X-API-Key": ann.key}
        async with httpx.AsyncClient(base_url=ann.gateway.url, headers=headers, trust_env=False) as http:
            body = {"tool_call_id": call, "approved": True, "remember": "context"}
            assert (await http.post("/v1/contexts/chat/approvals", json=body)).status_code == 200
            assert (await http.post("/v1/contexts/chat/approvals", json=body)).status_code == 409
        await ann.end(turn)
        assert await ann.ran_at_once('call look {"at": "two"}')


async def test_what_waits_the_first_time_does_not_once_somebody_said_yes(tmp_path: Path) -> None:
    async with desk(tmp_path) as ann:
        assert not await ann.ran_at_once('call send {"text": "a"}')
        turn = await ann.say('call send {"text": "b"}')
        await ann.decide(await ann.waiting(turn), approved=True)
        await ann.end(turn)
        assert await ann.ran_at_once('call send {"text": "c"}')
        assert not await ann.ran_at_once('call send {"text": "d"}', "elsewhere")
        assert ann.runs == ["send b", "send c"]


async def test_what_was_allowed_is_not_run_by_a_tool_that_changed_since(tmp_path: Path) -> None:
    async with desk(tmp_path) as ann:
        turn = await ann.say('call look {"at": "one"}')
        call = await ann.waiting(turn)
        ann.gateway.kill()
        ann.gateway.env["LOOK_SAYS"] = "Sell something."
        await ann.gateway.start()
        async with Wire(ann.gateway.ws, ann.key) as wire:
            await wire.hello(cursors={"chat": None})
            await wire.wait(lambda f: f["type"] == "snapshot")
            assert (await ann.decide(call, wire, approved=True, remember="context"))["type"] == "ack"
            ann.wire = wire
            (answer,) = await ann.end(turn)
            assert (answer["status"], answer["error"]["code"]) == ("error", "conflict")
            assert ann.runs == []
            # It may be called again, as what it is now: nobody was asked about that.
            assert not await ann.ran_at_once('call look {"at": "two"}')


async def test_a_call_waits_through_a_kill(tmp_path: Path) -> None:
    async with desk(tmp_path) as ann:
        turn = await ann.say('call pay {"amount": 500, "to": "bob"}')
        call = await ann.waiting(turn)
        ann.gateway.kill()
        await ann.gateway.start()
        async with Wire(ann.gateway.ws, ann.key) as wire:
            await wire.hello(cursors={"chat": None})

            def shown(frame: Frame) -> bool:
                # After the snapshot, where the kill came before the store knew the call's seq.
                calls = [frame] if frame["type"] == "tool_call" else [each["call"] for each in frame.get("running", ())]
                return call in [each["id"] for each in calls]

            await wire.wait(shown)
            decided = await ann.decide(call, wire, approved=True)
            assert decided["type"] == "ack", decided
            ann.wire = wire
            (answer,) = await ann.end(turn)
            assert answer["result"] == "paid 500 to bob"
        assert ann.runs == ["pay 500 bob"]
