"""A context's events as the AI SDK's UI message stream (https://ai-sdk.dev, stream protocol v1), as `useChat` reads it.

The turn of a user message is one UI message, its steps are the steps of that message. What goes on beside it, as direct
tool calls do, belongs to no UI message and is left out. `reset-step` takes a step back, of which the AI SDK knows since
its version 7.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.core.fold import event_key
from gateway.http.ai_sdk_request import read_chat
from gateway.http.ai_sdk_step import Step, ui_parts
from gateway.http.front_ends import asked_turn, rest_of, sse, turn_failure
from protocol.content import plain_text
from protocol.frames import (
    Channel,
    ContextChanged,
    Delta,
    DurableEvent,
    Event,
    Message,
    MessageStart,
    SendMessage,
    Snapshot,
    ToolApproval,
    ToolCall,
    ToolProgress,
    ToolResponse,
    TurnEnd,
)

__all__ = ["AiSdkFormat"]


@dataclass(slots=True)
class _Turn:
    """A UI message that is being written. `aside` is the text of messages that are told later, `closed` are those
    that are finished, `steering` waits for a step's end."""

    id: str
    step: Step | None = None
    aside: dict[str, list[tuple[Channel, str]]] = field(default_factory=dict[str, list[tuple[Channel, str]]])
    closed: set[str] = field(default_factory=set[str])
    calls: dict[str, ToolCall] = field(default_factory=dict[str, ToolCall])
    answered: set[str] = field(default_factory=set[str])
    steering: list[Message] = field(default_factory=list[Message])
    truncated: bool = False
    seen: set[str] = field(default_factory=set[str])


