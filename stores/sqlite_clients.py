"""What clients ask of a context, inside a transaction: messages, cancels, answers, decisions (ports.ContextStore)."""

from __future__ import annotations

import sqlite3

from protocol.frames import WhenBusy
from stores.ports import AlreadyAnswered, Busy, NotFound, Undecided
from stores.records import Accepted, Call, ContextKey, NewEvent, NewTurn, Remembered, Sender
from stores.refusals import note, was_refused
from stores.sqlite_rows import (
    ACTIVE_TURN,
    ALIVE,
    CALL,
    call_of,
    context_id,
    create_context,
    duplicate,
    find_context,
    insert_event,
    next_order,
)

__all__ = ["all_remembered", "answer", "approve", "cancel", "find_call", "remembered", "steer", "submit"]

# ruff: noqa: S608 - the SQL is put together from constants of this package only

_ACTIVE = "state IN ('running', 'parked')"


def submit(
    db: sqlite3.Connection,
    key: ContextKey,
    event: NewEvent,
    turn: NewTurn | None,
    when_busy: WhenBusy,
    queue_length: int,
    sender: Sender | None,
    now: float,
) -> Accepted | None:
    """None where it is refused as Busy, and that is noted, which raising it would undo."""
    cid = find_context(db, key)
    created = cid is None
    if cid is None:
        cid = create_context(db, key, now)
    known = duplicate(db, cid, event)
    if known is not None:
        return known
    epoch, refused = db.execute("SELECT epoch, refused FROM contexts WHERE cid = ?", (cid,)).fetchone()
    if was_refused(refused, event.id, sender):
        raise Busy(key.id)
    interrupted: str | None = None
    front: int | None = None
    if turn is not None and turn.kind == "message":
        unended, queued, first = db.execute(
            f"SELECT count(*), coalesce(sum(state = 'queued'), 0), min(place) FROM turns {ALIVE}"
            f" WHERE cid = ? AND state != 'done' AND kind = 'message' AND (state = 'queued' OR {_ACTIVE})",
            (cid,),
        ).fetchone()
        if queued >= queue_length or (unended and when_busy == "reject"):
            if sender is None or created:
                raise Busy(key.id)
            db.execute("UPDATE contexts SET refused = ? WHERE cid = ?", (note(refused, event.id, sender), cid))
            return None
        if unended and when_busy == "interrupt":
            front = first - 1
            interrupted = _interrupt(db, cid)
    order = insert_event(db, cid, event, now, given=turn is None)
    if turn is not None:
        db.execute(
            "INSERT INTO turns (cid, id, kind, state, request, place, created_at) VALUES (?, ?, ?, 'queued', ?, ?, ?)",
            (cid, turn.id, turn.kind, turn.request, order if front is None else front, now),
        )
    return Accepted(
        created=created, turn_id=event.turn_id, interrupted=interrupted, epoch=epoch if not created else None
    )


def _interrupt(db: sqlite3.Connection, cid: int) -> str | None:
    """Cancel the message turn that runs or is parked."""
    row = db.execute(f"SELECT id FROM turns {ALIVE} WHERE cid = ? AND {ACTIVE_TURN}", (cid,)).fetchone()
    if row is None:
        return None
    db.execute("UPDATE turns SET cancelled = 1 WHERE cid = ? AND id = ?", (cid, row[0]))
    _wake(db, cid, row[0])
    return row[0]


def _wake(db: sqlite3.Connection, cid: int, turn_id: str | None, states: tuple[str, ...] = ("parked",)) -> bool:
    """Let a turn that waits want a runner; whether it waited."""
    marks = ", ".join("?" * len(states))
    woken = db.execute(
        f"UPDATE turns SET state = 'running', runner = NULL WHERE cid = ? AND id = ? AND state IN ({marks})",
        (cid, turn_id, *states),
    )
    return woken.rowcount > 0


def steer(db: sqlite3.Connection, key: ContextKey, turn_id: str, event: NewEvent, now: float) -> Accepted | None:
    cid = context_id(db, key)
    known = duplicate(db, cid, event)
    if known is not None:
        return known
    running = db.execute(
        f"SELECT 1 FROM turns WHERE cid = ? AND id = ? AND kind = 'message' AND {_ACTIVE} AND NOT cancelled",
        (cid, turn_id),
    ).fetchone()
    if running is None:
        return None
    insert_event(db, cid, event, now, given=True)
    return Accepted(turn_id=turn_id, woken=_wake(db, cid, turn_id))


