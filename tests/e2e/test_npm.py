"""`?format=ag-ui` and `?format=ai-sdk` as the real npm clients read them, against a real gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.http.ag_ui import AgUiFormat
from gateway.http.ai_sdk import AiSdkFormat
from gateway.http.format import Format
from protocol.frames import Event, Snapshot, ToolApproval, ToolProgress
from tests.e2e.gateways import GatewayProcess
from tests.e2e.npm_clients import installed, run_script
from tests.gateway.core.turn_rig import CONTEXT, TURN
from tests.gateway.http.feeds import answered, asked, called, delta, ended, said, snapshot_of, start, told

LONG = "".join(f"{number} " for number in range(1, 301))
HELLO = "This is the demo model. You said: hello"


@pytest.fixture(scope="session")
def packages() -> Path:
    return installed()


class Scenario:
    """Runs one scenario of a script in a context of its own."""

    def __init__(self, gateway: GatewayProcess, packages: Path) -> None:
        self._gateway = gateway
        self._packages = packages
        self._key = gateway.key()

    async def __call__(self, script: str, name: str) -> dict[str, Any]:
        return await run_script(
            self._packages, self._gateway.folder, script, self._gateway.url, self._key, name, "chat"
        )

    async def history(self) -> list[dict[str, Any]]:
        async with httpx.AsyncClient(headers={"X-API-Key": self._key}, trust_env=False) as http:
            page = (await http.get(f"{self._gateway.url}/v1/contexts/chat/events")).json()
        return page["events"]


@pytest.fixture
def run(gateway: GatewayProcess, packages: Path) -> Scenario:
    return Scenario(gateway, packages)


def _text(message: dict[str, Any]) -> str:
    return "".join(part["text"] for part in message["parts"] if part["type"] == "text")


async def test_ag_ui_reads_text_and_a_call_in_two_turns_of_a_context(run: Scenario) -> None:
    found = await run("ag_ui.mjs", "two_turns")
    assert found["runs"] == ["success", "success"]
    assert found["added"] == ["assistant", "tool", "assistant"]
    _, hello, _, call, result, answer = found["messages"]
    assert (hello["role"], hello["content"]) == ("assistant", HELLO)
    assert call["toolCalls"][0]["function"]["name"] == "calculator"
    assert result["toolCallId"] == call["toolCalls"][0]["id"]
    assert result["content"] == '{"result":42}'
    assert answer["content"] == "6 * 7 = 42"
    # The ids are the context's.
    stored = {event["id"] for event in await run.history() if event["type"] in ("message", "tool_response")}
    assert {message["id"] for message in found["messages"]} == stored


async def test_ag_ui_aborts_and_runs_again_for_the_same_turn(run: Scenario) -> None:
    """The turn went on without its reader; what the reader had of it is not doubled."""
    found = await run("ag_ui.mjs", "abort_and_run_again")
    assert 0 < len(found["before"]) < len(LONG)
    assert [message["content"] for message in found["messages"]] == ["long 300", LONG]
    assert found["runs"][-1] == "success"
    assert [event["type"] for event in await run.history()] == ["message", "message", "turn_end"]


async def test_ag_ui_reads_a_turn_that_was_cancelled(run: Scenario) -> None:
    found = await run("ag_ui.mjs", "cancel")
    assert found["runs"] == ["cancelled"]
    said = [event for event in await run.history() if event["type"] == "message"]
    assert found["messages"][-1]["content"] == said[-1]["content"]
    assert said[-1]["status"] == "cancelled"


async def test_ai_sdk_reads_text_and_a_call_in_two_turns_of_a_context(run: Scenario) -> None:
    found = await run("ai_sdk.mjs", "two_turns")
    assert found["error"] is None
    assert [end["finishReason"] for end in found["finished"]] == ["stop", "stop"]
    _, hello, _, answer = found["messages"]
    assert _text(hello) == HELLO
    assert [part["type"] for part in answer["parts"]] == ["step-start", "dynamic-tool", "step-start", "text"]
    call = answer["parts"][1]
    assert (call["toolName"], call["state"], call["output"]) == ("calculator", "output-available", {"result": 42})
    assert call["input"] == {"operation": "multiply", "a": 6, "b": 7}
    assert _text(answer) == "6 * 7 = 42"
    assert answer["metadata"]["status"] == "complete"


@pytest.mark.parametrize("scenario", ["regenerate", "edit"])
async def test_ai_sdk_asks_again(run: Scenario, scenario: str) -> None:
    found = await run("ai_sdk.mjs", scenario)
    assert found["error"] is None
    asked = [event for event in await run.history() if event["type"] == "message" and event["role"] == "user"]
    assert asked[1]["replaces"] == asked[0]["id"]
    assert [message["role"] for message in found["messages"][:2]] == ["user", "assistant"]
    if scenario == "regenerate":
        assert found["first"]["id"] != found["messages"][1]["id"]
        assert _text(found["messages"][1]) == HELLO
        assert len(found["messages"]) == 4
    else:
        assert _text(found["messages"][1]).endswith("goodbye")


async def test_ai_sdk_stops_and_resumes_the_same_turn(run: Scenario) -> None:
    found = await run("ai_sdk.mjs", "stop_and_resume")
    assert 0 < len(found["before"]) < len(LONG)
    assert found["after"] == LONG
    user, answer = found["messages"]
    assert (user["role"], _text(answer)) == ("user", LONG)


# ---- what a real gateway does rarely, from recorded events


@asynccontextmanager
async def recorded(make: Callable[[], Format], feed: Sequence[Event | Snapshot]) -> AsyncGenerator[str]:
    """A server that answers a posted message with the events of its turn."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = next(int(line.split(":")[1]) for line in head.splitlines() if line.startswith("content-length:"))
        format = make()
        format.request(await reader.readexactly(length), CONTEXT)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n")
        for name, value in format.headers.items():
            writer.write(f"{name}: {value}\r\n".encode())
        writer.write(b"\r\n" + told(format, feed) + format.end(None))
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def _approval(call: str, *, approved: bool) -> ToolApproval:
    return ToolApproval(
        context_id=CONTEXT, turn_id=TURN, tool_call_id=call, approved=approved, parameters={"amount": 2}
    )


