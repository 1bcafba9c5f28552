from __future__ import annotations

from collections.abc import Sequence

import pytest

from gateway.resources.addresses import allowed, look_up, resolved
from gateway.resources.port import Refused, Unavailable

OWN = [
    "127.0.0.1",
    "127.8.8.8",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "100.127.255.255",
    "168.63.129.16",
    "192.0.0.170",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "240.0.0.1",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "fc00::1",
    "fd00:ec2::254",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::808:808",
    "64:ff9b:1::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
]
NOWHERE = ["0.0.0.0", "0.1.2.3", "255.255.255.255", "224.0.0.1", "239.255.255.250", "::", "ff02::1", "", "a", "1.2.3"]  # noqa: S104
PUBLIC = ["8.8.8.8", "1.1.1.1", "93.184.215.14", "2606:4700:4700::1111", "2a00:1450:4001:80e::200e"]


@pytest.mark.parametrize("address", OWN)
def test_addresses_of_ones_own_need_to_be_allowed(address: str) -> None:
    assert not allowed(address)
    assert allowed(address, private=True)


@pytest.mark.parametrize("address", NOWHERE)
def test_addresses_of_nobody_are_never_allowed(address: str) -> None:
    assert not allowed(address)
    assert not allowed(address, private=True)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    assert allowed(address)
    assert allowed(address, private=True)


@pytest.mark.parametrize("spelt", ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0x7f.1", "::1"])
async def test_whatever_an_address_is_spelt_like_the_system_knows_it(spelt: str) -> None:
    assert {address in ("127.0.0.1", "::1") for address in await look_up(spelt, 80)} == {True}
    with pytest.raises(Refused):
        await resolved(spelt, 80, look_up, private=False)


async def test_all_addresses_of_a_name_must_be_allowed() -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return {"good": PUBLIC, "bad": ["8.8.8.8", "10.0.0.1"], "none": []}[host]

    assert await resolved("good", 80, resolve, private=False) == PUBLIC
    assert await resolved("bad", 80, resolve, private=True) == ["8.8.8.8", "10.0.0.1"]
    with pytest.raises(Refused):
        await resolved("bad", 80, resolve, private=False)
    with pytest.raises(Unavailable):
        await resolved("none", 80, resolve, private=True)


async def test_a_name_that_is_not_known_is_unavailable() -> None:
    for name in ("nobody.invalid", "a" * 64, "x..y"):
        with pytest.raises(Unavailable):
            await resolved(name, 80, look_up, private=False)
