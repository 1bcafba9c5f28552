from __future__ import annotations

import pytest

from gateway.auth.principal import Principal
from gateway.auth.tickets import Tickets
from protocol.errors import ProtocolError

ALICE = Principal(tenant="acme", subject="alice", roles=("clerk",), expires_at=100.0)


class Values:
    """A Cache that can be full; it remembers the times to live."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.ttls: list[float] = []
        self.full = False

    async def get(self, key: str) -> bytes | None:
        return self.values.get(key)

    async def set(self, key: str, value: bytes, ttl: float) -> None:
        self.values[key] = value

    async def add(self, key: str, value: bytes, ttl: float) -> bool:
        self.ttls.append(ttl)
        if not self.full:
            self.values[key] = value
        return not self.full

    async def take(self, key: str) -> bytes | None:
        return self.values.pop(key, None)


async def test_a_ticket_is_good_once() -> None:
    cache = Values()
    tickets = Tickets(cache, now=lambda: 50.0)
    ticket = await tickets.issue(ALICE)
    assert cache.ttls == [30]
    assert ticket not in repr(cache.values)
    assert await tickets.redeem(ticket) == ALICE
    assert await tickets.redeem(ticket) is None


async def test_another_instance_takes_it_too() -> None:
    cache = Values()
    ticket = await Tickets(cache).issue(Principal(tenant="t", subject="s"), ttl=3_600)
    assert cache.ttls == [3_600]
    assert await Tickets(cache).redeem(ticket) == Principal(tenant="t", subject="s")


@pytest.mark.parametrize("ticket", ["", "unheard-of", "x" * 1_000, "ä", "\ud800"])
async def test_what_is_no_ticket(ticket: str) -> None:
    assert await Tickets(Values()).redeem(ticket) is None


async def test_a_ticket_does_not_outlive_its_principal() -> None:
    tickets = Tickets(Values(), now=lambda: 100.0)
    assert await tickets.redeem(await tickets.issue(ALICE)) is None


async def test_no_ticket_where_the_cache_takes_none() -> None:
    cache = Values()
    cache.full = True
    with pytest.raises(ProtocolError) as caught:
        await Tickets(cache).issue(ALICE)
    assert caught.value.code == "unavailable"