RESTARTED = [asked(), start(), delta("hm", channel="reasoning"), delta("wrong"), start(attempt=2)]
HARD: list[Event | Snapshot] = [
    *RESTARTED,
    delta("ah", channel="reasoning"),
    delta("rig"),
    snapshot_of([*RESTARTED, delta("ah", channel="reasoning"), delta("right, ")]),
    called("yes", approval="required", runs_on="client"),
    called("no", approval="required"),
    called("beside"),
    delta("I wait"),
    said("right, I wait"),
    ToolProgress(context_id=CONTEXT, turn_id=TURN, tool_call_id="beside", progress=1),
    _approval("yes", approved=True),
    asked("steering", "be quick"),
    answered("beside"),
    _approval("no", approved=False),
    answered("no", status="denied", result=None),
    answered("yes"),
    start("m2"),
    said("done", "m2"),
    start("m3"),
    delta("given up", "m3"),
    ended("max_steps"),
]


async def test_ag_ui_keeps_what_is_true_in_the_end(packages: Path, tmp_path: Path) -> None:
    async with recorded(AgUiFormat, HARD) as url:
        found = await run_script(packages, tmp_path, "ag_ui.mjs", url, "key", "one_turn", CONTEXT)
    assert [(message["role"], message.get("content")) for message in found["messages"]] == [
        ("user", "hello"),
        ("reasoning", "ah"),
        ("assistant", "right, I wait"),
        ("tool", '{"ok":true}'),
        ("tool", "null"),
        ("tool", '{"ok":true}'),
        ("user", "be quick"),
        ("assistant", "done"),
    ]
    assert [call["id"] for call in found["messages"][2]["toolCalls"]] == ["yes", "no", "beside"]
    assert found["asked"] == [
        *("tidegate.approval_request", "tidegate.approval_request", "tidegate.tool_progress"),
        *("tidegate.approval", "tidegate.approval"),
    ]
    assert found["runs"] == ["success"]


async def test_ai_sdk_keeps_what_is_true_in_the_end(packages: Path, tmp_path: Path) -> None:
    async with recorded(AiSdkFormat, HARD) as url:
        found = await run_script(packages, tmp_path, "ai_sdk.mjs", url, "key", "one_turn", CONTEXT)
    assert found["error"] is None
    user, answer = found["messages"]
    assert (user["id"], answer["id"]) == (TURN, f"{TURN}.reply")
    parts = answer["parts"]
    assert [part["type"] for part in parts] == [
        *("step-start", "reasoning", "text", "dynamic-tool", "dynamic-tool", "dynamic-tool", "text"),
        *("data-tool-progress", "steering-message", "step-start", "text", "step-start"),
    ]
    assert [part["text"] for part in parts if part["type"] in ("text", "reasoning")] == [
        "ah",
        "right, ",
        "I wait",
        "done",
    ]
    yes, no, beside = (part for part in parts if part["type"] == "dynamic-tool")
    assert (yes["state"], yes["input"], yes["output"]) == ("output-available", {"amount": 2}, {"ok": True})
    assert (no["state"], no["approval"]["approved"]) == ("output-denied", False)
    assert (beside["state"], beside["providerExecuted"]) == ("output-available", True)
    assert found["called"] == ["yes"], "once it was approved, and nothing that the server runs"
    assert [end["finishReason"] for end in found["finished"]] == ["tool-calls"]
