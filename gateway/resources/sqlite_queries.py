"""Queries of a SQLite file, which is opened so that nothing can be written."""

from __future__ import annotations

import asyncio
import base64
import math
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import orjson

from gateway.resources.port import TooLarge, Unavailable
from gateway.resources.sql import Query, Rows
from gateway.tools.threads import ToolThreads

__all__ = ["SqliteQueries"]

_STEPS: Final = 5_000
_BUSY_SECONDS: Final = 1.0
_ALLOWED: Final = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
)


class SqliteQueries:
    """Each query has a connection of its own, in a thread. `seconds` is the longest that one may take."""

    def __init__(self, file: Path, seconds: float = 5.0) -> None:
        self._uri = f"file:{quote(str(file.absolute()))}?mode=ro"
        self._seconds = seconds
        self._threads = ToolThreads(4)

    async def run(self, query: Query, values: Mapping[str, Any], max_rows: int, max_bytes: int) -> Rows:
        given_up = False

        def stop() -> bool:
            return given_up or time.monotonic() > end

        end = time.monotonic() + self._seconds
        try:
            return await self._threads.run(lambda: self._run(query, values, max_rows, max_bytes, stop))
        except asyncio.CancelledError:
            # The thread sees it within a few thousand steps of SQLite.
            given_up = True
            raise

    async def close(self) -> None: ...

    def _run(self, query: Query, values: Mapping[str, Any], max_rows: int, max_bytes: int, stop: Any) -> Rows:
        try:
            with closing(sqlite3.connect(self._uri, uri=True, timeout=_BUSY_SECONDS)) as db:
                db.execute("PRAGMA query_only = ON")
                db.text_factory = _text
                db.row_factory = None
                # A longer value, or one that is made on the way, is an error before it is made.
                db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(max_bytes, 65_536))
                db.set_authorizer(_authorize)
                db.set_progress_handler(stop, _STEPS)
                cursor = db.execute(query.sql, dict(values))
                if cursor.description is None:
                    raise Unavailable("The query failed: it answers nothing.")
                return _rows(cursor, [column[0] for column in cursor.description], max_rows, max_bytes)
        except sqlite3.Error as error:
            # Errors of Python's module have no code.
            code: int | None = getattr(error, "sqlite_errorcode", None)
            if code == sqlite3.SQLITE_TOOBIG or isinstance(error, sqlite3.DataError):
                raise TooLarge(f"The answer has more than the {max_bytes} bytes that are allowed.") from error
            if code == sqlite3.SQLITE_INTERRUPT:
                raise Unavailable(f"The query did not end within {self._seconds:g} s.") from error
            raise Unavailable("The query failed.") from error


def _rows(cursor: sqlite3.Cursor, names: list[str], max_rows: int, max_bytes: int) -> Rows:
    rows: list[bytes] = []
    size = 0
    for row in cursor:
        if len(rows) == max_rows:
            return Rows(rows=rows, more=True)
        rows.append(orjson.dumps(dict(zip(names, map(_plain, row), strict=True))))
        size += len(rows[-1]) + 1
        if size > max_bytes:
            raise TooLarge(f"The answer has more than the {max_bytes} bytes that are allowed.")
    return Rows(rows=rows)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    # JSON has no word for infinity.
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _authorize(action: int, first: str | None, second: str | None, database: str | None, trigger: str | None) -> int:
    # What full text search asks, and seems to do, when it opens its table: nothing is written.
    if (action, first) in ((sqlite3.SQLITE_PRAGMA, "data_version"), (sqlite3.SQLITE_UPDATE, "sqlite_master")):
        return sqlite3.SQLITE_OK
    if action not in _ALLOWED or (action == sqlite3.SQLITE_FUNCTION and second in ("load_extension", "fts3_tokenizer")):
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK
