"""Rows of the SQLite schema to records and back; every function works inside the caller's transaction."""

from __future__ import annotations

import sqlite3
from typing import Any

from stores.ports import Fenced, IdTaken, NotFound
from stores.records import (
    Accepted,
    Asked,
    Call,
    CancelRequest,
    ContextKey,
    ContextRecord,
    EventRow,
    NewEvent,
    Turn,
    TurnState,
)
from stores.sqlite_audit import add as add_audits
from stores.sqlite_search import index_message
from stores.sqlite_usage import add_to_context

__all__ = [
    "ACTIVE_TURN",
    "ALIVE",
    "CALL",
    "CONTEXT",
    "EVENT",
    "TURN",
    "call_of",
    "cancels_after",
    "context_id",
    "context_of",
    "create_context",
    "duplicate",
    "event_of",
    "fenced",
    "find_context",
    "insert_event",
    "newest_order",
    "next_order",
    "turn_of",
]

Row = tuple[Any, ...]

EVENT = "id, type, body, ord, turn_id, seq, stored_at"
# The turns that are not over, of which there are few however many there were. Left to itself SQLite reads them all.
ALIVE = "INDEXED BY turns_alive"
# Of the turns that are under way the one that clients mean: one that was cancelled while it waited ends beside it.
ACTIVE_TURN = (
    "state != 'done' AND kind = 'message' AND state IN ('running', 'parked')"
    " ORDER BY cancelled, created_at, place LIMIT 1"
)
CONTEXT = "owner, id, epoch, created_at, updated_at, title, metadata, settings, born"
TURN = "id, kind, state, request, fence, created_at, runner, cancelled, draft"
CALL = "id, turn_id, runs_on, session_id, needs_approval, decided, claimed, answered, denied, definition, first"


def event_of(row: Row) -> EventRow:
    id, type, body, order, turn_id, seq, stored_at = row
    return EventRow(id=id, type=type, body=body, order=order, turn_id=turn_id, seq=seq, stored_at=stored_at)


def turn_of(key: ContextKey, row: Row) -> Turn:
    id, kind, state, request, fence, created_at, runner, cancelled, draft = row
    return Turn(
        key=key,
        id=id,
        kind=kind,
        state=TurnState(state),
        request=request,
        fence=fence,
        created_at=created_at,
        runner=runner,
        cancelled=bool(cancelled),
        draft=draft,
    )


def call_of(row: Row) -> Call:
    id, turn_id, runs_on, session_id, needs_approval, decided, claimed, answered, denied, definition, first = row
    return Call(
        id=id,
        turn_id=turn_id,
        runs_on=runs_on,
        session_id=session_id,
        needs_approval=bool(needs_approval),
        decided=bool(decided),
        claimed=claimed,
        answered=bool(answered),
        denied=bool(denied),
        asked=Asked(definition, bool(first)) if definition is not None else None,
    )


def context_of(row: Row) -> ContextRecord:
    owner, id, epoch, created_at, updated_at, title, metadata, settings, born = row
    return ContextRecord(
        key=ContextKey(owner, id),
        epoch=epoch,
        created_at=created_at,
        updated_at=updated_at,
        title=title,
        metadata=metadata,
        settings=settings,
        born=born,
    )


# ---- contexts


def find_context(db: sqlite3.Connection, key: ContextKey) -> int | None:
    """The context's number."""
    row = db.execute("SELECT cid FROM contexts WHERE owner = ? AND id = ?", key).fetchone()
    return row[0] if row else None


def context_id(db: sqlite3.Connection, key: ContextKey) -> int:
    """As `find_context`; raises NotFound."""
    cid = find_context(db, key)
    if cid is None:
        raise NotFound(key.id)
    return cid


def create_context(db: sqlite3.Connection, key: ContextKey, now: float) -> int:
    row = db.execute(
        "INSERT INTO contexts (owner, id, epoch, born, created_at, updated_at)"
        " SELECT ?, ?, floor, floor, ?, ? FROM epoch_floor RETURNING cid",
        (*key, now, now),
    ).fetchone()
    return row[0]


