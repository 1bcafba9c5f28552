"""What clients ask of a context, inside a transaction that has locked its row (ports.ContextStore): messages, cancels,
answers, decisions. Each reads what there is in one statement and changes it in another."""

from __future__ import annotations

from asyncpg import Record

from protocol.frames import WhenBusy
from stores.ports import AlreadyAnswered, Busy, NotFound, Undecided
from stores.postgres_database import Connection
from stores.postgres_rows import ACTIVE_TURN, CALL, HERE, call_of, columns, create_context, duplicate, here
from stores.postgres_writing import Writing
from stores.records import Accepted, Call, ContextKey, NewEvent, NewTurn, Remembered, Sender
from stores.refusals import note, was_refused

__all__ = ["all_remembered", "answer", "approve", "cancel", "find_call", "remembered", "steer", "submit"]

# ruff: noqa: S608 - the SQL is put together from constants of this package only

# Those before the call's in what is read of a call and its turn.
_COLUMNS = 6
_ACTIVE = ("running", "parked")
_ALIVE = ("queued", *_ACTIVE)
# $3 is the event's id.
_FOUND = "next_order, e.type AS known_type, e.turn_id AS known_turn"
_KNOWN = f"LEFT JOIN events e ON {here('e')} AND e.id = $3"
_QUEUE = (
    f"SELECT {_FOUND}, c.epoch, c.refused, queue.* FROM contexts c {_KNOWN} CROSS JOIN LATERAL ("
    " SELECT count(*) AS unended, count(*) FILTER (WHERE state = 'queued') AS queued, min(place) AS first,"
    f" (SELECT id FROM turns WHERE {HERE} AND {ACTIVE_TURN}) AS active"
    f" FROM turns WHERE {HERE} AND state <> 'done' AND kind = 'message' AND state IN ('queued', 'running', 'parked')"
    f") queue WHERE {here('c')}"
)
_EVENT = f"SELECT {_FOUND}, c.epoch, c.refused FROM contexts c {_KNOWN} WHERE {here('c')}"
# $4 is a call's id or null, $5 the turn's, where it is not the call's.
_TOUCHED = (
    f"SELECT {_FOUND}, t.kind, t.state, t.cancelled, {columns(CALL, 'k')}"
    f" FROM contexts c {_KNOWN} LEFT JOIN calls k ON {here('k')} AND k.id = $4"
    f" LEFT JOIN turns t ON {here('t')} AND t.id = coalesce(k.turn_id, $5) WHERE {here('c')}"
)
# $3 is the cancel's id, $4 the turn's or null, $5 the call's or null.
_CANCELLED = (
    "SELECT next_order, x.id IS NOT NULL AS known, x.turn_id AS known_turn, k.turn_id AS call_turn, t.id, t.state"
    f" FROM contexts c LEFT JOIN cancels x ON {here('x')} AND x.id = $3"
    f" LEFT JOIN calls k ON {here('k')} AND k.id = $5"
    f" LEFT JOIN turns t ON {here('t')} AND t.id = CASE WHEN $5::text IS NOT NULL THEN k.turn_id ELSE coalesce($4,"
    f" (SELECT id FROM turns WHERE {HERE} AND {ACTIVE_TURN})) END WHERE {here('c')}"
)
_REMEMBER = (
    "INSERT INTO remembered (owner, context_id, definition, approved) VALUES ($1, $2, {}, {})"
    " ON CONFLICT (owner, context_id, definition) DO UPDATE SET approved = excluded.approved"
)


async def _read(db: Connection, query: str, *arguments: object) -> Record:
    """The one row that there is of a context that is locked."""
    (row,) = await db.fetch(query, *arguments)
    return row


async def submit(
    db: Connection,
    there: bool,
    key: ContextKey,
    event: NewEvent,
    turn: NewTurn | None,
    when_busy: WhenBusy,
    queue_length: int,
    sender: Sender | None,
    now: float,
) -> Accepted | None:
    """None where it is refused as Busy, and that is noted, which raising it would undo."""
    created = not there and await create_context(db, key, now)
    queued = turn is not None and turn.kind == "message"
    row = await _read(db, _QUEUE if queued else _EVENT, *key, event.id)
    known = duplicate(event, row["known_type"], row["known_turn"])
    if known is not None:
        return known
    if was_refused(row["refused"], event.id, sender):
        raise Busy(key.id)
    writing = Writing(key, row["next_order"])
    interrupted: str | None = None
    place = row["next_order"]
    if queued:
        if row["queued"] >= queue_length or (row["unended"] and when_busy == "reject"):
            if sender is None or created:
                raise Busy(key.id)
            refused = note(row["refused"], event.id, sender)
            await db.execute(f"UPDATE contexts SET refused = $3 WHERE {HERE}", *key, refused)
            return None
        if row["unended"] and when_busy == "interrupt":
            place = row["first"] - 1
            interrupted = row["active"]
    if interrupted is not None:
        writing.set_turn(interrupted, "cancelled = true")
        # Parked turns have no runner, running ones keep theirs.
        writing.set_turn(interrupted, "state = 'running'")
    writing.store([event], now, given=turn is None)
    if turn is not None:
        writing.add(
            "INSERT INTO turns (owner, context_id, id, kind, state, request, place, created_at)"
            " VALUES ($1, $2, {}, {}, 'queued', {}, {}, {})",
            turn.id,
            turn.kind,
            turn.request,
            place,
            now,
        )
    await writing.run(db)
    epoch = row["epoch"] if not created else None
    return Accepted(created=created, turn_id=event.turn_id, interrupted=interrupted, epoch=epoch)


