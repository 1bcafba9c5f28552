"""What the AI SDK 7 asks of the chunks of a UI message stream, and the UI messages that it makes of them."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["AiSdkReader"]

# The fields that each kind of chunk must have, from the SDK's `uiMessageChunkSchema`.
_CHUNKS: dict[str, dict[str, type]] = {
    "start": {"messageId": str},
    "start-step": {},
    "finish-step": {},
    "reset-step": {},
    "text-start": {"id": str},
    "text-delta": {"id": str, "delta": str},
    "text-end": {"id": str},
    "reasoning-start": {"id": str},
    "reasoning-delta": {"id": str, "delta": str},
    "reasoning-end": {"id": str},
    "tool-input-start": {"toolCallId": str, "toolName": str},
    "tool-input-delta": {"toolCallId": str, "inputTextDelta": str},
    "tool-input-available": {"toolCallId": str, "toolName": str, "input": dict},
    "tool-approval-request": {"approvalId": str, "toolCallId": str},
    "tool-approval-response": {"approvalId": str, "approved": bool},
    "tool-output-available": {"toolCallId": str, "output": object},
    "tool-output-error": {"toolCallId": str, "errorText": str},
    "tool-output-denied": {"toolCallId": str},
    "steering-message": {"id": str, "parts": list},
    "data-tool-progress": {"id": str, "data": dict},
    "data-message": {"data": dict},
    "error": {"errorText": str},
    "abort": {"reason": str},
    "finish": {"finishReason": str},
}
_REASONS = ("stop", "length", "content-filter", "tool-calls", "error", "interrupted", "other")


class AiSdkReader:
    """`messages` are lists of parts by id; `data` what only `onData` is told; `finished` the reasons of ends."""

    def __init__(self) -> None:
        self.messages: dict[str, list[dict[str, Any]]] = {}
        self.types: list[str] = []
        self.finished: list[str] = []
        self.errors: list[str] = []
        self.data: list[Any] = []
        self.done = False
        self.in_step = False
        self.parts: list[dict[str, Any]] = []
        self.open: dict[str, dict[str, Any]] = {}
        self.writing = False

    def read(self, stream: bytes) -> AiSdkReader:
        for block in stream.split(b"\n\n")[:-1]:
            assert block.startswith(b"data: "), block
            assert not self.done
            if block == b"data: [DONE]":
                self.done = True
                continue
            chunk = msgspec.json.decode(block[6:])
            kind = chunk["type"]
            for field, shape in _CHUNKS[kind].items():
                assert isinstance(chunk[field], shape), chunk
            assert None not in [value for key, value in chunk.items() if key != "output"], chunk
            self.types.append(kind)
            self._apply(kind, chunk)
        return self

    def part(self, call_id: str) -> dict[str, Any]:
        found = [one for one in self.parts if one.get("toolCallId") == call_id]
        assert len(found) == 1, "one part a call"
        return found[0]

    def steps(self, id: str) -> list[list[dict[str, Any]]]:
        """The parts of each step of a message."""
        steps: list[list[dict[str, Any]]] = []
        for part in self.messages[id]:
            if part["type"] == "step":
                steps.append([])
            elif part["type"] != "steering":
                steps[-1].append(part)
        return steps

    def _apply(self, kind: str, chunk: dict[str, Any]) -> None:
        if kind == "data-message":
            assert chunk["transient"]
            self.data.append(chunk["data"])
            return
        if kind == "start":
            assert not self.writing
            self.writing, self.open, self.in_step = True, {}, False
            self.parts = self.messages[chunk["messageId"]] = []
            return
        if kind == "error" and not self.writing:
            self.errors.append(chunk["errorText"])
            return
        assert self.writing, chunk
        if kind in ("finish", "abort", "error", "steering-message"):
            assert not self.in_step
            assert not self.open
        match kind:
            case "start-step" | "finish-step":
                assert self.in_step == (kind == "finish-step")
                assert not self.open, "a part is closed before its step"
                self.in_step = kind == "start-step"
                if self.in_step:
                    self.parts.append({"type": "step"})
            case "reset-step":
                assert self.in_step
                self.open.clear()
                while self.parts[-1]["type"] != "step":
                    self.parts.pop()
            case "steering-message":
                self.parts.append({"type": "steering", "id": chunk["id"]})
            case "finish":
                assert chunk["finishReason"] in _REASONS
                self.finished.append(chunk["finishReason"])
                self.writing = False
            case "abort":
                pass
            case "error":
                self.errors.append(chunk["errorText"])
            case _:
                self._part(kind, chunk)

    def _part(self, kind: str, chunk: dict[str, Any]) -> None:
        what, _, verb = kind.rpartition("-")
        if what in ("text", "reasoning"):
            if verb == "start":
                assert self.in_step
                assert chunk["id"] not in self.open
                self.open[chunk["id"]] = part = {"type": what, "text": ""}
                self.parts.append(part)
            elif verb == "delta":
                self.open[chunk["id"]]["text"] += chunk["delta"]
            else:
                del self.open[chunk["id"]]
            return
        if kind == "tool-input-start":
            assert self.in_step
            assert chunk["dynamic"]
            assert chunk["toolCallId"] not in [one.get("toolCallId") for one in self.parts]
            self.parts.append({"type": "tool", "toolCallId": chunk["toolCallId"], "state": "input-streaming"})
        elif kind == "tool-input-delta":
            self.part(chunk["toolCallId"])["input"] = msgspec.json.decode(chunk["inputTextDelta"])
        elif kind == "tool-input-available":
            # The SDK looks for the part in the step that is being written.
            step = max(n for n, one in enumerate(self.parts) if one["type"] == "step")
            part = self.part(chunk["toolCallId"])
            assert part in self.parts[step:]
            part.update(state="input-available", input=chunk["input"])
        elif kind == "tool-approval-request":
            self.part(chunk["toolCallId"]).update(state="approval-requested", approval=chunk["approvalId"])
        elif kind == "tool-approval-response":
            part = next(one for one in self.parts if one.get("approval") == chunk["approvalId"])
            part.update(state="approval-responded", approved=chunk["approved"])
        elif what == "tool-output":
            part = self.part(chunk["toolCallId"])
            assert not part["state"].startswith("output")
            part.update(state=f"output-{verb}", output=chunk.get("output"), error=chunk.get("errorText"))
        else:
            assert kind == "data-tool-progress"
            assert self.part(chunk["id"])["state"] != "output-available"
