"""Removes what was deleted from the tables' files (ports.OwnerStore.scrub), outside a transaction.

PostgreSQL keeps a deleted row until nobody may see it any more and a VACUUM comes by. A scrub waits for those who may,
then vacuums every table with its indexes: after it no query, of whatever snapshot, finds the row, and its place is
free to be overwritten. What a client can't do away with is left to whoever runs the database (docs/data.md): the bytes
in the free space of a page until something is written over them, the words without texts that stay in the index of
searches until it is built anew (REINDEX), older pages on the disk until the next checkpoint, the write-ahead log until
it is recycled, archives, replicas and backups.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from asyncpg import exceptions as failures

if TYPE_CHECKING:
    from stores.postgres_database import Connection

__all__ = ["Scrub", "vacuum"]

# How long those are waited for who may still see what was deleted, in seconds.
_WAIT_SECONDS = 5.0
# For all tables; one alone has as long as any statement has.
_VACUUM_SECONDS = 60.0
_PAUSE = 0.05
# What disturbs nobody, in seconds.
_SHORT_SECONDS = 1.0
# Ours, each partition for itself.
_TABLES = """
SELECT pg_class.oid::regclass::text AS name, pg_has_role(relowner, 'USAGE') AS ours
FROM pg_policy LEFT JOIN LATERAL pg_partition_tree(polrelid) part ON isleaf
    JOIN pg_class ON pg_class.oid = coalesce(relid, polrelid)
WHERE polname = 'of_owner' AND relnamespace = current_schema()::regnamespace ORDER BY name
"""
_NEXT = "SELECT pg_snapshot_xmax(pg_current_snapshot())::xid::text"
# Whether somebody may see what a transaction before that one deleted: he has a snapshot, or a transaction, from before.
_SEEN = """
SELECT EXISTS (
    SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND (age(backend_xmin) > age($1::text::xid) OR age(backend_xid) > age($1::text::xid))
    UNION ALL SELECT FROM pg_prepared_xacts WHERE database = current_database()
        AND age(transaction) > age($1::text::xid)
    UNION ALL SELECT FROM pg_replication_slots WHERE age(xmin) > age($1::text::xid)
)
"""

Bare = Callable[[Callable[["Connection"], Awaitable[bool]]], Awaitable[bool]]
"""Does something with a connection that is in no transaction and works as the role that connected."""


class Scrub:
    """One vacuum serves all who asked before it began, and long ones take a tenth of the time at most."""

    def __init__(self, bare: Bare, clock: Callable[[], float] = time.monotonic) -> None:
        self._bare = bare
        self._clock = clock
        self._running = asyncio.Lock()
        self._begun = self._done = 0
        self._answer = False
        self._rested = clock()

    async def __call__(self) -> bool:
        """False where not all could be vacuumed: because of somebody who may see what was deleted (as far as our role
        is shown who else is there), of tables that are in use or too large to be done in time, or of a role that
        does not own them. PostgreSQL's own vacuum does it later. May raise Unavailable."""
        wanted = self._begun + 1
        async with self._running:
            if self._done >= wanted:
                return self._answer
            await asyncio.sleep(self._rested - self._clock())
            self._begun += 1
            started = self._clock()
            self._answer = await self._bare(vacuum)
            took = self._clock() - started
            if took > _SHORT_SECONDS:
                self._rested = started + 10 * took
            self._done = self._begun
            return self._answer


async def vacuum(db: Connection) -> bool:
    tables = await db.fetch(_TABLES)
    if not all(row["ours"] for row in tables):
        return False  # PostgreSQL would pass over them with a warning
    before = await db.fetchval(_NEXT)
    deadline = time.monotonic() + _WAIT_SECONDS
    while await db.fetchval(_SEEN, before):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_PAUSE)
    deadline = time.monotonic() + _VACUUM_SECONDS
    try:
        for row in tables:
            if time.monotonic() > deadline:
                return False
            # Left to itself it passes over indexes where few rows were deleted.
            await db.execute(f"VACUUM (INDEX_CLEANUP ON, TRUNCATE OFF) {row['name']}")
    except (failures.LockNotAvailableError, failures.QueryCanceledError):
        return False
    return True
