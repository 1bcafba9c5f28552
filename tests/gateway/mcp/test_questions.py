"""Whom a server's question reaches over a connection that several share."""

from __future__ import annotations

import asyncio
from typing import Any

import mcp_types as types
import pytest

from gateway.mcp.questions import Questions
from gateway.tools.port import Answer

CONTEXT: Any = None
QUESTION = types.ElicitRequestFormParams(message="?", requested_schema={"type": "object", "properties": {}})


class Asked:
    def __init__(self) -> None:
        self.messages: list[str] = []

    async def __call__(self, message: str, schema: dict[str, Any] | None = None, url: str | None = None) -> Answer:
        self.messages.append(message)
        return Answer("accept", {})


async def ask(questions: Questions) -> str:
    """As a message that comes over no call's own way."""
    return (await questions.answer(CONTEXT, QUESTION)).action


async def during(questions: Questions, asked: Asked | None, owner: str | None, over: asyncio.Event) -> None:
    async with questions.during(asked, owner):
        await over.wait()


@pytest.mark.parametrize("owner", ["t/bob", "t/ann"])
async def test_a_call_that_was_given_up_may_still_ask(owner: str) -> None:
    questions, bob, over = Questions(), Asked(), asyncio.Event()
    given_up = asyncio.create_task(during(questions, Asked(), owner, over))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.wait((given_up,))
    calling = asyncio.create_task(during(questions, bob, "t/bob", over))
    await asyncio.sleep(0)
    assert await ask(questions) == ("accept" if owner == "t/bob" else "decline")
    assert len(bob.messages) == (owner == "t/bob")
    over.set()
    await calling


async def test_what_is_asked_for_a_reading_is_asked_of_nobody() -> None:
    questions, bob, over = Questions(), Asked(), asyncio.Event()
    calling = asyncio.create_task(during(questions, bob, "t/bob", over))
    await asyncio.sleep(0)
    assert await ask(questions) == "accept"
    async with questions.during(None):
        assert await ask(questions) == "decline", "of the reading itself"
    reading = asyncio.create_task(during(questions, None, None, over))
    await asyncio.sleep(0)
    assert await ask(questions) == "decline", "it may be that of the reading"
    over.set()
    await asyncio.gather(calling, reading)
    assert len(bob.messages) == 1