def next_order(db: sqlite3.Connection, cid: int, now: float = 0.0) -> int:
    """The number that follows the last one, for an event, a cancel or a summary of the context, which becomes as new
    as `now`."""
    row = db.execute(
        "UPDATE contexts SET next_order = next_order + 1, updated_at = max(updated_at, ?) WHERE cid = ?"
        " RETURNING next_order",
        (now, cid),
    ).fetchone()
    return row[0] - 1


def newest_order(db: sqlite3.Connection, cid: int) -> int:
    """The last number that `next_order` gave; 0 where it gave none."""
    return db.execute("SELECT next_order - 1 FROM contexts WHERE cid = ?", (cid,)).fetchone()[0]


# ---- events and cancels


def insert_event(db: sqlite3.Connection, cid: int, event: NewEvent, now: float, *, given: bool) -> int:
    """Store an event and what depends on it; its order. `given`: it does not come from the turn's runner."""
    order = next_order(db, cid, now)
    db.execute(
        "INSERT INTO events (cid, id, type, body, ord, turn_id, answers, given, stored_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (cid, event.id, event.type, event.body, order, event.turn_id, event.answers, given, now),
    )
    if event.call is not None and event.turn_id is not None:
        call = event.call
        db.execute(
            "INSERT INTO calls (cid, id, turn_id, runs_on, session_id, needs_approval, definition, first)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                cid,
                event.id,
                event.turn_id,
                call.runs_on,
                call.session_id,
                call.needs_approval,
                call.asked.definition if call.asked is not None else None,
                call.asked is not None and call.asked.first,
            ),
        )
        if call.draft is not None:
            db.execute("UPDATE turns SET draft = ? WHERE cid = ? AND id = ?", (call.draft, cid, event.turn_id))
    if event.answers is not None:
        db.execute("UPDATE calls SET answered = 1 WHERE cid = ? AND id = ?", (cid, event.answers))
    if event.pinned:
        db.execute("INSERT INTO pins (cid, id, turn_id) VALUES (?, ?, ?)", (cid, event.id, event.turn_id))
    if event.usage is not None:
        add_to_context(db, cid, event.usage)
    if event.audit is not None:
        add_audits(db, [event.audit])
    if event.decides is not None:
        db.execute(
            "UPDATE calls SET decided = 1, denied = ? WHERE cid = ? AND id = ?", (event.denies, cid, event.decides)
        )
    if event.text is not None:
        index_message(db, cid, order, event.text)
    return order


def duplicate(db: sqlite3.Connection, cid: int, event: NewEvent) -> Accepted | None:
    """What to answer where the event is stored already; raises IdTaken where another kind of event has its id."""
    row = db.execute("SELECT type, turn_id FROM events WHERE cid = ? AND id = ?", (cid, event.id)).fetchone()
    if row is None:
        return None
    if row[0] != event.type:
        raise IdTaken(event.id)
    return Accepted(duplicate=True, turn_id=row[1])


def cancels_after(db: sqlite3.Connection, cid: int, turn_id: str, after: int) -> list[CancelRequest]:
    rows = db.execute(
        "SELECT id, turn_id, call_id, ord FROM cancels WHERE cid = ? AND turn_id = ? AND ord > ? ORDER BY ord",
        (cid, turn_id, after),
    )
    return [CancelRequest(id=id, turn_id=turn, call_id=call, order=order) for id, turn, call, order in rows]


def fenced(db: sqlite3.Connection, key: ContextKey, turn_id: str, fence: int) -> int:
    """The context's number, where the turn's fence is the caller's; raises Fenced."""
    row = db.execute(
        "SELECT cid FROM contexts JOIN turns USING (cid)"
        " WHERE owner = ? AND contexts.id = ? AND turns.id = ? AND fence = ?",
        (*key, turn_id, fence),
    ).fetchone()
    if row is None:
        raise Fenced(turn_id)
    return row[0]
