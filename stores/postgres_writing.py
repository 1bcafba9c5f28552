"""What one statement changes in a context: the parts that a transaction needs, carried out in one round trip."""

from __future__ import annotations

from collections.abc import Sequence

from stores.postgres_audit import ADDED, added_columns
from stores.postgres_database import Connection
from stores.postgres_rows import HERE
from stores.postgres_search import lexemes
from stores.postgres_usage import add_to_context
from stores.records import ContextKey, NewEvent

__all__ = ["Writing"]

# ruff: noqa: S608 - the SQL is put together from constants of this package only


class Writing:
    """Changes to a context whose row is locked, and whose counter stands at `next_order`.

    PostgreSQL carries out the parts of a statement in no order, and each sees the tables as they were before: no two
    parts may change the same row.
    """

    def __init__(self, key: ContextKey, next_order: int) -> None:
        self._key = key
        self._arguments: list[object] = list(key)
        self._parts: list[str] = []
        self._context: list[str] = []
        self._turns: dict[str, list[str]] = {}
        self._events: list[NewEvent] = []
        self._orders: list[int] = []
        self._next = self._first = next_order

    @property
    def newest(self) -> int:
        """The highest `order` there is then."""
        return self._next - 1

    def order(self) -> int:
        """The next number, for an event, a cancel or a summary."""
        self._next += 1
        return self._next - 1

    def add(self, part: str, *arguments: object) -> None:
        """A statement as a part, with `{}` in the places of its arguments; its `$1` and `$2` name the context."""
        self._parts.append(self._filled(part, arguments))

    def set_context(self, assignment: str, *arguments: object) -> None:
        """An assignment, of the context's row."""
        self._context.append(self._filled(assignment, arguments))

    def set_turn(self, turn_id: str, assignment: str, *arguments: object) -> None:
        """An assignment, of a turn's row, if there is one."""
        self._turns.setdefault(turn_id, []).append(self._filled(assignment, arguments))

    def wake(self, turn_id: str) -> None:
        """Let a turn that is parked, or queued, want a runner."""
        self.set_turn(turn_id, "state = 'running'")
        self.set_turn(turn_id, "runner = NULL")

    def store(self, events: Sequence[NewEvent], now: float, *, given: bool) -> None:
        """Store events that are new, and what depends on them, once. `given`: they do not come from the turn's
        runner."""
        if not events:
            return
        self._events = list(events)
        self._orders = [self.order() for _ in events]
        self.set_context("updated_at = greatest(updated_at, {})", now)
        rows = [
            (event.id, event.type, event.body, order, event.turn_id, event.answers)
            for event, order in zip(events, self._orders, strict=True)
        ]
        self.add(
            "INSERT INTO events (owner, context_id, id, type, body, ord, turn_id, answers, given, stored_at)"
            " SELECT $1, $2, new.*, {}::boolean, {}::float8"
            " FROM unnest({}::text[], {}::text[], {}::bytea[], {}::bigint[], {}::text[], {}::text[]) AS new",
            given,
            now,
            *(list(column) for column in zip(*rows, strict=True)),
        )
        answered = [event.answers for event in events if event.answers is not None]
        decided = [event.decides for event in events if event.decides is not None]
        denied = [event.decides for event in events if event.decides is not None and event.denies]
        self._open_calls(events, answered, decided)
        if answered or decided:
            self.add(
                "UPDATE calls SET answered = answered OR id = ANY({}::text[]),"
                " decided = decided OR id = ANY({}::text[]), denied = denied OR id = ANY({}::text[])"
                f" WHERE {HERE} AND id = ANY({{}}::text[])",
                answered,
                decided,
                denied,
                answered + decided,
            )
        audits = [event.audit for event in events if event.audit is not None]
        if audits:
            self.add(ADDED, *added_columns(audits))
        pins = [(event.id, event.turn_id) for event in events if event.pinned]
        if pins:
            self.add(
                "INSERT INTO pins (owner, context_id, id, turn_id)"
                " SELECT $1, $2, new.* FROM unnest({}::text[], {}::text[]) AS new",
                *(list(column) for column in zip(*pins, strict=True)),
            )

    def _open_calls(self, events: Sequence[NewEvent], answered: Sequence[str], decided: Sequence[str]) -> None:
        rows: list[tuple[object, ...]] = []
        drafts: dict[str, bytes] = {}
        for event in events:
            call, turn_id = event.call, event.turn_id
            if call is None or turn_id is None:
                continue
            over = event.id in answered, event.id in decided
            asked = (call.asked.definition, call.asked.first) if call.asked is not None else (None, False)
            rows.append((event.id, turn_id, call.runs_on, call.session_id, call.needs_approval, *over, *asked))
            if call.draft is not None:
                drafts[turn_id] = call.draft
        if rows:
            self.add(
                "INSERT INTO calls"
                " (owner, context_id, id, turn_id, runs_on, session_id, needs_approval, answered, decided,"
                "  definition, first)"
                " SELECT $1, $2, new.* FROM unnest({}::text[], {}::text[], {}::text[], {}::text[], {}::boolean[],"
                " {}::boolean[], {}::boolean[], {}::text[], {}::boolean[]) AS new",
                *(list(column) for column in zip(*rows, strict=True)),
            )
        for turn_id, draft in drafts.items():
            self.set_turn(turn_id, "draft = {}", draft)

    async def run(self, db: Connection) -> None:
        """Carry out all of it."""
        for event, order in zip(self._events, self._orders, strict=True):
            terms = await lexemes(self._key.owner, event.text) if event.text is not None else ()
            if terms:
                self.add(
                    "INSERT INTO search_texts (owner, context_id, ord, terms)"
                    " VALUES ($1, $2, {}, array_to_tsvector({}::text[]))",
                    order,
                    list(terms),
                )
        if self._next > self._first:
            self.set_context("next_order = {}::bigint", self._next)
        if self._context:
            self._parts.append(f"UPDATE contexts SET {', '.join(self._context)} WHERE {HERE}")
        for turn_id, assignments in self._turns.items():
            self.add(f"UPDATE turns SET {', '.join(assignments)} WHERE {HERE} AND id = {{}}::text", turn_id)
        if self._parts:
            parts = ", ".join(f"part{number} AS ({part})" for number, part in enumerate(self._parts))
            await db.execute(f"WITH {parts} SELECT", *self._arguments)
        for event in self._events:
            if event.usage is not None:
                await add_to_context(db, self._key.owner, self._key.id, event.usage)

    def _filled(self, part: str, arguments: Sequence[object]) -> str:
        first = len(self._arguments) + 1
        self._arguments += arguments
        return part.format(*(f"${number}" for number in range(first, first + len(arguments))))
