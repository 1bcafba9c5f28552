"""How fast an answer comes, and for how long."""

from __future__ import annotations

from msgspec import Struct

__all__ = ["Pace"]


class Pace(Struct, frozen=True, kw_only=True):
    """`rate` tokens a second, for `seconds`."""

    rate: float = 50.0
    seconds: float = 20.0

    @property
    def period(self) -> float:
        return 1 / self.rate

    @property
    def words(self) -> int:
        return max(1, round(self.rate * self.seconds))
