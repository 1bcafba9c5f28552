"""Who used which tools and resources, made of the events that say so (docs/audit.md)."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from gateway.auth.principal import Principal
from gateway.core.resources import READ_RESOURCE
from gateway.core.stored_turn import StoredTurn
from gateway.patience import patiently
from protocol.codec import decode_durable
from protocol.frames import DurableEvent, ToolApproval, ToolCall, ToolResponse
from protocol.ids import derive_id, new_id
from stores.audit_records import AuditKind, AuditQuery, AuditRecord, AuditVia
from stores.ports import AuditStore, ContextStore
from stores.records import EventRow, NewEvent, Turn

__all__ = ["MADE", "POLICY", "Auditor", "TurnAudit", "via_of"]

POLICY: Final = "policy"
"""Who decides where no person does."""

MADE: Final = frozenset({"run", "asked", "denied", "refused"})
"""What the gateway decides about a call when it is made: of each call there is one."""

# What an index of Postgres holds, with room to spare.
_LONGEST = 500
_LONGEST_URI = 2000
_DAY = 86_400.0
_AT_ONCE = 1000

_as_call = msgspec.json.Decoder(ToolCall)


def _canonical(parameters: dict[str, Any]) -> bytes:
    """As JSON in UTF-8 with sorted keys and no spaces: equal parameters have equal hashes."""
    text = json.dumps(parameters, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    # A client's JSON may hold half a surrogate pair.
    return text.encode(errors="surrogatepass")


class Auditor:
    """Makes records; those that come with an event are stored with it, the others by `note`. `parameters` says whether
    they hold the parameters of calls besides their hash, `keep_days` for how long they are kept (None: for good);
    `clock` is in seconds since 1970."""

    def __init__(
        self,
        store: AuditStore | None = None,
        *,
        parameters: bool = False,
        keep_days: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._parameters = parameters
        self._keep_days = keep_days
        self._clock = clock

    async def note(self, principal: Principal, *records: AuditRecord) -> None:
        """Store what made no event. Raises Unavailable: what can't be recorded is not to be done, or not to be told."""
        if self._store is not None:
            await self._store.audit(principal.owner, records)

    async def sweep(self) -> None:
        """Delete what is kept no longer. Raises Unavailable."""
        if self._store is None or self._keep_days is None:
            return
        before = self._clock() - self._keep_days * _DAY
        while await self._store.prune_audits(before, _AT_ONCE):
            pass

    async def open(self, principal: Principal, call: ToolCall) -> bool:
        """Whether a call is recorded whose outcome is not. Raises Unavailable."""
        if self._store is None:
            return False
        # One of the same id may have been in a context of the same name, each with its own decision and outcome.
        query = AuditQuery(subject=principal.subject, context_id=_text(call.context_id), call_id=_text(call.id))
        found = (await self._store.audits(principal.tenant, query, None, _AT_ONCE)).records
        ends = sum(record.kind == "call" for record in found)
        return sum(record.kind == "decision" and record.outcome in MADE for record in found) > ends

    # ---- decisions

    def called(
        self, principal: Principal, call: ToolCall, via: AuditVia, answer: ToolResponse | None = None
    ) -> AuditRecord:
        """What became of a call when it was made. `answer` came with it, where it was refused at once."""
        outcome = "asked" if call.approval == "required" else "run"
        if answer is not None:
            outcome = "denied" if answer.status == "denied" else "refused"
        return self._of_call(
            principal, call, "decision", outcome, via, by="tool" if call.asked_by else POLICY, given=call.parameters
        )

    def decided(self, principal: Principal, call: ToolCall, approval: ToolApproval, via: AuditVia) -> AuditRecord:
        """A person's decision, with the parameters that it put in the place of the call's, if any."""
        outcome = "approved" if approval.approved else "rejected"
        return self._of_call(principal, call, "decision", outcome, via, by=principal.subject, given=approval.parameters)

    def refused(self, principal: Principal, tool: str, parameters: dict[str, Any], via: AuditVia) -> AuditRecord:
        """A call that nobody stores: of what is not there, or not for the principal."""
        bare = self._record(principal, "decision", "refused", via)
        return self._given(replace(bare, by=POLICY, tool=_text(tool)), parameters)

    # ---- outcomes

    def answered(
        self,
        principal: Principal,
        call: ToolCall,
        status: str,
        via: AuditVia,
        *,
        by: str | None = None,
        seconds: float | None = None,
    ) -> AuditRecord:
        """How a call ended. `by` is the session that answered, of a client's tool."""
        return replace(self._of_call(principal, call, "call", status, via, by=by), seconds=seconds)

    def read(
        self, principal: Principal, uri: str, outcome: str, via: AuditVia, *, seconds: float | None = None
    ) -> AuditRecord:
        """A reading of a resource that is no call of a tool. `outcome` is success, denied, error."""
        bare = self._record(principal, "read", outcome, via)
        return replace(bare, uri=_text(uri, _LONGEST_URI), seconds=seconds)

    # ---- inside

    def _of_call(
        self,
        principal: Principal,
        call: ToolCall,
        kind: AuditKind,
        outcome: str,
        via: AuditVia,
        *,
        by: str | None,
        given: dict[str, Any] | None = None,
    ) -> AuditRecord:
        uri = call.parameters.get("uri") if call.tool == READ_RESOURCE else None
        record = replace(
            self._record(principal, kind, outcome, via),
            by=_text(by) if by is not None else None,
            tool=_text(call.tool),
            uri=_text(uri, _LONGEST_URI) if isinstance(uri, str) else None,
            context_id=_text(call.context_id),
            turn_id=_text(call.turn_id) if call.turn_id is not None else None,
            call_id=_text(call.id),
        )
        return record if given is None else self._given(record, given)

    def _record(self, principal: Principal, kind: AuditKind, outcome: str, via: AuditVia) -> AuditRecord:
        return AuditRecord(
            id=new_id("aud_"),
            at=self._clock(),
            tenant=principal.tenant,
            subject=principal.subject,
            kind=kind,
            outcome=outcome,
            via=via,
        )

    def _given(self, record: AuditRecord, parameters: dict[str, Any]) -> AuditRecord:
        text = _canonical(parameters)
        return replace(
            record,
            parameters_hash=hashlib.sha256(text).hexdigest(),
            parameters=text if self._parameters else None,
        )


