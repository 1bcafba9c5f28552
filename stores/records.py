"""What stores hold and hand out: plain values without behaviour, the vocabulary of `stores.ports`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Literal, NamedTuple

from msgspec import Struct

from protocol.frames import Event
from stores.audit_records import AuditRecord
from stores.search_text import Segment

__all__ = [
    "Accepted",
    "Asked",
    "Call",
    "CancelRequest",
    "Claimed",
    "ContextKey",
    "ContextRecord",
    "Entry",
    "EventRow",
    "Head",
    "History",
    "KeyRecord",
    "LogBatch",
    "LogEvent",
    "LogFold",
    "NewCall",
    "NewEvent",
    "NewTurn",
    "NewUsage",
    "OpenMessage",
    "Pin",
    "Progress",
    "Publication",
    "Recorded",
    "Remembered",
    "SearchHit",
    "SecretRecord",
    "Sender",
    "SessionRecord",
    "Summary",
    "ThreadRows",
    "Turn",
    "TurnRows",
    "TurnState",
    "UsageBy",
    "UsagePage",
    "UsageRow",
    "Written",
]


class ContextKey(NamedTuple):
    """A context's full name: `owner` is the principal's namespace, so equal ids of two owners never meet."""

    owner: str
    id: str


class ContextRecord(Struct, frozen=True, kw_only=True):
    """`epoch` counts the lives of the context's log; `born` is the one it began with, which tells it from a deleted
    one of the same key; `metadata` and `settings` are JSON; times are seconds since 1970."""

    key: ContextKey
    epoch: int
    created_at: float
    updated_at: float
    title: str | None = None
    metadata: bytes | None = None
    settings: bytes | None = None
    born: int = -1


# ---- durable events


class Asked(Struct, frozen=True):
    """What a person who decides a call decides about: `definition` is of the tool as it is then, `first` says that an
    approval of it is remembered unasked."""

    definition: str
    first: bool = False


class NewCall(Struct, frozen=True, kw_only=True):
    """The ledger's view of a `tool_call` event. `draft` is the JSON of the `OpenMessage` it was emitted from, `asked`
    (None: nothing) what a decision on it may be remembered under."""

    runs_on: Literal["server", "client"]
    session_id: str | None = None
    needs_approval: bool = False
    asked: Asked | None = None
    draft: bytes | None = None


class NewUsage(Struct, frozen=True, kw_only=True):
    """What one model call used. `day` (YYYY-MM-DD, UTC) is when it ended, `cost` is in millionths of the currency;
    `estimated` says that its provider told no figures."""

    tenant: str
    subject: str
    day: str
    model: str
    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cached_responses: int = 0
    cost: int = 0
    estimated: bool = False


class NewEvent(Struct, frozen=True, kw_only=True):
    """A durable event to be stored. `body` is its JSON without `seq`.

    `id` is unique in the context: the event's own id; of a `turn_end` `"<turn_id>/end"`, which no client can send;
    of a `tool_approval` its frame's id. `call` comes with a `tool_call`; `answers` (a call's id) with a
    `tool_response`; `decides` (a call's id) with a `tool_approval`. A `pinned` message is always given to models.
    `denies` says that the decision is no, `undecided` that the answer counts only where nobody has decided. `text` is
    what can be searched for in a message. `usage` is added up, and `audit` stored, when, and only when, the event is.
    """

    id: str
    type: str
    body: bytes
    turn_id: str | None = None
    call: NewCall | None = None
    answers: str | None = None
    decides: str | None = None
    denies: bool = False
    undecided: bool = False
    pinned: bool = False
    text: str | None = None
    usage: NewUsage | None = None
    audit: AuditRecord | None = None


class EventRow(Struct, frozen=True, kw_only=True):
    """A durable event as stored. `order` rises in the order of storing; `seq` is None until it was recorded;
    `stored_at` (seconds since 1970) is 0 where that was not asked of the store."""

    id: str
    type: str
    body: bytes
    order: int
    turn_id: str | None = None
    seq: int | None = None
    stored_at: float = 0.0


class History(Struct, frozen=True):
    """A page of a context's durable events.

    `rows` have a seq and come in its order; `unsequenced` have none yet and come in the order of storing, on the
    newest page only; `has_more` says whether older rows exist.
    """

    rows: Sequence[EventRow]
    unsequenced: Sequence[EventRow]
    has_more: bool


class Summary(Struct, frozen=True, kw_only=True):
    """A conversation's beginning in few words: of `turns` turns (and messages without one), from `first_id` to
    `turn_id`. `order` is 0 until it is stored, and then counts as that of events does."""

    turn_id: str
    first_id: str
    turns: int
    text: str
    order: int = 0


class Pin(NamedTuple):
    """A message that is always given to models, and its turn."""

    id: str
    turn_id: str | None


class ThreadRows(Struct, frozen=True):
    """What a conversation is made of: events in the order of storing, summaries, pins; `more` says that there are
    more events in the direction that was asked for. Read in one transaction."""

    context: ContextRecord
    rows: Sequence[EventRow]
    summaries: Sequence[Summary]
    pins: Sequence[Pin]
    more: bool


# ---- turns


class TurnState(StrEnum):
    """QUEUED has never begun, PARKED waits for a person or a client and has no runner, RUNNING has a runner or
    wants one (`runner` is None), ENDED has its `turn_end` stored but not yet all its seqs, DONE has them all."""

    QUEUED = "queued"
    RUNNING = "running"
    PARKED = "parked"
    ENDED = "ended"
    DONE = "done"


class Sender(NamedTuple):
    """Which socket of a session a frame came over; a later one has a higher `attempt`."""

    session_id: str
    attempt: int


class NewTurn(Struct, frozen=True, kw_only=True):
    """`kind` "message" waits its place in the context's queue, "tool" waits for nobody. `request` is JSON that the
    store does not look into: what a runner must know besides the events."""

    id: str
    kind: Literal["message", "tool"]
    request: bytes


class Turn(Struct, frozen=True, kw_only=True):
    """A turn's row. `fence` is raised by every claim (0: never claimed); whoever holds less can write nothing."""

    key: ContextKey
    id: str
    kind: Literal["message", "tool"]
    state: TurnState
    request: bytes
    fence: int
    created_at: float
    runner: str | None = None
    cancelled: bool = False
    draft: bytes | None = None


class Call(Struct, frozen=True, kw_only=True):
    """The ledger's row of a tool call. `claimed` is the fence under which it was started, 0 before; `denied` says that
    a person `decided` against it."""

    id: str
    turn_id: str
    runs_on: Literal["server", "client"]
    session_id: str | None
    needs_approval: bool
    decided: bool
    claimed: int
    answered: bool
    denied: bool = False
    asked: Asked | None = None


class Remembered(Struct, frozen=True):
    """A decision that holds for all later calls of a context that would ask about the same `definition`."""

    definition: str
    approved: bool


class CancelRequest(Struct, frozen=True, kw_only=True):
    """A stored `cancel`: of the whole turn, or of one call where `call_id` is given."""

    id: str
    turn_id: str
    call_id: str | None
    order: int


class TurnRows(Struct, frozen=True, kw_only=True):
    """All that is stored of one turn, events in the order of storing. Read in one transaction."""

    turn: Turn
    events: Sequence[EventRow]
    calls: Mapping[str, Call]
    cancels: Sequence[CancelRequest]


class Claimed(Struct, frozen=True, kw_only=True):
    """A turn that was claimed, with all that is stored of it. `newest` is the highest `order` in its context: events,
    cancels and summaries are numbered together, and it counts on by one for each that is stored. (A summary that took
    another's place left that one's number unused, so below there may be fewer of them than numbers.) `born` tells the
    context from a deleted one of the same key, as in ContextRecord."""

    rows: TurnRows
    newest: int
    born: int


class Written(Struct, frozen=True, kw_only=True):
    """What became of events: the ids of those that were `passed` over, and the `order` of the last that was stored,
    `newest`, which is the context's highest; those before it have the orders before."""

    passed: Sequence[str]
    newest: int


class Recorded(Struct, frozen=True, kw_only=True):
    """The turns that became DONE, and whether a "message" turn of the context is QUEUED."""

    done: frozenset[str]
    waiting: bool


class Accepted(Struct, frozen=True, kw_only=True):
    """What became of a client's frame. `turn_id` is the turn that it belongs to or touches, `duplicate` says that
    nothing changed because it was stored before, `created` that the context is new, `interrupted` names the turn
    that was told to stop for it, `woken` says that its turn wants a runner now; `epoch`, of what `submit` stored in a
    context that was there, is that of its row."""

    duplicate: bool = False
    created: bool = False
    turn_id: str | None = None
    interrupted: str | None = None
    woken: bool = False
    epoch: int | None = None


# ---- the hot log


class LogEvent(Struct, frozen=True, kw_only=True):
    """An event on its way into the log. `id` is the durable event's id (as in NewEvent), None for a live one;
    `body` is its JSON without `seq`; `event` is the same, for the fold."""

    event: Event
    body: bytes
    id: str | None = None


class LogBatch(Struct, frozen=True, kw_only=True):
    """Events of one context, appended as one. `writer` is new for every batch and the same when it is sent again.
    With a `turn_id` and `fence` the batch is a turn's; an empty one only raises the fence in the log."""

    key: ContextKey
    epoch: int
    writer: str
    events: Sequence[LogEvent]
    turn_id: str | None = None
    fence: int = 0


class Entry(Struct, frozen=True):
    """One frame of the log: it stands for the events `first`…`seq`; `data` is its JSON with `seq`."""

    seq: int
    data: bytes
    first: int


class Head(NamedTuple):
    epoch: int
    seq: int


class Publication(Struct, frozen=True):
    """What followers of a context are handed: entries in order, under one epoch."""

    key: ContextKey
    epoch: int
    entries: Sequence[Entry]


class OpenMessage(Struct, frozen=True, kw_only=True):
    """The message that is being written: its text and reasoning so far."""

    message_id: str
    turn_id: str
    model: str
    attempt: int
    text: str = ""
    reasoning: str = ""


class Progress(Struct, frozen=True, kw_only=True):
    call_id: str
    progress: float
    total: float | None = None
    message: str | None = None


class LogFold(Struct, frozen=True, kw_only=True):
    """The log folded up to `seq`: messages that are open, the last progress of running calls, and the `seq` of
    every durable event that the store may not have recorded yet (at least those of the last hour)."""

    epoch: int
    seq: int
    ids: Mapping[str, int]
    open: Sequence[OpenMessage]
    progress: Mapping[str, Progress]


# ---- sessions and keys


class SessionRecord(Struct, frozen=True, kw_only=True):
    """One client's place in the gateway. `tools` is the JSON of its tool list; `contexts` are the ids it follows;
    `holder` names the instance and, after a slash, the socket that hold it (None: nobody), `attempt` is its number."""

    id: str
    owner: str
    attempt: int
    expires_at: float
    tools: bytes = b"[]"
    contexts: Sequence[str] = ()
    holder: str | None = None


class KeyRecord(Struct, frozen=True, kw_only=True):
    """An API key: `digest` is the SHA-256 of the whole key, the only trace of its secret."""

    id: str
    digest: bytes
    tenant: str
    subject: str
    role: str | None
    created_at: float
    revoked_at: float | None = None


# ---- search


class SearchHit(Struct, frozen=True, kw_only=True):
    """A message (`message_id`, its `role`, its `seq` where it has one) or, without one, a context whose title answers
    a query. `at` is when it was stored, of a title when the context last changed (`updated_at`), in seconds since
    1970."""

    key: ContextKey
    title: str | None
    updated_at: float
    at: float
    snippet: Sequence[Segment]
    message_id: str | None = None
    role: str | None = None
    seq: int | None = None


# ---- usage


UsageBy = Literal["day", "context", "model", "subject"]


class UsageRow(Struct, frozen=True, kw_only=True):
    """Usage added up over all that has the `name`: of a day, context ("": those that are deleted), model or subject.
    `estimated_steps` of the `steps` are those whose provider told no figures; `cost` is in millionths."""

    name: str
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cached_responses: int = 0
    steps: int = 0
    estimated_steps: int = 0
    cost: int = 0


class UsagePage(Struct, frozen=True):
    """Rows in the order of their names, whether more follow, and the sum of all there are, on other pages too."""

    rows: Sequence[UsageRow]
    has_more: bool
    total: UsageRow


# ---- secrets


class SecretRecord(Struct, frozen=True):
    """A sealed value under its owner's `name`; no other value of this name has or had the `version`."""

    name: str
    value: bytes
    version: int
