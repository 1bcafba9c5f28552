"""Which network addresses a reading may go to (RFC 6890): none of this machine's, of its networks, or of nobody's."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

from gateway.resources.port import Refused, Unavailable

__all__ = ["Resolve", "allowed", "look_up", "resolved"]

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host, as texts, in the order in which they are to be tried. Raises OSError."""

# What `ipaddress` calls global, or did in some version of Python, and what leads to private addresses all the same.
_BARRED: Final = tuple(
    ip_network(network)
    for network in (
        "100.64.0.0/10",  # behind a provider's address translation
        "168.63.129.16/32",  # the host of a virtual machine in Azure
        "192.0.0.0/24",
        "192.88.99.0/24",
        "::/96",  # IPv4, in forms that are obsolete
        "::ffff:0:0/96",  # IPv4 as IPv6
        "::ffff:0:0:0/96",
        "64:ff9b::/96",  # IPv4 behind NAT64
        "64:ff9b:1::/48",
        "2001::/32",  # Teredo
        "2002::/16",  # 6to4
        "fec0::/10",
    )
)
_NOWHERE: Final = (ip_network("0.0.0.0/8"), ip_network("255.255.255.255/32"), ip_network("::/128"))


def allowed(address: str, *, private: bool = False) -> bool:
    """Whether the address is one of the public internet; with `private` also one of this machine or its networks. What
    is no single machine's is never allowed."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if parsed.is_multicast or _within(parsed, _NOWHERE):
        return False
    return private or (parsed.is_global and not parsed.is_reserved and not _within(parsed, _BARRED))


async def look_up(host: str, port: int) -> list[str]:
    """`Resolve` of the system."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


async def resolved(host: str, port: int, resolve: Resolve, *, private: bool) -> list[str]:
    """The host's addresses. Raises Refused where any of them is not allowed, whichever would be tried first, and
    Unavailable where it has none."""
    try:
        addresses = await resolve(host.strip("[]"), port)
    except (OSError, UnicodeError) as error:
        raise Unavailable(f"The host {host} was not found.") from error
    if not addresses:
        raise Unavailable(f"The host {host} was not found.")
    if not all(allowed(address, private=private) for address in addresses):
        raise Refused(f"The host {host} is not on the public internet.")
    return list(addresses)


def _within(address: IPv4Address | IPv6Address, networks: Sequence[object]) -> bool:
    return any(address in network for network in networks)  # type: ignore[operator]
