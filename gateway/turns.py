"""The turns that run in this instance: begins them, wakes them, hands them over when it drains."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime

import structlog

from gateway.core.turn_events import NO_USAGE, TurnEvents
from gateway.epochs import log_event
from gateway.patience import patiently
from gateway.run import Run, internal_error
from gateway.run_services import RunServices
from gateway.stored_events import new_event
from protocol.ids import new_id, rfc3339
from stores.ports import Fenced, NotFound
from stores.records import ContextKey, LogBatch, Turn, TurnState

__all__ = ["Turns"]

_log = structlog.get_logger(__name__)
_MAX_ATTEMPTS = 5

TurnKey = tuple[ContextKey, str]


class Turns:
    """Owns the tasks of this instance's turns, `limit` of them at most; what has no room waits in the store."""

    def __init__(self, services: RunServices, instance: str, limit: int) -> None:
        self._services = services
        self.instance = instance
        self._limit = limit
        self._runs: dict[TurnKey, Run] = {}
        self._tasks: dict[TurnKey, asyncio.Task[None]] = {}
        self._starting: set[TurnKey] = set()
        self._group: asyncio.TaskGroup | None = None
        self._draining = False

    def __len__(self) -> int:
        return len(self._runs)

    async def run(self) -> None:
        """Own the turns' tasks until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            await asyncio.Event().wait()

    def wake(self, key: ContextKey, turn_id: str) -> bool:
        """Something was stored for the turn; whether it runs here."""
        run = self._runs.get((key, turn_id))
        if run is not None:
            run.poke()
        return run is not None

    def begin(self, key: ContextKey, turn_id: str) -> None:
        """Begin a turn that was just stored, if it is its place."""
        self._spawn(self._begin(key, turn_id, 0, begun_before=False))

    def look(self, key: ContextKey, turn_id: str) -> None:
        """The turn may want a runner: it was woken, or nobody's."""
        if not self.wake(key, turn_id):
            self._spawn(self._look(key, turn_id))

    async def take(self, turn: Turn) -> None:
        """Claim and run a turn that recovery found."""
        if turn.runner is not None:
            self._services.stats.takeovers.inc()
        await self._begin(turn.key, turn.id, turn.fence, begun_before=turn.runner is not None)

    async def drain(self, seconds: float) -> None:
        """Begin no more turns, let the running ones end for so long, then leave the rest: once the heartbeat has
        stopped, another instance takes them over."""
        self._draining = True
        tasks = list(self._tasks.values())
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=seconds)
            for task in pending:
                task.cancel()
            if pending:
                await asyncio.wait(pending, timeout=5)

    # ---- inside

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        if self._group is None or self._draining:
            work.close()
            return
        self._group.create_task(work)

    async def _look(self, key: ContextKey, turn_id: str) -> None:
        rows = await patiently(lambda: self._services.store.load_turn(key, turn_id))
        if rows is not None and rows.turn.runner is None:
            await self._begin(key, turn_id, rows.turn.fence, begun_before=False)

    async def _begin(self, key: ContextKey, turn_id: str, fence: int, *, begun_before: bool) -> None:
        place = (key, turn_id)
        if self._draining or self._group is None or place in self._runs or place in self._starting:
            return
        if len(self._runs) + len(self._starting) >= self._limit:
            return
        self._starting.add(place)
        try:
            turn = await self._claim(key, turn_id, fence)
            if turn is not None:
                self._runs[place] = run = Run(self._services, turn, begun_before)
                self._tasks[place] = self._group.create_task(self._drive(place, run))
        finally:
            self._starting.discard(place)

    async def _claim(self, key: ContextKey, turn_id: str, fence: int) -> Turn | None:
        store = self._services.store
        turn = await patiently(lambda: store.claim(key, turn_id, self.instance, fence))
        if turn is not None:
            return turn
        # The claim may have been ours and its reply lost: nobody else would ever run the turn.
        rows = await patiently(lambda: store.load_turn(key, turn_id))
        if rows is None or rows.turn.runner != self.instance or rows.turn.fence != fence + 1:
            return None
        return rows.turn if rows.turn.state in (TurnState.RUNNING, TurnState.ENDED) else None

    async def _drive(self, place: TurnKey, run: Run) -> None:
        key = place[0]
        failed = False
        try:
            await run.main()
        except Exception:  # noqa: BLE001 - the boundary to a turn: its failure must not end others, nor leave it hanging
            internal_error("a turn failed", turn=run.turn.id)
            failed = True
        finally:
            self._runs.pop(place, None)
            self._tasks.pop(place, None)
        if run.answered:
            self._services.turn_over(key, run.turn.id, run.request)
        if failed:
            await asyncio.sleep(0.2 * run.turn.fence)
            if run.turn.fence < _MAX_ATTEMPTS:
                await self._begin(key, run.turn.id, run.turn.fence, begun_before=True)
                return
            await self._give_up(run.turn)
        following = await patiently(lambda: self._services.store.next_turn(key))
        if following is not None:
            await self._begin(key, following.id, following.fence, begun_before=False)

    async def _give_up(self, turn: Turn) -> None:
        """A turn that failed for our own fault again and again ends, and says so."""
        services = self._services
        make = TurnEvents(turn.key.id, turn.id, "", new_id, lambda: rfc3339(datetime.now(UTC)))
        error = internal_error("a turn was given up", turn=turn.id)
        row = new_event(make.end("failed", 0, NO_USAGE, error))
        try:
            await patiently(lambda: services.store.end_turn(turn.key, turn.id, turn.fence, [row], 1 << 62))
            epoch = await patiently(lambda: services.epochs.current(turn.key))
            rows = await patiently(lambda: services.store.unsequenced(turn.key, turn.id))
        except (Fenced, NotFound):
            return
        batch = LogBatch(key=turn.key, epoch=epoch, writer=new_id("w_"), events=[log_event(r) for r, _ in rows])
        (answer,) = await patiently(lambda: services.log.append([batch]))
        if isinstance(answer, dict):
            services.recorder.note(turn.key, epoch, answer)
        _log.error("a turn was given up", turn=turn.id)
