"""What a store or log refuses."""

from __future__ import annotations

__all__ = [
    "AlreadyAnswered",
    "Busy",
    "EpochOver",
    "Fenced",
    "IdTaken",
    "NotFound",
    "StaleFence",
    "StoreError",
    "Unavailable",
    "Undecided",
]


class StoreError(Exception):
    """What a store refuses. Nothing of the refused call was stored."""


class Unavailable(StoreError):
    """The store or log can't take or answer the call now (locked, full, away). Trying again may help."""


class NotFound(StoreError):
    """No such context, turn or call in this owner's namespace."""


class IdTaken(StoreError):
    """The context has another kind of event under this id."""


class Busy(StoreError):
    """A turn runs or waits, and the message was not to wait."""


class AlreadyAnswered(StoreError):
    """The call has its answer, or its approval was decided: the first one counts."""


class Undecided(StoreError):
    """The call waits for a person, so nobody is to answer it yet."""


class Fenced(StoreError):
    """The turn was taken over: its fence is not the caller's any more, or its context is gone."""


class EpochOver(StoreError):
    """There is no log of that epoch (any more): learn the epoch anew."""


class StaleFence(StoreError):
    """The log has seen a higher fence of this turn."""
