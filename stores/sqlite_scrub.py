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

from stores.sqlite_lock import when_free

__all__ = ["COMPACT_BYTES", "START_BYTES", "compact", "owed", "settle", "truncate"]

COMPACT_BYTES = 64 * 1024 * 1024
START_BYTES = 1024 * 1024 * 1024
_GATE_SECONDS = 0.2
_LOCK_MS = 50
# How long others may write on before the file is written anew, in seconds.
_VACUUM_SECONDS = 5.0


def owed(db: sqlite3.Connection) -> int:
    """How many deletions there ever were, where the file was not written anew for all of them, else 0."""
    deletions, covered = db.execute("SELECT deletions, covered FROM slack").fetchone()
    return deletions if deletions > covered else 0


def compact(db: sqlite3.Connection, limit: int) -> int:
    """Write the file anew if it has at most `limit` bytes and something was deleted since it last was. The number of
    the last deletion that this covers; 0: it was not done."""
    covered = owed(db)
    pages, size = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    if not covered or pages * size > limit:
        return 0
    when_free(db, "VACUUM", _VACUUM_SECONDS)
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
    """Nothing more is owed for the deletions up to this one."""
    db.execute("UPDATE slack SET covered = max(covered, ?)", (covered,))
