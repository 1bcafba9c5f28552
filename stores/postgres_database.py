"""A PostgreSQL database: connections, transactions that name their owner, and what its failures mean.

Each transaction takes `BEGIN`, the owner and, where it writes to a context, the lock on the context's row to the server
in one round trip; then come its statements, then `COMMIT`. Writers of one context therefore come one after another, and
what a statement reads after the lock is what the one before has left: READ COMMITTED suffices. A transaction locks the
row of one context, and before all else, so that two never wait for each other there.

Nothing is set for longer than a transaction but the parameters that a connection begins with. Behind PgBouncer in
transaction mode these must be let through (`ignore_startup_parameters`), and it must know prepared statements
(`max_prepared_statements`, 1.21 and later).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import asyncpg
from msgspec import Struct

from stores.ports import NotFound, Unavailable
from stores.postgres_errors import FAILURES, as_told, never_began, refused, undone
from stores.postgres_migrate import migrate_database
from stores.records import ContextKey

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

__all__ = ["EVERYTHING", "Connection", "Limits", "PostgresDatabase", "literal", "lock_context"]

Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"
_T = TypeVar("_T")

EVERYTHING = "*"
"""In place of an owner: what is done for the whole instance. Owners have a slash in them."""

_ATTEMPTS = 3
_LEFT = (TimeoutError, asyncpg.ReadOnlySQLTransactionError)
_ROLLBACK_SECONDS = 1.0


class Limits(Struct, frozen=True, kw_only=True):
    """Of one instance: connections, and seconds. `acquire` is how long a call waits for a free connection, `lock` for
    another transaction, `statement` how long one statement may run, `idle` how long a transaction may wait for its next
    one: of an instance that stands still, whose locks hold up others."""

    min_size: int = 1
    max_size: int = 10
    connect: float = 3.0
    acquire: float = 5.0
    lock: float = 3.0
    statement: float = 5.0
    idle: float = 3.0


class PostgresDatabase:
    """A pool of connections to a database whose schema is the newest. `role` is what each transaction works as, where
    the role that connects would pass by the row security."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], role: str | None, limits: Limits) -> None:
        self._pool = pool
        self._limits = limits
        self._as_role = "" if role is None else f"SET LOCAL ROLE {role}; "
        self._closed = False

    @classmethod
    async def open(cls, url: str, limits: Limits) -> PostgresDatabase:
        """Bring the schema up to date and connect. Raises StoreUrlError, Unavailable."""
        _, role = await migrate_database(url, limits.connect)
        milliseconds = {name: f"{round(getattr(limits, name) * 1000)}" for name in ("lock", "statement", "idle")}
        try:
            pool = await asyncpg.create_pool(
                url,
                min_size=limits.min_size,
                max_size=limits.max_size,
                timeout=limits.connect,
                # The server's own limit comes first; this one is for a server that is silent.
                command_timeout=limits.statement + limits.connect,
                reset=_keep,
                statement_cache_size=256,
                max_cached_statement_lifetime=3600,
                server_settings={
                    "application_name": "tidegate",
                    "lock_timeout": milliseconds["lock"],
                    "statement_timeout": milliseconds["statement"],
                    "idle_in_transaction_session_timeout": milliseconds["idle"],
                    # How `literal` quotes.
                    "standard_conforming_strings": "on",
                    # All statements are short.
                    "jit": "off",
                },
            )
        except (*FAILURES, ValueError) as error:
            found = refused(error)
            raise found from found.__cause__
        return cls(pool, role, limits)

    async def close(self) -> None:
        """Let what runs come to its end, for as long as a statement may run, then close."""
        self._closed = True
        try:
            async with asyncio.timeout(self._limits.statement):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    async def read(self, owner: str, work: Callable[[Connection], Awaitable[_T]]) -> _T:
        """`work` on one state of the database. `owner` is the one whose rows it sees, or EVERYTHING. It may be done
        again, as in `write`."""
        begin = self._begin("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", owner)
        return await self._run(begin, lambda db, _: work(db))

    async def write(self, owner: str, work: Callable[[Connection], Awaitable[_T]]) -> _T:
        """`work` whole or not at all. Raises what it raises (of the driver's, what is not a matter of the moment), and
        Unavailable, after which it may be done all the same if the reply to the commit was lost. It is done again where
        the database undid it for another transaction's sake."""
        return await self._run(self._begin("BEGIN", owner), lambda db, _: work(db))

    async def write_context(self, key: ContextKey, work: Callable[[Connection, bool], Awaitable[_T]]) -> _T:
        """As `write`, with the lock on the context's row, if there is one, which `work` is told. Nothing else may be
        locked before."""
        begin = f"{self._begin('BEGIN', key.owner)}; {_lock(key)}"
        return await self._run(begin, lambda db, tag: work(db, tag == "SELECT 1"))

    async def bare(self, work: Callable[[Connection], Awaitable[_T]]) -> _T:
        """`work` in no transaction, as the role that connected; it leaves nothing set. Raises what it raises, and
        Unavailable."""
        if self._closed:
            raise Unavailable("the store is closed")
        connection = await self._acquire()
        try:
            try:
                return await work(connection)
            except BaseException as error:
                await self._give_up(connection, error)
                raise
            finally:
                await self._pool.release(connection, timeout=self._limits.connect)
        except FAILURES as error:
            raise as_told(error) from error

    def _begin(self, begin: str, owner: str) -> str:
        return f"{begin}; {self._as_role}SET LOCAL tidegate.owner = {literal(owner)}"

    async def _run(self, begin: str, work: Callable[[Connection, str], Awaitable[_T]]) -> _T:
        attempt = 1
        while True:
            began = False
            try:
                if self._closed:
                    raise Unavailable("the store is closed")
                connection = await self._acquire()
                try:
                    tag = await connection.execute(begin)
                    began = True
                    result = await work(connection, tag)
                    if await connection.execute("COMMIT") != "COMMIT":
                        raise RuntimeError("a statement failed in this transaction, and the failure was passed over")
                    return result
                except BaseException as error:
                    await self._give_up(connection, error)
                    raise
                finally:
                    await self._pool.release(connection, timeout=self._limits.connect)
            except FAILURES as error:
                again = undone(error) or (not began and never_began(error))
                if not again or attempt == _ATTEMPTS:
                    raise as_told(error) from error
                attempt += 1

    async def _acquire(self) -> Connection:
        try:
            return await self._pool.acquire(timeout=self._limits.acquire)
        except FAILURES as error:
            raise as_told(error) from error

    async def _give_up(self, connection: Connection, error: BaseException) -> None:
        if isinstance(error, _LEFT):
            # The others lead to the same server: each would be found out by a call that waits as long.
            await self._pool.expire_connections()
        await _undo(connection, error)


