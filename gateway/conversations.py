"""What a principal may do with contexts, over a socket or HTTP: checked, stored, and only then acknowledged."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from msgspec import Struct
from msgspec.structs import replace

from gateway.auditing import Auditor, via_of
from gateway.auth.principal import Principal
from gateway.budgets import Budgets
from gateway.consent import to_remember
from gateway.core.policy import Policy
from gateway.core.resources import READ_RESOURCE
from gateway.epochs import Epochs, Placed
from gateway.models.port import ModelClient
from gateway.prompts import Prompts, begun_with
from gateway.resources.port import Unavailable as ResourceUnavailable
from gateway.resources.reader import ResourceReader
from gateway.routing import Routes
from gateway.stored_events import new_event
from gateway.throttle import Throttle
from gateway.turn_request import TurnRequest, encode_request
from gateway.turns import Turns
from protocol.codec import decode_durable
from protocol.errors import ProtocolError
from protocol.frames import (
    AnswerTool,
    ApproveTool,
    CallTool,
    Cancel,
    Message,
    ResourcePart,
    SendMessage,
    ToolApproval,
    ToolCall,
    ToolResponse,
)
from protocol.ids import derive_id, rfc3339
from stores.audit_records import AuditVia
from stores.ports import AlreadyAnswered, Busy, ContextStore, IdTaken, NotFound, Unavailable, Undecided
from stores.records import Accepted, ContextKey, NewEvent, NewTurn, Sender

__all__ = ["Conversations", "Receipt", "refusal"]

_MOST_RESOURCES = 32


class Receipt(Struct, frozen=True, kw_only=True):
    """What is acknowledged: the frame is in the store. `seq` is None where the log gave none yet."""

    key: ContextKey
    accepted: Accepted
    epoch: int | None = None
    seq: int | None = None


def refusal(error: Exception) -> ProtocolError:
    """A store's refusal as the client is told of it."""
    if isinstance(error, ProtocolError):
        return error
    if isinstance(error, NotFound):
        return ProtocolError("not_found", "there is no such context, turn or call")
    if isinstance(error, Busy):
        return ProtocolError("busy", "a turn of this context runs, or too many wait")
    if isinstance(error, IdTaken):
        return ProtocolError("conflict", "this id belongs to another event of the context", path="id")
    if isinstance(error, Undecided):
        return ProtocolError("conflict", "the call waits for a person's decision", path="tool_call_id")
    if isinstance(error, AlreadyAnswered):
        return ProtocolError("conflict", "the call was answered or decided before")
    return ProtocolError("unavailable", "the gateway can't store this now", retry_after=1)


