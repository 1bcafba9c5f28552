"""One SQLite file: a thread that writes, with a commit for all that came up meanwhile, and a thread that reads."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from stores.ports import StoreError, Unavailable
from stores.sqlite_lock import WriteLock
from stores.sqlite_scrub import COMPACT_BYTES, START_BYTES, compact, owed, settle, truncate
from stores.sqlite_search import install
from stores.store_url import StoreUrlError

__all__ = ["SqliteFile", "StoreUrlError", "migrate_file"]

_T = TypeVar("_T")
_MIGRATIONS = Path(__file__).parent / "migrations" / "sqlite"
_BATCH = 256
# How long the writer waits for other processes that write, in seconds; a scrub of theirs may take one or two.
_LOCK_SECONDS = 5.0
# How long the opening of a file waits for a process that tidies it up or changes its schema, in seconds.
_OPEN_SECONDS = 30.0
# How often, and how far apart in seconds, the log is tried to be emptied that another process reads from.
_SCRUB_TRIES = 50
_SCRUB_PAUSE = 0.1
# A stall of the writer that nobody notices, in seconds.
_SHORT_SECONDS = 0.05

Work = Callable[[sqlite3.Connection], Any]


class _Job:
    __slots__ = ("bare", "done", "error", "loop", "result", "work")

    def __init__(self, work: Work, loop: asyncio.AbstractEventLoop, bare: bool) -> None:
        self.work = work
        self.bare = bare  # to be done outside a transaction
        self.loop = loop
        self.done: asyncio.Future[Any] = loop.create_future()
        self.result: Any = None
        self.error: BaseException | None = None

    def settle(self) -> None:
        if self.done.done():
            return  # whoever asked does not wait any more
        if self.error is not None:
            self.done.set_exception(self.error)
        else:
            self.done.set_result(self.result)


class _Worker:
    """A thread with a connection of its own that carries out jobs in the order in which they came."""

    def __init__(
        self, connection: sqlite3.Connection, name: str, run: Callable[[sqlite3.Connection, list[_Job]], None]
    ) -> None:
        self._connection = connection
        self._run = run
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    async def do(self, work: Callable[[sqlite3.Connection], _T], *, bare: bool = False) -> _T:
        if self._closed:
            raise Unavailable("the store is closed")
        job = _Job(work, asyncio.get_running_loop(), bare)
        self._jobs.put(job)
        return await job.done

    async def close(self) -> None:
        """Carry out what came before, then end."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
            await asyncio.to_thread(self._thread.join)

    def _main(self) -> None:
        ended = False
        while not ended:
            jobs: list[_Job] = []
            job = self._jobs.get()
            while job is not None:
                jobs.append(job)
                if len(jobs) == _BATCH or self._jobs.empty():
                    break
                job = self._jobs.get()
            ended = job is None
            if jobs:
                self._run(self._connection, jobs)
                _settle(jobs)
        self._connection.close()


