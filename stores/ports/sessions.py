"""Sessions, which outlive sockets and processes."""

from __future__ import annotations

from typing import Protocol

from stores.records import SessionRecord

__all__ = ["SessionStore"]


class SessionStore(Protocol):
    """Sessions, which outlive sockets and processes. All methods may raise Unavailable."""

    async def take_session(self, session: SessionRecord, now: float, gone: str | None = None) -> bool:
        """Store the session with a new `holder`. False, and nothing stored, where the one that is stored has a higher
        `attempt` and a holder that is not `gone`, and has not expired at `now`."""
        ...

    async def put_session(self, session: SessionRecord) -> bool:
        """Store what its `holder` says of the session; False, and nothing stored, where another one holds it."""
        ...

    async def leave_session(self, id: str, holder: str) -> None:
        """Nobody holds the session any more, if `holder` did."""
        ...

    async def get_session(self, id: str, now: float) -> SessionRecord | None:
        """None where it is unknown or expired at `now`."""
        ...

    async def sessions_of(self, owner: str, now: float) -> list[SessionRecord]:
        """The owner's sessions that have not expired at `now` and declare tools; the one that was taken last comes
        first."""
        ...

    async def delete_expired_sessions(self, now: float) -> int: ...
