"""A scripted server that speaks the wire of Anthropic's Messages API over real HTTP, for tests.

```python
async with FakeAnthropic() as server:
    server.replies.append(Reply.text("Hello, world"))
    server.replies.append(Reply.of(Thought("So."), Said("Let me see."), Call("look", {"at": "x"})))
    server.replies.append(Reply.script([*words("Hel"), Cut()]))
    model = AnthropicModel("m", "claude", "key", server.base_url)
```
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gateway.testing.anthropic_rules import objections
from gateway.testing.anthropic_script import (
    BlockStart,
    BlockStop,
    Delta,
    Event,
    Failure,
    MessageDelta,
    MessageStart,
    MessageStop,
    Ping,
    Raw,
    Reply,
    Step,
    Usage,
)
from gateway.testing.scripted_server import ReceivedRequest, ScriptedServer

__all__ = ["FakeAnthropic", "ReceivedRequest"]

Json = dict[str, Any]

_DELTAS = {"partial_json": "input_json_delta"}


class FakeAnthropic(ScriptedServer[Reply]):
    """Answers each POST with the next of `replies`, else with what `default` makes of it, else with status 500.

    A request that the real API would refuse is refused, with its status and much the same words, and the script waits
    for the next; `strict` False lets everything pass. `system_role` says that the model takes system messages among
    the others, as those since Opus 4.8 do; `refusals` holds the words of what was refused.

    It listens on a free port of 127.0.0.1, or on `port`; `requests` holds all that came. One event loop, no threads.
    """

    def __init__(
        self,
        *replies: Reply,
        default: Callable[[ReceivedRequest], Reply] | None = None,
        port: int = 0,
        strict: bool = True,
        system_role: bool = True,
    ) -> None:
        super().__init__(replies, default, port)
        self.refusals: list[str] = []
        self._strict = strict
        self._system_role = system_role

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def _no_reply(self) -> Reply:
        return Reply.failure(500, "api_error", "the script of this server has no reply left")

    def _check(self, request: ReceivedRequest) -> Reply | None:
        if not self._strict:
            return None
        refusal = self._refusal(request)
        if refusal is None:
            return None
        status, kind, words = refusal
        self.refusals.append(words)
        return Reply.failure(status, kind, words)

    def _refusal(self, request: ReceivedRequest) -> tuple[int, str, str] | None:
        if request.path.partition("?")[0] != "/v1/messages":
            return 404, "not_found_error", "Not found"
        if not {"x-api-key", "authorization"} & request.headers.keys():
            return 401, "authentication_error", "x-api-key header is required"
        if "anthropic-version" not in request.headers:
            return 400, "invalid_request_error", "anthropic-version: header is required"
        words = next(objections(request.body, system_role=self._system_role), None)
        return None if words is None else (400, "invalid_request_error", words)

    def _encode(self, step: Step, request: ReceivedRequest) -> bytes:
        if isinstance(step, Raw):
            return step.data
        name, value = _event(step, request)
        return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(value))


def _event(step: Step, request: ReceivedRequest) -> tuple[str, Any]:
    if isinstance(step, Event):
        return step.name, step.value
    name, fields = _fields(step, request)
    return name, {"type": name, **fields}


def _fields(step: Step, request: ReceivedRequest) -> tuple[str, Json]:
    if isinstance(step, MessageStart):
        return "message_start", {"message": _message(step, request)}
    if isinstance(step, BlockStart):
        return "content_block_start", {"index": step.index, "content_block": step.block}
    if isinstance(step, Delta):
        kind = _DELTAS.get(step.field, f"{step.field}_delta")
        return "content_block_delta", {"index": step.index, "delta": {"type": kind, step.field: step.text}}
    if isinstance(step, BlockStop):
        return "content_block_stop", {"index": step.index}
    if isinstance(step, MessageDelta):
        delta = {"stop_reason": step.stop_reason, "stop_sequence": None}
        return "message_delta", {"delta": delta, "usage": _output(step.usage)}
    if isinstance(step, MessageStop):
        return "message_stop", {}
    if isinstance(step, Ping):
        return "ping", {}
    if isinstance(step, Failure):
        return "error", {"error": {"type": step.type, "message": step.message}}
    raise TypeError(f"{step} is no event")


def _message(step: MessageStart, request: ReceivedRequest) -> Json:
    return {
        "id": f"msg_{id(request):024x}",
        "type": "message",
        "role": "assistant",
        "model": request.body.get("model"),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {
            "input_tokens": step.usage.input_tokens,
            "cache_creation_input_tokens": step.usage.cache_creation,
            "cache_read_input_tokens": step.usage.cache_read,
            "output_tokens": 1,
        },
    }


def _output(usage: Usage) -> Json:
    counts: Json = {"output_tokens": usage.output_tokens}
    if usage.thinking_tokens is not None:
        counts["output_tokens_details"] = {"thinking_tokens": usage.thinking_tokens}
    return counts
