"""What only the Postgres store does: URLs, migrations, connections that are lost, servers that go away."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import msgspec
import pytest

from gateway.servers.postgres import PostgresServer, run_postgres
from stores.ports import NotFound, StoreError, Unavailable
from stores.postgres import Limits, PostgresStore
from stores.postgres_database import EVERYTHING, Connection, PostgresDatabase
from stores.postgres_migrate import ROLE, migrate_database
from stores.records import ContextKey
from stores.store_url import StoreUrlError
from tests.servers.postgres import administrator, new_database, postgres_server
from tests.servers.proxy import FaultyProxy, faulty_proxy
from tests.stores.context_stores import end, epoch_of, message, response, running, tool_call, turn

MIGRATIONS = Path(__file__).parents[2] / "stores" / "migrations" / "postgres"
NAMES = sorted(script.stem for script in MIGRATIONS.glob("*.sql"))
KEY = ContextKey("t/ann", "conv")
IMPATIENT = Limits(max_size=2, connect=0.5, acquire=0.5, lock=0.2, statement=0.3)


@asynccontextmanager
async def opened(url: str, limits: Limits | None = None) -> AsyncGenerator[PostgresStore]:
    store = await PostgresStore.open(url, limits=limits)
    try:
        yield store
    finally:
        await store.close()


# ---- URLs


@pytest.mark.parametrize(
    "url",
    ["postgresql://u:secret@h:port/d", "mysql://u:secret@h/d", "postgresql://u:secret@h/d?sslmode=nonsense"],
)
async def test_a_url_that_is_none_is_refused_without_being_told(url: str) -> None:
    with pytest.raises(StoreUrlError, match="expected postgresql://") as refused:
        await PostgresStore.open(url)
    assert "secret" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


async def test_a_database_or_role_that_is_not_there_is_named() -> None:
    server = postgres_server()
    with pytest.raises(StoreUrlError, match='database "nowhere" does not exist'):
        await PostgresStore.open(server.url_of("nowhere"))
    with pytest.raises(StoreUrlError, match='role "nobody" does not exist'):
        await PostgresStore.open(server.url_of("postgres", user="nobody"))


async def test_a_server_that_is_away_is_unavailable() -> None:
    async with faulty_proxy(("127.0.0.1", 1)) as proxy:
        with pytest.raises(Unavailable) as unavailable:
            await PostgresStore.open(f"postgresql://tidegate@127.0.0.1:{proxy.port}/postgres")
    assert unavailable.value.__cause__ is not None


# ---- migrations


async def test_a_database_is_brought_up_to_date_once() -> None:
    url = postgres_server().url_of(await new_database())
    assert await migrate_database(url, 5) == (NAMES, ROLE)
    assert await migrate_database(url, 5) == ([], ROLE)


async def test_of_four_that_migrate_at_once_each_migration_is_applied_by_one() -> None:
    url = postgres_server().url_of(await new_database())
    applied = await asyncio.gather(*(migrate_database(url, 5) for _ in range(4)))
    assert sorted(name for names, _ in applied for name in names) == NAMES


async def test_four_stores_that_are_opened_at_once_on_an_empty_database() -> None:
    url = postgres_server().url_of(await new_database())
    stores = await asyncio.gather(*(PostgresStore.open(url) for _ in range(4)))
    answers = await asyncio.gather(*(store.submit(KEY, message("m"), None) for store in stores))
    assert sorted(answer.created for answer in answers) == [False, False, False, True]
    await asyncio.gather(*(store.close() for store in stores))


async def test_a_migration_locks_one_table_that_is_in_use_at_most() -> None:
    """Instances of the version before go on meanwhile: of two tables, one would be waited for by whoever waits for the
    other."""
    roots = (
        "SELECT oid FROM pg_class WHERE relkind IN ('r', 'p') AND NOT relispartition AND relname <> 'schema_migrations'"
    )
    locked = (
        "SELECT DISTINCT relation::regclass::text FROM pg_locks WHERE pid = pg_backend_pid()"
        " AND relation = ANY($1::oid[])"
        " AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')"
    )
    async with administrator(await new_database()) as admin:
        for name in NAMES:
            async with admin.transaction():
                before = [row["oid"] for row in await admin.fetch(roots + " AND relnamespace = 'public'::regnamespace")]
                await admin.execute((MIGRATIONS / f"{name}.sql").read_text())
                assert len(await admin.fetch(locked, before)) <= 1, name


async def test_what_a_version_without_deadlines_parks_has_its_deadline_made_out() -> None:
    url = postgres_server().url_of(name := await new_database())
    async with opened(url) as store:
        await running(store, KEY)
        async with administrator(name) as admin:
            await admin.execute("UPDATE turns SET state = 'parked', runner = NULL")
        assert [turn.id for turn in await store.turns_to_run(None, 10)] == ["a"]


async def test_a_database_of_a_newer_version_is_left_alone() -> None:
    name = await new_database()
    url = postgres_server().url_of(name)
    await migrate_database(url, 5)
    async with administrator(name) as admin:
        await admin.execute("INSERT INTO schema_migrations (number, name, digest) VALUES (999, 'later', '')")
    with pytest.raises(StoreUrlError, match="newer version"):
        await PostgresStore.open(url)


async def test_a_database_that_was_migrated_otherwise_is_left_alone() -> None:
    name = await new_database()
    url = postgres_server().url_of(name)
    await migrate_database(url, 5)
    async with administrator(name) as admin:
        await admin.execute("UPDATE schema_migrations SET digest = 'other' WHERE number = 1")
    with pytest.raises(StoreUrlError, match=f"another migration {NAMES[0]}"):
        await PostgresStore.open(url)


async def test_a_table_of_somebody_elses_is_left_alone() -> None:
    name = await new_database()
    async with administrator(name) as admin:
        await admin.execute("CREATE TABLE sessions (mine text)")
    with pytest.raises(StoreUrlError, match='"sessions" already exists'):
        await PostgresStore.open(postgres_server().url_of(name))
    async with administrator(name) as admin:
        assert await admin.fetchval("SELECT to_regclass('contexts')") is None, "all of a migration or nothing"


async def test_a_schema_of_its_own_may_be_named() -> None:
    name = await new_database()
    async with administrator(name) as admin:
        await admin.execute("CREATE SCHEMA chat")
    async with opened(f"{postgres_server().url_of(name)}?search_path=chat") as store:
        await store.create_context(KEY, None, None)
    async with administrator(name) as admin:
        assert await admin.fetchval("SELECT count(*) FROM chat.contexts") == 1


# ---- connections


@asynccontextmanager
async def through_a_proxy(url: str, limits: Limits | None = None) -> AsyncGenerator[tuple[PostgresStore, FaultyProxy]]:
    async with (
        faulty_proxy(("127.0.0.1", postgres_server().port)) as proxy,
        opened(url.replace(f":{postgres_server().port}/", f":{proxy.port}/"), limits) as store,
    ):
        yield store, proxy


async def test_a_connection_that_was_cut_between_two_calls_is_replaced(postgres: str) -> None:
    async with through_a_proxy(postgres) as (store, proxy):
        await store.check()
        proxy.cut()
        await store.check()


async def test_a_closed_store_is_unavailable(postgres: str) -> None:
    store = await PostgresStore.open(postgres)
    await store.close()
    await store.close()
    with pytest.raises(Unavailable, match="closed"):
        await store.check()


async def test_a_reply_that_is_cut_anywhere_leaves_all_or_nothing(postgres: str) -> None:
    """The commit's reply among them: it is done then, and doing it again changes nothing."""
    async with opened(postgres) as direct, through_a_proxy(postgres, IMPATIENT) as (store, proxy):
        outcomes: set[tuple[bool, bool]] = set()
        await store.submit(KEY, message("warm", "warm"), turn("warm"))
        for budget in range(1, 400, 7):
            id = f"m{budget}"
            await store.check()
            proxy.budget = budget
            try:
                await store.submit(KEY, message(id, id), turn(id), "queue", 1000)
                answered = True
            except Unavailable:
                answered = False
            proxy.budget = None
            stored = await direct.find_event(KEY, id) is not None
            assert stored is (await direct.load_turn(KEY, id) is not None)
            again = await store.submit(KEY, message(id, id), turn(id), "queue", 1000)
            assert (again.duplicate, again.turn_id) == (stored, id)
            outcomes.add((answered, stored))
        assert outcomes == {(True, True), (False, True), (False, False)}


