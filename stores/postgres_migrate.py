"""Brings a PostgreSQL database to the newest schema, and finds the role that its transactions work as."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import asyncpg

from stores.postgres_errors import FAILURES, refused
from stores.store_url import StoreUrlError

__all__ = ["ROLE", "migrate_database"]

ROLE = "tidegate_app"
"""A role without login that has the rights on Tidegate's tables, and is bound by their row security."""

_MIGRATIONS = Path(__file__).parent / "migrations" / "postgres"
# Of the advisory lock: whoever migrates holds it. ("tide", as a number.)
_LOCK = 0x74696465

# ruff: noqa: S608 - the SQL is put together from constants of this module only

# How long one migration may take, that of another instance included, in seconds.
_MIGRATION_SECONDS = 600.0

_CREATE_ROLE = f"""
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{ROLE}') THEN
        CREATE ROLE {ROLE} NOLOGIN;
    END IF;
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        GRANT {ROLE} TO CURRENT_USER;
    END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; -- another database's migration made it just now
END $$
"""
_GRANT = f"""
DO $$
DECLARE
    item text;
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO {ROLE}', current_schema());
    FOR item IN SELECT polrelid::regclass FROM pg_policy JOIN pg_class ON pg_class.oid = polrelid
        WHERE polname = 'of_owner' AND relnamespace = current_schema()::regnamespace
    LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO {ROLE}', item);
    END LOOP;
    GRANT SELECT, INSERT, DELETE ON audit TO {ROLE};
    GRANT USAGE ON SEQUENCE epochs, session_puts TO {ROLE};
END $$
"""
_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    number integer PRIMARY KEY,
    name text NOT NULL,
    digest text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
GRANT SELECT ON schema_migrations TO PUBLIC
"""
_WHO = """
SELECT current_user::text AS name, rolsuper OR rolbypassrls AS bypasses, rolsuper OR rolcreaterole AS creates
FROM pg_roles WHERE rolname = current_user
"""


async def migrate_database(url: str, connect_seconds: float) -> tuple[list[str], str | None]:
    """Bring the schema up to date: the names of the migrations that were applied, and the role to work as (None: that
    which connects). Several instances may do so at once. Raises StoreUrlError, Unavailable."""
    try:
        db = await asyncpg.connect(
            url,
            timeout=connect_seconds,
            command_timeout=_MIGRATION_SECONDS,
            server_settings={"application_name": "tidegate migrate", "client_min_messages": "warning"},
        )
        try:
            return await _migrate(db)
        finally:
            await _close(db)
    except (*FAILURES, ValueError) as error:
        found = refused(error)
        raise found from found.__cause__


async def _close(db: asyncpg.Connection[asyncpg.Record]) -> None:
    try:
        async with asyncio.timeout(1.0):
            await db.close()
    except FAILURES:
        db.terminate()


async def _migrate(db: asyncpg.Connection[asyncpg.Record]) -> tuple[list[str], str | None]:
    scripts = sorted(_MIGRATIONS.glob("*.sql"))
    applied: list[str] = []
    # Without the lock first: a database that is up to date keeps nobody waiting, and needs no rights to change it.
    while (number := await _version(db, scripts)) < len(scripts):
        async with db.transaction():
            await db.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            await db.execute(_TABLE)
            number = await _version(db, scripts)
            if number == len(scripts):
                break
            script = scripts[number]
            await db.execute(script.read_text(encoding="utf-8"))
            await db.execute(
                "INSERT INTO schema_migrations (number, name, digest) VALUES ($1, $2, $3)",
                number + 1,
                script.stem,
                _digest(script),
            )
        applied.append(script.stem)
    return applied, await _role(db, grant=bool(applied))


async def _version(db: asyncpg.Connection[asyncpg.Record], scripts: list[Path]) -> int:
    """How many migrations the database has, all of them ours. Raises StoreUrlError."""
    if await db.fetchval("SELECT to_regclass('schema_migrations')") is None:
        return 0
    rows = await db.fetch("SELECT number, name, digest FROM schema_migrations ORDER BY number")
    if len(rows) > len(scripts):
        raise StoreUrlError("the database was made by a newer version of Tidegate: update this one")
    for row, script in zip(rows, scripts, strict=False):
        if (row["name"], row["digest"]) != (script.stem, _digest(script)):
            raise StoreUrlError(f"the database has another migration {row['name']} than this version of Tidegate")
    return len(rows)


def _digest(script: Path) -> str:
    # Line ends are not what is meant.
    return hashlib.sha256(script.read_text(encoding="utf-8").encode()).hexdigest()


async def _role(db: asyncpg.Connection[asyncpg.Record], *, grant: bool) -> str | None:
    """The role that transactions have to work as. Raises StoreUrlError where there is none that row security binds."""
    who = await db.fetchrow(_WHO)
    if who is None:
        raise StoreUrlError("the database does not show its roles")
    if who["creates"] and (grant or (who["bypasses"] and not await _usable(db))):
        async with db.transaction():
            await db.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
            await db.execute(_CREATE_ROLE)
            await db.execute(_GRANT)
    if not who["bypasses"]:
        if not await _has_rights(db):
            raise StoreUrlError(f"the role {who['name']} has no rights on Tidegate's tables: GRANT {ROLE} TO it")
        return None
    if not await _usable(db):
        raise StoreUrlError(
            f"the role {who['name']} passes by row security, and can't be {ROLE} instead: connect as an ordinary role"
        )
    return ROLE


async def _has_rights(db: asyncpg.Connection[asyncpg.Record]) -> bool:
    return await db.fetchval("SELECT has_table_privilege('contexts', 'INSERT')")


async def _usable(db: asyncpg.Connection[asyncpg.Record]) -> bool:
    """Whether the connecting role may work as ROLE, which has rights and does not pass by row security itself."""
    bound = "SELECT NOT (rolsuper OR rolbypassrls) FROM pg_roles WHERE rolname = $1"
    if not await db.fetchval(bound, ROLE):
        return False
    try:
        async with db.transaction():
            await db.execute(f"SET LOCAL ROLE {ROLE}")
            return await _has_rights(db)
    except asyncpg.InsufficientPrivilegeError:
        return False
