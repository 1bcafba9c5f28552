"""What tells one model request from all others: the key under which its answer is kept."""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec

from gateway.models.port import AssistantInput, ModelInput, ModelRequest, TextInput
from gateway.models.settings import ModelSettings

__all__ = ["fingerprint", "request_key"]

_FORMAT: Final = "response 1"
_encoder = msgspec.json.Encoder(order="sorted")


def fingerprint(spec: ModelSettings) -> str:
    """Of all settings of a model: whatever is changed in them, answers of before are not given any more."""
    return hashlib.sha256(_encoder.encode(spec)).hexdigest()


def request_key(model: str, fingerprint: str, owner: str | None, request: ModelRequest) -> str:
    """SHA-256 over the model's name and settings, whose request it is (None: anybody's), the tools and all inputs.

    The ids of calls are new in each conversation: the order in which they appear stands for them, so that equal
    conversations have one key.
    """
    digest = hashlib.sha256()
    numbers: dict[str, int] = {}
    for part in (
        [_FORMAT, model, fingerprint, owner],
        request.tools,
        *(_told(item, numbers) for item in request.inputs),
    ):
        digest.update(_encoder.encode(part))
        # JSON holds no line break of its own, so that no two lists of parts read the same.
        digest.update(b"\n")
    return "response:" + digest.hexdigest()


def _told(item: ModelInput, numbers: dict[str, int]) -> list[Any]:
    if isinstance(item, TextInput):
        return [item.role, item.content]
    if isinstance(item, AssistantInput):
        calls = [[_number(call.id, numbers), call.tool, call.parameters] for call in item.calls]
        return ["assistant", item.content, calls]
    return ["result", _number(item.call_id, numbers), item.content, item.is_error, *item.images]


def _number(call_id: str, numbers: dict[str, int]) -> int:
    return numbers.setdefault(call_id, len(numbers))
