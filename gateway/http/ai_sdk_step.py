"""A step of a UI message as its reader has it, so that it can be taken back and told anew."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.http.front_ends import failure_text, sse
from protocol.frames import (
    Channel,
    Content,
    ImagePart,
    Partial,
    TextPart,
    ToolApproval,
    ToolCall,
    ToolResponse,
)

__all__ = ["Step", "ui_parts"]


class Step:
    """`id` is its message's, `open` until that is finished. Methods add the chunks to `out`."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.open = True
        self._pieces: dict[Channel, list[str]] = {"text": [], "reasoning": []}
        self._part: tuple[Channel, str] | None = None
        self._parts = 0
        self._called: set[str] = set()
        self._calls: list[bytes] = []

    @property
    def text(self) -> str:
        return "".join(self._pieces["text"])

    def write(self, out: list[bytes], channel: Channel, text: str) -> None:
        if not text:
            return
        if self._part is None or self._part[0] != channel:
            self.end_part(out)
            self._parts += 1
            self._part = (channel, f"{self.id}.{self._parts}")
            out.append(sse({"type": f"{channel}-start", "id": self._part[1]}))
        self._pieces[channel].append(text)
        out.append(sse({"type": f"{channel}-delta", "id": self._part[1], "delta": text}))

    def end_part(self, out: list[bytes]) -> None:
        """The next text begins a part of its own."""
        if self._part is not None:
            out.append(sse({"type": f"{self._part[0]}-end", "id": self._part[1]}))
            self._part = None

    def restart(self, out: list[bytes]) -> None:
        """The message begins, perhaps again: nothing of it stands."""
        if self._pieces["text"] or self._pieces["reasoning"]:
            self.take_back(out)

    def take_back(self, out: list[bytes]) -> None:
        """Drop the text; the calls, which are never emitted again, are told anew."""
        if self._pieces["text"] or self._pieces["reasoning"]:
            self.end_part(out)
            for pieces in self._pieces.values():
                pieces.clear()
            out.append(sse({"type": "reset-step"}))
            out.extend(self._calls)

    def set_aside(self, out: list[bytes]) -> list[tuple[Channel, str]]:
        """Take the text back, and say what it was."""
        reasoning = "".join(self._pieces["reasoning"])
        aside: list[tuple[Channel, str]] = [("reasoning", reasoning), ("text", self.text)]
        self.take_back(out)
        return aside

    def catch_up(self, out: list[bytes], partial: Partial) -> None:
        """Write what is missing of a message that is being written."""
        reasoned = "".join(self._pieces["reasoning"])
        if not partial.text.startswith(self.text) or not partial.reasoning.startswith(reasoned):
            self.take_back(out)
            reasoned = ""
        self.write(out, "reasoning", partial.reasoning[len(reasoned) :])
        self.write(out, "text", partial.text[len(self.text) :])

    # ---- calls

    def call(self, out: list[bytes], call: ToolCall) -> None:
        self.end_part(out)
        start: dict[str, Any] = {**_tool(call), "type": "tool-input-start"}
        chunks = [sse(start)]
        if call.approval is None:
            chunks.append(_input(call, call.parameters))
        else:
            # It is available, and a client's own tool runs, only once somebody has said yes.
            written = msgspec.json.encode(call.parameters).decode()
            chunks.append(sse({"type": "tool-input-delta", "toolCallId": call.id, "inputTextDelta": written}))
            chunks.append(sse({"type": "tool-approval-request", "approvalId": call.id, "toolCallId": call.id}))
        self._called.add(call.id)
        self._tell(out, call, chunks)

    def decide(self, out: list[bytes], call: ToolCall, approval: ToolApproval) -> None:
        said: dict[str, Any] = {
            "type": "tool-approval-response",
            "approvalId": call.id,
            "approved": approval.approved,
        }
        if approval.reason is not None:
            said["reason"] = approval.reason
        chunks = [sse(said)]
        if approval.approved and call.id in self._called:
            chunks.append(_input(call, call.parameters if approval.parameters is None else approval.parameters))
        self._tell(out, call, chunks)

    def _tell(self, out: list[bytes], call: ToolCall, chunks: list[bytes]) -> None:
        if call.id in self._called:
            self._calls.extend(chunks)
        out.extend(chunks)

    def answer(self, out: list[bytes], call: ToolCall, response: ToolResponse) -> None:
        """Of this step's call, or of an earlier one's."""
        if response.status == "success":
            chunk = {"type": "tool-output-available", "toolCallId": call.id, "output": response.result}
        elif response.status == "denied" and call.approval is not None:
            chunk = {"type": "tool-output-denied", "toolCallId": call.id}
        else:
            chunk = {"type": "tool-output-error", "toolCallId": call.id, "errorText": failure_text(response)}
        self._tell(out, call, [sse(chunk)])


def _tool(call: ToolCall) -> dict[str, Any]:
    told: dict[str, Any] = {"toolCallId": call.id, "toolName": call.tool, "dynamic": True}
    if call.runs_on == "server":
        # So the SDK takes it for a call that it neither runs nor waits for.
        told["providerExecuted"] = True
    return told


def _input(call: ToolCall, parameters: dict[str, Any]) -> bytes:
    return sse({**_tool(call), "type": "tool-input-available", "input": parameters})


def ui_parts(content: Content) -> list[dict[str, Any]]:
    """The parts of a user's UI message."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    parts: list[dict[str, Any]] = []
    for part in content:
        if isinstance(part, TextPart):
            parts.append({"type": "text", "text": part.text})
        elif isinstance(part, ImagePart):
            url = f"data:{part.mime_type};base64,{part.data}"
            parts.append({"type": "file", "mediaType": part.mime_type, "url": url})
        else:
            parts.append({"type": "text", "text": f"[{part.uri}]"})
    return parts