async def test_a_server_that_is_silent_is_unavailable_in_time_and_then_is_not(postgres: str) -> None:
    async with through_a_proxy(postgres, IMPATIENT) as (store, proxy):
        await store.check()
        proxy.silent = True
        async with asyncio.timeout(5):
            with pytest.raises(Unavailable, match="in time"):
                await store.submit(KEY, message("m"), None)
        proxy.silent = False
        assert (await store.submit(KEY, message("m"), None)).created


async def test_one_call_finds_out_for_all_connections_that_their_server_is_silent(postgres: str) -> None:
    query = "SELECT pid FROM pg_stat_activity WHERE datname = $1 AND application_name = 'tidegate'"
    name = postgres.rpartition("/")[2]
    async with through_a_proxy(postgres, IMPATIENT) as (store, proxy), administrator() as admin:
        await asyncio.gather(store.check(), store.check())
        before = {row["pid"] for row in await admin.fetch(query, name)}
        assert len(before) == 2
        proxy.silent = True
        with pytest.raises(Unavailable, match="in time"):
            await store.check()
        proxy.silent = False
        await asyncio.gather(store.check(), store.check())
        async with asyncio.timeout(5):
            while before & {row["pid"] for row in await admin.fetch(query, name)}:
                pass
        await store.check()


