"""What a model wrote in the steps of a running tool loop, block by block, to be sent back as it was.

Where a model thinks, Anthropic wants the signed thinking that led to calls back together with their results. No other
part of the gateway knows these blocks, so that they live as long as this process, within bounds.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, cast

import msgspec

from gateway.models.port import AssistantInput, ModelInput, TextInput, ToolResultInput

__all__ = ["Steps", "running_steps", "step_key"]

Json = dict[str, Any]

_encoder = msgspec.json.Encoder(order="sorted")


class Steps:
    """The least recently used are forgotten first, at `max_steps` or `max_bytes` of JSON."""

    def __init__(self, *, max_steps: int = 4_096, max_bytes: int = 32 << 20) -> None:
        self._max_steps = max_steps
        self._max_bytes = max_bytes
        self._bytes = 0
        self._steps: OrderedDict[bytes, bytes] = OrderedDict()

    def remember(self, key: bytes, blocks: Sequence[Json]) -> None:
        written = msgspec.json.encode(blocks)
        self._bytes += len(written) - len(self._steps.pop(key, b""))
        self._steps[key] = written
        while len(self._steps) > self._max_steps or self._bytes > self._max_bytes:
            _, forgotten = self._steps.popitem(last=False)
            self._bytes -= len(forgotten)

    def recall(self, key: bytes) -> list[Json] | None:
        written = self._steps.get(key)
        if written is None:
            return None
        self._steps.move_to_end(key)
        return cast("list[Json]", msgspec.json.decode(written))


def step_key(owner: str, before: Sequence[ModelInput], said: AssistantInput) -> bytes:
    """What tells a step from all others: whose it is, what a person said last before it, the steps since, and what was
    said and called in it. Ids are left out, since a call gets ours only after the answer; so are results, since they
    may be given shortened later on."""
    steps = [said]
    asked: Any = None
    for item in reversed(before):
        if isinstance(item, AssistantInput):
            steps.append(item)
        elif isinstance(item, TextInput) and item.role == "user":
            asked = item.content
            break
    told = [[step.content, [[call.tool, call.parameters] for call in step.calls]] for step in steps]
    return hashlib.sha256(_encoder.encode([owner, asked, told])).digest()


def running_steps(inputs: Sequence[ModelInput]) -> list[int]:
    """The indices of the AssistantInputs whose calls the model has not answered in words yet: those of the tool loop
    that goes on with the next answer. What a person says right after results does not end it."""
    running: list[int] = []
    after_results = False
    for index, item in enumerate(inputs):
        if isinstance(item, AssistantInput):
            if item.calls:
                running.append(index)
            else:
                running.clear()
            after_results = False
        elif isinstance(item, ToolResultInput):
            after_results = True
        elif item.role == "user" and not after_results:
            running.clear()
    return running
