"""What one run of a tool says and asks: cleaned, counted, and timed."""

from __future__ import annotations

import asyncio
import math
import threading
from typing import Any, Final, cast
from urllib.parse import urlsplit

import msgspec

from gateway.tools.port import Answer, Question, ToolContext, ToolError

__all__ = ["MAX_MESSAGE", "MAX_QUESTION", "MAX_QUESTIONS", "MAX_SCHEMA_BYTES", "MAX_URL", "Meter", "clean"]

MAX_MESSAGE: Final = 1_000
MAX_QUESTION: Final = 4_000
MAX_SCHEMA_BYTES: Final = 65_536
MAX_URL: Final = 2_048
MAX_QUESTIONS: Final = 32
"""How often a run may ask. Its limits stand still meanwhile, so that without this it need not end."""


class Meter:
    """The `context` that the tool is given: it cleans what is reported and remembers when, from any thread, and passes
    on what is asked. `now` is a clock, in seconds, that stands still while an answer is waited for; `last` is when the
    last progress was reported."""

    def __init__(self, outer: ToolContext, question_seconds: float) -> None:
        self._outer = outer
        self._question_seconds = question_seconds
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._lock = threading.Lock()
        self._pending: tuple[float, float | None, str | None] | None = None
        self._open = True
        self._asked = 0  # how many questions, ever
        self._asking = 0  # how many wait for their answers
        self._stands = 0.0  # what `now` is while any does
        self._lost = 0.0  # by how much `now` is behind the loop's clock
        self._all_answered: asyncio.Future[None] | None = None
        self.last = self.now
        self.context = ToolContext(outer.principal, outer.context_id, outer.call_id, self._report, self._ask)

    def close(self) -> None:
        """Pass on what waits, and nothing after it."""
        self._forward()
        self._open = False

    # ---- time

    @property
    def now(self) -> float:
        return self._stands if self._asking else self._loop.time() - self._lost

    @property
    def asking(self) -> bool:
        """Whether an answer is waited for."""
        return self._asking > 0

    async def answered_or(self, task: asyncio.Task[Any]) -> None:
        """Wait until no answer is waited for, or the task has ended. Called while `asking`, by one task."""
        self._all_answered = self._loop.create_future()
        await asyncio.wait({task, self._all_answered}, return_when=asyncio.FIRST_COMPLETED)

    # ---- progress

    def _report(self, progress: float, total: float | None, message: str | None) -> None:
        self.last = self.now
        text = None if message is None else clean(message, MAX_MESSAGE)
        report = (_finite(progress) or 0, None if total is None else _finite(total), text)
        with self._lock:
            scheduled = self._pending is not None
            self._pending = report
        if threading.get_ident() == self._loop_thread:
            self._forward()
        elif not scheduled and self._open:
            self._loop.call_soon_threadsafe(self._forward)

    def _forward(self) -> None:
        with self._lock:
            report, self._pending = self._pending, None
        if report is not None and self._open:
            self._outer.report(*report)

    # ---- questions

    async def _ask(self, question: Question) -> Answer:
        if asyncio.get_running_loop() is not self._loop:
            raise ToolError("only a coroutine may ask its user")
        asked = _checked(question)
        if not self._open:
            return Answer("cancel")
        self._asked += 1
        if self._asked > MAX_QUESTIONS:
            raise ToolError(f"a call may ask its user {MAX_QUESTIONS} times")
        self._stand_still()
        try:
            async with asyncio.timeout(self._question_seconds):
                return await self._outer.ask(asked.message, asked.schema, asked.url)
        except TimeoutError:
            return Answer("cancel")
        finally:
            self._go_on()

    def _stand_still(self) -> None:
        self._stands = self.now
        self._asking += 1

    def _go_on(self) -> None:
        self._asking -= 1
        if not self._asking:
            self._lost = self._loop.time() - self._stands
            if self._all_answered is not None and not self._all_answered.done():
                self._all_answered.set_result(None)


def _checked(question: Question) -> Question:
    """Raises ToolError, whose words are for the author of the tool."""
    if question.url is not None and not _is_web_address(question.url):
        raise ToolError(f"the URL of a question is http or https, at most {MAX_URL:,} characters")
    schema = None if question.schema is None else _checked_schema(question.schema)
    return Question(clean(question.message, MAX_QUESTION), schema, question.url)


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    plain = url.isprintable() and " " not in url
    return parts.scheme in ("http", "https") and bool(host) and plain and len(url) <= MAX_URL


def _checked_schema(schema: Any) -> dict[str, Any]:
    """As readers will see it, and no longer shared with the tool."""
    try:
        encoded = msgspec.json.encode(schema)
    # The boundary to foreign code: encoding reads attributes of the tool's own objects.
    except Exception as error:
        raise ToolError("the schema of a question is JSON") from error
    if len(encoded) > MAX_SCHEMA_BYTES:
        raise ToolError(f"the schema of a question has at most {MAX_SCHEMA_BYTES:,} bytes")
    decoded = msgspec.json.decode(encoded)
    if not isinstance(decoded, dict):
        raise ToolError("the schema of a question is that of an object")
    return cast("dict[str, Any]", decoded)


def _finite(number: float) -> float | None:
    """The number where it can be a progress or a total: finite and not negative. A whole number stays one."""
    try:
        value = float(number)
    except OverflowError:
        return None
    if not math.isfinite(value) or value < 0:
        return None
    return number if type(number) is int and number <= 2**53 else value


def clean(text: str, length: int) -> str:
    """At most `length` characters, all of which UTF-8 can carry (a lone surrogate can't go on the wire)."""
    return text[:length].encode("utf-8", "replace").decode()
