"""The tools' part of a run: claims calls, runs them, and puts the questions that running tools ask."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway.core.turn_effects import RunTool, TellTool
from gateway.failures import error_body
from gateway.patience import patiently
from gateway.run_driver import Driver
from gateway.run_services import RunServices
from gateway.tools.port import Answer, Question, ToolContext, ToolOutcome
from protocol.ids import new_id

__all__ = ["ToolsPart"]


class _Asked:
    """A question that a tool waits for: until it has its `answer`, or has `left`."""

    __slots__ = ("answer", "left")

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[Answer] = loop.create_future()
        self.left: asyncio.Future[None] = loop.create_future()

    def settle(self, answer: Answer) -> None:
        """The first one counts."""
        if not self.answer.done():
            self.answer.set_result(answer)


class _Running:
    """A call that runs; `questions` owns the tasks that put its questions, which `asked` holds by id."""

    __slots__ = ("asked", "context", "questions", "task")

    def __init__(self, context: ToolContext) -> None:
        self.context = context
        self.questions = asyncio.TaskGroup()
        self.asked: dict[str, _Asked] = {}
        self.task: asyncio.Task[None] | None = None


class ToolsPart:
    """How many calls run is the machine's affair, how long each runs and how much it asks the ToolRunner's."""

    def __init__(self, driver: Driver, services: RunServices) -> None:
        self._driver = driver
        self._services = services
        self._running: dict[str, _Running] = {}

    async def run(self, effect: RunTool) -> None:
        """Claim the call and begin to run it."""
        driver, services, call_id = self._driver, self._services, effect.call_id
        turn = driver.turn
        definition = await self._decided(call_id) if effect.decided else None
        await services.checkpoint("claim")
        if not await patiently(lambda: services.store.claim_call(turn.key, turn.id, turn.fence, call_id)):
            driver.poke()
            return
        await services.checkpoint("claimed")

        def report(progress: float, total: float | None, message: str | None) -> None:
            driver.say(driver.machine.tool_progress(call_id, progress, total, message))

        async def ask(question: Question) -> Answer:
            return await self._ask(call_id, question)

        running = _Running(ToolContext(driver.request.principal, turn.key.id, call_id, report, ask))
        self._running[call_id] = running
        running.task = driver.spawn(self._use(effect, running, definition))

    def stop(self, call_id: str) -> None:
        """The call is over for its turn."""
        running = self._running.pop(call_id, None)
        if running is None:
            return
        running.context.cancel()
        _hush(running)
        if running.task is not None and running.task is not asyncio.current_task():
            running.task.cancel()

    async def _decided(self, call_id: str) -> str | None:
        """What the person who allowed the call decided about; None where an older version did not note it."""
        key = self._driver.turn.key
        call = await patiently(lambda: self._services.store.get_call(key, call_id))
        return call.asked.definition if call is not None and call.asked is not None else None

    async def _use(self, effect: RunTool, running: _Running, definition: str | None) -> None:
        try:
            async with running.questions:
                outcome = await self._services.routes.run(effect.tool, running.context, effect.parameters, definition)
                await self._ended(effect.call_id, outcome)
                _hush(running)
        finally:
            self._running.pop(effect.call_id, None)
            _hush(running)

    async def _ended(self, call_id: str, outcome: ToolOutcome) -> None:
        driver, status = self._driver, outcome.status
        if status == "cancelled":
            await driver.step(lambda: driver.machine.cancel_call(call_id))
            return
        error = None
        if status == "error" and outcome.code is not None:
            error = error_body(outcome.code, str(outcome.result))
        await driver.step(lambda: driver.machine.tool_done(call_id, status, outcome.result, error))

    # ---- questions

    async def _ask(self, call_id: str, question: Question) -> Answer:
        """Runs in a task of the tool's, which may be cancelled at any moment; a task of ours puts the question."""
        running = self._running.get(call_id)
        if running is None:
            return Answer("cancel")
        question_id, asked = new_id("tool_"), _Asked()
        running.asked[question_id] = asked
        running.questions.create_task(self._put(call_id, question_id, question, asked))
        try:
            return await asyncio.shield(asked.answer)
        finally:
            asked.left.cancel()

    async def _put(self, call_id: str, question_id: str, question: Question, asked: _Asked) -> None:
        """Have it stored, and taken back where the tool waits no more before there is an answer. Nobody cancels this
        within a step but whoever ends the run: `stop` is called within a step of its own."""
        driver = self._driver
        try:
            await driver.step(lambda: driver.machine.asked(call_id, question_id, _parameters(question)))
            await asyncio.wait((asked.answer, asked.left), return_when=asyncio.FIRST_COMPLETED)
            if not asked.answer.done():
                await driver.step(lambda: driver.machine.withdrawn(question_id))
        except BaseException:
            # Nothing is asked any more: the group would take no other question.
            self._running.pop(call_id, None)
            raise

    def tell(self, effect: TellTool) -> None:
        """A question was decided, which is stored."""
        for running in self._running.values():
            if effect.question_id in running.asked:
                running.asked[effect.question_id].settle(Answer(effect.action, effect.content))


def _hush(running: _Running) -> None:
    """What the call asks is answered by nobody any more."""
    for asked in running.asked.values():
        asked.settle(Answer("cancel"))


def _parameters(question: Question) -> dict[str, Any]:
    asked: dict[str, Any] = {"message": question.message}
    if question.schema is not None:
        asked["schema"] = question.schema
    if question.url is not None:
        asked["url"] = question.url
    return asked
