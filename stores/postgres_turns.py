"""What a turn's runner and recovery ask, inside a transaction (ports.ContextStore), which holds the lock on the
context's row where it changes something."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from asyncpg import Record

from stores.ports import Fenced, NotFound
from stores.postgres_database import Connection
from stores.postgres_rows import (
    ACTIVE_TURN,
    CALL,
    CANCEL,
    EVENT,
    HERE,
    TURN,
    call_of,
    cancel_of,
    columns,
    event_of,
    here,
    turn_of,
)
from stores.postgres_writing import Writing
from stores.records import (
    CancelRequest,
    Claimed,
    ContextKey,
    EventRow,
    NewEvent,
    Recorded,
    Turn,
    TurnRows,
    Written,
)

__all__ = [
    "active_turn",
    "claim",
    "claim_call",
    "end_turn",
    "inputs",
    "load_turn",
    "next_turn",
    "park",
    "raise_epoch",
    "record",
    "release",
    "stray_contexts",
    "turns_to_run",
    "unsequenced",
    "write",
]

# ruff: noqa: S608 - the SQL is put together from constants of this package only

_UNDER_WAY = "state <> 'done' AND kind = 'message' AND state IN ('running', 'parked', 'ended')"
_BLOCKED = f"EXISTS (SELECT 1 FROM turns WHERE {HERE} AND {_UNDER_WAY})"
# All that is stored of the turn $3, as arrays of rows: one statement sees one state.
_ROWS_OF = (
    f"ARRAY(SELECT ROW({EVENT}) FROM events WHERE {HERE} AND turn_id = $3 ORDER BY ord) AS events,"
    f" ARRAY(SELECT ROW({CALL}) FROM calls WHERE {HERE} AND turn_id = $3) AS calls,"
    f" ARRAY(SELECT ROW({CANCEL}) FROM cancels WHERE {HERE} AND turn_id = $3 ORDER BY ord) AS cancels"
)
_CLAIM = (
    "WITH claimed AS (UPDATE turns SET runner = $5, fence = fence + 1,"
    " state = CASE state WHEN 'ended' THEN 'ended' ELSE 'running' END"
    f" WHERE {HERE} AND id = $3 AND fence = $4 AND state <> 'done'"
    f" AND NOT (state = 'queued' AND kind = 'message' AND {_BLOCKED}) RETURNING {TURN})"
    f" SELECT claimed.*, {_ROWS_OF}, next_order - 1 AS newest, born FROM claimed, contexts c WHERE {here('c')}"
)
_UNSEEN = (
    f"(EXISTS (SELECT 1 FROM events WHERE {HERE} AND turn_id = $3 AND ord > $5 AND given)"
    f" OR EXISTS (SELECT 1 FROM cancels WHERE {HERE} AND turn_id = $3 AND ord > $5))"
)
_COLUMNS = len(TURN.split(", "))


async def active_turn(db: Connection, key: ContextKey) -> Turn | None:
    row = await db.fetchrow(f"SELECT {TURN} FROM turns WHERE {HERE} AND {ACTIVE_TURN}", *key)
    return turn_of(key, row) if row is not None else None


async def next_turn(db: Connection, key: ContextKey) -> Turn | None:
    row = await db.fetchrow(
        f"SELECT {TURN} FROM turns WHERE {HERE} AND state <> 'done' AND kind = 'message' AND state = 'queued'"
        f" AND NOT {_BLOCKED} ORDER BY place LIMIT 1",
        *key,
    )
    return turn_of(key, row) if row is not None else None


async def claim(db: Connection, key: ContextKey, turn_id: str, runner: str, fence: int) -> Claimed | None:
    row = await db.fetchrow(_CLAIM, *key, turn_id, fence, runner)
    return Claimed(rows=_rows_of(key, row), newest=row["newest"], born=row["born"]) if row is not None else None


async def load_turn(db: Connection, key: ContextKey, turn_id: str) -> TurnRows | None:
    row = await db.fetchrow(f"SELECT {TURN}, {_ROWS_OF} FROM turns WHERE {HERE} AND id = $3", *key, turn_id)
    return _rows_of(key, row) if row is not None else None


def _rows_of(key: ContextKey, row: Record) -> TurnRows:
    return TurnRows(
        turn=turn_of(key, tuple(row)[:_COLUMNS]),
        events=[event_of(event) for event in row["events"]],
        calls={call.id: call for call in map(call_of, row["calls"])},
        cancels=[cancel_of(cancel) for cancel in row["cancels"]],
    )


async def inputs(
    db: Connection, key: ContextKey, turn_id: str, after: int
) -> tuple[list[EventRow], list[CancelRequest], bool]:
    row = await db.fetchrow(
        "SELECT cancelled,"
        f" ARRAY(SELECT ROW({EVENT}) FROM events WHERE {HERE} AND turn_id = $3 AND ord > $4 ORDER BY ord) AS events,"
        f" ARRAY(SELECT ROW({CANCEL}) FROM cancels WHERE {HERE} AND turn_id = $3 AND ord > $4 ORDER BY ord) AS cancels"
        f" FROM turns WHERE {HERE} AND id = $3",
        *key,
        turn_id,
        after,
    )
    if row is None:
        return [], [], False
    return [event_of(event) for event in row["events"]], [cancel_of(one) for one in row["cancels"]], row["cancelled"]


# ---- what a runner writes


async def write(
    db: Connection, key: ContextKey, turn_id: str, fence: int, events: Sequence[NewEvent], now: float
) -> Written:
    row = await _held(db, key, turn_id, fence, events, None)
    return await _store(db, key, row, events, now, None)


async def end_turn(
    db: Connection, key: ContextKey, turn_id: str, fence: int, events: Sequence[NewEvent], seen: int, now: float
) -> Written | None:
    row = await _held(db, key, turn_id, fence, events, seen)
    if row["unseen"]:
        return None
    return await _store(db, key, row, events, now, turn_id if row["state"] != "done" else None)


async def _held(
    db: Connection, key: ContextKey, turn_id: str, fence: int, events: Sequence[NewEvent], seen: int | None
) -> Record:
    """The turn, whose fence is the caller's, and what of its events is there already. Raises Fenced."""
    row = await db.fetchrow(
        f"SELECT next_order, t.state, $5::bigint IS NOT NULL AND {_UNSEEN} AS unseen,"
        f" ARRAY(SELECT id FROM events WHERE {HERE} AND id = ANY($6::text[])) AS known,"
        f" ARRAY(SELECT id FROM calls WHERE {HERE} AND id = ANY($7::text[]) AND answered) AS answered,"
        f" ARRAY(SELECT id FROM calls WHERE {HERE} AND id = ANY($8::text[]) AND decided) AS decided"
        f" FROM contexts c JOIN turns t ON {here('t')} AND t.id = $3 AND t.fence = $4 WHERE {here('c')}",
        *key,
        turn_id,
        fence,
        seen,
        [event.id for event in events],
        [event.answers for event in events if event.answers is not None],
        [event.answers for event in events if event.undecided],
    )
    if row is None:
        raise Fenced(turn_id)
    return row


