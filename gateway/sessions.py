"""Sessions outlive sockets: who holds one, on which instance, what it follows (docs/protocol.md, section 1)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from itertools import count
from weakref import WeakValueDictionary

import msgspec
import structlog
from msgspec.structs import replace

from gateway.auth.principal import Principal
from gateway.declared_tools import DeclaredTools
from gateway.hearing import hearing
from gateway.session_keeper import SessionKeeper
from protocol.codec import encode
from protocol.frames import Hello
from protocol.ids import new_id
from stores.ports import Bus, Cache, Heartbeats, SessionStore, Unavailable
from stores.records import ContextKey, SessionRecord

__all__ = ["ERASED", "Session", "Sessions"]

_log = structlog.get_logger(__name__)
_TAKEN = "sessions-taken"
ERASED = "sessions-erased"
_AGAIN_SECONDS = 1.0
_NO_TOOLS = b"[]"

_decode_call = msgspec.json.Decoder(tuple[str, str, int]).decode


class Session:
    """A session while a socket holds it. `give_up` closes that socket because a later attempt took the session."""

    __slots__ = ("_keeper", "_lock", "give_up", "record")

    def __init__(
        self, keeper: SessionKeeper, record: SessionRecord, give_up: Callable[[], None], lock: asyncio.Lock
    ) -> None:
        self._keeper = keeper
        self.record = record
        self.give_up = give_up
        # Of all that hold the session here, one after another: what is kept of it is written in the order of holding.
        self._lock = lock

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def attempt(self) -> int:
        """The number of the socket."""
        return self.record.attempt

    async def follow(self, context_id: str) -> None:
        """Keep that the session follows the context."""
        await self._put(lambda known: known if context_id in known else (*known, context_id))

    async def unfollow(self, context_id: str) -> None:
        await self._put(lambda known: tuple(id for id in known if id != context_id))

    async def start_over(self, now: float) -> None:
        """Follow nothing, and be in the store whether or not it was."""
        async with self._lock:
            self.record = replace(self.record, contexts=())
            if not await self._keeper.take(self.record, now, self.record.holder):
                self.give_up()

    async def is_held(self, now: float) -> bool:
        """False where the store says that somebody else holds it."""
        async with self._lock:
            return await self._keeper.is_held(self.record, now)

    async def lost(self) -> None:
        """Somebody else holds it: what was kept of it here last may have come after what that one kept."""
        async with self._lock:
            await self._keeper.drop(self.record)

    async def _put(self, change: Callable[[Sequence[str]], Sequence[str]]) -> None:
        async with self._lock:
            record = replace(self.record, contexts=tuple(change(self.record.contexts)))
            if len(record.contexts) == len(self.record.contexts):
                return
            if await self._keeper.put(record):
                self.record = record
            else:
                self.give_up()


class Sessions:
    """Opens sessions; `ttl` (seconds) is how long one is kept after its last `hello`."""

    def __init__(
        self,
        store: SessionStore,
        instance: str,
        ttl: float,
        *,
        bus: Bus,
        cache: Cache,
        heartbeats: Heartbeats,
        tools: DeclaredTools,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._keeper = SessionKeeper(store, cache)
        self._instance = instance
        self._ttl = ttl
        self._bus = bus
        self._heartbeats = heartbeats
        self._tools = tools
        self._clock = clock
        self._held: dict[str, Session] = {}
        self._sockets = count(1)
        self._left: dict[str, SessionRecord] = {}
        # A lock lives as long as somebody holds or awaits it.
        self._taking: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._erased: set[str] = set()
        self._doubted: dict[str, int] = {}
        self._news = asyncio.Event()
        self._again: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._held)

    async def run(self) -> None:
        """Hear of sessions that other instances took, and note those that were left, until cancelled."""
        async with hearing(self._bus, {_TAKEN: self._taken, ERASED: self._erase}):
            while True:
                await self._news.wait()
                self._news.clear()
                try:
                    await self._heed()
                except Unavailable as error:
                    _log.warning("what other instances did to sessions is looked at later", reason=str(error))
                    self._look_again()
                await self.flush()

    def _look_again(self) -> None:
        """In a moment: nothing else may ever come that one would look for."""
        if self._again is not None:
            self._again.cancel()
        self._again = asyncio.get_running_loop().call_later(_AGAIN_SECONDS, self._news.set)

    async def _heed(self) -> None:
        """Look after what other instances told of. What can't be looked at now is left for the next time."""
        while self._erased:
            owner = self._erased.pop()
            try:
                await self._start_over(owner)
            except Unavailable:
                self._erased.add(owner)
                raise
        while self._doubted:
            id, attempt = self._doubted.popitem()
            try:
                await self._look(id, attempt)
            except Unavailable:
                self._doubted.setdefault(id, attempt)
                raise

    async def _look(self, id: str, attempt: int) -> None:
        """Close the socket whose session somebody else took, with that attempt. One that was not later may have been
        before: calls come late and in no order, so the store is asked."""
        held = self._held.get(id)
        if held is not None and (attempt > held.record.attempt or not await held.is_held(self._clock())):
            self._forget(held)
            held.give_up()
            await held.lost()

    async def open(
        self, principal: Principal, hello: Hello, give_up: Callable[[], None]
    ) -> tuple[Session, bool] | None:
        """The session that `hello` names, or a new one, and whether it was resumed. None where a later attempt of it
        is connected. An unknown, expired or foreign session gives a new one, with no hint which it was."""
        now = self._clock()
        found = await self._keeper.find(hello.session_id, now) if hello.session_id is not None else None
        if found is not None and found.owner != principal.owner:
            found = None
        held = self._held.get(found.id) if found is not None else None
        if found is not None and held is not None and held.record.attempt >= found.attempt:
            found = held.record  # which may not be kept anywhere yet
        attempt = hello.attempt if hello.attempt is not None else (found.attempt if found is not None else 0)
        if held is not None and attempt < held.record.attempt:
            return None
        before = found or SessionRecord(id=new_id("sess_"), owner=principal.owner, attempt=0, expires_at=0)
        record = replace(
            before,
            attempt=attempt,
            expires_at=now + self._ttl,
            holder=f"{self._instance}/{next(self._sockets)}",
            tools=encode(hello.tools) if hello.tools is not None else before.tools,
            contexts=tuple(hello.cursors) if hello.cursors is not None else before.contexts,
        )
        lock = self._taking.setdefault(record.id, asyncio.Lock())
        session = Session(self._keeper, record, give_up, lock)
        # Before anything is awaited, so that of two sockets at once the second meets the first.
        self._held[record.id] = session
        if held is not None:
            held.give_up()
        try:
            async with lock:
                gone = await self._gone(before.holder)
                took = self._held.get(record.id) is session and await self._keeper.take(record, now, gone)
            if took and found is not None:
                # Also where nobody held it when it was found: somebody else may have taken it since.
                await self._bus.publish(_TAKEN, _call(record))
            if took and (record.tools != before.tools or record.tools != _NO_TOOLS):
                await self._tools.changed(record.owner)
        except BaseException:
            self.close(session)
            raise
        if not took:
            self._forget(session)
            return None
        return session, found is not None

    async def _gone(self, holder: str | None) -> str | None:
        """The holder, if it holds nothing any more: a socket of this instance that is over, or of one that is."""
        if holder is None:
            return None
        instance = holder.partition("/")[0]
        if instance == self._instance:
            return holder
        alive = await self._heartbeats.alive()
        return holder if alive is not None and instance not in alive else None

    def _taken(self, payload: bytes) -> None:
        """Another instance, or this one, has taken a session."""
        try:
            id, holder, attempt = _decode_call(payload)
        except msgspec.DecodeError:
            return
        held = self._held.get(id)
        if held is not None and held.record.holder != holder:
            self._doubted[id] = max(attempt, self._doubted.get(id, attempt))
            self._news.set()

    def _erase(self, payload: bytes) -> None:
        """Another instance, or this one, has deleted all that the owner had."""
        self._erased.add(payload.decode(errors="replace"))
        self._news.set()

    def close(self, session: Session) -> None:
        """The socket that held the session is gone."""
        if self._forget(session):
            self._left[session.id] = session.record
            self._news.set()

    def _forget(self, session: Session) -> bool:
        if self._held.get(session.id) is not session:
            return False
        del self._held[session.id]
        return True

    async def flush(self) -> None:
        """Note in the store which sessions nobody holds any more. What can't be noted now is tried again; once this
        instance has ended, its heartbeat tells it."""
        left, self._left = list(self._left.values()), {}
        for start in range(0, len(left), 64):
            records = left[start : start + 64]
            answers = await asyncio.gather(*map(self._keeper.leave, records), return_exceptions=True)
            for record, answer in zip(records, answers, strict=True):
                if isinstance(answer, Unavailable):
                    _log.warning("a session that was left is not noted as such yet", reason=str(answer))
                    self._left.setdefault(record.id, record)
                    self._look_again()
                elif isinstance(answer, BaseException):
                    raise answer

    async def forget(self, key: ContextKey) -> None:
        """The context was deleted: no session that is held here follows it any more."""
        for session in self._held_by(key.owner):
            await session.unfollow(key.id)

    async def forget_all(self, owner: str, ids: list[str]) -> None:
        """All that the owner had was deleted, the sessions of these ids too; what is held here goes on, and follows
        nothing."""
        for id in ids:
            await self._keeper.forget(id)
        await self._tools.changed(owner)
        await self._start_over(owner)
        await self._bus.publish(ERASED, owner.encode())

    async def _start_over(self, owner: str) -> None:
        for session in self._held_by(owner):
            await session.start_over(self._clock())

    def _held_by(self, owner: str) -> list[Session]:
        return [session for session in self._held.values() if session.record.owner == owner]

    async def sweep(self) -> int:
        """Delete what has expired."""
        return await self._store.delete_expired_sessions(self._clock())


def _call(record: SessionRecord) -> bytes:
    return msgspec.json.encode((record.id, record.holder, record.attempt))