class Conversations:
    """The operations of protocol.md, section 2. All raise ProtocolError, or a StoreError that `refusal` explains;
    what was refused was not stored."""

    def __init__(
        self,
        *,
        store: ContextStore,
        epochs: Epochs,
        turns: Turns,
        routes: Routes,
        models: Mapping[str, ModelClient],
        default_model: str,
        policy: Policy,
        throttle: Throttle,
        queue_length: int = 100,
        budgets: Budgets | None = None,
        prompts: Prompts | None = None,
        resources: ResourceReader | None = None,
        auditor: Auditor | None = None,
    ) -> None:
        self._store = store
        self._epochs = epochs
        self._turns = turns
        self._routes = routes
        self._models = models
        self._default_model = default_model
        self._policy = policy
        self._throttle = throttle
        self._queue_length = queue_length
        self._budgets = budgets
        self._prompts = prompts or Prompts(policy)
        self._resources = resources
        self._auditor = auditor or Auditor()

    # ---- messages and calls

    async def send(self, principal: Principal, frame: SendMessage, session_id: str | None, attempt: int = 0) -> Receipt:
        """Store a message and, if it is to be answered, its turn. `attempt` is the number of the session's socket."""
        await self._check_message(principal, frame)
        key = self.key(principal, frame.context_id, frame.id)
        await self._check_place(key, frame)
        await self._check_budget(principal, key, frame)
        frame = await self._with_prompt(principal, key, frame)
        seen = await self._epochs.seen(key)  # a log that is away refuses before anything is stored
        request = TurnRequest(
            tenant=principal.tenant,
            subject=principal.subject,
            roles=principal.roles,
            model=frame.model or self._default_model,
            session_id=session_id,
            tools=tuple(frame.tools) if frame.tools is not None else None,
        )
        if frame.when_busy == "steer" and frame.respond:
            steered = await self._steer(key, frame)
            if steered is not None:
                return steered
        turn = NewTurn(id=frame.id, kind="message", request=encode_request(request)) if frame.respond else None
        event = _message(frame, key.id, frame.id if frame.respond else None)
        sender = Sender(session_id, attempt) if session_id is not None else None
        accepted = await self._store.submit(key, event, turn, frame.when_busy, self._queue_length, sender)
        placed = await self._place(key, event, seen, accepted) if not accepted.duplicate else None
        if accepted.interrupted is not None:
            self._turns.look(key, accepted.interrupted)
        if turn is not None and not accepted.duplicate:
            self._turns.begin(key, turn.id, placed.epoch if placed is not None else None)
        return self._receipt(key, accepted, placed)

    async def _steer(self, key: ContextKey, frame: SendMessage) -> Receipt | None:
        active = await self._store.active_turn(key)
        if active is None:
            return None
        accepted = await self._store.steer(key, active.id, _message(frame, key.id, active.id))
        if accepted is None:
            return None
        self._turns.look(key, active.id)
        return self._receipt(key, accepted, None)

    async def call(
        self, principal: Principal, frame: CallTool, session_id: str | None, via: AuditVia = "client"
    ) -> Receipt:
        """Store a direct tool call as a turn of its own."""
        await self._throttle.admit(principal.owner)
        key = self.key(principal, frame.context_id, frame.id)
        route = await self._routes.route_for(key, principal, session_id, frame.tool, frame.parameters)
        if route is None:
            refused = self._auditor.refused(principal, frame.tool, frame.parameters, via)
            await self._auditor.note(principal, refused)
            raise ProtocolError("not_found", f"there is no tool {frame.tool!r} for you", path="tool")
        seen = await self._epochs.seen(key)
        event = ToolCall(
            context_id=key.id,
            turn_id=frame.id,
            id=frame.id,
            tool=frame.tool,
            parameters=frame.parameters,
            timestamp=rfc3339(frame.timestamp or datetime.now(UTC)),
            runs_on=route.runs_on,
            session_id=route.session_id,
            # Whoever calls it now did not mean it with a no that was to be remembered.
            approval="required" if route.ask or route.refusal is not None else None,
        )
        request = TurnRequest(
            tenant=principal.tenant,
            subject=principal.subject,
            roles=principal.roles,
            model=self._default_model,
            session_id=session_id,
            via=via,
        )
        turn = NewTurn(id=frame.id, kind="tool", request=encode_request(request))
        row = replace(new_event(event, asked=route.asked), audit=self._auditor.called(principal, event, via))
        accepted = await self._store.submit(key, row, turn)
        placed = await self._place(key, row, seen, accepted) if not accepted.duplicate else None
        if not accepted.duplicate:
            self._turns.begin(key, turn.id, placed.epoch if placed is not None else None)
        return self._receipt(key, accepted, placed)

    # ---- answers, decisions, cancels

    async def answer(self, principal: Principal, frame: AnswerTool, session_id: str | None) -> Receipt:
        """Store a client's answer to a call that was addressed to it."""
        key = ContextKey(principal.owner, frame.context_id)
        call = await self._called(key, frame.tool_call_id)
        event = ToolResponse(
            context_id=key.id,
            turn_id=call.turn_id,
            id=frame.id,
            tool_call_id=frame.tool_call_id,
            result=frame.result,
            status=frame.status,
            timestamp=rfc3339(frame.timestamp or datetime.now(UTC)),
        )
        record = self._auditor.answered(principal, call, event.status, via_of(call), by=call.session_id)
        accepted = await self._store.answer(key, replace(new_event(event), audit=record), session_id)
        self._turns.look(key, call.turn_id or call.id)
        return self._receipt(key, accepted, None)

    async def approve(self, principal: Principal, frame: ApproveTool, via: AuditVia = "client") -> Receipt:
        """Store a person's decision on a call that waits for it."""
        key = ContextKey(principal.owner, frame.context_id)
        call = await self._called(key, frame.tool_call_id)
        event = ToolApproval(
            context_id=key.id,
            turn_id=call.turn_id,
            tool_call_id=frame.tool_call_id,
            approved=frame.approved,
            parameters=frame.parameters if frame.approved else None,
            reason=frame.reason,
        )
        ledger = await self._store.get_call(key, call.id)
        asked = ledger.asked if ledger is not None else None
        remember = to_remember(asked, approved=frame.approved, wanted=frame.remember is not None)
        record = self._auditor.decided(principal, call, event, via)
        accepted = await self._store.approve(key, replace(new_event(event, frame_id=frame.id), audit=record), remember)
        self._turns.look(key, call.turn_id or call.id)
        return self._receipt(key, accepted, None)

    async def cancel(self, principal: Principal, frame: Cancel) -> Receipt:
        """Store a cancel of a turn or a call."""
        key = ContextKey(principal.owner, frame.context_id)
        accepted = await self._store.cancel(key, frame.id, frame.turn_id, frame.tool_call_id)
        if accepted.turn_id is not None:
            self._turns.look(key, accepted.turn_id)
        return self._receipt(key, accepted, None)

    # ---- inside

    async def _check_message(self, principal: Principal, frame: SendMessage) -> None:
        if frame.role == "assistant":
            raise ProtocolError("invalid_frame", "a client says 'user', or 'system' where it may", path="role")
        if frame.role == "system" and not self._policy.may(principal, "message:system"):
            raise ProtocolError("forbidden", "system messages need the permission 'message:system'", path="role")
        if frame.model is not None and frame.model not in self._models:
            raise ProtocolError("not_found", f"there is no model {frame.model!r}", path="model")
        for place, name in enumerate(frame.tools or ()):
            if await self._routes.known(principal, None, name) is None:
                raise ProtocolError("not_found", f"there is no tool {name!r} for you", path=f"tools[{place}]")
        await self._check_resources(principal, frame)
        await self._throttle.admit(principal.owner)

    async def _check_resources(self, principal: Principal, frame: SendMessage) -> None:
        """What the message names to be read exists as far as the principal may know; nothing is read yet."""
        parts = frame.content if not isinstance(frame.content, str) else []
        named = [(f"resources[{place}]", uri) for place, uri in enumerate(frame.resources or ())]
        named += [
            (f"content[{place}].uri", part.uri) for place, part in enumerate(parts) if isinstance(part, ResourcePart)
        ]
        if len(named) > _MOST_RESOURCES:
            path, _ = named[_MOST_RESOURCES]
            raise ProtocolError("invalid_frame", f"a message names {_MOST_RESOURCES} resources at most", path=path)
        if not named:
            return
        # Whoever may not call the tool that reads them would only be told later.
        reads = await self._routes.usable(principal, READ_RESOURCE) is not None
        reader = self._resources if reads else None
        for path, uri in named:
            try:
                there = reader is not None and await reader.may_read(principal, uri)
            except ResourceUnavailable as error:
                raise ProtocolError("unavailable", str(error), path=path, retry_after=1) from error
            if not there:
                raise ProtocolError("not_found", "there is no such resource", path=path)

    async def _check_place(self, key: ContextKey, frame: SendMessage) -> None:
        """What the message names of the conversation must be a message of it (docs/protocol.md, Branches)."""
        named = [(path, id) for path in ("parent_id", "replaces") if (id := getattr(frame, path)) is not None]
        if not named:
            return
        path, id = named[0]
        if len(named) > 1:
            raise ProtocolError("invalid_frame", "a message names either parent_id or replaces", path=path)
        if frame.when_busy == "steer":
            raise ProtocolError("invalid_frame", "a steering message belongs to the turn that runs", path=path)
        found = await self._store.find_event(key, id)
        if found is None or found.type != "message" or id == frame.id:
            raise ProtocolError("not_found", "there is no such message in the context", path=path)

    async def _check_budget(self, principal: Principal, key: ContextKey, frame: SendMessage) -> None:
        """A message that wants an answer needs a budget that is not used up, unless it was stored before: what is
        sent again is acknowledged again, also where its own answer used the budget up."""
        if self._budgets is None or not frame.respond:
            return
        refused = await self._budgets.check(principal)
        if refused is not None and await self._store.find_event(key, frame.id) is None:
            raise refused

    async def _with_prompt(self, principal: Principal, key: ContextKey, frame: SendMessage) -> SendMessage:
        """The message with what its prompt says. What was stored before needs no server that may be away now."""
        if frame.prompt is None or await self._store.find_event(key, frame.id) is not None:
            return frame
        said = await self._prompts.content(principal, frame.prompt)
        return replace(frame, content=begun_with(said, frame.content), prompt=None)

    def key(self, principal: Principal, context_id: str | None, frame_id: str) -> ContextKey:
        """The context that a frame is for. Without a `context_id` it is derived from the frame's id, so that the same
        frame again meets the same context."""
        return ContextKey(principal.owner, context_id or derive_id("conv_", principal.owner, frame_id))

    async def _called(self, key: ContextKey, call_id: str) -> ToolCall:
        found = await self._store.find_event(key, call_id)
        call = decode_durable(found.body) if found is not None and found.type == "tool_call" else None
        if not isinstance(call, ToolCall):
            raise ProtocolError("not_found", "there is no such call", path="tool_call_id")
        return call

    async def _place(self, key: ContextKey, event: NewEvent, seen: int | None, accepted: Accepted) -> Placed | None:
        """Give the event its seq. It is stored, so a log that went away meanwhile does not refuse it any more."""
        try:
            return await self._epochs.place(key, event, seen, accepted.epoch)
        except (Unavailable, NotFound):
            return None

    def _receipt(self, key: ContextKey, accepted: Accepted, placed: Placed | None) -> Receipt:
        return Receipt(
            key=key,
            accepted=accepted,
            epoch=placed.epoch if placed else None,
            seq=placed.seq if placed else None,
        )


def _message(frame: SendMessage, context_id: str, turn_id: str | None) -> NewEvent:
    return new_event(
        Message(
            context_id=context_id,
            turn_id=turn_id,
            id=frame.id,
            content=frame.content,
            role=frame.role,
            timestamp=rfc3339(frame.timestamp or datetime.now(UTC)),
            status="complete",
            parent_id=frame.parent_id,
            replaces=frame.replaces,
            resources=frame.resources or None,
            metadata=frame.metadata,
        )
    )
