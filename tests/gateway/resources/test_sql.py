"""Queries over real databases: SQLite and Postgres."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from gateway.auth.principal import Principal
from gateway.resources.port import Invalid, NotFound, ResourceContent, TooLarge, Unavailable
from gateway.resources.postgres_queries import PostgresQueries
from gateway.resources.sql import Database, Query, SqlResources, check_query
from gateway.resources.sqlite_queries import SqliteQueries
from gateway.resources.uris import canonical
from tests.gateway.resources.shelf import ANN, BOB

MOST = 10_000
SETUP = """
CREATE TABLE orders (id INTEGER PRIMARY KEY, owner TEXT NOT NULL, tenant TEXT NOT NULL, amount REAL, note TEXT);
INSERT INTO orders VALUES (1, 'ann', 't', 1.5, 'größe'), (2, 'bob', 't', 2, NULL), (3, 'ann', 'u', 3, 'x');
"""
ENDLESS = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) AS n FROM n",
    "postgres": "SELECT pg_sleep(60)",
}
QUERIES = {
    "all": Query(sql="SELECT id, owner, amount, note FROM orders ORDER BY id", parameters={}, description="All"),
    "one": Query(sql="SELECT owner FROM orders WHERE id = :id", parameters={"id": "integer"}),
    "by": Query(
        sql="SELECT id FROM orders WHERE owner = :owner AND amount >= :least ORDER BY id;",
        parameters={"owner": "text", "least": "number"},
    ),
    "mine": Query(
        sql="SELECT id FROM orders WHERE owner = :principal_subject AND tenant = :principal_tenant",
        parameters={"principal_subject": "text", "principal_tenant": "text"},
    ),
    "odd": Query(sql="SELECT CASE WHEN :flag THEN 'yes' ELSE 'no' END AS flag", parameters={"flag": "boolean"}),
}
DIALECTS = pytest.mark.parametrize("shop", ["sqlite", "postgres"], indirect=True)


class Shop:
    """A database with its queries, and how to look into it beside them. `hasty` has little time for a query."""

    def __init__(self, dialect: str, opened: Callable[[float], Database], rows: Any) -> None:
        self.dialect = dialect
        self.database = opened(30)
        self.hasty = opened(0.3)
        self.rows = rows

    def provider(self, queries: dict[str, Query] | None = None, **options: Any) -> SqlResources:
        return SqlResources("shop", self.database, queries or QUERIES, **options)

    async def ask(self, sql: str, **options: Any) -> Any:
        provider = self.provider({"q": Query(sql=sql, parameters={})}, **options)
        return (await read(provider, "q"))["rows"]


@pytest.fixture
async def shop(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Shop]:
    if request.param == "sqlite":
        file = tmp_path / "shop 1?.db"
        with closing(sqlite3.connect(file)) as db:
            db.executescript(SETUP)

        async def count() -> int:
            with closing(sqlite3.connect(file)) as db:
                return db.execute("SELECT count(*) FROM orders").fetchone()[0]

        yield Shop("sqlite", lambda seconds: SqliteQueries(file, seconds), count)
        return
    from tests.servers.postgres import new_database, postgres_server

    url = postgres_server().url_of(await new_database())
    connection = await asyncpg.connect(url)
    await connection.execute(SETUP)

    async def count_there() -> int:
        return await connection.fetchval("SELECT count(*) FROM orders")

    shop = Shop("postgres", lambda seconds: PostgresQueries(url, seconds), count_there)
    yield shop
    await shop.database.close()
    await shop.hasty.close()
    await connection.close()


async def content(provider: SqlResources, path: str, who: Principal = ANN, most: int = MOST) -> ResourceContent:
    found = await provider.read(who, canonical(f"sql://shop/{path}"), etag=None, max_bytes=most)
    assert isinstance(found, ResourceContent)
    assert found.mime_type == "application/json"
    return found


async def read(provider: SqlResources, path: str, who: Principal = ANN, most: int = MOST) -> Any:
    return msgspec.json.decode((await content(provider, path, who, most)).data)


async def refused(asked: Awaitable[object], kind: type[Exception]) -> str:
    with pytest.raises(kind) as caught:
        await asked
    assert type(caught.value) is kind
    return str(caught.value)


@DIALECTS
async def test_rows_are_objects(shop: Shop) -> None:
    provider = shop.provider()
    assert await read(provider, "all") == {
        "rows": [
            {"id": 1, "owner": "ann", "amount": 1.5, "note": "größe"},
            {"id": 2, "owner": "bob", "amount": 2, "note": None},
            {"id": 3, "owner": "ann", "amount": 3, "note": "x"},
        ]
    }
    assert await read(provider, "one?id=2") == {"rows": [{"owner": "bob"}]}
    assert await read(provider, "one?id=99") == {"rows": []}
    assert await read(provider, "by?least=2&owner=ann") == {"rows": [{"id": 3}]}
    assert await read(provider, "odd?flag=TRUE") == {"rows": [{"flag": "yes"}]}
    assert await read(provider, "odd?flag=0") == {"rows": [{"flag": "no"}]}


@DIALECTS
async def test_parameters_are_bound(shop: Shop) -> None:
    provider = shop.provider()
    for evil in ("x' OR 'a'='a", "x'; DROP TABLE orders; --", ":least", "$1", "größe%00".replace("%00", "")):
        uri = canonical(f"sql://shop/by?least=0&owner={evil.replace(';', '%3B').replace('=', '%3D')}")
        found = await provider.read(ANN, uri, etag=None, max_bytes=MOST)
        assert isinstance(found, ResourceContent)
        assert found.text == '{"rows":[]}'
    assert await shop.rows() == 3


@pytest.mark.parametrize(
    "path",
    [
        "one",
        "one?id=x",
        "one?id=1.5",
        "one?id=1&id=2",
        "one?id=1&more=2",
        "one?id=9223372036854775808",
        "by?owner=ann",
        "by?owner=ann&least=nan",
        "by?owner=ann&least=inf",
        "by?owner=a%00b&least=1",
        "odd?flag=maybe",
        "all?id=1",
        "mine?principal_subject=bob",
        "mine?principal_subject=bob&principal_tenant=t",
    ],
)
@pytest.mark.parametrize("shop", ["sqlite"], indirect=True)
async def test_parameters_that_do_not_fit_are_refused(shop: Shop, path: str) -> None:
    await refused(read(shop.provider(), path), Invalid)


@DIALECTS
async def test_a_query_can_know_who_asks(shop: Shop) -> None:
    provider = shop.provider()
    other = Principal(tenant="u", subject="ann")
    for who, ids in ((ANN, [1]), (BOB, [2]), (other, [3])):
        found = await content(provider, "mine", who)
        assert [row["id"] for row in msgspec.json.decode(found.data)["rows"]] == ids
        assert found.private
    assert provider.private("sql://shop/mine")
    assert not provider.private("sql://shop/all")
    assert not provider.private(None)
    assert not (await content(provider, "all")).private


@DIALECTS
async def test_nothing_can_be_written(shop: Shop) -> None:
    attempts = {
        "sqlite": (
            "DELETE FROM orders",
            "DELETE FROM orders RETURNING id",
            "INSERT INTO orders VALUES (9, 'a', 't', 1, '')",
            "PRAGMA user_version = 7",
            "PRAGMA query_only = OFF",
            "UPDATE sqlite_master SET sql = ''",
            "ATTACH 'other.db' AS other",
            "VACUUM INTO 'other.db'",
            "CREATE TEMP TABLE t (a)",
            "SELECT load_extension('x')",
            "SELECT 1; DELETE FROM orders",
            "BEGIN",
        ),
        "postgres": (
            "DELETE FROM orders",
            "DELETE FROM orders RETURNING id",
            "WITH gone AS (DELETE FROM orders RETURNING id) SELECT * FROM gone",
            "SELECT 1) AS q) AS r; DELETE FROM orders; --",
            "SELECT setval('orders_id_seq', 1)",
            "SELECT 1; DELETE FROM orders",
            "COMMIT",
            "SELECT lo_create(0)",
        ),
    }
    for sql in attempts[shop.dialect]:
        await refused(shop.ask(sql), Unavailable)
    assert await shop.rows() == 3


@DIALECTS
async def test_an_answer_has_bounds(shop: Shop) -> None:
    provider = shop.provider(max_rows=2)
    found = await read(provider, "all")
    assert [row["id"] for row in found["rows"]] == [1, 2]
    assert found["more"] is True
    assert "more" not in await read(shop.provider(max_rows=3), "all")
    assert "50 bytes that are allowed" in await refused(read(shop.provider(), "all", most=50), TooLarge)
    many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"
    await refused(shop.ask(many, max_rows=10**9), TooLarge)
    assert len(await shop.ask(many, max_rows=100)) == 100
    wide = {"sqlite": "SELECT hex(zeroblob(50000000)) AS x", "postgres": "SELECT repeat('x', 50000000) AS x"}
    await refused(shop.ask(wide[shop.dialect]), TooLarge)


@DIALECTS
async def test_a_query_has_its_time(shop: Shop) -> None:
    hasty = SqlResources("shop", shop.hasty, {"q": Query(sql=ENDLESS[shop.dialect], parameters={})})
    assert "within 0.3 s" in await refused(read(hasty, "q"), Unavailable)
    assert await shop.ask("SELECT 1 AS one") == [{"one": 1}]


@DIALECTS
async def test_a_query_that_is_given_up_ends(shop: Shop) -> None:
    asked = [asyncio.create_task(shop.ask(ENDLESS[shop.dialect])) for _ in range(4)]
    done, _ = await asyncio.wait(asked, timeout=0.1)
    assert not done
    for one in asked:
        one.cancel()
    await asyncio.wait(asked)
    # All places are free again, before those queries would have ended by themselves.
    began = time.monotonic()
    assert await asyncio.gather(*(shop.ask("SELECT 1 AS one") for _ in range(4))) == [[{"one": 1}]] * 4
    assert time.monotonic() - began < 20


@DIALECTS
async def test_a_query_that_fails_says_nothing_of_the_database(shop: Shop) -> None:
    for sql in ("SELECT secret FROM orders", "SELEKT 1", "SELECT * FROM absent"):
        assert await refused(shop.ask(sql), Unavailable) == "The query failed."


@DIALECTS
async def test_values_that_json_has_no_word_for(shop: Shop) -> None:
    sql = {
        "sqlite": "SELECT x'00ff' AS blob, 1e999 AS big, CAST(x'ff' AS TEXT) AS text",
        "postgres": "SELECT '\\x00ff'::bytea AS blob, 'Infinity'::float AS big, '2026-03-01'::date AS day, 1.10 AS n",
    }
    expected = {
        "sqlite": {"blob": "AP8=", "big": "inf", "text": "\ufffd"},
        "postgres": {"blob": "\\x00ff", "big": "Infinity", "day": "2026-03-01", "n": 1.1},
    }
    assert await shop.ask(sql[shop.dialect]) == [expected[shop.dialect]]


@pytest.mark.parametrize("shop", ["sqlite"], indirect=True)
async def test_what_is_listed_and_covered(shop: Shop) -> None:
    provider = shop.provider(ttl=5)
    assert [(info.uri, info.name, info.description) for info in await provider.list(ANN)] == [
        ("sql://shop/all", "all", "All"),
        ("sql://shop/mine", "mine", None),
    ]
    assert [template.uri_template for template in await provider.templates(ANN)] == [
        "sql://shop/one{?id}",
        "sql://shop/by{?owner,least}",
        "sql://shop/odd{?flag}",
    ]
    assert await provider.covers(ANN, "sql://shop/one?id=1")
    for uri in ("sql://shop/none", "sql://shop/", "sql://shop", "sql://other/one", "sql://shop/one/two"):
        assert not await provider.covers(ANN, uri)
    await refused(read(provider, "none"), NotFound)
    assert (await content(provider, "all")).ttl == 5


async def test_full_text_search_works(tmp_path: Path) -> None:
    file = tmp_path / "search.db"
    with closing(sqlite3.connect(file)) as db:
        db.executescript(
            "CREATE VIRTUAL TABLE pages USING fts5(body); INSERT INTO pages VALUES ('the tide'), ('gate');"
        )
    query = Query(sql="SELECT body FROM pages WHERE pages MATCH :words", parameters={"words": "text"})
    provider = SqlResources("shop", SqliteQueries(file), {"q": query})
    assert await read(provider, "q?words=tide") == {"rows": [{"body": "the tide"}]}


async def test_a_database_that_is_not_there(tmp_path: Path) -> None:
    queries = {"q": Query(sql="SELECT 1", parameters={})}
    file = tmp_path / "absent.db"
    await refused(read(SqlResources("shop", SqliteQueries(file), queries), "q"), Unavailable)
    assert not file.exists()
    for url in ("postgresql://127.0.0.1:1/x", "postgresql://127.0.0.1:none/x"):
        away = SqlResources("shop", PostgresQueries(url), queries)
        await refused(read(away, "q"), Unavailable)
        await away.close()


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        (Query(sql="SELECT :a", parameters={}), "has a parameter :a"),
        (Query(sql="SELECT 1", parameters={"a": "text"}), "parameter a is not in the query"),
        (
            Query(sql="SELECT :principal_tenant", parameters={"principal_tenant": "integer"}),
            "principal_tenant is a text",
        ),
    ],
)
def test_a_query_and_its_parameters_belong_together(query: Query, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check_query(query)
    check_query(Query(sql="SELECT :a", parameters={"a": "text"}))
