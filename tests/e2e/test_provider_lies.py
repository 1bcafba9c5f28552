"""Providers that say one thing and do another, on both wires: the turn goes on, and the model is told."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from gateway.testing import anthropic_script as claude
from gateway.testing import openai_script as gpt
from gateway.testing.anthropic_server import FakeAnthropic
from gateway.testing.openai_server import FakeOpenAI
from tests.e2e.gateways import GatewayProcess
from tests.e2e.wire import Frame, Wire, check_contiguous

CONFIG = '[models.m]\nprovider = "{provider}"\nmodel = "m"\nbase_url = "{base_url}"\n'
SUM = '{"operation":"add","a":1,"b":2}'

# What the model calls: the name, the arguments as it writes them, and the id that the provider gives.
Called = tuple[str, str, str]
Provider = Callable[[tuple[Called, ...], str], AbstractAsyncContextManager[str]]


@asynccontextmanager
async def openai(calls: tuple[Called, ...], reason: str) -> AsyncGenerator[str]:
    fragments = [
        gpt.CallFragment(index=place, id=id, name=name, arguments=written)
        for place, (name, written, id) in enumerate(calls)
    ]
    first = gpt.Reply(steps=[gpt.Text("Let me see."), *fragments, gpt.Finish(reason), gpt.Usage(), gpt.Done()])
    async with FakeOpenAI(first, default=lambda _: gpt.Reply.text("I see.")) as server:
        yield CONFIG.format(provider="openai", base_url=server.base_url)


@asynccontextmanager
async def anthropic(calls: tuple[Called, ...], reason: str) -> AsyncGenerator[str]:
    blocks = [claude.Call(name, shape="whole", id=id, written=written) for name, written, id in calls]
    stop = {"stop": "end_turn", "tool_calls": "tool_use"}[reason]
    first = claude.Reply.of(claude.Said("Let me see."), *blocks, stop_reason=stop)
    async with FakeAnthropic(first, default=lambda _: claude.Reply.text("I see.")) as server:
        yield CONFIG.format(provider="anthropic", base_url=server.base_url)


async def _turn(provider: Provider, folder: Path, *calls: Called, reason: str = "tool_calls") -> list[Frame]:
    async with (
        provider(calls, reason) as config,
        GatewayProcess(folder, config=config) as gateway,
        Wire(gateway.ws, gateway.key()) as wire,
    ):
        await wire.hello()
        events = (await wire.turn("question", "chat"))[1:]
    check_contiguous(events)
    said = [event["content"] for event in events if event["type"] == "message"]
    assert said == ["question", "Let me see.", "I see."]
    assert (events[-1]["type"], events[-1]["status"]) == ("turn_end", "complete")
    return events


def _results(events: list[Frame]) -> list[tuple[str, object]]:
    """The answer to each call, in the order of the calls."""
    answers = {event["tool_call_id"]: event for event in events if event["type"] == "tool_response"}
    calls = [event["id"] for event in events if event["type"] == "tool_call"]
    assert len(set(calls)) == len(calls)
    return [(answers[call]["status"], answers[call]["result"]) for call in calls]


pytestmark = pytest.mark.parametrize("provider", [openai, anthropic], ids=["openai", "anthropic"])


async def test_a_stop_reason_that_denies_the_call(provider: Provider, tmp_path: Path) -> None:
    events = await _turn(provider, tmp_path, ("calculator", SUM, "c1"), reason="stop")
    assert _results(events) == [("success", {"result": 3})]


async def test_two_calls_with_one_id(provider: Provider, tmp_path: Path) -> None:
    other = SUM.replace('"b":2', '"b":3')
    events = await _turn(provider, tmp_path, ("calculator", SUM, "c1"), ("calculator", other, "c1"))
    assert _results(events) == [("success", {"result": 3}), ("success", {"result": 4})]


@pytest.mark.parametrize(
    ("name", "written"),
    [("calculator", ""), ("calculator", '{"operation":"add","a":'), ("calculator", "[1,2]"), ("nothing", SUM)],
    ids=["no arguments", "broken JSON", "no object", "no such tool"],
)
async def test_a_call_that_can_not_be_run(provider: Provider, tmp_path: Path, name: str, written: str) -> None:
    ((status, result),) = _results(await _turn(provider, tmp_path, (name, written, "c1")))
    assert status == "error"
    assert result