async def _store(
    db: Connection, key: ContextKey, row: Record, events: Sequence[NewEvent], now: float, ended: str | None
) -> Written:
    known, answered, decided = set(row["known"]), set(row["answered"]), set(row["decided"])
    passed: list[str] = []
    fresh: list[NewEvent] = []
    for event in events:
        if event.id in known or event.answers in answered or (event.undecided and event.answers in decided):
            passed.append(event.id)
            continue
        fresh.append(event)
        known.add(event.id)
        if event.answers is not None:
            answered.add(event.answers)
    writing = Writing(key, row["next_order"])
    writing.store(fresh, now, given=False)
    if ended is not None:
        writing.set_turn(ended, "state = 'ended'")
    await writing.run(db)
    return Written(passed=passed, newest=writing.newest)


async def claim_call(db: Connection, key: ContextKey, turn_id: str, fence: int, call_id: str) -> bool:
    claimed = await db.fetchval(
        f"WITH held AS (SELECT 1 FROM turns WHERE {HERE} AND id = $3 AND fence = $4), claimed AS ("
        f"UPDATE calls SET claimed = $4 WHERE {HERE} AND id = $5 AND NOT answered AND EXISTS (SELECT 1 FROM held)"
        " RETURNING 1) SELECT EXISTS (SELECT 1 FROM claimed) FROM held",
        *key,
        turn_id,
        fence,
        call_id,
    )
    if claimed is None:
        raise Fenced(turn_id)
    return claimed


async def park(db: Connection, key: ContextKey, turn_id: str, fence: int, seen: int, wake_at: float | None) -> bool:
    unseen = await db.fetchval(
        f"WITH held AS (SELECT cancelled OR {_UNSEEN} AS unseen FROM turns WHERE {HERE} AND id = $3 AND fence = $4),"
        " parked AS ("
        f"UPDATE turns SET state = 'parked', runner = NULL, wake_at = $6 WHERE {HERE} AND id = $3"
        " AND EXISTS (SELECT 1 FROM held WHERE NOT unseen)) SELECT unseen FROM held",
        *key,
        turn_id,
        fence,
        seen,
        wake_at,
    )
    if unseen is None:
        raise Fenced(turn_id)
    return not unseen


async def release(db: Connection, key: ContextKey, turn_id: str, fence: int) -> None:
    await db.execute(f"UPDATE turns SET runner = NULL WHERE {HERE} AND id = $3 AND fence = $4", *key, turn_id, fence)


# ---- seqs and recovery


