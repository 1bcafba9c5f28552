"""The turns that run in this instance: begins them, wakes them, hands them over when it drains."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from datetime import UTC, datetime

import msgspec
import structlog

from gateway.core.turn_events import NO_USAGE, TurnEvents
from gateway.failures import internal_error
from gateway.hearing import hearing
from gateway.patience import patiently
from gateway.run import Run
from gateway.run_services import RunServices
from gateway.stored_events import new_event
from protocol.ids import new_id, rfc3339
from stores.ports import Bus, Fenced, NotFound, Unavailable
from stores.records import Claimed, ContextKey, Turn, TurnState

__all__ = ["Turns"]

_log = structlog.get_logger(__name__)
_MAX_ATTEMPTS = 5

_CANCEL_SECONDS = 5.0
_RELEASE_SECONDS = 3.0

TurnKey = tuple[ContextKey, str]

_decode_call = msgspec.json.Decoder(tuple[str, str, str]).decode


class Turns:
    """Owns the tasks of this instance's turns, `limit` of them at most; what has no room waits in the store. Over `bus`
    instances wake each other's turns; a call that gets lost costs a second."""

    def __init__(self, services: RunServices, instance: str, limit: int, bus: Bus) -> None:
        self._services = services
        self._bus = bus
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
        async with asyncio.TaskGroup() as self._group, hearing(self._bus, {_channel(self.instance): self._called}):
            await asyncio.Event().wait()

    def _called(self, payload: bytes) -> None:
        """Another instance has stored something for a turn that it takes to run here."""
        try:
            owner, context_id, turn_id = _decode_call(payload)
        except msgspec.DecodeError:
            return
        self.wake(ContextKey(owner, context_id), turn_id)

    def wake(self, key: ContextKey, turn_id: str) -> bool:
        """Something was stored for the turn; whether it runs here."""
        run = self._runs.get((key, turn_id))
        if run is not None:
            run.poke()
        return run is not None

    def begin(self, key: ContextKey, turn_id: str, epoch: int | None) -> None:
        """Begin a turn that was just stored, if it is its place; `epoch` is that of its context's log (None: not
        known)."""
        self._spawn(self._begin(key, turn_id, 0, begun_before=False, epoch=epoch))

    def look(self, key: ContextKey, turn_id: str) -> None:
        """The turn may want a runner: it was woken, or nobody's."""
        if not self.wake(key, turn_id):
            self._spawn(self._look(key, turn_id))

    def take(self, turn: Turn) -> None:
        """Claim and run a turn that recovery found. One that can't be claimed now, as its shard is away, holds up no
        other."""
        self._spawn(self._take(turn))

    async def drain(self, seconds: float) -> None:
        """Begin no more turns, let the running ones end for so long, then give up the rest: another instance takes them
        over within a second."""
        self._draining = True
        if self._tasks:
            await asyncio.wait(self._tasks.values(), timeout=seconds)
        left = list(self._runs.values())
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CANCEL_SECONDS)
        # What can't be given up is taken over once the heartbeat has stopped.
        with suppress(TimeoutError):
            async with asyncio.timeout(_RELEASE_SECONDS):
                await asyncio.gather(*(self._release(run.turn) for run in left))

    async def _give_back(self, turn: Turn) -> None:
        """Let anyone claim the turn, unless somebody has. It must come about: this instance goes on to beat."""
        await patiently(lambda: self._services.store.release(turn.key, turn.id, turn.fence))

    async def _release(self, turn: Turn) -> None:
        try:
            await self._services.store.release(turn.key, turn.id, turn.fence)
        except Unavailable as error:
            _log.warning("a turn was not given up; it will be taken over", turn=turn.id, reason=str(error))

    # ---- inside

    def _spawn(self, work: Coroutine[None, None, object]) -> None:
        if self._group is None or self._draining:
            work.close()
            return
        self._group.create_task(work)

    async def _take(self, turn: Turn) -> None:
        left = turn.runner is not None
        if await self._begin(turn.key, turn.id, turn.fence, begun_before=left) and left:
            self._services.stats.takeovers.inc()

    async def _look(self, key: ContextKey, turn_id: str) -> None:
        rows = await patiently(lambda: self._services.store.load_turn(key, turn_id))
        if rows is None:
            return
        runner = rows.turn.runner
        if runner is None:
            await self._begin(key, turn_id, rows.turn.fence, begun_before=False)
        elif runner != self.instance and rows.turn.state is TurnState.RUNNING:
            try:
                await self._bus.publish(_channel(runner), msgspec.json.encode((key.owner, key.id, turn_id)))
            except Unavailable:
                return  # it looks for itself each second

    async def _begin(
        self, key: ContextKey, turn_id: str, fence: int, *, begun_before: bool, epoch: int | None = None
    ) -> bool:
        """Whether it runs here from now on."""
        place = (key, turn_id)
        if self._draining or self._group is None or place in self._runs or place in self._starting:
            return False
        if len(self._runs) + len(self._starting) >= self._limit:
            return False
        self._starting.add(place)
        try:
            claimed = await self._claim(key, turn_id, fence)
            if claimed is None:
                return False
            if self._draining:
                await self._release(claimed.rows.turn)
                return False
            try:
                run = Run(self._services, claimed, begun_before, epoch)
            except msgspec.MsgspecError:
                await self._refuse(claimed.rows.turn)
                return False
            self._runs[place] = run
            self._tasks[place] = self._group.create_task(self._drive(place, run))
            return True
        finally:
            self._starting.discard(place)

    async def _refuse(self, turn: Turn) -> None:
        """A turn that this version does not understand is another's, unless nobody's does."""
        internal_error("a turn can't be read", turn=turn.id)
        if turn.fence < _MAX_ATTEMPTS:
            await self._give_back(turn)
        else:
            await self._give_up(turn)

    async def _claim(self, key: ContextKey, turn_id: str, fence: int) -> Claimed | None:
        store = self._services.store
        claimed = await patiently(lambda: store.claim(key, turn_id, self.instance, fence))
        if claimed is not None:
            return claimed
        # The claim may have been ours and its reply lost: nobody else would ever run the turn.
        rows = await patiently(lambda: store.load_turn(key, turn_id))
        if rows is None or rows.turn.runner != self.instance or rows.turn.fence != fence + 1:
            return None
        if rows.turn.state not in (TurnState.RUNNING, TurnState.ENDED):
            return None
        # How far the context has come it does not tell: less than nothing, which is never all.
        return Claimed(rows=rows, newest=-1, born=-1)

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
        try:
            await (self._try_again(run) if failed else self._go_on(key, run))
        except Exception:  # noqa: BLE001 - the boundary again: recovery finds what is left
            internal_error("what follows a turn failed", turn=run.turn.id)

    async def _try_again(self, run: Run) -> None:
        turn = run.turn
        await asyncio.sleep(0.2 * turn.fence)
        if turn.fence >= _MAX_ATTEMPTS:
            if await self._give_up(turn):
                await run.audit.interrupt()
            await self._go_on(turn.key, run)
        elif not await self._begin(turn.key, turn.id, turn.fence, begun_before=True):
            # There was no room: while this instance lives nobody else would take it for theirs.
            await self._give_back(turn)

    async def _go_on(self, key: ContextKey, run: Run) -> None:
        """Begin what waited for the turn, and see to what it leaves."""
        if run.waiting:
            following = await patiently(lambda: self._services.store.next_turn(key))
            if following is not None:
                await self._begin(key, following.id, following.fence, begun_before=False)
        if run.over:
            await self._services.assembler.turn_over(key, run.stored)
            if run.turn.kind == "message":
                self._services.turn_over(key, run.turn.id, run.request, run.stored)

    async def _give_up(self, turn: Turn) -> bool:
        """A turn that failed for our own fault again and again ends with its calls, and says so; False where it is
        another's."""
        services = self._services
        make = TurnEvents(turn.key.id, turn.id, "", new_id, lambda: rfc3339(datetime.now(UTC)))
        error = internal_error("a turn was given up", turn=turn.id)
        try:
            found = await patiently(lambda: services.store.load_turn(turn.key, turn.id))
            calls = found.calls.values() if found is not None else ()
            # A call without an answer would be shown as running for good.
            left = [make.response(call.id, "interrupted", None, None) for call in calls if not call.answered]
            rows = [new_event(event) for event in (*left, make.end("failed", 0, NO_USAGE, error))]
            await patiently(lambda: services.store.end_turn(turn.key, turn.id, turn.fence, rows, 1 << 62))
            for row, _ in await patiently(lambda: services.store.unsequenced(turn.key, turn.id)):
                # Each of them: until all have a seq the turn is this instance's, and its context's next one waits.
                await patiently(lambda: services.epochs.place_row(turn.key, row.id))  # noqa: B023 - awaited
        except (Fenced, NotFound):
            return False
        _log.error("a turn was given up", turn=turn.id)
        return True


def _channel(instance: str) -> str:
    return f"turns/{instance}"
