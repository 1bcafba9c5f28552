"""The second wall between owners: row security, under every role that may connect."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import asyncpg
import pytest

from stores.postgres import PostgresStore
from stores.postgres_database import EVERYTHING, Limits, PostgresDatabase
from stores.postgres_migrate import ROLE, migrate_database
from stores.records import ContextKey, KeyRecord, Remembered, SessionRecord
from stores.store_url import StoreUrlError
from tests.servers.postgres import administrator, new_database, postgres_server
from tests.stores.context_stores import approval, message, response, running, tool_call, used

ANN, BOB = ContextKey("t/ann", "conv"), ContextKey("t/bob", "conv")
OF_A_CONTEXT = ["contexts", "events", "turns", "calls", "cancels", "pins", "summaries", "remembered"]
OF_AN_OWNER = [*OF_A_CONTEXT, "sessions", "usage", "usage_ids", "secrets"]


async def fill(store: PostgresStore) -> None:
    """Something of two owners in every table but `pins` and `summaries`."""
    for key in (ANN, BOB):
        claimed = await running(store, key)
        asked = tool_call("asked", "a", needs_approval=True)
        await store.write(key, "a", claimed.fence, [tool_call("c", "a"), response("r", "c", "a"), asked])
        await store.approve(key, approval("p", "asked", "a"), Remembered("pay@1", approved=True))
        await store.cancel(key, "x", "a", None)
        await store.add_usage(key, "u", used("2026-01-01", subject=key.owner.partition("/")[2]))
        await store.put_secret(key.owner, "s", b"sealed", None)
        await store.put_session(SessionRecord(id=key.owner, owner=key.owner, attempt=1, expires_at=1e12))
    await store.add_key(KeyRecord(id="k", digest=b"k", tenant="t", subject="ann", role=None, created_at=0))


@pytest.fixture
async def database(postgres: str) -> AsyncGenerator[PostgresDatabase]:
    store = await PostgresStore.open(postgres)
    await fill(store)
    await store.close()
    opened = await PostgresDatabase.open(postgres, Limits())
    yield opened
    await opened.close()


async def count(database: PostgresDatabase, owner: str, table: str) -> int:
    return await database.read(owner, lambda db: db.fetchval(f"SELECT count(*) FROM {table}"))  # noqa: S608


async def test_the_rows_are_there(database: PostgresDatabase) -> None:
    for table in OF_AN_OWNER:
        assert await count(database, EVERYTHING, table) == 0 or table not in ("pins", "summaries")
    assert await count(database, EVERYTHING, "events") == 10


@pytest.mark.parametrize("table", [*OF_AN_OWNER, "keys"])
async def test_a_statement_that_names_no_owner_sees_nothing_and_changes_nothing(
    database: PostgresDatabase, table: str
) -> None:
    before = await count(database, EVERYTHING, table)
    assert await count(database, "", table) == 0
    assert await database.write("", lambda db: db.execute(f"DELETE FROM {table}")) == "DELETE 0"  # noqa: S608
    assert await count(database, EVERYTHING, table) == before


@pytest.mark.parametrize("table", OF_AN_OWNER)
async def test_an_owner_sees_and_changes_its_rows_alone(database: PostgresDatabase, table: str) -> None:
    for owner in ("t/ann", "t/bob"):
        seen = await database.read(owner, lambda db: db.fetch(f"SELECT DISTINCT owner FROM {table}"))  # noqa: S608
        assert [row["owner"] for row in seen] == ([] if table in ("pins", "summaries") else [owner])
    await database.write("t/ann", lambda db: db.execute(f"DELETE FROM {table}"))  # noqa: S608
    left = await database.read(EVERYTHING, lambda db: db.fetch(f"SELECT DISTINCT owner FROM {table}"))  # noqa: S608
    assert [row["owner"] for row in left] == ([] if table in ("pins", "summaries") else ["t/bob"])


@pytest.mark.parametrize("owner", ["t/ann", ""])
async def test_nothing_can_be_stored_in_anothers_name(database: PostgresDatabase, owner: str) -> None:
    for change in (
        "INSERT INTO pins (owner, context_id, id) VALUES ('t/bob', 'conv', 'm')",
        "INSERT INTO remembered (owner, context_id, definition, approved) VALUES ('t/bob', 'conv', 'm', true)",
        "INSERT INTO usage_ids (owner, id, day) VALUES ('t/bob', 'm', '')",
        "INSERT INTO secrets (owner, name, value, version) VALUES ('t/bob', 'm', '', 1)",
        "INSERT INTO search_texts (owner, context_id, ord, terms) VALUES ('t/bob', 'conv', 99, '')",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await database.write(owner, lambda db, change=change: db.execute(change))


async def test_nothing_can_be_given_away(database: PostgresDatabase) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        await database.write("t/ann", lambda db: db.execute("UPDATE events SET owner = 't/carl'"))


async def test_what_is_set_for_a_transaction_ends_with_it(database: PostgresDatabase) -> None:
    for owner in ("t/ann", EVERYTHING):
        await count(database, owner, "contexts")
        left = await database.bare(lambda db: db.fetchval("SELECT current_setting('tidegate.owner', true)"))
        assert not left
        assert await database.bare(lambda db: db.fetchval("SELECT current_user = session_user"))


async def test_a_partition_is_reached_through_its_table_alone(database: PostgresDatabase) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await database.read(EVERYTHING, lambda db: db.fetch("SELECT * FROM events_0"))


@pytest.mark.parametrize("owner", ["t/o'brien", "t/'; DROP TABLE pins; --", "t/\\", "t/$1", "t/é\n"])
async def test_names_are_quoted(postgres: str, owner: str) -> None:
    store = await PostgresStore.open(postgres)
    key = ContextKey(owner, owner)
    assert (await store.submit(key, message("m"), None)).created
    assert [record.key for record in (await store.list_contexts(owner, None, 10))[0]] == [key]
    assert await store.delete_context(key)
    await store.close()


# ---- roles


async def test_an_ordinary_role_owns_its_tables_and_is_bound_all_the_same() -> None:
    name = await new_database()
    async with administrator(name) as admin:
        await admin.execute("DROP ROLE IF EXISTS plain; CREATE ROLE plain LOGIN")
        await admin.execute(f"ALTER DATABASE {name} OWNER TO plain; ALTER SCHEMA public OWNER TO plain")
    url = postgres_server().url_of(name, user="plain")
    _, role = await migrate_database(url, 5)
    assert role is None
    store = await PostgresStore.open(url)
    await fill(store)
    await store.close()
    database = await PostgresDatabase.open(url, Limits())
    assert await count(database, "", "events") == 0
    assert await count(database, "t/ann", "events") == 5
    await database.close()


async def test_a_role_that_was_granted_the_rights_works_and_is_bound(postgres: str) -> None:
    name = postgres.rpartition("/")[2]
    async with administrator(name) as admin:
        await admin.execute(f"DROP ROLE IF EXISTS guest; CREATE ROLE guest LOGIN; GRANT {ROLE} TO guest")
    database = await PostgresDatabase.open(postgres_server().url_of(name, user="guest"), Limits())
    assert await count(database, "", "events") == 0
    await database.close()


async def test_a_role_without_rights_is_told_what_to_do(postgres: str) -> None:
    name = postgres.rpartition("/")[2]
    async with administrator(name) as admin:
        await admin.execute("DROP ROLE IF EXISTS stranger; CREATE ROLE stranger LOGIN")
    with pytest.raises(StoreUrlError, match=f"no rights on Tidegate's tables: GRANT {ROLE} TO it"):
        await PostgresStore.open(postgres_server().url_of(name, user="stranger"))


async def test_a_role_that_passes_by_and_may_not_change_is_refused(postgres: str) -> None:
    name = postgres.rpartition("/")[2]
    async with administrator(name) as admin:
        await admin.execute("DROP ROLE IF EXISTS passing; CREATE ROLE passing LOGIN BYPASSRLS")
    with pytest.raises(StoreUrlError, match="connect as an ordinary role"):
        await PostgresStore.open(postgres_server().url_of(name, user="passing"))


async def test_a_role_that_passes_by_and_may_be_the_bound_one_is_bound(postgres: str) -> None:
    name = postgres.rpartition("/")[2]
    async with administrator(name) as admin:
        await admin.execute(f"DROP ROLE IF EXISTS lifted; CREATE ROLE lifted LOGIN BYPASSRLS; GRANT {ROLE} TO lifted")
    url = postgres_server().url_of(name, user="lifted")
    assert await migrate_database(url, 5) == ([], ROLE)
    database = await PostgresDatabase.open(url, Limits())
    assert await count(database, "", "contexts") == 0
    await database.close()
