"""Tools that ask their users while they run (gateway/tools/meter.py); what they report is in test_runner.py."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway import Answer, ToolContext, tool
from gateway.auth.principal import Principal
from gateway.tools.meter import MAX_QUESTION, MAX_QUESTIONS, MAX_SCHEMA_BYTES, MAX_URL
from gateway.tools.port import Ask, Question, ToolOutcome
from gateway.tools.runner import ToolRunner
from tests.virtual_time import run_virtually

FORM = {"type": "object", "properties": {"size": {"type": "integer"}}}
YES = Answer("accept", {"size": 3})


class Asked:
    """A user who answers after `seconds`, and what they were asked. `left` counts the questions taken back."""

    def __init__(self, answer: Answer = YES, seconds: float = 0.0) -> None:
        self.questions: list[Question] = []
        self.left = 0
        self._answer = answer
        self._seconds = seconds

    async def ask(self, question: Question) -> Answer:
        self.questions.append(question)
        try:
            await asyncio.sleep(self._seconds)
        except asyncio.CancelledError:
            self.left += 1
            raise
        return self._answer


def context(ask: Ask | None) -> ToolContext:
    def report(progress: float, total: float | None, message: str | None) -> None: ...

    return ToolContext(Principal(tenant="t", subject="s"), "conv_1", "tool_1", report, ask)


def run(tool: Any, ask: Ask | None, **limits: Any) -> ToolOutcome:
    return run_virtually(ToolRunner(**limits).run(tool, context(ask), {}))


async def told(answer: Answer) -> dict[str, Any]:
    return {"action": answer.action, "content": answer.content}


def asking(*args: Any, **kwargs: Any) -> Any:
    """A tool that asks once, and gives what it is answered."""

    @tool
    async def wonder(ctx: ToolContext) -> dict[str, Any]:
        return await told(await ctx.ask(*args, **kwargs))

    return wonder


def test_a_tool_asks_and_is_answered() -> None:
    user = Asked()
    outcome = run(asking("How big?", FORM, url="https://x.test/how"), user.ask)
    assert outcome.result == {"action": "accept", "content": {"size": 3}}
    assert user.questions == [Question("How big?", FORM, "https://x.test/how")]
    assert run(asking("How big?"), Asked(Answer("decline")).ask).result == {"action": "decline", "content": None}


def test_where_nobody_is_there_to_answer_nobody_decides() -> None:
    assert run(asking("How big?"), None).result == {"action": "cancel", "content": None}


def test_the_limits_of_a_tool_stand_still_while_it_waits_for_its_user() -> None:
    @tool(timeout=2.0, idle_timeout=1.0)
    async def wonder(ctx: ToolContext) -> str:
        await asyncio.sleep(0.7)
        await ctx.ask("one")
        await asyncio.sleep(0.2)  # 0.9 s of silence
        await ctx.progress(1)
        async with asyncio.TaskGroup() as group:
            group.create_task(ctx.ask("two"))
            group.create_task(ctx.ask("three"))
        await asyncio.sleep(0.9)  # 1.8 s in all
        return "done"

    user = Asked(seconds=100.0)
    assert run(wonder, user.ask).result == "done"
    assert [question.message for question in user.questions] == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"timeout": 2.0}, "wonder did not end within 2 s"),
        ({"idle_timeout": 1.0}, "wonder showed no progress for 1 s"),
    ],
)
def test_they_go_on_where_they_stood(limits: dict[str, float], words: str) -> None:
    spent: list[float] = []

    @tool(**limits)  # type: ignore[call-overload]
    async def wonder(ctx: ToolContext) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0.5)
        await ctx.ask("one")
        began = loop.time()
        try:
            await asyncio.Event().wait()
        finally:
            spent.append(loop.time() - began)

    outcome = run(wonder, Asked(seconds=100.0).ask)
    assert outcome == ToolOutcome(status="timeout", result=words)
    assert spent == [pytest.approx(next(iter(limits.values())) - 0.5)]


def test_a_question_that_nobody_answers_in_time_is_taken_back() -> None:
    user = Asked(seconds=100.0)
    outcome = run(asking("How big?"), user.ask, question_seconds=5.0)
    assert outcome.result == {"action": "cancel", "content": None}
    assert user.left == 1


def test_a_tool_may_wait_for_less() -> None:
    @tool(timeout=3.0)
    async def wonder(ctx: ToolContext) -> str:
        try:
            async with asyncio.timeout(5.0):
                await ctx.ask("How big?")
        except TimeoutError:
            return "never mind"
        return "answered"

    user = Asked(seconds=100.0)
    assert run(wonder, user.ask).result == "never mind"
    assert user.left == 1


def test_who_asks_for_ever_is_stopped() -> None:
    @tool
    async def wonder(ctx: ToolContext) -> None:
        while True:
            await ctx.ask("Are you sure?")

    user = Asked()
    outcome = run(wonder, user.ask)
    assert (outcome.status, outcome.result) == ("error", f"a call may ask its user {MAX_QUESTIONS} times")
    assert len(user.questions) == MAX_QUESTIONS


def test_after_its_end_a_run_asks_nobody() -> None:
    answers: list[Answer] = []

    @tool
    async def wonder(ctx: ToolContext) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            answers.append(await ctx.ask("May I stay?"))

    user = Asked()

    async def cancelled() -> None:
        task = asyncio.create_task(ToolRunner().run(wonder, context(user.ask), {}))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_virtually(cancelled())
    assert answers == [Answer("cancel")]
    assert user.questions == []


def test_a_run_that_is_cancelled_takes_its_question_back() -> None:
    user = Asked(seconds=100.0)

    async def cancelled() -> None:
        task = asyncio.create_task(ToolRunner().run(asking("How big?"), context(user.ask), {}))
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_virtually(cancelled())
    assert user.left == 1


def test_a_question_is_cut_to_what_readers_take() -> None:
    user = Asked()
    run(asking("x" * 10_000 + "\ud800", {"type": ("object",)}), user.ask)
    assert user.questions == [Question("x" * MAX_QUESTION, {"type": ["object"]})]


class Odd:
    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"x": Odd()}, "the schema of a question is JSON"),
        ([FORM], "the schema of a question is that of an object"),
        ({"x": "x" * MAX_SCHEMA_BYTES}, f"the schema of a question has at most {MAX_SCHEMA_BYTES:,} bytes"),
    ],
)
def test_a_schema_that_is_none_is_a_failure_of_the_tool(schema: Any, words: str) -> None:
    user = Asked()
    assert run(asking("How big?", schema), user.ask) == ToolOutcome(status="error", result=words)
    assert user.questions == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "javascript:alert(1)",
        "file:///etc/passwd",
        "https://",
        "http://[",
        "https://x.test/ y",
        "https://x.test/\n",
        "https://x.test/" + "x" * MAX_URL,
    ],
)
def test_a_url_is_one_of_the_web(url: str) -> None:
    user = Asked()
    outcome = run(asking("Look", url=url), user.ask)
    assert (outcome.status, outcome.result) == (
        "error",
        "the URL of a question is http or https, at most 2,048 characters",
    )
    assert user.questions == []


def test_a_plain_function_can_not_ask() -> None:
    def wait_for(work: Callable[[], Awaitable[Answer]]) -> Answer:
        async def main() -> Answer:
            return await work()

        return asyncio.run(main())

    @tool
    def wonder(ctx: ToolContext) -> str:
        return wait_for(lambda: ctx.ask("How big?")).action

    async def threaded() -> ToolOutcome:
        return await ToolRunner().run(wonder, context(Asked().ask), {})

    outcome = asyncio.run(threaded())
    assert (outcome.status, outcome.result) == ("error", "only a coroutine may ask its user")