async def _keep(connection: object) -> None:
    """Nothing is left of a transaction that a connection would have to be rid of before the next."""


async def _undo(connection: Connection, error: BaseException) -> None:
    """Undo the transaction. Where the caller was cancelled, or the server is silent, the connection is closed: that
    needs no waiting, nor a second connection that asks the server to stop. So is one to a server that has become a
    replica: the next one may find the primary (`target_session_attrs` in the URL)."""
    try:
        if isinstance(error, Exception) and not isinstance(error, _LEFT):
            async with asyncio.timeout(_ROLLBACK_SECONDS):
                await connection.execute("ROLLBACK")
            return
    except FAILURES:
        pass
    except BaseException:  # cancelled now: whether it was undone is not known
        _end(connection)
        raise
    _end(connection)


def _end(connection: Connection) -> None:
    # One that is lost has gone back to the pool already, and answers nothing more. That must not take the place of what
    # the caller is told, least of all of a cancellation.
    with suppress(asyncpg.InterfaceError):
        connection.terminate()


def literal(text: str) -> str:
    """The text as a literal of SQL, under `standard_conforming_strings`. Raises NotFound for what PostgreSQL can't
    hold, so that nothing has it for its name."""
    if "\0" in text:
        raise NotFound("a name with a NUL in it")
    return "'" + text.replace("'", "''") + "'"


async def lock_context(db: Connection, key: ContextKey) -> bool:
    """Lock the context's row, in a transaction that has locked nothing; whether there is one."""
    return await db.execute(_lock(key)) == "SELECT 1"


def _lock(key: ContextKey) -> str:
    names = f"owner = {literal(key.owner)} AND context_id = {literal(key.id)}"
    return f"SELECT 1 FROM contexts WHERE {names} FOR UPDATE"  # noqa: S608 - the names are quoted
