"""The right to write an SQLite file, which several processes share.

SQLite lets whoever finds the file locked ask again, after pauses that grow to 100 ms, and keeps no queue: a process
that commits without end leaves it free for some microseconds at a time, which such a pause hardly ever meets. So one
asks often here, and whoever has just written lets the others go first.
"""

from __future__ import annotations

import random
import sqlite3
import time

__all__ = ["WriteLock", "when_free"]

# The longest pause between two attempts, and how long a file that others write too is left alone after a commit, in
# seconds.
_PAUSE = 0.002
_GAP = 0.001
_PRIMARY = 0xFF


class WriteLock:
    """Begins and ends the transactions of one connection that writes."""

    def __init__(self) -> None:
        self._others = False  # whether another connection wrote since this one last did
        self._version: int | None = None
        self._left = 0.0

    def begin(self, db: sqlite3.Connection, seconds: float) -> None:
        """Begin a transaction that nobody else's write can come into. Raises sqlite3.OperationalError where the file
        was locked for `seconds`."""
        if self._others:
            time.sleep(max(0.0, self._left + _GAP - time.monotonic()))
        when_free(db, "BEGIN IMMEDIATE", seconds)
        version = db.execute("PRAGMA data_version").fetchone()[0]
        self._others = version != self._version
        self._version = version

    def commit(self, db: sqlite3.Connection) -> None:
        db.execute("COMMIT")
        self._left = time.monotonic()


def when_free(db: sqlite3.Connection, statement: str, seconds: float) -> None:
    """Execute what needs the right to write. Raises sqlite3.OperationalError where the file was locked for so long."""
    deadline = time.monotonic() + seconds
    before = db.execute("PRAGMA busy_timeout").fetchone()[0]
    db.execute("PRAGMA busy_timeout = 0")
    try:
        while not _done(db, statement, last=time.monotonic() >= deadline):
            time.sleep(random.uniform(0, _PAUSE))  # noqa: S311 - so that those who wait don't meet again
    finally:
        db.execute(f"PRAGMA busy_timeout = {before}")


def _done(db: sqlite3.Connection, statement: str, *, last: bool) -> bool:
    try:
        db.execute(statement)
    except sqlite3.OperationalError as error:
        if last or error.sqlite_errorcode & _PRIMARY != sqlite3.SQLITE_BUSY:
            raise
        return False
    return True
