"""Writes what is said in AG-UI's words, and remembers what its reader has of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway.http.ag_ui_messages import (
    KEPT,
    Assistant,
    Messages,
    Reasoning,
    ToolResult,
    UserOrSystem,
    ag,
    arguments,
    reasoning_id,
)
from gateway.http.front_ends import rest_of, result_text
from protocol.content import plain_text
from protocol.frames import Channel, Message, Partial, ToolApproval, ToolCall, ToolResponse

__all__ = ["Open", "Writer"]


@dataclass(slots=True)
class Open:
    """An assistant's message that is being written. `reasoning` is the open span, `spans` are the ids of all."""

    id: str
    turn: str
    writing: bool = False
    reasoning: Reasoning | None = None
    spans: list[str] = field(default_factory=list[str])


class Writer:
    """`open` are the messages that are being written, by id. `take` gives what was written since."""

    def __init__(self) -> None:
        self.messages = Messages(most=KEPT)
        self.open: dict[str, Open] = {}
        self._steps: dict[str, str] = {}
        self._out: list[bytes] = []

    def put(self, event: ag.BaseEvent) -> None:
        self._out.append(b"data: %b\n\n" % event.model_dump_json(by_alias=True).encode())

    def correct(self) -> None:
        """Say all messages again, as they are to be known."""
        self._out.append(b"data: %b\n\n" % self.messages.snapshot())

    def take(self) -> bytes:
        out = b"".join(self._out)
        self._out.clear()
        return out

    # ---- messages

    def said(self, message: Message) -> None:
        """By anyone but the assistant."""
        self.messages.add(UserOrSystem(message))
        role = "system" if message.role == "system" else "user"
        self.put(ag.TextMessageStartEvent(message_id=message.id, role=role))
        self.put(ag.TextMessageContentEvent(message_id=message.id, delta=plain_text(message.content)))
        self.put(ag.TextMessageEndEvent(message_id=message.id))

    def step(self, turn: str, message_id: str) -> Open:
        """The assistant's message as it is being written; it is a step of its turn, which ends when the next begins."""
        if self._steps.get(turn) != message_id and message_id not in self.open:
            self.end_step(turn)
            self._steps[turn] = message_id
            self.put(ag.StepStartedEvent(step_name=message_id))
        return self.open.setdefault(message_id, Open(message_id, turn))

    def end_step(self, turn: str) -> None:
        step = self._steps.pop(turn, None)
        if step is not None:
            self.put(ag.StepFinishedEvent(step_name=step))

    def write(self, opened: Open, channel: Channel, text: str) -> None:
        """The next piece of the message."""
        if channel == "text":
            self._write(opened, text)
        else:
            self._reason(opened, text)

    def finish(self, opened: Open, message: Message) -> None:
        """The whole message is there: what its reader lacks of it is written."""
        rest = rest_of(message, self._text(opened))
        if rest is None:
            self.take_back(opened)
            rest = plain_text(message.content)
        if rest or self.messages.find(opened.id) is None:
            self._write(opened, rest)
        self._close(opened, message.status)
        self.open.pop(opened.id, None)

    def catch_up(self, opened: Open, partial: Partial) -> None:
        """Write what the reader lacks of a message that is being written."""
        text, reasoned = self._text(opened), self._reasoned(opened)
        if not partial.text.startswith(text) or not partial.reasoning.startswith(reasoned):
            self.take_back(opened)
            text = reasoned = ""
        if len(partial.reasoning) > len(reasoned):
            self._reason(opened, partial.reasoning[len(reasoned) :])
        if len(partial.text) > len(text):
            self._write(opened, partial.text[len(text) :])

    def take_back(self, opened: Open) -> None:
        """Drop what was told of the message, except its calls, which are never emitted again."""
        self._close(opened)
        if not self._text(opened) and not opened.spans:
            return
        told = self.messages.find(opened.id)
        if isinstance(told, Assistant):
            told.pieces.clear()
            if not told.calls:
                self.messages.discard(told.id)
        for span in opened.spans:
            # A reader keeps reasoning that a snapshot without any leaves out: it is emptied instead.
            reasoning = self.messages.find(span)
            if isinstance(reasoning, Reasoning):
                reasoning.pieces.clear()
        opened.spans.clear()
        self.correct()

    def give_up(self, turn: str) -> None:
        """The turn is over: a message that it has not finished is none."""
        for opened in [opened for opened in self.open.values() if opened.turn == turn]:
            self.take_back(opened)
            del self.open[opened.id]
        self.end_step(turn)

    def close_all(self) -> None:
        for opened in self.open.values():
            self._close(opened)
        self.open.clear()
        for turn in list(self._steps):
            self.end_step(turn)

    def _write(self, opened: Open, text: str) -> None:
        self._end_reasoning(opened)
        told = self.messages.assistant(opened.id)
        if not opened.writing:
            opened.writing = True
            self.put(ag.TextMessageStartEvent(message_id=opened.id, role="assistant"))
        if text:
            told.pieces.append(text)
            self.put(ag.TextMessageContentEvent(message_id=opened.id, delta=text))

    def _reason(self, opened: Open, text: str) -> None:
        if opened.reasoning is None:
            span = reasoning_id(opened.id, len(opened.spans) + 1)
            found = self.messages.find(span)
            opened.reasoning = found if isinstance(found, Reasoning) else Reasoning(span)
            opened.spans.append(span)
            if found is None:
                self.messages.add(opened.reasoning)
            self.put(ag.ReasoningStartEvent(message_id=span))
            self.put(ag.ReasoningMessageStartEvent(message_id=span))
        opened.reasoning.pieces.append(text)
        self.put(ag.ReasoningMessageContentEvent(message_id=opened.reasoning.id, delta=text))

    def _end_reasoning(self, opened: Open) -> None:
        if opened.reasoning is not None:
            self.put(ag.ReasoningMessageEndEvent(message_id=opened.reasoning.id))
            self.put(ag.ReasoningEndEvent(message_id=opened.reasoning.id))
            opened.reasoning = None

    def _close(self, opened: Open, status: str = "complete") -> None:
        self._end_reasoning(opened)
        if opened.writing:
            opened.writing = False
            metadata = {"status": status} if status != "complete" else None
            self.put(ag.TextMessageEndEvent(message_id=opened.id, metadata=metadata))

    def _text(self, opened: Open) -> str:
        told = self.messages.find(opened.id)
        return "".join(told.pieces) if isinstance(told, Assistant) else ""

    def _reasoned(self, opened: Open) -> str:
        spans = [self.messages.find(span) for span in opened.spans]
        return "".join("".join(span.pieces) for span in spans if isinstance(span, Reasoning))

    # ---- calls

    def call(self, call: ToolCall) -> None:
        parent = call.message_id
        self.messages.assistant(parent or call.id).calls[call.id] = (call.tool, arguments(call))
        self.put(ag.ToolCallStartEvent(tool_call_id=call.id, tool_call_name=call.tool, parent_message_id=parent))
        self.put(ag.ToolCallArgsEvent(tool_call_id=call.id, delta=arguments(call)))
        self.put(ag.ToolCallEndEvent(tool_call_id=call.id))
        if call.approval is not None:
            self.ask(call)

    def ask(self, call: ToolCall) -> None:
        """A person has to approve the call."""
        self._custom("approval_request", toolCallId=call.id, tool=call.tool, parameters=call.parameters)

    def decision(self, approval: ToolApproval) -> None:
        self._custom(
            "approval",
            toolCallId=approval.tool_call_id,
            approved=approval.approved,
            parameters=approval.parameters,
            reason=approval.reason,
        )

    def progress(self, call_id: str, progress: float, total: float | None, message: str | None) -> None:
        self._custom("tool_progress", toolCallId=call_id, progress=progress, total=total, message=message)

    def answer(self, response: ToolResponse) -> None:
        self.messages.answer(ToolResult(response))
        self.put(
            ag.ToolCallResultEvent(
                message_id=response.id,
                tool_call_id=response.tool_call_id,
                content=result_text(response),
                metadata={"status": response.status} if response.status != "success" else None,
            )
        )

    def _custom(self, name: str, **value: object) -> None:
        said = {key: one for key, one in value.items() if one is not None}
        self.put(ag.CustomEvent(name=f"tidegate.{name}", value=said))

    # ---- all at once

    def begin_again(self, messages: Messages, partials: Sequence[Partial]) -> None:
        """The reader is to know these messages, of which `partials` are being written."""
        self.messages = messages
        self.correct()
        for partial in partials:
            opened = self.step(partial.turn_id, partial.message_id)
            if partial.reasoning:
                opened.spans.append(reasoning_id(partial.message_id, 1))
