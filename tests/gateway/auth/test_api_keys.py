from __future__ import annotations

import asyncio
import hashlib

import pytest
from msgspec.structs import replace

from gateway.auth.api_keys import ApiKeys, create_key
from gateway.auth.principal import Principal
from stores.records import KeyRecord


class Keys:
    """A KeyStore that counts the look-ups; `gate` holds them up."""

    def __init__(self) -> None:
        self.records: dict[bytes, KeyRecord] = {}
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def add_key(self, key: KeyRecord) -> None:
        self.records[key.digest] = key

    async def find_key(self, digest: bytes) -> KeyRecord | None:
        self.asked += 1
        record = self.records.get(digest)
        await self.gate.wait()
        return record

    async def list_keys(self) -> list[KeyRecord]:
        return list(self.records.values())

    async def revoke_key(self, id: str, now: float) -> bool:
        for digest, record in self.records.items():
            if record.id == id and record.revoked_at is None:
                self.records[digest] = replace(record, revoked_at=now)
                return True
        return False


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def keys() -> Keys:
    return Keys()


async def revoke_all(keys: Keys) -> None:
    for record in await keys.list_keys():
        assert await keys.revoke_key(record.id, 1.0)


async def test_a_key_is_its_principals_and_only_its_digest_is_kept(keys: Keys) -> None:
    key = await create_key(keys, "alice", tenant="acme", role="clerk", now=lambda: 5.0)
    prefix, key_id, secret = key.split("_")
    assert (prefix, len(secret)) == ("tg", 52)
    (record,) = await keys.list_keys()
    assert record.digest == hashlib.sha256(key.encode()).digest()
    assert (record.id, record.created_at, record.revoked_at) == (key_id, 5.0, None)
    assert secret not in repr(record)
    principal = await ApiKeys(keys).authenticate(key)
    assert principal == Principal(tenant="acme", subject="alice", roles=("clerk",))


async def test_a_key_without_a_role_has_no_roles_given(keys: Keys) -> None:
    principal = await ApiKeys(keys).authenticate(await create_key(keys, "bob"))
    assert principal == Principal(tenant="default", subject="bob", roles=None)


@pytest.mark.parametrize(("subject", "tenant", "role"), [("", "t", None), ("s", "", None), ("s", "t", "")])
async def test_empty_names_are_refused(keys: Keys, subject: str, tenant: str, role: str | None) -> None:
    with pytest.raises(ValueError, match="not empty"):
        await create_key(keys, subject, tenant, role)


async def test_wrong_keys_are_nobodys(keys: Keys) -> None:
    key = await create_key(keys, "alice")
    api_keys = ApiKeys(keys)
    for malformed in ("", "tg_", key[:-1], f"{key}\n", f" {key}", key.upper(), "ä\ud800"):
        assert await api_keys.authenticate(malformed) is None
    assert keys.asked == 0
    other = key[:-1] + ("a" if key[-1] != "a" else "b")
    assert await api_keys.authenticate(other) is None
    assert keys.asked == 1


async def test_a_store_that_compares_loosely_is_not_believed(keys: Keys) -> None:
    key = await create_key(keys, "alice")
    other = await create_key(keys, "bob")
    digest = hashlib.sha256(key.encode()).digest()
    keys.records[digest] = keys.records[hashlib.sha256(other.encode()).digest()]
    assert await ApiKeys(keys).authenticate(key) is None


async def test_a_key_is_remembered_and_its_revocation_seen_soon(keys: Keys) -> None:
    clock = Clock()
    key = await create_key(keys, "alice")
    api_keys = ApiKeys(keys, cache_seconds=2, clock=clock)
    assert await api_keys.authenticate(key)
    await revoke_all(keys)
    clock.now = 1.9
    assert await api_keys.authenticate(key)
    assert keys.asked == 1
    clock.now = 2
    assert await api_keys.authenticate(key) is None
    clock.now = 1
    assert await api_keys.authenticate(key) is None


async def test_an_answer_is_as_old_as_its_question(keys: Keys) -> None:
    clock = Clock()
    key = await create_key(keys, "alice")
    api_keys = ApiKeys(keys, cache_seconds=2, clock=clock)
    keys.gate.clear()
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        slow = group.create_task(api_keys.authenticate(key))
        await asyncio.sleep(0)
        assert keys.asked == 1
        clock.now = 10
        await revoke_all(keys)
        keys.gate.set()
        assert await slow
    assert await api_keys.authenticate(key) is None


async def test_no_more_than_the_bound_are_remembered(keys: Keys) -> None:
    api_keys = ApiKeys(keys, max_cached=2, clock=Clock())
    made = [await create_key(keys, name) for name in ("a", "b", "c")]
    for key in made:
        assert await api_keys.authenticate(key)
    assert keys.asked == 3
    assert await api_keys.authenticate(made[2])
    assert keys.asked == 3
    assert await api_keys.authenticate(made[0])
    assert keys.asked == 4