class AiSdkFormat:
    """One response in chunks of a UI message stream."""

    def __init__(self) -> None:
        self._posted: str | None = None
        self._own: str | None = None  # the turn that was asked for: another's where the message steered that one
        self._turn: _Turn | None = None
        self._over = False
        self._last: str | None = None
        self._idle = False  # no turn went on when it was asked for
        self._out: list[bytes] = []

    @property
    def headers(self) -> Mapping[str, str]:
        return {"x-vercel-ai-ui-message-stream": "v1"}

    @property
    def over(self) -> bool:
        return self._posted is None and self._turn is None and (self._idle or self._last is not None)

    def request(self, body: bytes, context_id: str) -> SendMessage:
        """The message in what DefaultChatTransport posts. Raises ProtocolError, which names the field."""
        message = read_chat(body, context_id)
        self._posted = message.id
        return message

    def event(self, event: Event, data: bytes, cursor: str) -> bytes:
        del data, cursor
        if self._posted is not None and self._own is None:
            self._own = event.turn_id
            if isinstance(event, Message) and event.turn_id is None and event.id == self._posted:
                self._unanswered(event)
        if not self._over and (self._posted is None or event.turn_id == self._own is not None):
            self._take(event)
        return self._flush()

    def snapshot(self, frame: Snapshot, data: bytes, cursor: str) -> bytes:
        del data, cursor
        wanted = self._turn.id if self._turn is not None else None
        if self._posted is not None:
            wanted = self._own = self._own or asked_turn(frame, self._posted)
        if wanted is not None and not self._over:
            self._catch_up(frame, wanted)
        if self._turn is None and self._posted is None:
            running = _running_turn(frame)
            if running is not None:
                self._catch_up(frame, running)
            self._idle = running is None
        return self._flush()

    def end(self, end: TurnEnd | None) -> bytes:
        if end is not None and not self._over and (self._turn is not None or self._posted is not None):
            self._take(end)
        if self._turn is not None or (self._posted is not None and not self._over):
            self._end_step()
            self._put(type="error", errorText="The server is going away; resume the stream.")
        self._turn = None
        self._over = True
        return self._flush() + b"data: [DONE]\n\n"

    # ---- what happens

    def _take(self, event: Event) -> None:
        if isinstance(event, Message) and event.role != "assistant":
            self._said(event)
        elif isinstance(event, TurnEnd):
            if self._posted is not None or (self._turn is not None and self._turn.id == event.turn_id):
                self._ended(self._entered(event.turn_id or ""), event)
        elif not isinstance(event, ContextChanged):
            turn = self._turn_of(event)
            if turn is not None:
                self._told(turn, event)

    def _turn_of(self, event: Event) -> _Turn | None:
        """The turn that is told, if the event is of it; a turn that goes on beside another is not told."""
        if event.turn_id is None or event.turn_id == self._last:
            return None
        if self._turn is not None:
            return self._turn if self._turn.id == event.turn_id else None
        begins = isinstance(event, MessageStart | Message) or (
            isinstance(event, ToolCall) and event.id != event.turn_id
        )
        return self._entered(event.turn_id) if begins else None

    def _entered(self, turn_id: str) -> _Turn:
        if self._turn is None:
            self._turn = _Turn(turn_id)
            # The id is the turn's, so that whoever reads the turn again meets the same UI message.
            self._put(type="start", messageId=f"{turn_id}.reply", messageMetadata={"turnId": turn_id})
        return self._turn

    def _said(self, message: Message) -> None:
        turn = self._turn
        if turn is not None and message.turn_id == turn.id:
            if message.id in (turn.id, self._posted) or message.id in turn.seen:
                return
            turn.seen.add(message.id)
            turn.steering.append(message)
            if turn.step is None:
                self._tell_steering(turn)
            return
        if self._posted is None:
            said = {"id": message.id, "role": message.role, "parts": ui_parts(message.content)}
            self._put(type="data-message", data=said, transient=True)
        if turn is None and message.turn_id == message.id:
            self._entered(message.id)

    def _unanswered(self, message: Message) -> None:
        """The message that was posted has no turn: it was sent before, not to be answered."""
        self._entered(message.id)
        self._put(type="finish", finishReason="other")
        self._turn = None
        self._over = True

    def _told(self, turn: _Turn, event: Event) -> None:
        if isinstance(event, DurableEvent):
            if event_key(event) in turn.seen:
                return
            turn.seen.add(event_key(event))
        match event:
            case MessageStart():
                if event.id not in turn.closed:
                    self._step(turn, event.id).restart(self._out)
            case Delta():
                if event.message_id not in turn.closed:
                    self._step(turn, event.message_id).write(self._out, event.channel, event.text)
            case Message():
                self._finish(turn, event)
            case ToolCall():
                self._called(turn, event)
            case ToolApproval():
                self._decided(turn, event)
            case ToolProgress():
                self._progress(turn, event.tool_call_id, event.progress, event.total, event.message)
            case ToolResponse():
                self._answered(turn, event)
            case _:
                pass

    def _ended(self, turn: _Turn, end: TurnEnd) -> None:
        if turn.step is not None and turn.step.open:
            turn.step.take_back(self._out)  # a turn that was given up leaves no message
        self._end_step()
        reason = "length" if turn.truncated else "stop"
        if end.status == "failed":
            reason = "error"
            self._put(type="error", errorText=turn_failure(end.error)[1])
        elif end.status == "cancelled":
            reason = "other"
            self._put(type="abort", reason="cancelled")
        elif end.status == "max_steps":
            reason = "tool-calls"
        usage = {
            "inputTokens": end.usage.input_tokens,
            "outputTokens": end.usage.output_tokens,
            "totalTokens": end.usage.input_tokens + end.usage.output_tokens,
            "cachedInputTokens": end.usage.cached_tokens,
            "reasoningTokens": end.usage.reasoning_tokens,
        }
        about = {"turnId": turn.id, "status": end.status, "steps": end.steps, "usage": usage}
        self._put(type="finish", finishReason=reason, messageMetadata=about)
        self._turn = None
        self._last = turn.id
        self._over = self._posted is not None

    # ---- steps and calls

    def _step(self, turn: _Turn, message_id: str) -> Step:
        """The step of that message, begun if it is not the one that is told."""
        if turn.step is None or turn.step.id != message_id:
            if turn.step is not None and turn.step.open:
                # After the log was lost, its rows come behind the message that is being written: that is told after
                # them.
                turn.aside[turn.step.id] = turn.step.set_aside(self._out)
            self._end_step()
            turn.step = Step(message_id)
            self._put(type="start-step")
            for channel, text in turn.aside.pop(message_id, ()):
                turn.step.write(self._out, channel, text)
        return turn.step

    def _end_step(self) -> None:
        turn = self._turn
        if turn is not None and turn.step is not None:
            turn.step.end_part(self._out)
            turn.step = None
            self._put(type="finish-step")
            self._tell_steering(turn)

    def _tell_steering(self, turn: _Turn) -> None:
        """Between two steps, where it is given to the model."""
        for message in turn.steering:
            self._put(type="steering-message", id=message.id, parts=ui_parts(message.content))
        turn.steering.clear()

    def _finish(self, turn: _Turn, message: Message) -> None:
        step = self._step(turn, message.id)
        rest = rest_of(message, step.text)
        if rest is None:
            step.take_back(self._out)
            rest = plain_text(message.content)
        step.write(self._out, "text", rest)
        step.end_part(self._out)
        step.open = False
        turn.closed.add(message.id)
        turn.truncated = message.status == "truncated"

    def _called(self, turn: _Turn, call: ToolCall) -> None:
        if call.message_id is not None and call.message_id not in turn.closed:
            step = self._step(turn, call.message_id)
        else:
            step = turn.step or self._step(turn, call.message_id or call.id)
        turn.calls[call.id] = call
        step.call(self._out, call)

    def _decided(self, turn: _Turn, approval: ToolApproval) -> None:
        call = turn.calls.get(approval.tool_call_id)
        if call is not None and call.approval is not None and turn.step is not None and call.id not in turn.answered:
            turn.step.decide(self._out, call, approval)

    def _progress(self, turn: _Turn, call_id: str, progress: float, total: float | None, message: str | None) -> None:
        if call_id in turn.calls and call_id not in turn.answered:
            data = {"toolCallId": call_id, "progress": progress, "total": total, "message": message}
            said = {key: value for key, value in data.items() if value is not None}
            self._put(type="data-tool-progress", id=call_id, data=said)

    def _answered(self, turn: _Turn, response: ToolResponse) -> None:
        call = turn.calls.get(response.tool_call_id)
        if call is not None and call.id not in turn.answered:
            turn.answered.add(call.id)
            step = turn.step or Step(call.message_id or call.id)
            step.answer(self._out, call, response)

    # ---- snapshots

    def _catch_up(self, frame: Snapshot, turn_id: str) -> None:
        """The turn's part of the snapshot, as far as it was not told yet."""
        self._entered(turn_id)
        for event in frame.events:
            if event.turn_id == turn_id and not isinstance(event, ContextChanged):
                self._take(event)
        turn = self._turn
        if turn is None or turn.id != turn_id:
            return
        for partial in frame.partial:
            if partial.turn_id == turn_id and partial.message_id not in turn.closed:
                self._step(turn, partial.message_id).catch_up(self._out, partial)
        for running in frame.running:
            if running.call.turn_id == turn_id:
                self._take(running.call)
                if running.progress is not None:
                    self._progress(turn, running.call.id, running.progress, running.total, running.message)

    # ---- what is written

    def _put(self, **chunk: Any) -> None:
        self._out.append(sse(chunk))

    def _flush(self) -> bytes:
        out = b"".join(self._out)
        self._out.clear()
        return out


def _running_turn(frame: Snapshot) -> str | None:
    """The turn of a message that a snapshot was taken in, if there is one."""
    for partial in frame.partial:
        return partial.turn_id
    for running in frame.running:
        if running.call.turn_id != running.call.id:
            return running.call.turn_id
    ended = {event.turn_id for event in frame.events if isinstance(event, TurnEnd)}
    for event in reversed(frame.events):
        if isinstance(event, Message) and event.turn_id is not None and event.turn_id not in ended:
            return event.turn_id
    return None