def cancel(db: sqlite3.Connection, key: ContextKey, id: str, turn_id: str | None, call_id: str | None) -> Accepted:
    cid = context_id(db, key)
    known = db.execute("SELECT turn_id FROM cancels WHERE cid = ? AND id = ?", (cid, id)).fetchone()
    if known is not None:
        return Accepted(duplicate=True, turn_id=known[0])
    if call_id is not None:
        call = find_call(db, cid, call_id)
        if call is None or turn_id not in (None, call.turn_id):
            raise NotFound(call_id)
        turn_id = call.turn_id
    elif turn_id is None:
        row = db.execute(f"SELECT id FROM turns {ALIVE} WHERE cid = ? AND {ACTIVE_TURN}", (cid,)).fetchone()
        turn_id = row[0] if row else None
    elif db.execute("SELECT 1 FROM turns WHERE cid = ? AND id = ?", (cid, turn_id)).fetchone() is None:
        raise NotFound(turn_id)
    db.execute(
        "INSERT INTO cancels (cid, id, turn_id, call_id, ord) VALUES (?, ?, ?, ?, ?)",
        (cid, id, turn_id, call_id, next_order(db, cid)),
    )
    if call_id is not None:
        return Accepted(turn_id=turn_id, woken=_wake(db, cid, turn_id))
    db.execute(
        f"UPDATE turns SET cancelled = 1 WHERE cid = ? AND id = ? AND (state = 'queued' OR {_ACTIVE})",
        (cid, turn_id),
    )
    return Accepted(turn_id=turn_id, woken=_wake(db, cid, turn_id, ("parked", "queued")))


def answer(db: sqlite3.Connection, key: ContextKey, event: NewEvent, session_id: str | None, now: float) -> Accepted:
    cid = context_id(db, key)
    known = duplicate(db, cid, event)
    if known is not None:
        return known
    call = find_call(db, cid, event.answers or "")
    if call is None or call.runs_on != "client" or session_id not in (None, call.session_id):
        raise NotFound(event.answers)
    if call.answered or call.denied or _is_over(db, cid, call.turn_id):
        raise AlreadyAnswered(call.id)
    if call.needs_approval and not call.decided:
        raise Undecided(call.id)
    insert_event(db, cid, event, now, given=True)
    return Accepted(turn_id=call.turn_id, woken=_wake(db, cid, call.turn_id))


def approve(
    db: sqlite3.Connection, key: ContextKey, event: NewEvent, remember: Remembered | None, now: float
) -> Accepted:
    cid = context_id(db, key)
    known = duplicate(db, cid, event)
    if known is not None:
        return known
    call = find_call(db, cid, event.decides or "")
    if call is None or not call.needs_approval:
        raise NotFound(event.decides)
    if call.decided or call.answered:
        raise AlreadyAnswered(call.id)
    insert_event(db, cid, event, now, given=True)
    if remember is not None:
        db.execute(
            "INSERT INTO remembered (cid, definition, approved) VALUES (?, ?, ?)"
            " ON CONFLICT DO UPDATE SET approved = excluded.approved",
            (cid, remember.definition, remember.approved),
        )
    return Accepted(turn_id=call.turn_id, woken=_wake(db, cid, call.turn_id))


def remembered(db: sqlite3.Connection, key: ContextKey, definition: str) -> bool | None:
    row = db.execute(
        "SELECT approved FROM remembered WHERE cid = ? AND definition = ?", (find_context(db, key), definition)
    ).fetchone()
    return bool(row[0]) if row else None


def all_remembered(db: sqlite3.Connection, key: ContextKey) -> list[Remembered]:
    rows = db.execute(
        "SELECT definition, approved FROM remembered WHERE cid = ? ORDER BY definition", (find_context(db, key),)
    )
    return [Remembered(definition, bool(approved)) for definition, approved in rows]


def _is_over(db: sqlite3.Connection, cid: int, turn_id: str) -> bool:
    row = db.execute("SELECT state FROM turns WHERE cid = ? AND id = ?", (cid, turn_id)).fetchone()
    return row is None or row[0] in ("ended", "done")


def find_call(db: sqlite3.Connection, cid: int, call_id: str) -> Call | None:
    row = db.execute(f"SELECT {CALL} FROM calls WHERE cid = ? AND id = ?", (cid, call_id)).fetchone()
    return call_of(row) if row else None
