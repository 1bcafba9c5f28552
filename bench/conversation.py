"""One conversation of very many turns: does the first token come as soon at its end as at its beginning?"""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Callable

from msgspec import Struct

from bench.client import Closed, Frame, Target
from bench.machine import machine, memory_bytes
from bench.percentiles import percentiles
from bench.process import gateway
from bench.session import Session, open_session

__all__ = ["ConversationParameters", "run_conversation"]

_PARTS = 10


class ConversationParameters(Struct, frozen=True, kw_only=True):
    """So many turns, each with so many `words` asked and echoed; the model reads `window` words (its longest answer
    takes an eighth of them)."""

    turns: int = 2000
    words: int = 40
    window: int = 4000

    @property
    def model(self) -> str:
        """Lines of the settings of the model."""
        return f"context_window = {self.window}\nmax_tokens = {self.window // 8}"


class _Turn:
    """A turn as its sender sees it."""

    def __init__(self, frame_id: str) -> None:
        self.frame_id = frame_id
        self.first: float | None = None
        self.fault: str | None = None
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def hear(self, frame: Frame, now: float) -> None:
        if self.ended.done():
            return
        if frame.type == "delta" and self.first is None:
            self.first = now
        elif frame.type == "error":
            self.fault = f"{frame.code}: {frame.message}"
            self.ended.set_result(None)
        elif frame.type == "turn_end":
            if frame.status != "complete":
                self.fault = f"the turn ended with {frame.status}"
            self.ended.set_result(None)


async def run_conversation(
    parameters: ConversationParameters, target: Target | None, progress: Callable[[int], None]
) -> dict[str, object]:
    """Take the turns one after another. `progress` gets the number that is done. Raises Closed, GatewayFailed."""
    async with gateway(target, delay_ms=0, model=parameters.model) as server:
        before = memory_bytes(server.pid) if server.pid is not None else None
        session = await open_session(server.target)
        waits, faults = await _talk(session, parameters, progress)
        after = memory_bytes(server.pid) if server.pid is not None else None
        session.client.close()
    size = max(1, len(waits) // _PARTS)
    begin, end = percentiles(waits[size : 2 * size] or waits), percentiles(waits[-size:])
    results: dict[str, object] = {
        "turns": len(waits),
        "first_token_ms": {
            f"turns {place + 1} to {min(place + size, len(waits))}": percentiles(waits[place : place + size])
            for place in range(0, size * _PARTS, size)
        },
        "last_tenth_over_second_tenth": round(end["p50"] / begin["p50"], 2) if begin and end else None,
        "faults": faults,
    }
    if before is not None and after is not None:
        results["server_uss_mib"] = {"before": before["uss"] / 2**20, "after": after["uss"] / 2**20}
    return {
        "benchmark": "conversation",
        "machine": machine(),
        "parameters": parameters,
        "results": results,
    }


async def _talk(
    session: Session, parameters: ConversationParameters, progress: Callable[[int], None]
) -> tuple[list[float], list[str]]:
    """Seconds from each message to the first token of its answer, and what went wrong."""
    waits: list[float] = []
    faults: list[str] = []
    context_id = f"bench-{os.getpid()}"
    gc.disable()
    try:
        for number in range(parameters.turns):
            turn = _Turn(f"{context_id}-{number}")
            session.on_event = turn.hear
            text = " ".join(f"w{number}x{place}" for place in range(parameters.words))
            sent = time.perf_counter()
            session.client.send(type="message", id=turn.frame_id, content=text, context_id=context_id)
            await asyncio.wait((turn.ended, session.client.closed), return_when=asyncio.FIRST_COMPLETED)
            if not turn.ended.done():
                raise Closed(f"closed with {session.client.closed.result()} in turn {number}")
            if turn.fault is not None or turn.first is None:
                faults.append(f"turn {number}: {turn.fault or 'no token came'}")
            else:
                waits.append(turn.first - sent)
            progress(number + 1)
    finally:
        gc.enable()
    return waits, faults
