"""One message through a pipe: the answer's text on standard output, all else on standard error."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from msgspec.structs import replace

from gateway.chat.page import asked_line, ended_line
from gateway.chat.shown import Anew, Asked, Ended, Over, Piece
from gateway.chat.view import View
from gateway.chat.words import printable
from gateway.client import Client, Turn
from gateway.client_errors import Refused
from protocol.frames import Snapshot, ToolCall

__all__ = ["converse"]


class _Pipe:
    """`out` gets pieces of text, `err` lines; `allow` says what becomes of calls that ask for a person."""

    def __init__(self, client: Client, out: Callable[[str], None], err: Callable[[str], None], allow: bool) -> None:
        self._client = client
        self._out = out
        self._err = err
        self._allow = allow
        self._view = View()
        self._message: str | None = None
        self._open_line = False

    async def run(self, turn: Turn) -> None:
        async for frame in turn:
            mine = _only(frame, turn.id) if isinstance(frame, Snapshot) else frame
            for shown in self._view.take(mine):
                match shown:
                    case Piece(channel="text"):
                        self._piece(shown)
                    case Anew():
                        self._end_line()
                        self._err("the answer begins again")
                    case Ended():
                        self._err(ended_line(shown))
                    case Asked():
                        await self._decide(shown.call)
                    case Over(reason=str(reason)):
                        self._err(printable(reason))
                    case _:
                        pass
        self._end_line()

    def _piece(self, piece: Piece) -> None:
        if self._message not in (None, piece.message_id):
            self._end_line()
        self._message = piece.message_id
        text = printable(piece.text)
        if text:
            self._out(text)
            self._open_line = not text.endswith("\n")

    def _end_line(self) -> None:
        if self._open_line:
            self._out("\n")
            self._open_line = False

    async def _decide(self, call: ToolCall) -> None:
        self._err(asked_line(call))
        if call.asked_by is None:
            allow, reason = self._allow, "nobody is there to ask: allow it with --yes"
        else:
            allow, reason = False, "nobody is there to answer"
        self._err("allowed" if allow else f"denied: {reason}")
        # Somebody may have decided on another device.
        with suppress(Refused):
            await self._client.approve(call.context_id, call.id, allow, reason=None if allow else reason)


async def converse(
    client: Client,
    content: str,
    context_id: str | None,
    *,
    out: Callable[[str], None],
    err: Callable[[str], None],
    allow: bool,
    **options: Any,
) -> int:
    """Have a message answered; the exit status: 0 where the answer is complete. `options` are those of `Client.send`.

    Ctrl-C cancels the turn. Raises as `Turn` and `Client.send` do, and what `out` raises.
    """
    loop = asyncio.get_running_loop()
    async with await client.ask(content, context_id, **options) as turn:
        stopping: list[asyncio.Task[None]] = []

        def stop() -> None:
            loop.remove_signal_handler(signal.SIGINT)  # the second one ends the program
            stopping.append(loop.create_task(_cancel(client, turn)))

        with suppress(NotImplementedError):  # no loop on Windows has it
            loop.add_signal_handler(signal.SIGINT, stop)
        try:
            await _Pipe(client, out, err, allow).run(turn)
        finally:
            for task in stopping:
                task.cancel()
            await asyncio.gather(*stopping, return_exceptions=True)
    return 0 if turn.end is not None and turn.end.status == "complete" else 1


async def _cancel(client: Client, turn: Turn) -> None:
    with suppress(Refused):
        await client.cancel(turn.context_id, turn_id=turn.id)


def _only(snapshot: Snapshot, turn_id: str) -> Snapshot:
    """What the snapshot says of one turn."""
    return replace(
        snapshot,
        events=[event for event in snapshot.events if event.turn_id == turn_id],
        partial=[partial for partial in snapshot.partial if partial.turn_id == turn_id],
        running=[running for running in snapshot.running if running.call.turn_id == turn_id],
        has_more=False,
    )
