"""A provider that fails before the first token, after it, or after a tool call, seen from a client's socket."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.testing.openai_script import Cut, Finish, Raw, Reply, Stall, Text
from gateway.testing.openai_server import FakeOpenAI
from tests.e2e.gateways import GatewayProcess
from tests.e2e.wire import Frame, Wire, check_contiguous, spoken

CONFIG = """
[models.fake]
provider = "openai"
model = "m"
base_url = "{base_url}"
attempts = 2
timeouts = {{ connect = 1, first_token = 1, between_tokens = 1 }}
"""
ANSWER = "The answer is here."
CALL = Reply.calls(("calculator", {"operation": "add", "a": 1, "b": 2}), before="Let me see. ")


async def _turn(folder: Path, *replies: Reply) -> list[Frame]:
    """The events of one turn against a provider that answers so, and then without fault."""
    async with FakeOpenAI(*replies, default=lambda _: Reply.text(ANSWER)) as provider:
        config = CONFIG.format(base_url=provider.base_url)
        async with GatewayProcess(folder, config=config) as gateway, Wire(gateway.ws, gateway.key()) as wire:
            await wire.hello()
            events = (await wire.turn("question", "chat"))[1:]
    check_contiguous(events)
    for message in events:
        if message["type"] == "message" and message["role"] == "assistant":
            assert message["content"] == spoken(events, message["id"])
    assert [event["type"] for event in events].count("turn_end") == 1
    return events


def _attempts(events: list[Frame]) -> list[int]:
    return [event["attempt"] for event in events if event["type"] == "message_start"]


@pytest.mark.parametrize(
    "fault",
    [
        Reply.failure(429, retry_after="0"),
        Reply.failure(500),
        Reply(steps=[Stall()]),
        Reply(steps=[Cut()]),
    ],
    ids=["429", "500", "stalls", "cuts"],
)
async def test_a_failure_before_the_first_token_is_not_seen(tmp_path: Path, fault: Reply) -> None:
    events = await _turn(tmp_path, fault)
    assert _attempts(events) == [1]
    assert events[-1]["status"] == "complete"


@pytest.mark.parametrize(
    "fault",
    [
        Reply(steps=[Text("The answer "), Cut()]),
        Reply(steps=[Text("The answer "), Stall()]),
    ],
    ids=["cuts", "stalls"],
)
async def test_a_failure_after_the_first_token_begins_the_message_again(tmp_path: Path, fault: Reply) -> None:
    events = await _turn(tmp_path, fault)
    assert _attempts(events) == [1, 2]
    assert events[-1]["status"] == "complete"
    assert [e["content"] for e in events if e["type"] == "message"][-1] == ANSWER


async def test_garbage_in_the_stream_leaves_a_clear_end(tmp_path: Path) -> None:
    events = await _turn(tmp_path, *[Reply(steps=[Text("The "), Raw(b"data: {garbage\n\n")]) for _ in range(20)])
    assert events[-1]["status"] == "failed"
    assert events[-1]["error"]["code"] in ("provider_error", "provider_overloaded")


async def test_a_request_that_is_refused_for_good_fails_the_turn(tmp_path: Path) -> None:
    events = await _turn(tmp_path, Reply.failure(400, "invalid_request", "no such thing"))
    assert events[-1]["status"] == "failed"
    assert events[-1]["error"]["code"] == "provider_error"
    assert events[-1]["error"]["retryable"] is False


async def test_a_cut_after_a_tool_call_emits_the_call_once(tmp_path: Path) -> None:
    torn = Reply(steps=[*[step for step in CALL.steps if not isinstance(step, Finish)][:-1], Cut()])
    events = await _turn(tmp_path, torn)
    calls = [event for event in events if event["type"] == "tool_call"]
    assert len(calls) <= 1
    assert events[-1]["status"] == "complete"


async def test_failures_after_a_tool_answered_do_not_run_it_again(tmp_path: Path) -> None:
    events = await _turn(tmp_path, CALL, Reply.failure(500), Reply(steps=[Text("The "), Cut()]))
    assert [event["type"] for event in events].count("tool_call") == 1
    assert [event["type"] for event in events].count("tool_response") == 1
    assert events[-1]["status"] == "complete"
    assert [e["content"] for e in events if e["type"] == "message"][-1] == ANSWER