class SqliteFile:
    """Raises StoreUrlError for a file that is no database of ours, Unavailable for one that can't be opened now."""

    def __init__(self, path: Path) -> None:
        migrate_file(path)
        self._gate = threading.Lock()  # held while this process reads
        self._scrubbing = asyncio.Lock()
        self._begun = self._scrubbed = 0
        self._rested = 0.0
        try:
            _scrub_at_start(path)
            writing, reading = _connect_to_stay(path, 2)
        except sqlite3.Error as error:
            raise Unavailable(f"{path}: {error}") from error
        self._writer = _Worker(writing, "sqlite-writer", partial(_write_batch, WriteLock()))
        self._reader = _Worker(reading, "sqlite-reader", partial(_read_batch, self._gate))

    async def write(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """`work` whole or not at all, on disk when this returns. Raises what it raises, and Unavailable."""
        return await self._writer.do(work)

    async def read(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """`work` on one state of the file, at least as new as the last write that returned. Raises Unavailable."""
        return await self._reader.do(work)

    async def scrub(self) -> bool:
        """As ports.OwnerStore. One scrub serves all who asked before it began, and large ones keep their distance:
        who deletes without end takes a tenth of the writer's time at most."""
        wanted = self._begun + 1
        async with self._scrubbing:
            if self._scrubbed >= wanted:
                return True
            await asyncio.sleep(self._rested - time.monotonic())
            self._begun += 1
            started = time.monotonic()
            covered = await self._writer.do(lambda db: compact(db, COMPACT_BYTES), bare=True)
            took = time.monotonic() - started
            if took > _SHORT_SECONDS:
                self._rested = time.monotonic() + 9 * took
            for _ in range(_SCRUB_TRIES):
                if await self._writer.do(lambda db: truncate(db, self._gate), bare=True):
                    break
                await asyncio.sleep(_SCRUB_PAUSE)
            else:
                return False
            self._scrubbed = self._begun
            if covered:
                await self.write(lambda db: settle(db, covered))
            return True

    async def close(self) -> None:
        await self._writer.close()
        await self._reader.close()


def _scrub_at_start(path: Path) -> None:
    """What a larger file, or a crash, left to do after a deletion; nothing where another process has the file open,
    which would have to wait for it."""
    with closing(_connect(path)) as connection:
        if not owed(connection):
            return
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as alone, suppress(sqlite3.OperationalError):
        alone.execute("PRAGMA locking_mode = EXCLUSIVE")
        alone.execute("BEGIN EXCLUSIVE")
        alone.execute("COMMIT")  # the lock stays
        alone.execute("PRAGMA secure_delete = ON")
        covered = compact(alone, START_BYTES)
        if covered and truncate(alone, threading.Lock()):
            settle(alone, covered)


def migrate_file(path: Path) -> list[str]:
    """Bring the file to the newest schema, making it where it is missing; the names of what was applied."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(_connect(path)) as connection:
            return _migrate(connection, path)
    except (OSError, sqlite3.OperationalError) as error:
        raise Unavailable(f"{path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise StoreUrlError(f"{path} is not an SQLite database: {error}") from error


def _migrate(connection: sqlite3.Connection, path: Path) -> list[str]:
    # Kept in the file. Who finds it locked leaves it to whoever is at it, and waits for that below.
    with suppress(sqlite3.OperationalError):
        connection.execute("PRAGMA journal_mode = WAL")
    scripts = sorted(_MIGRATIONS.glob("*.sql"))
    # Without a transaction first: a file that is up to date is not to be locked.
    if _version(connection) == len(scripts):
        return []
    connection.execute("BEGIN IMMEDIATE")
    version = _version(connection)
    if version > len(scripts):
        raise StoreUrlError(f"{path} was made by a newer version of Tidegate: update this one")
    for script in scripts[version:]:
        for statement in script.read_text(encoding="utf-8").split(";\n"):
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {len(scripts)}")
    connection.execute("COMMIT")
    return [script.stem for script in scripts[version:]]


def _version(connection: sqlite3.Connection) -> int:
    return connection.execute("PRAGMA user_version").fetchone()[0]


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=_OPEN_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    try:
        # What was acknowledged survives a power cut, not only a kill.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        # What is deleted is zeroed, not only given up.
        connection.execute("PRAGMA secure_delete = ON")
        install(connection)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _connect_to_stay(path: Path, count: int) -> list[sqlite3.Connection]:
    """Connections that keep every other process from taking the file for itself alone, from now on."""
    connections: list[sqlite3.Connection] = []
    try:
        for _ in range(count):
            connection = _connect(path)
            connections.append(connection)
            _version(connection)  # a connection to a file in WAL mode shares it from its first read until it is closed
            connection.execute(f"PRAGMA busy_timeout = {round(_LOCK_SECONDS * 1000)}")
    except sqlite3.Error:
        for connection in connections:
            connection.close()
        raise
    return connections


def _settle(jobs: list[_Job]) -> None:
    """Tell all who wait, with one wake-up a loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
    for job in jobs:
        by_loop.setdefault(job.loop, []).append(job)
    for loop, its_jobs in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle_all, its_jobs)
        except RuntimeError:
            continue  # the loop is closed: nobody waits


def _settle_all(jobs: list[_Job]) -> None:
    for job in jobs:
        job.settle()


def _write_batch(lock: WriteLock, connection: sqlite3.Connection, jobs: list[_Job]) -> None:
    bare = [job for job in jobs if job.bare]
    if bare:
        jobs = [job for job in jobs if not job.bare]
    if jobs:
        _write_together(lock, connection, jobs)
    for job in bare:
        try:
            job.result = job.work(connection)
        except sqlite3.Error as error:
            job.error = _unavailable(error)


def _write_together(lock: WriteLock, connection: sqlite3.Connection, jobs: list[_Job]) -> None:
    try:
        lock.begin(connection, _LOCK_SECONDS)
        for job in jobs:
            _write_one(connection, job)
        lock.commit(connection)
    except sqlite3.Error as error:
        # Locked, full, broken: nothing of the batch is stored, also what had gone well before.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        for job in jobs:
            job.error = _unavailable(error)


def _write_one(connection: sqlite3.Connection, job: _Job) -> None:
    connection.execute("SAVEPOINT job")
    try:
        job.result = job.work(connection)
    except sqlite3.OperationalError:
        raise
    except Exception as error:  # noqa: BLE001 - the boundary of the thread: it goes to whoever asked
        job.error = error
        connection.execute("ROLLBACK TO job")
    connection.execute("RELEASE job")


def _read_batch(gate: threading.Lock, connection: sqlite3.Connection, jobs: list[_Job]) -> None:
    with gate:
        _read_together(connection, jobs)


def _read_together(connection: sqlite3.Connection, jobs: list[_Job]) -> None:
    try:
        connection.execute("BEGIN")
        for job in jobs:
            try:
                job.result = job.work(connection)
            except (StoreError, ValueError) as error:
                job.error = error
        connection.execute("COMMIT")
    except Exception as error:  # noqa: BLE001 - the boundary of the thread: it goes to whoever asked
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        for job in jobs:
            job.error = _unavailable(error) if isinstance(error, sqlite3.Error) else error


def _unavailable(error: sqlite3.Error) -> Unavailable:
    unavailable = Unavailable(str(error))
    unavailable.__cause__ = error
    return unavailable
