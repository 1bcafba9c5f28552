"""The contract of SecretStore (stores/ports), over every adapter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from stores.ports import SecretStore
from stores.records import SecretRecord
from tests.stores.context_stores import Clock, open_mixed, open_postgres, open_sharded, open_sqlite

ANN, BOB = "t/ann", "t/bob"


@pytest.fixture(
    params=[open_sqlite, open_sharded, open_postgres, open_mixed], ids=["sqlite", "sharded", "postgres", "mixed"]
)
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncGenerator[SecretStore]:
    async with request.param(tmp_path, clock) as opened:
        yield opened


async def put(store: SecretStore, owner: str, name: str, value: bytes, expected: int | None = None) -> int:
    version = await store.put_secret(owner, name, value, expected)
    assert version is not None
    return version


async def test_what_was_put_is_there_with_its_version(store: SecretStore) -> None:
    assert await store.get_secret(ANN, "a") is None
    version = await put(store, ANN, "a", b"\x00\xff")
    assert await store.get_secret(ANN, "a") == SecretRecord("a", b"\x00\xff", version)


async def test_a_value_is_replaced_by_who_knows_its_version(store: SecretStore) -> None:
    first = await put(store, ANN, "a", b"1")
    second = await put(store, ANN, "a", b"2", first)
    assert second != first
    assert await store.put_secret(ANN, "a", b"3", first) is None
    assert await store.put_secret(ANN, "a", b"3", None) is None
    assert await store.put_secret(ANN, "b", b"3", second) is None
    assert await store.get_secret(ANN, "a") == SecretRecord("a", b"2", second)


async def test_of_many_who_replace_a_value_one_succeeds(store: SecretStore) -> None:
    made = await asyncio.gather(*(store.put_secret(ANN, "a", b"%d" % number, None) for number in range(10)))
    (first,) = [version for version in made if version is not None]
    replaced = await asyncio.gather(*(store.put_secret(ANN, "a", b"%d" % number, first) for number in range(10, 20)))
    ((winner, version),) = [(number, version) for number, version in enumerate(replaced, 10) if version is not None]
    assert await store.get_secret(ANN, "a") == SecretRecord("a", b"%d" % winner, version)


async def test_a_value_that_was_deleted_and_put_again_is_another(store: SecretStore) -> None:
    old = await put(store, ANN, "a", b"1")
    assert await store.delete_secret(ANN, "a")
    assert not await store.delete_secret(ANN, "a")
    assert await store.put_secret(ANN, "a", b"late", old) is None
    assert await store.get_secret(ANN, "a") is None
    new = await put(store, ANN, "a", b"1")
    assert new != old
    assert await store.put_secret(ANN, "a", b"late", old) is None


async def test_owners_do_not_meet(store: SecretStore) -> None:
    version = await put(store, ANN, "a", b"ann's")
    await put(store, BOB, "a", b"bob's")
    assert await store.put_secret(BOB, "a", b"x", version) is None
    await store.delete_secret(BOB, "a")
    assert [record.value for record in await store.secrets_of(ANN)] == [b"ann's"]
    assert await store.secrets_of(BOB) == []


async def test_all_of_an_owner_is_listed_by_name_and_deleted_with_it(store: SecretStore) -> None:
    for name in ("b", "c", "a"):
        await put(store, ANN, name, name.encode())
    await put(store, BOB, "d", b"d")
    assert [record.name for record in await store.secrets_of(ANN)] == ["a", "b", "c"]
    assert await store.delete_secrets(ANN) == 3
    assert await store.delete_secrets(ANN) == 0
    assert await store.secrets_of(ANN) == []
    assert [record.name for record in await store.secrets_of(BOB)] == ["d"]


@pytest.mark.parametrize("name", ["o'brien", "%", "a/b:c", "é\n", 'odd"'])
async def test_names_are_taken_as_they_are(store: SecretStore, name: str) -> None:
    await put(store, ANN, name, b"")
    assert [record.name for record in await store.secrets_of(ANN)] == [name]
    assert await store.get_secret(ANN, f"{name}2") is None
    assert await store.delete_secret(ANN, name)
