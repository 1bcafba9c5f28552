"""Which of the calls in flight a server's question belongs to, and how its answer goes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Final

import anyio
import mcp_types as types
from mcp.client.session import ClientRequestContext
from pydantic import ValidationError

from gateway.mcp.descriptions import clean
from gateway.mcp.tool import Ask
from gateway.tools.port import Answer, ToolError

__all__ = ["MAX_QUESTIONS", "Questions"]

MAX_QUESTIONS: Final = 20
"""Of one call; further ones are declined, as nobody wants to answer them."""

_MESSAGE: Final = 2_000
_URL: Final = 2_048
_END: Final = 1.0

_DECLINED: Final = types.ElicitResult(action="decline")
_CANCELLED: Final = types.ElicitResult(action="cancel")


class _Call:
    def __init__(self, ask: Ask | None, owner: str | None) -> None:
        self.ask = ask
        self.owner = owner
        self.asked = 0
        self.over = asyncio.Event()


_current: ContextVar[_Call | None] = ContextVar("mcp_call", default=None)


class Questions:
    """Those of one connection.

    A question reaches the user of the call that it was asked for: that of the task which waits for the answer, as in
    the protocol of 2026 and wherever it came over the call's own HTTP response; else the only call in flight, unless
    the server may still be at one of another user that was given up. Where that does not tell, it is declined: no user
    is asked what another one's call wants to know.
    """

    def __init__(self) -> None:
        self._calls: set[_Call] = set()
        self._given_up: set[str | None] = set()
        """Whose calls were cancelled, which a server need not heed; two of them are as good as all."""

    @asynccontextmanager
    async def during(self, ask: Ask | None, owner: str | None = None) -> AsyncGenerator[None]:
        """While a call of the owner's is in flight, or (`ask` None) another request, whose questions nobody answers.
        What is still asked at its end is cancelled."""
        call = _Call(ask, owner)
        self._calls.add(call)
        token = _current.set(call)
        try:
            yield
        except asyncio.CancelledError:
            if ask is not None and len(self._given_up) < 2:
                self._given_up.add(owner)
            raise
        finally:
            _current.reset(token)
            self._calls.discard(call)
            call.over.set()

    async def answer(self, context: ClientRequestContext, params: types.ElicitRequestParams) -> types.ElicitResult:
        """The SDK's `elicitation_callback`."""
        call = self._call()
        if call is None or call.ask is None or call.asked >= MAX_QUESTIONS:
            return _DECLINED
        url, schema = None, None
        if isinstance(params, types.ElicitRequestURLParams):
            url = params.url
            if len(url) > _URL or not url.startswith(("https://", "http://")) or url != clean(url, _URL):
                return _DECLINED
        else:
            schema = params.requested_schema
        call.asked += 1
        return await _asked(
            call, asyncio.ensure_future(call.ask(clean(params.message, _MESSAGE), schema, url)), url is None
        )

    def _call(self) -> _Call | None:
        call = _current.get()
        if call is not None:
            return call if call in self._calls else None
        only = next(iter(self._calls)) if len(self._calls) == 1 else None
        return only if only is not None and self._given_up <= {only.owner} else None


async def _asked(call: _Call, asking: asyncio.Future[Answer], form: bool) -> types.ElicitResult:
    """The answer, or a cancel where the call is over before it. The asking is a task of its own, which is cancelled
    once: within a cancelled scope of anyio nothing of its end could be awaited."""
    over = asyncio.ensure_future(call.over.wait())
    try:
        await asyncio.wait((asking, over), return_when=asyncio.FIRST_COMPLETED)
        return _result(asking.result(), form) if asking.done() and not asking.cancelled() else _CANCELLED
    except ToolError:
        return _CANCELLED
    finally:
        for task in (asking, over):
            task.cancel()
        with anyio.move_on_after(_END, shield=True):
            await asyncio.wait((asking, over))


def _result(answer: Answer, form: bool) -> types.ElicitResult:
    if answer.action != "accept" or not form:
        return types.ElicitResult(action=answer.action)
    try:
        return types.ElicitResult(action="accept", content=answer.content or {})
    except ValidationError:
        # The protocol's forms are flat.
        return _CANCELLED