async def raise_epoch(db: Connection, there: bool, key: ContextKey, expected: int) -> tuple[int, int] | None:
    if not there:
        raise NotFound(key.id)
    row = await db.fetchrow(
        f"UPDATE contexts SET epoch = epoch + 1 WHERE {HERE} AND epoch = $3 RETURNING epoch,"
        f" (SELECT coalesce(max(seq), 0) FROM events WHERE {HERE} AND seq IS NOT NULL) AS seq",
        *key,
        expected,
    )
    return (row["epoch"], row["seq"]) if row is not None else None


async def record(db: Connection, key: ContextKey, epoch: int, seqs: Mapping[str, int]) -> Recorded | None:
    # The rows are named twice: so each is looked up by its id, however many the context has.
    row = await db.fetchrow(
        f"WITH now AS (SELECT 1 FROM contexts WHERE {HERE} AND epoch = $3), noted AS ("
        "UPDATE events SET seq = noted.seq FROM unnest($4::text[], $5::bigint[]) AS noted (id, seq)"
        f" WHERE {here('events')} AND events.id = ANY($4::text[]) AND events.id = noted.id AND events.seq IS NULL"
        " AND EXISTS (SELECT 1 FROM now)), done AS ("
        f"UPDATE turns SET state = 'done', runner = NULL WHERE {HERE} AND state <> 'done' AND state = 'ended'"
        " AND EXISTS (SELECT 1 FROM now) AND NOT EXISTS ("
        f"SELECT 1 FROM events WHERE {here('events')} AND events.turn_id = turns.id AND events.seq IS NULL"
        " AND events.id <> ALL($4::text[])) RETURNING id)"
        " SELECT ARRAY(SELECT id FROM done) AS done, EXISTS ("
        f"SELECT 1 FROM turns WHERE {HERE} AND state <> 'done' AND state = 'queued' AND kind = 'message') AS waiting"
        " FROM now",
        *key,
        epoch,
        list(seqs),
        list(seqs.values()),
    )
    return Recorded(done=frozenset(row["done"]), waiting=row["waiting"]) if row is not None else None


_OWNED = "coalesce(t.state IN ('running', 'ended'), false)"


async def unsequenced(db: Connection, key: ContextKey, turn_id: str | None) -> list[tuple[EventRow, bool]]:
    rows = await db.fetch(
        f"SELECT {columns(EVENT, 'e')}, {_OWNED} FROM events e LEFT JOIN turns t ON {here('t')} AND t.id = e.turn_id"
        f" WHERE {here('e')} AND seq IS NULL AND ($3::text IS NULL OR e.turn_id = $3) ORDER BY ord",
        *key,
        turn_id,
    )
    return [(event_of(tuple(row)[:-1]), row[-1]) for row in rows]


async def stray_contexts(db: Connection, limit: int) -> list[ContextKey]:
    rows = await db.fetch(
        "SELECT owner, context_id FROM events e WHERE seq IS NULL AND NOT EXISTS ("
        "SELECT 1 FROM turns t WHERE t.owner = e.owner AND t.context_id = e.context_id AND t.id = e.turn_id"
        " AND t.state <> 'done' AND t.state IN ('running', 'ended'))"
        " GROUP BY owner, context_id ORDER BY min(stored_at) LIMIT $1",
        limit,
    )
    return [ContextKey(owner, id) for owner, id in rows]


# In one pass over the turns that are under way or queued, which come context by context out of their index; only where
# the first of a queue would be next it is looked whether its context has a turn that is parked.
_TO_RUN = (
    "WITH wanting AS (SELECT owner, context_id, id, kind, state, runner, place, created_at,"
    " bool_or(kind = 'message' AND state <> 'queued') OVER of_context AS blocked,"
    " min(place) FILTER (WHERE kind = 'message' AND state = 'queued') OVER of_context AS first"
    " FROM turns WHERE state IN ('queued', 'running', 'ended')"
    " WINDOW of_context AS (PARTITION BY owner, context_id)),"
    " wanted AS (SELECT owner, context_id, id, created_at AS came, place AS nth FROM wanting w WHERE"
    " (state IN ('running', 'ended') AND (runner IS NULL OR runner <> ALL($1::text[])))"
    " OR (state = 'queued' AND (kind = 'tool' OR (NOT blocked AND place = first AND NOT EXISTS ("
    "SELECT 1 FROM turns p WHERE p.owner = w.owner AND p.context_id = w.context_id AND p.state <> 'done'"
    " AND p.state = 'parked' AND p.kind = 'message'))))"
    " UNION ALL SELECT owner, context_id, id, created_at, place FROM turns WHERE state = 'parked' AND wake_at <= $3"
    " ORDER BY came, nth LIMIT $2)"
    f" SELECT owner, context_id, {TURN} FROM wanted JOIN turns USING (owner, context_id, id) ORDER BY created_at, place"
)


async def turns_to_run(db: Connection, alive: Collection[str] | None, limit: int, now: float) -> list[Turn]:
    # Nothing differs from null.
    rows = await db.fetch(_TO_RUN, list(alive) if alive is not None else None, limit, now)
    return [turn_of(ContextKey(row[0], row[1]), tuple(row)[2:]) for row in rows]
