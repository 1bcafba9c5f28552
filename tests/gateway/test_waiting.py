"""Who acts on a call in the very moment in which its time is over: the store decides, once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway import Client, Gateway, Settings, ToolContext, tool
from gateway.client import Refused
from protocol.frames import AnswerTool, Message, ToolCall, ToolResponse
from tests.gateway.host_apps import ANN


class _Moment:
    """A checkpoint that does something once, before what is armed for comes to pass."""

    def __init__(self) -> None:
        self._name = ""
        self._act: Callable[[], Awaitable[Any]] | None = None

    def arm(self, name: str, act: Callable[[], Awaitable[Any]]) -> None:
        self._name, self._act = name, act

    async def __call__(self, name: str) -> None:
        if name == self._name and (act := self._act) is not None:
            self._act = None
            await act()


@tool(approval="always")
async def charge(ctx: ToolContext, amount: int) -> int:
    return amount


@tool(approval="always")
async def locate(amount: int) -> int:
    """On the client."""
    return amount


async def ponder() -> None:
    """On the client, which never comes to an end of its own."""
    await asyncio.Event().wait()


def _gateway(folder: Path, moment: _Moment) -> Gateway:
    settings = Settings.of(
        store={"url": f"sqlite:///{folder / 'host.db'}"},
        models={"demo": {"provider": "demo", "delay": 1}},
        limits={"client_tool_seconds": 0.3, "approval_seconds": 0.3},
    )
    return Gateway(settings, tools=[charge], checkpoint=moment)


async def _answered(
    client: Client, said: str, moment: _Moment, when: str, act: Callable[[str], Awaitable[Any]]
) -> ToolResponse:
    """The only answer to the call that is said; `act` on it at the checkpoint `when` its time is over."""
    answers: list[ToolResponse] = []
    call_id = ""

    async def at_last() -> None:
        await act(call_id)

    async with await client.ask(said, "chat") as turn, asyncio.timeout(20):
        async for frame in turn:
            if isinstance(frame, ToolCall):
                call_id = frame.id
            elif isinstance(frame, Message) and frame.role == "assistant" and not answers:
                moment.arm(when, at_last)
            elif isinstance(frame, ToolResponse):
                answers.append(frame)
    (answer,) = answers
    assert answer.tool_call_id == call_id
    return answer


@pytest.mark.parametrize("said", ['call charge {"amount": 7}', 'call locate {"amount": 7}'])
async def test_a_decision_just_before_the_end_of_its_time_counts(tmp_path: Path, said: str) -> None:
    moment = _Moment()
    gateway = _gateway(tmp_path, moment)
    async with gateway.running(), gateway.connect(ANN, tools=[locate]) as client:
        answer = await _answered(client, said, moment, "write", partial(client.approve, "chat"))
        assert (answer.status, answer.result) == ("success", 7)


async def test_a_denial_just_before_the_end_of_its_time_counts(tmp_path: Path) -> None:
    moment = _Moment()
    gateway = _gateway(tmp_path, moment)
    async with gateway.running(), gateway.connect(ANN) as client:
        act = partial(client.approve, "chat", approved=False, reason="no")
        answer = await _answered(client, 'call charge {"amount": 7}', moment, "write", act)
        assert (answer.status, answer.result) == ("denied", "no")


async def test_an_answer_just_before_the_end_of_its_time_counts(tmp_path: Path) -> None:
    moment = _Moment()
    gateway = _gateway(tmp_path, moment)

    async def act(call_id: str) -> None:
        frame = AnswerTool(id="a", tool_call_id=call_id, context_id="chat", result="here", status="success")
        await client._send(frame)  # pyright: ignore[reportPrivateUsage] - its tools answer when they like

    async with gateway.running(), gateway.connect(ANN, tools=[ponder]) as client:
        answer = await _answered(client, "call ponder {}", moment, "write", act)
        assert (answer.status, answer.result) == ("success", "here")


async def test_once_a_time_is_over_the_decision_comes_too_late(tmp_path: Path) -> None:
    moment = _Moment()
    gateway = _gateway(tmp_path, moment)
    refused: list[str] = []

    async def act(call_id: str) -> None:
        try:
            await client.approve("chat", call_id)
        except Refused as error:
            refused.append(error.code)

    async with gateway.running(), gateway.connect(ANN) as client:
        answer = await _answered(client, 'call charge {"amount": 7}', moment, "written", act)
        assert (answer.status, refused) == ("timeout", ["conflict"])
