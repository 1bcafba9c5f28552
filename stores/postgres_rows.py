"""Rows of the PostgreSQL schema to records and back; every function works inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from stores.ports import IdTaken, Unavailable
from stores.postgres_database import Connection, literal, lock_context
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

__all__ = [
    "ACTIVE_TURN",
    "CALL",
    "CANCEL",
    "CONTEXT",
    "EVENT",
    "HERE",
    "TURN",
    "call_of",
    "cancel_of",
    "columns",
    "context_of",
    "create_context",
    "duplicate",
    "event_of",
    "here",
    "storable",
    "turn_of",
]

# ruff: noqa: S608 - the SQL is put together from constants of this package, and names that are quoted

EVENT = "id, type, body, ord, turn_id, seq, stored_at"
CONTEXT = "owner, context_id, epoch, created_at, updated_at, title, metadata, settings, born"
TURN = "id, kind, state, request, fence, created_at, runner, cancelled, draft"
CALL = "id, turn_id, runs_on, session_id, needs_approval, decided, claimed, answered, denied, definition, first"
CANCEL = "id, turn_id, call_id, ord"
HERE = "owner = $1 AND context_id = $2"
"""Of every statement on one context: the first two arguments name it."""
# Of the turns that are under way the one that clients mean: one that was cancelled while it waited ends beside it.
ACTIVE_TURN = (
    "state <> 'done' AND kind = 'message' AND state IN ('running', 'parked')"
    " ORDER BY cancelled, created_at, place LIMIT 1"
)
# How often a context is made that somebody else deletes at the same time.
_ATTEMPTS = 5


def here(table: str) -> str:
    """HERE, of one of several tables."""
    return f"{table}.owner = $1 AND {table}.context_id = $2"


def columns(names: str, table: str) -> str:
    return ", ".join(f"{table}.{name}" for name in names.split(", "))


def event_of(row: Iterable[Any]) -> EventRow:
    id, type, body, order, turn_id, seq, stored_at = row
    return EventRow(id=id, type=type, body=body, order=order, turn_id=turn_id, seq=seq, stored_at=stored_at)


def turn_of(key: ContextKey, row: Iterable[Any]) -> Turn:
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
        cancelled=cancelled,
        draft=draft,
    )


def call_of(row: Iterable[Any]) -> Call:
    id, turn_id, runs_on, session_id, needs_approval, decided, claimed, answered, denied, definition, first = row
    return Call(
        id=id,
        turn_id=turn_id,
        runs_on=runs_on,
        session_id=session_id,
        needs_approval=needs_approval,
        decided=decided,
        claimed=claimed,
        answered=answered,
        denied=denied,
        asked=Asked(definition, first) if definition is not None else None,
    )


def cancel_of(row: Iterable[Any]) -> CancelRequest:
    id, turn_id, call_id, order = row
    return CancelRequest(id=id, turn_id=turn_id, call_id=call_id, order=order)


def context_of(row: Iterable[Any]) -> ContextRecord:
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


def storable(text: str) -> str:
    """The text, as PostgreSQL can hold it: it has no place for a NUL."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def duplicate(event: NewEvent, known_type: str | None, turn_id: str | None) -> Accepted | None:
    """What to answer where an event of that type has the id already; raises IdTaken where it is another kind."""
    if known_type is None:
        return None
    if known_type != event.type:
        raise IdTaken(event.id)
    return Accepted(duplicate=True, turn_id=turn_id)


async def create_context(db: Connection, key: ContextKey, now: float) -> bool:
    """Make the context, where there was none when the transaction began; whether it is new. Locked in any case.

    Its first epoch is drawn after its row is in: whoever deleted one of the same key has then committed, and drew
    before. One round trip, as a rule.
    """
    names = f"{literal(key.owner)}, {literal(key.id)}"
    insert = (
        "INSERT INTO contexts (owner, context_id, epoch, born, created_at, updated_at)"
        f" VALUES ({names}, -1, -1, {now!r}, {now!r}) ON CONFLICT DO NOTHING"
    )
    number = (
        "UPDATE contexts SET epoch = drawn.epoch, born = drawn.epoch FROM (SELECT nextval('epochs') AS epoch) AS drawn"
        f" WHERE owner = {literal(key.owner)} AND context_id = {literal(key.id)} AND born = -1"
    )
    for _ in range(_ATTEMPTS):
        if await db.execute(f"{insert}; {number}") == "UPDATE 1":
            return True
        if await lock_context(db, key):
            return False
    raise Unavailable("the context is made and deleted without end")