async def steer(
    db: Connection, there: bool, key: ContextKey, turn_id: str, event: NewEvent, now: float
) -> Accepted | None:
    if not there:
        raise NotFound(key.id)
    row = await _read(db, _TOUCHED, *key, event.id, None, turn_id)
    known = duplicate(event, row["known_type"], row["known_turn"])
    if known is not None:
        return known
    if row["kind"] != "message" or row["state"] not in _ACTIVE or row["cancelled"]:
        return None
    return Accepted(turn_id=turn_id, woken=await _give(db, key, row, turn_id, event, now))


async def _give(
    db: Connection,
    key: ContextKey,
    row: Record,
    turn_id: str,
    event: NewEvent,
    now: float,
    remember: Remembered | None = None,
) -> bool:
    """Store what somebody else than its runner adds to a turn; whether it woke it."""
    writing = Writing(key, row["next_order"])
    writing.store([event], now, given=True)
    if remember is not None:
        writing.add(_REMEMBER, remember.definition, remember.approved)
    parked = row["state"] == "parked"
    if parked:
        writing.wake(turn_id)
    await writing.run(db)
    return parked


async def cancel(
    db: Connection, there: bool, key: ContextKey, id: str, turn_id: str | None, call_id: str | None
) -> Accepted:
    if not there:
        raise NotFound(key.id)
    row = await _read(db, _CANCELLED, *key, id, turn_id, call_id)
    if row["known"]:
        return Accepted(duplicate=True, turn_id=row["known_turn"])
    if call_id is not None:
        if row["call_turn"] is None or turn_id not in (None, row["call_turn"]):
            raise NotFound(call_id)
        turn_id = row["call_turn"]
    elif turn_id is None:
        turn_id = row["id"]
    elif row["id"] is None:
        raise NotFound(turn_id)
    writing = Writing(key, row["next_order"])
    writing.add(
        "INSERT INTO cancels (owner, context_id, id, turn_id, call_id, ord) VALUES ($1, $2, {}, {}, {}, {})",
        id,
        turn_id,
        call_id,
        writing.order(),
    )
    state = row["state"]
    woken = state == "parked" or (state == "queued" and call_id is None)
    if turn_id is not None and call_id is None and state in (*_ACTIVE, "queued"):
        writing.set_turn(turn_id, "cancelled = true")
    if turn_id is not None and woken:
        writing.wake(turn_id)
    await writing.run(db)
    return Accepted(turn_id=turn_id, woken=woken)


async def answer(
    db: Connection, there: bool, key: ContextKey, event: NewEvent, session_id: str | None, now: float
) -> Accepted:
    row, known, call = await _called(db, there, key, event, event.answers)
    if known is not None:
        return known
    if call is None or call.runs_on != "client" or session_id not in (None, call.session_id):
        raise NotFound(event.answers)
    if call.answered or call.denied or row["state"] not in _ALIVE:
        raise AlreadyAnswered(call.id)
    if call.needs_approval and not call.decided:
        raise Undecided(call.id)
    return Accepted(turn_id=call.turn_id, woken=await _give(db, key, row, call.turn_id, event, now))


async def approve(
    db: Connection, there: bool, key: ContextKey, event: NewEvent, remember: Remembered | None, now: float
) -> Accepted:
    row, known, call = await _called(db, there, key, event, event.decides)
    if known is not None:
        return known
    if call is None or not call.needs_approval:
        raise NotFound(event.decides)
    if call.decided or call.answered:
        raise AlreadyAnswered(call.id)
    return Accepted(turn_id=call.turn_id, woken=await _give(db, key, row, call.turn_id, event, now, remember))


async def _called(
    db: Connection, there: bool, key: ContextKey, event: NewEvent, call_id: str | None
) -> tuple[Record, Accepted | None, Call | None]:
    """What there is of the context, the answer where the event is stored already, and the call it is about."""
    if not there:
        raise NotFound(key.id)
    row = await _read(db, _TOUCHED, *key, event.id, call_id, None)
    known = duplicate(event, row["known_type"], row["known_turn"])
    return row, known, call_of(tuple(row)[_COLUMNS:]) if row["id"] is not None else None


async def remembered(db: Connection, key: ContextKey, definition: str) -> bool | None:
    return await db.fetchval(f"SELECT approved FROM remembered WHERE {HERE} AND definition = $3", *key, definition)


async def all_remembered(db: Connection, key: ContextKey) -> list[Remembered]:
    rows = await db.fetch(f"SELECT definition, approved FROM remembered WHERE {HERE} ORDER BY definition", *key)
    return [Remembered(row["definition"], row["approved"]) for row in rows]


async def find_call(db: Connection, key: ContextKey, call_id: str) -> Call | None:
    row = await db.fetchrow(f"SELECT {CALL} FROM calls WHERE {HERE} AND id = $3", *key, call_id)
    return call_of(row) if row is not None else None
