"""What failures of the driver mean: which pass when trying again, and which were the caller's."""

from __future__ import annotations

import asyncpg
from asyncpg import exceptions as failures

from stores.ports import NotFound, Unavailable
from stores.store_url import StoreUrlError

__all__ = ["FAILURES", "as_told", "never_began", "refused", "undone"]

FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
"""All that a call to the driver may raise for reasons that lie outside this process."""

_REFUSED = (
    failures.InvalidAuthorizationSpecificationError,  # an unknown role, a wrong password
    failures.InvalidCatalogNameError,
    failures.InvalidSchemaNameError,
    failures.InsufficientPrivilegeError,
    failures.DuplicateTableError,  # a table of somebody else's has the name of one of ours
)
_UNDONE = (
    failures.SerializationError,
    failures.DeadlockDetectedError,
    # Another instance migrated the schema since the statement was prepared.
    failures.InvalidCachedStatementError,
    failures.OutdatedSchemaCacheError,
)
_PASSING = (
    *_UNDONE,
    failures.PostgresConnectionError,
    failures.TransactionRollbackError,
    failures.InsufficientResourcesError,  # too many connections, disk full
    failures.OperatorInterventionError,  # shut down, starting up, statement timeout
    failures.PostgresSystemError,
    failures.LockNotAvailableError,
    failures.ReadOnlySQLTransactionError,  # what was the primary is none any more
    failures.IdleInTransactionSessionTimeoutError,
    failures.TransactionTimeoutError,
    failures.InvalidAuthorizationSpecificationError,
    asyncpg.InternalClientError,
    OSError,
)
# The connection was lost, or never came about.
_LOST = (failures.PostgresConnectionError, failures.OperatorInterventionError, asyncpg.InterfaceError, OSError)
_SLOW = (failures.QueryCanceledError, TimeoutError)


def as_told(error: Exception) -> Exception:
    """What the port raises for it: Unavailable with its cause, NotFound for a name that nothing can have, or the error
    itself where it is a fault of ours (a statement that is wrong)."""
    # The driver's errors of use are ours, but for "the connection is closed" and the like, which are no ValueError.
    closed = isinstance(error, asyncpg.InterfaceError) and not isinstance(error, ValueError)
    if isinstance(error, failures.CharacterNotInRepertoireError):
        return NotFound("a name with a NUL in it, which PostgreSQL can't hold")
    if not closed and not isinstance(error, _PASSING):
        return error
    text = "no connection was free, or none answered in time" if isinstance(error, TimeoutError) else str(error)
    found = Unavailable(f"postgres: {text or type(error).__name__}")
    found.__cause__ = error
    return found


def refused(error: Exception) -> Exception:
    """What an attempt to open the database is answered with: StoreUrlError where trying again will not help."""
    if isinstance(error, StoreUrlError):
        return error
    if isinstance(error, ValueError):
        # Not its text, which may hold the URL, and with it a password.
        return StoreUrlError("store.url: expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE")
    if isinstance(error, _REFUSED):
        return StoreUrlError(f"store.url: {error}")
    return as_told(error)


def undone(error: Exception) -> bool:
    """Whether the database undid the transaction to let another one go on: it may be tried again at once."""
    return isinstance(error, _UNDONE)


def never_began(error: Exception) -> bool:
    """Whether a transaction's first statement met a connection that was dead already: another one may do."""
    return isinstance(error, _LOST) and not isinstance(error, _SLOW)