class TurnAudit:
    """One run of a turn. `direct` says how a call that is the turn itself came in."""

    def __init__(
        self, auditor: Auditor, principal: Principal, turn: Turn, stored: StoredTurn, direct: AuditVia = "client"
    ) -> None:
        self._auditor = auditor
        self._principal = principal
        self._turn = turn
        self._stored = stored
        self._direct: AuditVia = direct
        self._made: dict[str, ToolCall] = {}
        self._began: dict[str, float] = {}
        self._ended: dict[str, AuditRecord] = {}

    def begins(self, call_id: str) -> None:
        """The call is about to run here."""
        self._began[call_id] = asyncio.get_running_loop().time()

    def audited(self, rows: Sequence[NewEvent], events: Sequence[DurableEvent]) -> list[NewEvent]:
        """The rows of events that are stored together, with what is to be recorded of them."""
        answers = {event.tool_call_id: event for event in events if isinstance(event, ToolResponse)}
        return [self._audited(row, event, answers) for row, event in zip(rows, events, strict=True)]

    def _audited(self, row: NewEvent, event: DurableEvent, answers: dict[str, ToolResponse]) -> NewEvent:
        if isinstance(event, ToolCall):
            self._made[event.id] = event
            record = self._auditor.called(self._principal, event, self._via(event), answers.get(event.id))
            return replace(row, audit=record)
        if not isinstance(event, ToolResponse) or (call := self._call(event.tool_call_id)) is None:
            return row
        began = self._began.pop(call.id, None)
        seconds = asyncio.get_running_loop().time() - began if began is not None else None
        record = self._ended[call.id] = self._answered(call, event.status, seconds)
        return replace(row, audit=record)

    async def settle(self, store: ContextStore) -> None:
        """The turn is not ours any more. Where it is nobody's, because its context was deleted under it, what it called
        has no answer that is stored, and yet an end: else whoever deletes a context could hide how a call in it ended.
        """
        if await patiently(lambda: store.load_turn(self._turn.key, self._turn.id)) is None:
            await self.interrupt()

    async def interrupt(self) -> None:
        """Nobody answers any more what the turn called."""
        for call in self._open():
            await patiently(partial(self._interrupt, call))

    async def _interrupt(self, call: ToolCall) -> None:
        # A client may have answered just before.
        if await self._auditor.open(self._principal, call):
            ended = self._ended.get(call.id) or self._answered(call, "interrupted", None)
            await self._auditor.note(self._principal, replace(ended, id=self._end_id(call)))

    def _end_id(self, call: ToolCall) -> str:
        # The same for every runner that the turn was taken from; another one in a later context of the same name.
        key = self._turn.key
        return derive_id("aud_", key.owner, key.id, str(self._stored.born), call.id)

    def _answered(self, call: ToolCall, status: str, seconds: float | None) -> AuditRecord:
        return self._auditor.answered(self._principal, call, status, self._via(call), seconds=seconds)

    def _via(self, call: ToolCall) -> AuditVia:
        return self._direct if call.id == self._turn.id else via_of(call)

    def _call(self, call_id: str) -> ToolCall | None:
        made = self._made.get(call_id)
        if made is None:
            made = next((_decoded(row) for row in self._stored.rows if row.id == call_id), None)
        return made

    def _open(self) -> list[ToolCall]:
        """The calls that are stored and have no answer."""
        calls = {row.id: _decoded(row) for row in self._stored.rows if row.type == "tool_call"} | self._made
        for row in self._stored.rows:
            if row.type == "tool_response":
                answer = decode_durable(row.body)
                calls.pop(answer.tool_call_id if isinstance(answer, ToolResponse) else "", None)
        return list(calls.values())


def via_of(call: ToolCall) -> AuditVia:
    """How a call came in, as far as it tells itself."""
    if call.message_id is not None:
        return "model"
    if call.asked_by is not None:
        return "tool"
    return "client"


def _decoded(row: EventRow) -> ToolCall:
    return _as_call.decode(row.body)


def _text(text: str, longest: int = _LONGEST) -> str:
    """As every store takes it: no NUL, nothing that UTF-8 can't carry, of a length that can be looked for."""
    return text[:longest].replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
