"""What `@ag-ui/client` 1.0 asks of a stream (its verifier) and makes of it (its reducer), as far as we use it."""

from __future__ import annotations

from typing import Any

from ag_ui import core as ag
from pydantic import TypeAdapter

__all__ = ["AgUiReader"]

_EVENT: TypeAdapter[Any] = TypeAdapter(ag.Event)


class AgUiReader:
    """`messages` by id, in the reader's order; `runs` are the events that ended one."""

    def __init__(self, messages: list[dict[str, Any]] | None = None) -> None:
        self.messages: list[dict[str, Any]] = list(messages or [])
        self.runs: list[Any] = []
        self.custom: list[tuple[str, Any]] = []
        self.types: list[str] = []
        self.open: set[tuple[str, str]] = set()
        self.running = False

    def read(self, stream: bytes) -> AgUiReader:
        for block in stream.split(b"\n\n")[:-1]:
            assert block.startswith(b"data: "), block
            assert b"\n" not in block
            event = _EVENT.validate_json(block[6:])
            assert not event.__pydantic_extra__, event
            self.types.append(event.type.value)
            self._verify(event)
            self._apply(event)
        return self

    def text(self, id: str) -> str | None:
        found = self.find(id)
        return None if found is None else found["content"]

    def find(self, id: str) -> dict[str, Any] | None:
        assert [one["id"] for one in self.messages].count(id) <= 1
        return next((one for one in self.messages if one["id"] == id), None)

    def _verify(self, event: Any) -> None:
        if isinstance(event, ag.RunStartedEvent):
            assert not self.running
            assert event.protocol_version == ag.PROTOCOL_VERSION
            self.running = True
        elif isinstance(event, ag.RunFinishedEvent):
            assert self.running
            assert not self.open
            self.running = False
        elif isinstance(event, ag.RunErrorEvent):
            assert not self.open
            self.running = False
        else:
            assert self.running, event
        name = event.type.value
        for kind in ("TEXT_MESSAGE", "REASONING_MESSAGE", "REASONING", "TOOL_CALL", "STEP"):
            id = getattr(event, "tool_call_id", None) or getattr(event, "step_name", None) or ""
            place = (kind, id or getattr(event, "message_id", ""))
            if name in (f"{kind}_START", f"{kind}_STARTED"):
                assert place not in self.open, event
                self.open.add(place)
            elif name in (f"{kind}_END", f"{kind}_FINISHED"):
                self.open.remove(place)
            elif name in (f"{kind}_CONTENT", f"{kind}_ARGS"):
                assert place in self.open, event

    def _apply(self, event: Any) -> None:
        match event:
            case ag.TextMessageStartEvent():
                self._start(event.message_id, event.role or "assistant")
            case ag.ReasoningMessageStartEvent():
                self._start(event.message_id, "reasoning")
            case ag.TextMessageContentEvent() | ag.ReasoningMessageContentEvent():
                found = self.find(event.message_id)
                assert found is not None
                found["content"] = (found.get("content") or "") + event.delta
            case ag.ToolCallStartEvent():
                parent = event.parent_message_id or event.tool_call_id
                if self.find(parent) is None:
                    self.messages.append({"id": parent, "role": "assistant", "content": None})
                owner = self.find(parent)
                assert owner is not None
                calls: list[dict[str, Any]] = owner.get("toolCalls") or []
                owner["toolCalls"] = calls
                assert event.tool_call_id not in [call["id"] for call in calls]
                calls.append({"id": event.tool_call_id, "name": event.tool_call_name, "arguments": ""})
            case ag.ToolCallArgsEvent():
                for one in self.messages:
                    for call in one.get("toolCalls") or ():
                        if call["id"] == event.tool_call_id:
                            call["arguments"] += event.delta
            case ag.ToolCallResultEvent():
                self._result(event)
            case ag.MessagesSnapshotEvent():
                self._snapshot(event)
            case ag.RunFinishedEvent() | ag.RunErrorEvent():
                self.runs.append(event)
            case ag.CustomEvent():
                self.custom.append((event.name, event.value))
            case _:
                pass

    def _start(self, id: str, role: str) -> None:
        if self.find(id) is None:
            self.messages.append({"id": id, "role": role, "content": ""})

    def _result(self, event: ag.ToolCallResultEvent) -> None:
        made = {"id": event.message_id, "role": "tool", "toolCallId": event.tool_call_id, "content": event.content}
        assert self.find(event.message_id) is None
        place = len(self.messages)
        for n, one in enumerate(self.messages):
            if event.tool_call_id in [call["id"] for call in one.get("toolCalls") or ()]:
                place = n + 1
                while place < len(self.messages) and self.messages[place]["role"] == "tool":
                    place += 1
        self.messages.insert(place, made)

    def _snapshot(self, event: ag.MessagesSnapshotEvent) -> None:
        new: list[dict[str, Any]] = []
        for message in event.messages:
            made = message.model_dump(by_alias=True)
            if made.get("toolCalls"):
                made["toolCalls"] = [{"id": call["id"], **call["function"]} for call in made["toolCalls"]]
            new.append(made)
        by_id = {one["id"]: one for one in new}
        reasons = any(one["role"] == "reasoning" for one in new)
        kept = [one for one in self.messages if one["id"] in by_id or (one["role"] == "reasoning" and not reasons)]
        self.messages = [by_id.get(one["id"], one) for one in kept]
        known = {one["id"] for one in self.messages}
        self.messages += [one for one in new if one["id"] not in known]
