"""What a call costs does not grow with what is over: counted in the steps of SQLite's virtual machine."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from stores import sqlite_clients as clients
from stores import sqlite_threads as threads
from stores import sqlite_turns as turns
from stores.records import ContextKey
from stores.sqlite_file import migrate_file
from tests.stores.context_stores import end, message, response, tool_call, turn

KEY = ContextKey("t/ann", "conv")
Work = Callable[[sqlite3.Connection], object]


def _conversation(path: Path, length: int) -> sqlite3.Connection:
    """A context whose turns are over, each with a call, and one that runs."""
    migrate_file(path)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN")
    seq = 0
    for number in range(length):
        id = f"t{number}"
        clients.submit(db, KEY, message(id, id), turn(id), "queue", 100, None, 0.0)
        turns.claim(db, KEY, id, "inst", 0)
        turns.write(db, KEY, id, 1, [tool_call(f"c{number}", id), response(f"r{number}", f"c{number}", id)], 0.0)
        turns.end_turn(db, KEY, id, 1, [end(id)], 1 << 62, 0.0)
        names = [id, f"c{number}", f"r{number}", f"{id}/end"]
        turns.record(db, KEY, 0, {name: seq + place for place, name in enumerate(names, start=1)})
        seq += len(names)
    clients.submit(db, KEY, message("now", "now"), turn("now"), "queue", 100, None, 0.0)
    turns.claim(db, KEY, "now", "inst", 0)
    db.execute("COMMIT")
    return db


def _steps(db: sqlite3.Connection, work: Work) -> int:
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    db.execute("BEGIN")
    db.set_progress_handler(count, 1)
    work(db)
    db.set_progress_handler(None, 1)
    db.execute("ROLLBACK")
    return steps


CALLS: dict[str, Work] = {
    "submit": lambda db: clients.submit(db, KEY, message("n", "n"), turn("n"), "queue", 100, None, 0.0),
    "submit, interrupting": lambda db: clients.submit(
        db, KEY, message("n", "n"), turn("n"), "interrupt", 100, None, 0.0
    ),
    "cancel": lambda db: clients.cancel(db, KEY, "x", None, None),
    "active_turn": lambda db: turns.active_turn(db, KEY),
    "next_turn": lambda db: turns.next_turn(db, KEY),
    "claim": lambda db: turns.claim(db, KEY, "now", "other", 1),
    "load_turn": lambda db: turns.load_turn(db, KEY, "now"),
    "inputs": lambda db: turns.inputs(db, KEY, "now", 0),
    "write": lambda db: turns.write(db, KEY, "now", 1, [message("a", "now")], 0.0),
    "end_turn": lambda db: turns.end_turn(db, KEY, "now", 1, [end("now")], 1 << 62, 0.0),
    "record": lambda db: turns.record(db, KEY, 0, {"now": 1 << 40}),
    "record, of a turn that has ended": lambda db: (
        turns.end_turn(db, KEY, "now", 1, [end("now")], 1 << 62, 0.0),
        turns.record(db, KEY, 0, {"now": 1 << 40}),
    ),
    "unsequenced": lambda db: turns.unsequenced(db, KEY, None),
    "turns_to_run": lambda db: turns.turns_to_run(db, ["inst"], 10, 0.0),
    "stray_contexts": lambda db: turns.stray_contexts(db, 10),
    "history": lambda db: turns.history(db, KEY, None, 5),
    "open_calls": lambda db: turns.open_calls(db, KEY, 1 << 39),
    "thread": lambda db: threads.thread(db, KEY, None, 5),
}


def _parked(path: Path, parked: int) -> sqlite3.Connection:
    """A turn that runs, and so many that wait, most of them until a time that has not come."""
    db = _conversation(path, 1)
    db.execute("BEGIN")
    for number in range(parked):
        key = ContextKey("t/ann", f"conv{number}")
        clients.submit(db, key, message("a", "a"), turn("a"), "queue", 100, None, 0.0)
        turns.claim(db, key, "a", "inst", 0)
        assert turns.park(db, key, "a", 1, 1 << 62, 1000.0 + number if number % 4 else None)
    db.execute("COMMIT")
    return db


def test_turns_that_are_parked_cost_nothing_where_one_looks_for_turns_to_run(tmp_path: Path) -> None:
    with closing(_parked(tmp_path / "few.db", 10)) as few, closing(_parked(tmp_path / "many.db", 1000)) as many:
        steps = [_steps(db, lambda db: turns.turns_to_run(db, ["inst"], 10, 999.0)) for db in (few, many)]
        assert 0 < steps[1] <= steps[0] + 10, steps
        assert len(turns.turns_to_run(many, ["inst"], 5000, 3000.0)) == 750


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, int]]:
    """Of each call, its steps in a short conversation and in a long one."""
    folder = tmp_path_factory.mktemp("costs")
    with (
        closing(_conversation(folder / "short.db", 20)) as short,
        closing(_conversation(folder / "long.db", 600)) as long,
    ):
        return {name: (_steps(short, work), _steps(long, work)) for name, work in CALLS.items()}


@pytest.mark.parametrize("name", CALLS)
def test_it_costs_the_same_in_a_long_conversation(sizes: dict[str, tuple[int, int]], name: str) -> None:
    short, long = sizes[name]
    assert short > 0
    assert long < 2 * short + 50, (short, long)