async def test_a_long_message_is_stored_while_all_threads_of_the_loop_wait(postgres: str) -> None:
    async with opened(postgres, Limits(max_size=1, idle=0.5)) as store:
        over = threading.Event()
        loop = asyncio.get_running_loop()
        waiting = [loop.run_in_executor(None, over.wait) for _ in range(64)]
        try:
            async with asyncio.timeout(5):
                await store.submit(KEY, msgspec.structs.replace(message("m"), text="word " * 2000), None)
        finally:
            over.set()
            await asyncio.gather(*waiting)


async def test_a_connection_that_is_lost_says_so_and_takes_no_cancellation_away(postgres: str) -> None:
    async with through_a_proxy(postgres) as (store, proxy):
        database = store._database  # pyright: ignore[reportPrivateUsage]
        begun = asyncio.Event()

        async def wait(_: Connection) -> None:
            begun.set()
            await asyncio.Event().wait()

        async def sleep(db: Connection) -> None:
            begun.set()
            await db.execute("SELECT pg_sleep(60)")

        lost = asyncio.create_task(database.write(EVERYTHING, sleep))
        await begun.wait()
        proxy.cut()
        with pytest.raises(Unavailable, match=r"connection was closed|reset"):
            await lost
        begun.clear()
        call = asyncio.create_task(database.write(EVERYTHING, wait))
        await begun.wait()
        pool = database._pool  # pyright: ignore[reportPrivateUsage]
        proxy.cut()
        async with asyncio.timeout(5):
            while pool.get_idle_size() < pool.get_size():
                await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_who_waits_too_long_for_a_context_or_a_connection_is_told(postgres: str) -> None:
    async with opened(postgres, IMPATIENT) as store:
        await store.create_context(KEY, None, None)
        other = await asyncpg.connect(postgres)
        await other.execute("BEGIN; SELECT FROM contexts FOR UPDATE")
        waiting = [store.submit(KEY, message(f"m{n}"), None) for n in range(8)]
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert {type(answer) for answer in answers} == {Unavailable}
        await other.close()
        assert await store.unsequenced(KEY) == []
        await store.submit(KEY, message("m"), None)


async def test_a_caller_that_gave_up_harms_nobody(postgres: str) -> None:
    async with opened(postgres, Limits(max_size=2)) as store:
        for number in range(20):
            gone = asyncio.create_task(store.submit(KEY, message(f"gone{number}", "t"), turn(f"gone{number}")))
            for _ in range(number):
                await asyncio.sleep(0)
            gone.cancel()
            await asyncio.wait((gone,))
            await store.submit(KEY, message(f"m{number}"), None)
        kept = {row.id for row, _ in await store.unsequenced(KEY)}
        assert kept >= {f"m{number}" for number in range(20)}


async def test_too_many_connections_are_unavailable(postgres: str) -> None:
    name = postgres.rpartition("/")[2]
    async with opened(postgres, Limits(max_size=1)) as store, administrator() as admin:
        await store.create_context(KEY, None, None)
        await admin.execute("DROP ROLE IF EXISTS few; CREATE ROLE few LOGIN CONNECTION LIMIT 1")
        await admin.execute(f"GRANT {ROLE} TO few")
        first = await asyncpg.connect(postgres_server().url_of(name, user="few"))
        with pytest.raises(Unavailable, match="too many connections"):
            await PostgresStore.open(postgres_server().url_of(name, user="few"))
        await first.close()


async def test_a_database_that_only_reads_is_unavailable_to_writers(postgres: str) -> None:
    """As after a failover that left the instance with what is no primary any more."""
    name = postgres.rpartition("/")[2]
    async with administrator() as admin:
        await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        try:
            async with opened(postgres) as store:
                with pytest.raises(Unavailable, match="read-only"):
                    await store.create_context(KEY, None, None)
                with pytest.raises(Unavailable, match="only reads"):
                    await store.check()
                assert await store.get_context(KEY) is None
        finally:
            await admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")


