"""Makes what was deleted unreadable on the disk (ports.OwnerStore.scrub): steps for the thread that writes, each
outside a transaction.

SQLite zeroes what is deleted (`secure_delete`), but that is not all there is: the write-ahead log keeps older states of
pages until it is truncated, and a page that was split keeps, in its unused part, copies of rows that went to the other
half, which no deletion finds. Only writing the file anew (VACUUM) is rid of those. It takes some 10 ms a MB and
stalls whoever writes meanwhile, so beyond `COMPACT_BYTES` it waits for the next start, and beyond `START_BYTES` for
whoever runs the gateway (docs/data.md).
"""

from __future__ import annotations

import sqlite3
import threading

__all__ = ["COMPACT_BYTES", "START_BYTES", "compact", "owed", "settle", "truncate"]

COMPACT_BYTES = 64 * 1024 * 1024
START_BYTES = 1024 * 1024 * 1024
_GATE_SECONDS = 0.2
_LOCK_MS = 50


def owed(db: sqlite3.Connection) -> int:
    """How many deletions the file was not written anew for."""
    return db.execute("SELECT deletions FROM slack").fetchone()[0]


def compact(db: sqlite3.Connection, limit: int) -> int:
    """Write the file anew if it has at most `limit` bytes and something was deleted since it last was. How many
    deletions that covers; 0: it was not done."""
    covered = owed(db)
    pages, size = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    if not covered or pages * size > limit:
        return 0
    db.execute("VACUUM")
    # Most of the log goes into the file without keeping anybody from reading.
    db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return covered


def truncate(db: sqlite3.Connection, gate: threading.Lock) -> bool:
    """Empty the write-ahead log; False where somebody reads from it still. Whoever holds `gate` reads."""
    if not gate.acquire(timeout=_GATE_SECONDS):
        return False
    before = db.execute("PRAGMA busy_timeout").fetchone()[0]
    try:
        # Another process is not waited for here, where all writers would wait too.
        db.execute(f"PRAGMA busy_timeout = {_LOCK_MS}")
        return db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    finally:
        db.execute(f"PRAGMA busy_timeout = {before}")
        gate.release()


def settle(db: sqlite3.Connection, covered: int) -> None:
    """Nothing more is owed, if nothing was deleted since `compact`."""
    db.execute("UPDATE slack SET deletions = 0 WHERE deletions = ?", (covered,))
