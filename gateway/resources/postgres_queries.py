"""Queries of a Postgres database, in transactions that can write nothing. Needs the extra `postgres`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import asyncpg
from asyncpg import exceptions as failures

from gateway.resources.port import Invalid, TooLarge, Unavailable
from gateway.resources.sql import Query, Rows, SqlType
from gateway.resources.sql_text import names_in, with_parameters

__all__ = ["PostgresQueries"]

_CONNECTIONS: Final = 4
_AT_A_TIME: Final = 8
_TYPES: Final[Mapping[SqlType, str]] = {
    "text": "text",
    "integer": "bigint",
    "number": "double precision",
    "boolean": "boolean",
}


class PostgresQueries:
    """A few connections, made when they are needed. `seconds` is the longest that a query may take, for the server too.

    The server makes the JSON of each row, and leaves out one that is too large, so that nothing arrives that could not
    be kept.
    """

    def __init__(self, url: str, seconds: float = 5.0) -> None:
        self._url = url
        self._seconds = seconds
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._opening = asyncio.Lock()

    async def run(self, query: Query, values: Mapping[str, Any], max_rows: int, max_bytes: int) -> Rows:
        names = names_in(query.sql)
        given = [values[name] for name in names]
        try:
            async with asyncio.timeout(self._seconds + 1):
                pool = await self._opened()
                async with pool.acquire() as connection, connection.transaction(readonly=True):
                    return await _read(connection, _wrapped(query, names, max_bytes), given, max_rows, max_bytes)
        except (TimeoutError, failures.QueryCanceledError) as error:
            raise Unavailable(f"The query did not end within {self._seconds:g} s.") from error
        except failures.DataError as error:
            raise Invalid("The database does not take these parameters.") from error
        # ValueError: asyncpg does not take the URL.
        except (OSError, ValueError, failures.PostgresError, failures.InterfaceError) as error:
            raise Unavailable("The query failed.") from error

    async def close(self) -> None:
        if self._pool is not None:
            self._pool.terminate()

    async def _opened(self) -> asyncpg.Pool[asyncpg.Record]:
        async with self._opening:
            if self._pool is None:
                milliseconds = str(round(self._seconds * 1000))
                self._pool = await asyncpg.create_pool(
                    self._url,
                    min_size=0,
                    max_size=_CONNECTIONS,
                    # A pooler between may give each transaction another server, which knows no statement of before.
                    statement_cache_size=0,
                    server_settings={
                        "application_name": "tidegate",
                        "default_transaction_read_only": "on",
                        "statement_timeout": milliseconds,
                        "idle_in_transaction_session_timeout": milliseconds,
                    },
                )
            return self._pool


def _wrapped(query: Query, names: list[str], max_bytes: int) -> str:
    """As a part of a query that makes JSON of its rows. There it can't be anything but a SELECT."""

    def place(name: str) -> str:
        return f"${names.index(name) + 1}::{_TYPES[query.parameters[name]]}"

    inner = with_parameters(query.sql.strip().rstrip(";"), place)
    return (
        f"SELECT CASE WHEN octet_length(j) <= {max_bytes:d} THEN j END "  # noqa: S608 - the operator's query, and a number
        f"FROM (SELECT row_to_json(q)::text AS j FROM (\n{inner}\n) AS q) AS r"
    )


async def _read(connection: Any, text: str, given: list[Any], max_rows: int, max_bytes: int) -> Rows:
    rows: list[bytes] = []
    size = 0
    async for record in connection.cursor(text, *given, prefetch=_AT_A_TIME):
        if len(rows) == max_rows:
            return Rows(rows=rows, more=True)
        row = None if record[0] is None else record[0].encode()
        size += max_bytes + 1 if row is None else len(row) + 1
        if row is None or size > max_bytes:
            raise TooLarge(f"The answer has more than the {max_bytes} bytes that are allowed.")
        rows.append(row)
    return Rows(rows=rows)
