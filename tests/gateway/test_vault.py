"""Sealed structs by owner and name (gateway/vault.py)."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from msgspec import Struct
from structlog.testing import capture_logs

from gateway.encryption import Sealer
from gateway.vault import Kept, Vault
from stores.sqlite import SqliteStore

OLD, NEW = secrets.token_bytes(32), secrets.token_bytes(32)


class Thing(Struct):
    text: str


class Other(Struct):
    number: int


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[SqliteStore]:
    opened = await SqliteStore.open(tmp_path / "store.db")
    yield opened
    await opened.close()


def vault(store: SqliteStore, *keys: bytes) -> Vault[Thing]:
    return Vault(store, Sealer(keys or (NEW,), "things"), Thing)


async def test_what_is_put_is_kept_sealed(store: SqliteStore) -> None:
    things = vault(store)
    assert await things.get("o", "n") is None
    version = await things.put("o", "n", Thing("zeppelin"), None)
    assert version is not None
    assert await things.get("o", "n") == Kept(Thing("zeppelin"), version)
    assert await things.put("o", "n", Thing("late"), None) is None
    record = await store.get_secret("o", "n")
    assert record is not None
    assert b"zeppelin" not in record.value
    assert await things.delete("o", "n")
    assert await things.get("o", "n") is None


async def test_what_an_older_key_sealed_is_sealed_anew(store: SqliteStore) -> None:
    old = await vault(store, OLD).put("o", "n", Thing("a"), None)
    kept = await vault(store, NEW, OLD).get("o", "n")
    assert kept is not None
    assert kept.version != old
    assert await vault(store, NEW).get("o", "n") == kept


async def test_what_does_not_open_can_be_replaced_and_tells_nothing(store: SqliteStore) -> None:
    await vault(store, OLD).put("o", "n", Thing("zeppelin"), None)
    things = vault(store, NEW)
    with capture_logs() as logs:
        kept = await things.get("o", "n")
        assert kept is not None
        assert kept.value is None
        assert await things.all("o") == {"n": None}
    assert logs[0]["why"] == "UnknownKey"
    assert await things.put("o", "n", Thing("b"), kept.version) is not None
    assert await things.all("o") == {"n": Thing("b")}


async def test_another_struct_is_none_of_these(store: SqliteStore) -> None:
    others = Vault(store, Sealer((NEW,), "things"), Other)
    await others.put("o", "n", Other(1234567), None)
    with capture_logs() as logs:
        assert await vault(store).all("o") == {"n": None}
    assert "1234567" not in str(logs)


async def test_a_row_of_another_owner_does_not_open(store: SqliteStore) -> None:
    await vault(store).put("o", "n", Thing("a"), None)
    record = await store.get_secret("o", "n")
    assert record is not None
    await store.put_secret("p", "n", record.value, None)
    with capture_logs():
        assert await vault(store).all("p") == {"n": None}
