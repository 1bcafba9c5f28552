"""What a turn's runner, recovery and readers ask, inside a transaction (ports.ContextStore)."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence

import msgspec

from stores.records import (
    CancelRequest,
    Claimed,
    ContextKey,
    EventRow,
    History,
    NewEvent,
    Recorded,
    Turn,
    TurnRows,
    Written,
)
from stores.sqlite_clients import find_call
from stores.sqlite_rows import (
    ACTIVE_TURN,
    ALIVE,
    CALL,
    EVENT,
    TURN,
    call_of,
    cancels_after,
    event_of,
    fenced,
    find_context,
    insert_event,
    newest_order,
    turn_of,
)

__all__ = [
    "active_turn",
    "claim",
    "claim_call",
    "end_turn",
    "history",
    "inputs",
    "load_turn",
    "next_turn",
    "open_calls",
    "park",
    "record",
    "stray_contexts",
    "turns_to_run",
    "unsequenced",
    "write",
]

# ruff: noqa: S608 - the SQL is put together from constants of this package only

_BLOCKED = (
    f"EXISTS (SELECT 1 FROM turns AS other {ALIVE} WHERE other.cid = turns.cid AND other.state != 'done'"
    " AND other.kind = 'message' AND other.state IN ('running', 'parked', 'ended') AND other.id != turns.id)"
)
_UNSEQUENCED = "seq IS NULL"


def active_turn(db: sqlite3.Connection, key: ContextKey) -> Turn | None:
    cid = find_context(db, key)
    row = db.execute(f"SELECT {TURN} FROM turns {ALIVE} WHERE cid = ? AND {ACTIVE_TURN}", (cid,)).fetchone()
    return turn_of(key, row) if row else None


def next_turn(db: sqlite3.Connection, key: ContextKey) -> Turn | None:
    cid = find_context(db, key)
    row = db.execute(
        f"SELECT {TURN} FROM turns {ALIVE} WHERE cid = ? AND state != 'done' AND kind = 'message'"
        f" AND state = 'queued' AND NOT {_BLOCKED}"
        " ORDER BY place LIMIT 1",
        (cid,),
    ).fetchone()
    return turn_of(key, row) if row else None


def claim(db: sqlite3.Connection, key: ContextKey, turn_id: str, runner: str, fence: int) -> Claimed | None:
    cid = find_context(db, key)
    row = db.execute(
        "UPDATE turns SET runner = ?, fence = fence + 1,"
        " state = CASE state WHEN 'ended' THEN 'ended' ELSE 'running' END"
        " WHERE cid = ? AND id = ? AND fence = ? AND state != 'done'"
        f" AND NOT (state = 'queued' AND kind = 'message' AND {_BLOCKED}) RETURNING {TURN}",
        (runner, cid, turn_id, fence),
    ).fetchone()
    if cid is None or row is None:
        return None
    born = db.execute("SELECT born FROM contexts WHERE cid = ?", (cid,)).fetchone()[0]
    return Claimed(rows=_rows_of(db, cid, turn_of(key, row)), newest=newest_order(db, cid), born=born)


def load_turn(db: sqlite3.Connection, key: ContextKey, turn_id: str) -> TurnRows | None:
    cid = find_context(db, key)
    row = db.execute(f"SELECT {TURN} FROM turns WHERE cid = ? AND id = ?", (cid, turn_id)).fetchone()
    return _rows_of(db, cid, turn_of(key, row)) if cid is not None and row is not None else None


def _rows_of(db: sqlite3.Connection, cid: int, turn: Turn) -> TurnRows:
    calls = db.execute(
        f"SELECT {CALL} FROM calls INDEXED BY calls_of_turn WHERE cid = ? AND turn_id = ?", (cid, turn.id)
    )
    return TurnRows(
        turn=turn,
        events=_events_of(db, cid, turn.id, 0),
        calls={call.id: call for call in map(call_of, calls)},
        cancels=cancels_after(db, cid, turn.id, 0),
    )


def _events_of(db: sqlite3.Connection, cid: int, turn_id: str, after: int) -> list[EventRow]:
    rows = db.execute(
        f"SELECT {EVENT} FROM events WHERE cid = ? AND turn_id = ? AND ord > ? ORDER BY ord", (cid, turn_id, after)
    )
    return [event_of(row) for row in rows]


def inputs(
    db: sqlite3.Connection, key: ContextKey, turn_id: str, after: int
) -> tuple[list[EventRow], list[CancelRequest], bool]:
    cid = find_context(db, key)
    row = db.execute("SELECT cancelled FROM turns WHERE cid = ? AND id = ?", (cid, turn_id)).fetchone()
    if cid is None or row is None:
        return [], [], False
    return _events_of(db, cid, turn_id, after), cancels_after(db, cid, turn_id, after), bool(row[0])


def write(
    db: sqlite3.Connection, key: ContextKey, turn_id: str, fence: int, events: Sequence[NewEvent], now: float
) -> Written:
    return _write(db, fenced(db, key, turn_id, fence), events, now)


def _write(db: sqlite3.Connection, cid: int, events: Sequence[NewEvent], now: float) -> Written:
    passed: list[str] = []
    for event in events:
        known = db.execute("SELECT 1 FROM events WHERE cid = ? AND id = ?", (cid, event.id)).fetchone()
        call = find_call(db, cid, event.answers) if event.answers is not None else None
        if known is not None or (call is not None and (call.answered or (event.undecided and call.decided))):
            passed.append(event.id)
        else:
            insert_event(db, cid, event, now, given=False)
    return Written(passed=passed, newest=newest_order(db, cid))


def claim_call(db: sqlite3.Connection, key: ContextKey, turn_id: str, fence: int, call_id: str) -> bool:
    cid = fenced(db, key, turn_id, fence)
    claimed = db.execute(
        "UPDATE calls SET claimed = ? WHERE cid = ? AND id = ? AND answered = 0", (fence, cid, call_id)
    )
    return claimed.rowcount > 0


def end_turn(
    db: sqlite3.Connection,
    key: ContextKey,
    turn_id: str,
    fence: int,
    events: Sequence[NewEvent],
    seen: int,
    now: float,
) -> Written | None:
    cid = fenced(db, key, turn_id, fence)
    if _unseen(db, cid, turn_id, seen):
        return None
    written = _write(db, cid, events, now)
    db.execute("UPDATE turns SET state = 'ended' WHERE cid = ? AND id = ? AND state != 'done'", (cid, turn_id))
    return written


def _unseen(db: sqlite3.Connection, cid: int, turn_id: str, seen: int) -> bool:
    row = db.execute(
        "SELECT EXISTS (SELECT 1 FROM events WHERE cid = ?1 AND turn_id = ?2 AND ord > ?3 AND given)"
        " OR EXISTS (SELECT 1 FROM cancels WHERE cid = ?1 AND turn_id = ?2 AND ord > ?3)",
        (cid, turn_id, seen),
    ).fetchone()
    return bool(row[0])


def park(db: sqlite3.Connection, key: ContextKey, turn_id: str, fence: int, seen: int, wake_at: float | None) -> bool:
    cid = fenced(db, key, turn_id, fence)
    (cancelled,) = db.execute("SELECT cancelled FROM turns WHERE cid = ? AND id = ?", (cid, turn_id)).fetchone()
    if cancelled or _unseen(db, cid, turn_id, seen):
        return False
    db.execute(
        "UPDATE turns SET state = 'parked', runner = NULL, wake_at = ? WHERE cid = ? AND id = ?",
        (wake_at, cid, turn_id),
    )
    return True


# ---- seqs and recovery


def record(db: sqlite3.Connection, key: ContextKey, epoch: int, seqs: Mapping[str, int]) -> Recorded | None:
    row = db.execute("SELECT cid FROM contexts WHERE owner = ? AND id = ? AND epoch = ?", (*key, epoch)).fetchone()
    if row is None:
        return None
    cid: int = row[0]
    db.executemany(
        "UPDATE events SET seq = ? WHERE cid = ? AND id = ? AND seq IS NULL",
        [(seq, cid, event_id) for event_id, seq in seqs.items()],
    )
    done = db.execute(
        f"UPDATE turns {ALIVE} SET state = 'done', runner = NULL"
        " WHERE cid = ?1 AND state != 'done' AND state = 'ended' AND NOT EXISTS"
        f" (SELECT 1 FROM events INDEXED BY events_without_seq"
        f"  WHERE events.cid = ?1 AND events.turn_id = turns.id AND {_UNSEQUENCED}) RETURNING id",
        (cid,),
    ).fetchall()
    waiting = db.execute(
        f"SELECT EXISTS (SELECT 1 FROM turns {ALIVE}"
        " WHERE cid = ? AND state != 'done' AND state = 'queued' AND kind = 'message')",
        (cid,),
    ).fetchone()
    return Recorded(done=frozenset(id for (id,) in done), waiting=bool(waiting[0]))


_OWNED = "coalesce(state IN ('running', 'ended'), 0)"
_WITH_TURN = "LEFT JOIN turns ON turns.cid = events.cid AND turns.id = events.turn_id"


def unsequenced(db: sqlite3.Connection, key: ContextKey, turn_id: str | None) -> list[tuple[EventRow, bool]]:
    columns = ", ".join(f"events.{name}" for name in EVENT.split(", "))
    rows = db.execute(
        f"SELECT {columns}, {_OWNED} FROM events {_WITH_TURN}"
        f" WHERE events.cid = ? AND {_UNSEQUENCED} AND (?2 IS NULL OR events.turn_id = ?2) ORDER BY ord",
        (find_context(db, key), turn_id),
    )
    return [(event_of(row[:-1]), bool(row[-1])) for row in rows]


def stray_contexts(db: sqlite3.Connection, limit: int) -> list[ContextKey]:
    rows = db.execute(
        f"SELECT owner, contexts.id FROM events JOIN contexts USING (cid) {_WITH_TURN}"
        f" WHERE {_UNSEQUENCED} AND NOT {_OWNED} GROUP BY events.cid ORDER BY min(stored_at) LIMIT ?",
        (limit,),
    )
    return [ContextKey(owner, id) for owner, id in rows]


def turns_to_run(db: sqlite3.Connection, alive: Collection[str] | None, limit: int, now: float) -> list[Turn]:
    columns = ", ".join(f"turns.{name}" for name in TURN.split(", "))
    found = f"SELECT owner, contexts.id, {columns}, turns.created_at AS came, place FROM turns"
    rows = db.execute(
        f"{found} INDEXED BY turns_wanting JOIN contexts USING (cid)"
        " WHERE state IN ('queued', 'running', 'ended') AND ("
        " (state IN ('running', 'ended') AND (runner IS NULL OR runner NOT IN (SELECT value FROM json_each(?))))"
        " OR (state = 'queued' AND kind = 'tool')"
        f" OR (state = 'queued' AND kind = 'message' AND NOT {_BLOCKED} AND place ="
        f"   (SELECT min(place) FROM turns AS first {ALIVE} WHERE first.cid = turns.cid AND first.state != 'done'"
        "    AND first.kind = 'message'"
        "    AND first.state = 'queued')))"
        f" UNION ALL {found} INDEXED BY turns_due JOIN contexts USING (cid) WHERE state = 'parked' AND wake_at <= ?"
        " ORDER BY came, place LIMIT ?",
        # JSON's null is a row that nothing differs from.
        (msgspec.json.encode(list(alive) if alive is not None else None).decode(), now, limit),
    )
    return [turn_of(ContextKey(row[0], row[1]), row[2:-2]) for row in rows]


# ---- reading


def history(db: sqlite3.Connection, key: ContextKey, before: int | None, limit: int) -> History:
    cid = find_context(db, key)
    below = (1 << 62) if before is None else before
    rows = db.execute(
        f"SELECT {EVENT} FROM events WHERE cid = ? AND seq IS NOT NULL AND seq < ? ORDER BY seq DESC LIMIT ?",
        (cid, below, limit + 1),
    ).fetchall()
    without = [row for row, _ in unsequenced(db, key, None)] if before is None else []
    return History([event_of(row) for row in reversed(rows[:limit])], without, has_more=len(rows) > limit)


def open_calls(db: sqlite3.Connection, key: ContextKey, seq: int) -> list[EventRow]:
    rows = db.execute(
        f"SELECT {EVENT} FROM events WHERE cid = ?1 AND id IN ("
        " SELECT id FROM calls INDEXED BY calls_open WHERE cid = ?1 AND answered = 0"
        " UNION ALL SELECT answers FROM events INDEXED BY events_without_seq"
        "  WHERE cid = ?1 AND seq IS NULL AND answers IS NOT NULL"
        " UNION ALL SELECT answers FROM events WHERE cid = ?1 AND seq > ?2 AND answers IS NOT NULL"
        ") ORDER BY +ord",  # the sign keeps SQLite from reading all in that order
        (find_context(db, key), seq),
    )
    return [event_of(row) for row in rows]