async def test_of_two_that_wait_for_each_other_both_are_done(postgres: str) -> None:
    database = await PostgresDatabase.open(postgres, Limits())
    ready = asyncio.Barrier(2)
    tries = 0

    async def lock(db: Connection, first: int, second: int) -> None:
        nonlocal tries
        tries += 1
        await db.execute("SELECT pg_advisory_xact_lock($1)", first)
        if tries <= 2:
            await ready.wait()
        await db.execute("SELECT pg_advisory_xact_lock($1)", second)

    await asyncio.gather(
        database.write(EVERYTHING, lambda db: lock(db, 1, 2)), database.write(EVERYTHING, lambda db: lock(db, 2, 1))
    )
    assert tries == 3
    await database.close()


async def test_a_failure_that_was_passed_over_is_no_success(postgres: str) -> None:
    database = await PostgresDatabase.open(postgres, Limits())

    async def work(db: Connection) -> None:
        with suppress(asyncpg.DivisionByZeroError):
            await db.execute("SELECT 1 / 0")

    with pytest.raises(RuntimeError, match="passed over"):
        await database.write(EVERYTHING, work)
    await database.close()


async def test_a_name_with_a_nul_is_nothings(postgres: str) -> None:
    key = ContextKey("t/ann", "a\0b")
    async with opened(postgres) as store:
        assert await store.get_context(key) is None
        for asked in (store.history(key, None, 10), store.submit(key, message("m"), None), store.delete_context(key)):
            with pytest.raises(NotFound):
                await asked
        await store.create_context(KEY, "a\0b", None)
        record = await store.get_context(KEY)
        assert record is not None
        assert record.title == "a\ufffdb"


# ---- a server that is restarted


async def test_what_was_acknowledged_outlives_a_crash_and_the_store_goes_on() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with run_postgres(Path(folder) / "data") as server:
            async with opened(server.url, Limits(connect=1)) as store:
                await _across_a_restart(store, server)


async def _across_a_restart(store: PostgresStore, server: PostgresServer) -> None:
    stored: set[str] = set()
    away = asyncio.Event()

    async def writing(name: str) -> None:
        number = 0
        while not away.is_set():
            try:
                await store.submit(ContextKey("t/ann", name), message(f"{name}{number}"), None)
            except Unavailable:
                away.set()
            else:
                stored.add(f"{name}{number}")
                number += 1
                if number == 20 and name == "a":
                    server.kill()

    async with asyncio.timeout(30):
        await asyncio.gather(*map(writing, "abcd"))
    with pytest.raises(Unavailable):
        await store.check()
    with pytest.raises(Unavailable):
        await store.submit(KEY, message("m"), None)
    await asyncio.to_thread(server.start)
    await store.check()
    await store.submit(KEY, message("m"), None)
    kept = {row.id for name in "abcd" for row, _ in await store.unsequenced(ContextKey("t/ann", name))}
    assert kept >= stored
    assert len(stored) > 20


# ---- epochs


async def test_an_epoch_that_was_raised_a_thousand_times_is_not_met_again(postgres: str) -> None:
    async with opened(postgres) as store, administrator(postgres.rpartition("/")[2]) as admin:
        await store.create_context(KEY, None, None)
        for raised in (1023, 1024, 5000):
            await admin.execute("UPDATE contexts SET epoch = epoch + $1", raised)
            highest = await epoch_of(store, KEY)
            await store.delete_context(KEY)
            await store.create_context(KEY, None, None)
            assert await epoch_of(store, KEY) > highest


async def test_a_deleted_context_leaves_no_row(postgres: str) -> None:
    async with opened(postgres) as store, administrator(postgres.rpartition("/")[2]) as admin:
        claimed = await running(store, KEY)
        call = tool_call("c", "a", draft=b"{}")
        await store.write(KEY, "a", claimed.fence, [call, response("r", "c", "a")])
        await store.cancel(KEY, "x", "a", None)
        await store.end_turn(KEY, "a", claimed.fence, [end("a")], 1 << 62)
        assert await store.delete_context(KEY)
        tables = await admin.fetch(
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relname !~ '^(pg|sql)_'"
        )
        for (table,) in tables:
            if table != "schema_migrations":
                assert await admin.fetchval(f"SELECT count(*) FROM {table}") == 0, table  # noqa: S608


async def test_an_error_of_ours_is_no_matter_of_the_moment(postgres: str) -> None:
    async with opened(postgres) as store:
        await store.submit(KEY, message("m1"), None)
        await store.submit(KEY, message("m2"), None)
        with pytest.raises(asyncpg.UniqueViolationError) as raised:
            await store.record(KEY, await epoch_of(store, KEY), {"m1": 5, "m2": 5})
        assert not isinstance(raised.value, StoreError)
        assert [row.seq for row, _ in await store.unsequenced(KEY)] == [None, None], "nothing of it was stored"
