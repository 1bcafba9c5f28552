"""The audit of a gateway, after all that can become of a call (docs/audit.md)."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.e2e.audits import AUDITOR, audit_of, check_calls
from tests.e2e.gateways import GatewayProcess
from tests.e2e.held_tools import runs_of
from tests.e2e.sse import http_client
from tests.e2e.wire import Frame, Wire

CONFIG = f"""
[models.demo]
provider = "demo"
delay = 1
[tools]
modules = ["tests.e2e.ending_tools", "tests.e2e.held_tools"]
[tools.limits.once]
per_minute = 1
wait_seconds = 0
[limits]
client_tool_seconds = 2
{AUDITOR}
"""
PICK = {"name": "pick", "description": "Pick a file.", "parameters": {"type": "object"}}


async def _call(wire: Wire, id: str, tool: str, **parameters: Any) -> str:
    ack = await wire.ask("tool_call", id=id, tool=tool, parameters=parameters, context_id="chat")
    assert ack["type"] == "ack", ack
    return id


async def _decide(wire: Wire, call_id: str, approved: bool, **fields: Any) -> None:
    await wire.wait(lambda frame: frame["type"] == "tool_call" and frame["id"] == call_id)
    decision = {"context_id": "chat", "tool_call_id": call_id, "approved": approved, **fields}
    assert (await wire.ask("tool_approval", **decision))["type"] == "ack"


async def _cancel(wire: Wire, **what: str) -> None:
    assert (await wire.ask("cancel", context_id="chat", **what))["type"] == "ack"


async def _answer(wire: Wire, call_id: str) -> Frame:
    return await wire.wait(lambda frame: frame["type"] == "tool_response" and frame["tool_call_id"] == call_id)


def _called_in(turn_id: str) -> Callable[[Frame], bool]:
    return lambda frame: frame["type"] == "tool_call" and frame["turn_id"] == turn_id


async def test_every_way_in_which_a_call_can_end_is_recorded_once(tmp_path: Path) -> None:
    async with GatewayProcess(tmp_path, config=CONFIG) as gateway:
        key = gateway.key()
        async with Wire(gateway.ws, key) as wire, http_client(gateway.url, key) as http:
            await wire.hello(tools=[PICK])
            ends = {
                await _call(wire, "works", "works", word="tide"): "success",
                await _call(wire, "misused", "works", words=5): "error",
                await _call(wire, "fails", "fails"): "error",
                await _call(wire, "breaks", "breaks"): "error",
                await _call(wire, "silent", "silent"): "timeout",
                await _call(wire, "waits", "waits"): "cancelled",
                await _call(wire, "approved", "wipe", disk="a"): "success",
                await _call(wire, "rejected", "wipe", disk="b"): "denied",
                await _call(wire, "undecided", "wipe", disk="c"): "cancelled",
                await _call(wire, "once", "once"): "success",
                await _call(wire, "unanswered", "pick"): "timeout",
                await _call(wire, "answered", "pick"): "success",
            }
            given = {"context_id": "chat", "tool_call_id": "answered", "result": "x.txt", "status": "success"}
            for expected in ("ack", "error"):
                # The second comes too late.
                told = await wire.ask("tool_response", **given)
                assert told["type"] == expected, told
            await _decide(wire, "approved", True, parameters={"disk": "d"})
            await _decide(wire, "rejected", False)
            await _cancel(wire, tool_call_id="undecided")
            await _cancel(wire, tool_call_id="waits")
            await _answer(wire, "once")
            ends[await _call(wire, "limited", "once")] = "error"
            # Those that a model makes: one that runs, one that a person denies for good, so that the next is denied at
            # once, one whose turn is cancelled.
            for content, status in (
                ('call works {"word": "ebb"}', "success"),
                ('call wipe {"disk": "e"}', "denied"),
                ('call wipe {"disk": "f"}', "denied"),
            ):
                ack = await wire.ask("message", content=content, context_id="chat")
                made = await wire.wait(_called_in(ack["id"]))
                if made.get("approval") is not None:
                    await _decide(wire, made["id"], False, remember="context")
                ends[made["id"]] = status
                await wire.wait(lambda frame, turn=ack["id"]: frame["type"] == "turn_end" and frame["turn_id"] == turn)
            ack = await wire.ask("message", content="call waits {}", context_id="chat")
            called = await wire.wait(_called_in(ack["id"]))
            await _cancel(wire, turn_id=ack["id"])
            ends[called["id"]] = "cancelled"
            for call_id, status in ends.items():
                assert (await _answer(wire, call_id))["status"] == status, call_id
            assert (await _answer(wire, "limited"))["error"]["code"] == "rate_limited"
            refused = await wire.ask("tool_call", id="refused", tool="nothing", parameters={}, context_id="chat")
            assert (refused["type"], refused["code"]) == ("error", "not_found")
            events = (await http.get("/v1/contexts/chat/events?limit=200")).json()["events"]
        records = await audit_of(gateway)
        check_calls([record for record in records if record.get("context_id") == "chat"], events)
        (attempt,) = [record for record in records if "context_id" not in record]
        assert (attempt["outcome"], attempt["tool"], attempt["via"]) == ("refused", "nothing", "client")
        assert {record["subject"] for record in records} == {"ann"}
        _look_closely({(record.get("call_id", ""), record["outcome"]): record for record in records}, called["id"])
        assert [record["outcome"] for record in records if record.get("call_id") == made["id"]] == ["denied", "denied"]


def _look_closely(found: dict[tuple[str, str], dict[str, Any]], by_model: str) -> None:
    made, ended, decided = found["works", "run"], found["works", "success"], found["approved", "approved"]
    assert made["parameters_hash"] == hashlib.sha256(b'{"word":"tide"}').hexdigest()
    assert "parameters" not in made
    assert (made["via"], made["by"], made["tool"]) == ("client", "policy", "works")
    assert ended["seconds"] >= 0
    assert (decided["by"], decided["via"]) == ("ann", "client")
    assert decided["parameters_hash"] == hashlib.sha256(b'{"disk":"d"}').hexdigest()
    assert found["answered", "success"]["by"].startswith("sess_")
    assert found[by_model, "run"]["via"] == found[by_model, "cancelled"]["via"] == "model"
    assert ("rejected", "asked") in found
    assert "seconds" not in found["undecided", "cancelled"], "it never ran"


async def test_what_was_done_in_a_context_that_was_deleted_is_known_with_its_end(tmp_path: Path) -> None:
    gateway = GatewayProcess(tmp_path, config=CONFIG)
    gateway.env["HELD_TOOLS"] = str(tmp_path)
    async with gateway:
        key = gateway.key()
        async with Wire(gateway.ws, key) as wire, http_client(gateway.url, key) as http:
            await wire.hello()
            await _call(wire, "works", "works", word="tide")
            await _answer(wire, "works")
            await _call(wire, "held", "hold", mark="mark")
            async with asyncio.timeout(20):
                while not runs_of(tmp_path, "held"):
                    await asyncio.sleep(0.02)
            assert (await http.delete("/v1/contexts?confirm=all")).is_success
        (tmp_path / "mark").touch()
        async with asyncio.timeout(20):
            while len(ends := await audit_of(gateway, kind="call")) < 2:
                await asyncio.sleep(0.05)
        assert {record["call_id"]: record["outcome"] for record in ends} == {"works": "success", "held": "success"}
        made = await audit_of(gateway, kind="decision")
        assert [(record["call_id"], record["outcome"]) for record in made] == [("works", "run"), ("held", "run")]
