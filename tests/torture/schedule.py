"""When which fault is injected: a function of the seed. Pure."""

from __future__ import annotations

import random

from msgspec import Struct

__all__ = ["MEAN_SECONDS", "Fault", "plan"]

MEAN_SECONDS = 1.4

# Those of clients and of instances apply to one instance over SQLite too.
_CLIENTS = {"client cut": 200, "door cut": 110, "client pause": 80, "door slow": 70}
_INSTANCES = {"kill": 75, "freeze": 70, "stall": 80, "rolling restart": 10}
_SERVERS = {
    "redis reply cut": 110,
    "redis silent": 35,
    "redis slow": 40,
    "redis restart": 28,
    "redis wiped": 22,
    "redis rolled back": 22,
    "postgres reply cut": 50,
    "postgres silent": 15,
    "postgres restart": 14,
    "postgres crash": 14,
}


class Fault(Struct, frozen=True):
    """`at` seconds after the start; `number` picks whom it strikes, `seconds` how long it lasts, where it lasts, and
    `amount` how much of whatever it is, from 0 to 1."""

    at: float
    kind: str
    number: int
    seconds: float
    amount: float


def plan(seed: int, seconds: float, *, cluster: bool) -> list[Fault]:
    """The faults of so many seconds, in order."""
    rng = random.Random(f"faults/{seed}")  # noqa: S311 - no secret
    weights = _CLIENTS | _INSTANCES | (_SERVERS if cluster else {})
    faults: list[Fault] = []
    at = rng.expovariate(1 / MEAN_SECONDS)
    while at < seconds:
        (kind,) = rng.choices(list(weights), list(weights.values()))
        faults.append(Fault(round(at, 3), kind, rng.randrange(1 << 30), _lasting(kind, rng), rng.random()))
        at += rng.expovariate(1 / MEAN_SECONDS)
    return faults


def _lasting(kind: str, rng: random.Random) -> float:
    low, high = {
        "client pause": (1.0, 20.0),
        "door slow": (2.0, 10.0),
        "kill": (0.1, 4.0),
        "freeze": (1.0, 15.0),
        "stall": (0.3, 8.0),
        "redis silent": (5.0, 20.0),
        "redis slow": (2.0, 10.0),
        "redis restart": (0.0, 3.0),
        "redis wiped": (0.0, 3.0),
        "redis rolled back": (1.0, 6.0),
        "postgres silent": (3.0, 12.0),
        "postgres restart": (0.0, 2.0),
        "postgres crash": (0.0, 2.0),
    }.get(kind, (0.0, 0.0))
    return round(rng.uniform(low, high), 3)
