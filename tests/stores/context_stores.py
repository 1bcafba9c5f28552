"""Opens the adapters of ContextStore, and makes what their suites store."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Literal

from stores.ports import ContextStore
from stores.postgres import PostgresStore
from stores.records import ContextKey, EventRow, NewCall, NewEvent, NewTurn, NewUsage, Turn, TurnRows
from stores.sharded import ShardedStore
from stores.sqlite import SqliteStore
from tests.reference_store import ReferenceStore
from tests.servers.postgres import database

__all__ = [
    "ALL",
    "NEWEST",
    "Clock",
    "OpenStore",
    "approval",
    "direct_call",
    "end",
    "ended",
    "epoch_of",
    "ids",
    "message",
    "open_mixed",
    "open_postgres",
    "open_reference",
    "open_sharded",
    "open_sqlite",
    "response",
    "rows_of",
    "running",
    "sequence",
    "submitted",
    "tool_call",
    "turn",
    "used",
]

ALL = 1000
NEWEST = 1 << 62
"""An `order` or seq above every other."""


class Clock:
    """Seconds since 1970 that stand still until the test moves them."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


OpenStore = Callable[[Path, Clock], AbstractAsyncContextManager[ContextStore]]
"""Opens an empty store; what it needs on disk it has in the folder."""


@asynccontextmanager
async def open_sqlite(folder: Path, clock: Callable[[], float]) -> AsyncGenerator[SqliteStore]:
    store = await SqliteStore.open(folder / "store.db", clock=clock)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def open_postgres(folder: Path, clock: Callable[[], float]) -> AsyncGenerator[PostgresStore]:
    async with database() as url:
        store = await PostgresStore.open(url, clock=clock)
        try:
            yield store
        finally:
            await store.close()


@asynccontextmanager
async def open_sharded(folder: Path, clock: Callable[[], float]) -> AsyncGenerator[ShardedStore]:
    store = ShardedStore(
        {f"shard{number}": await SqliteStore.open(folder / f"{number}.db", clock=clock) for number in range(3)}
    )
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def open_mixed(folder: Path, clock: Callable[[], float]) -> AsyncGenerator[ShardedStore]:
    """Shards of different kinds, and an order of their names that is not that of their places."""
    async with open_sqlite(folder, clock) as file, open_postgres(folder, clock) as database:
        yield ShardedStore({"b": file, "a": database})


@asynccontextmanager
async def open_reference(folder: Path, clock: Callable[[], float]) -> AsyncGenerator[ReferenceStore]:
    yield ReferenceStore(clock)


# ---- what is stored


def message(id: str, turn_id: str | None = None) -> NewEvent:
    return NewEvent(id=id, type="message", body=f'{{"id":"{id}"}}'.encode(), turn_id=turn_id)


def turn(id: str, kind: Literal["message", "tool"] = "message") -> NewTurn:
    return NewTurn(id=id, kind=kind, request=b'{"model":"demo"}')


def tool_call(
    id: str,
    turn_id: str,
    runs_on: Literal["server", "client"] = "server",
    *,
    session_id: str | None = None,
    needs_approval: bool = False,
    draft: bytes | None = None,
) -> NewEvent:
    call = NewCall(runs_on=runs_on, session_id=session_id, needs_approval=needs_approval, draft=draft)
    return NewEvent(id=id, type="tool_call", body=b"{}", turn_id=turn_id, call=call)


def direct_call(id: str) -> tuple[NewEvent, NewTurn]:
    """A call that a client makes itself, and its turn."""
    return tool_call(id, id), turn(id, "tool")


def response(id: str, call_id: str, turn_id: str) -> NewEvent:
    return NewEvent(id=id, type="tool_response", body=b"{}", turn_id=turn_id, answers=call_id)


def approval(id: str, call_id: str, turn_id: str) -> NewEvent:
    return NewEvent(id=id, type="tool_approval", body=b"{}", turn_id=turn_id, decides=call_id)


def end(turn_id: str) -> NewEvent:
    return NewEvent(id=f"{turn_id}/end", type="turn_end", body=b"{}", turn_id=turn_id)


def used(day: str, model: str = "demo", *, subject: str = "ann", estimated: bool = False) -> NewUsage:
    """Figures of a model call, all of them different."""
    return NewUsage(
        tenant="t",
        subject=subject,
        day=day,
        model=model,
        input_tokens=100,
        output_tokens=20,
        cached_tokens=5,
        reasoning_tokens=3,
        cost=7,
        estimated=estimated,
    )


# ---- steps on the way to what a test looks at


async def submitted(store: ContextStore, key: ContextKey, *turn_ids: str) -> None:
    """Messages with turns that wait."""
    for id in turn_ids:
        await store.submit(key, message(id, id), turn(id))


async def running(store: ContextStore, key: ContextKey, turn_id: str = "a", runner: str = "inst") -> Turn:
    """A "message" turn that `runner` has claimed."""
    await submitted(store, key, turn_id)
    claimed = await store.claim(key, turn_id, runner, 0)
    assert claimed is not None
    return claimed.rows.turn


async def ended(store: ContextStore, key: ContextKey, turn_id: str = "a") -> Turn:
    """A "message" turn that is ENDED; its events have no seq yet."""
    claimed = await running(store, key, turn_id)
    assert await store.end_turn(key, turn_id, claimed.fence, [end(turn_id)], NEWEST)
    return claimed


async def epoch_of(store: ContextStore, key: ContextKey) -> int:
    record = await store.get_context(key)
    assert record is not None
    return record.epoch


async def sequence(store: ContextStore, key: ContextKey, **seqs: int) -> None:
    """Record seqs under the epoch that is; `a_end` stands for "a/end"."""
    named = {id.replace("_", "/"): seq for id, seq in seqs.items()}
    assert await store.record(key, await epoch_of(store, key), named)


async def rows_of(store: ContextStore, key: ContextKey, turn_id: str = "a") -> TurnRows:
    rows = await store.load_turn(key, turn_id)
    assert rows is not None
    return rows


def ids(rows: Sequence[EventRow | Turn]) -> list[str]:
    return [row.id for row in rows]
