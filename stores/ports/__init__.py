"""The ports between the gateway and its stores. Every adapter passes the same contract suite (tests/stores).

Order, atomicity and errors stated here hold for every adapter. Each method is one transaction (store) or one script
(log): it happens whole or not at all, and concurrent calls behave as if they came one after another.
"""

from stores.ports.audit import AuditStore
from stores.ports.cache import Cache
from stores.ports.contexts import ContextStore
from stores.ports.errors import (
    AlreadyAnswered,
    Busy,
    EpochOver,
    Fenced,
    IdTaken,
    NotFound,
    StaleFence,
    StoreError,
    Unavailable,
    Undecided,
)
from stores.ports.keys import KeyStore
from stores.ports.leases import Leases
from stores.ports.limits import RateLimits
from stores.ports.log import EventLog, Follower
from stores.ports.owners import OwnerStore
from stores.ports.search import SearchStore
from stores.ports.secrets import SecretStore
from stores.ports.sessions import SessionStore
from stores.ports.signals import Bus, Heartbeats
from stores.ports.threads import ThreadCache
from stores.ports.usage import UsageStore

__all__ = [
    "AlreadyAnswered",
    "AuditStore",
    "Bus",
    "Busy",
    "Cache",
    "ContextStore",
    "EpochOver",
    "EventLog",
    "Fenced",
    "Follower",
    "Heartbeats",
    "IdTaken",
    "KeyStore",
    "Leases",
    "NotFound",
    "OwnerStore",
    "RateLimits",
    "SearchStore",
    "SecretStore",
    "SessionStore",
    "StaleFence",
    "StoreError",
    "ThreadCache",
    "Unavailable",
    "Undecided",
    "UsageStore",
]
