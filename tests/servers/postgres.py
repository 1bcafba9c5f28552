"""A PostgreSQL server for the tests that ask for one, and for each test a database of its own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import asyncpg
import pytest

from gateway.servers.postgres import PostgresServer
from stores.postgres_migrate import migrate_database

__all__ = [
    "administrator",
    "database",
    "lasting_database",
    "new_database",
    "postgres",
    "postgres_server",
    "stop_postgres",
]

_WIPE = """
DELETE FROM contexts; DELETE FROM events; DELETE FROM turns; DELETE FROM calls; DELETE FROM cancels; DELETE FROM pins;
DELETE FROM summaries; DELETE FROM remembered; DELETE FROM search_texts; DELETE FROM sessions; DELETE FROM keys;
DELETE FROM usage; DELETE FROM usage_ids; DELETE FROM secrets; DELETE FROM audit
"""

_running: list[tuple[PostgresServer, Path]] = []
_numbers = count(1)
# Databases with the newest schema and nothing in them: what one test has used is wiped for the next.
_free: list[str] = []


def postgres_server() -> PostgresServer:
    """The one server of this process, started when it is first asked for."""
    if not _running:
        # Not pytest's own folder, which only its user may enter: as root the server runs as another one.
        folder = Path(tempfile.mkdtemp(prefix="tidegate-postgres-"))
        server = PostgresServer(folder / "data", hasty=True)
        folder.chmod(0o755)
        server.start()
        _running.append((server, folder))
    return _running[0][0]


@pytest.fixture(scope="session", autouse=True)
def stop_postgres() -> Generator[None]:
    yield
    _free.clear()
    while _running:
        server, folder = _running.pop()
        server.kill()
        shutil.rmtree(folder)


@asynccontextmanager
async def administrator(name: str = "postgres") -> AsyncGenerator[asyncpg.Connection[asyncpg.Record]]:
    """A connection of the superuser, whom no row security binds."""
    connection = await asyncpg.connect(postgres_server().url_of(name))
    try:
        yield connection
    finally:
        await connection.close()


async def new_database() -> str:
    """The name of a database that has nothing in it, not even tables."""
    name = f"test{next(_numbers)}"
    async with administrator() as admin:
        await admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY FILE_COPY")
    return name


async def _empty_database() -> str:
    if _free:
        return _free.pop()
    name = await new_database()
    await migrate_database(postgres_server().url_of(name), 5)
    return name


async def lasting_database() -> str:
    """The URL of a database with the newest schema and nothing in it, which nobody else ever gets."""
    return postgres_server().url_of(await _empty_database())


@asynccontextmanager
async def database() -> AsyncGenerator[str]:
    """As `lasting_database`, for as long as the block lasts."""
    name = await _empty_database()
    yield postgres_server().url_of(name)
    async with administrator(name) as admin:
        await admin.execute(_WIPE)
    _free.append(name)


@pytest.fixture
async def postgres() -> AsyncGenerator[str]:
    """As `database`."""
    async with database() as url:
        yield url
