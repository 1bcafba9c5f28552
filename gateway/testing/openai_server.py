"""A scripted server that speaks the wire of OpenAI's chat completions over real HTTP, for tests.

```python
async with FakeOpenAI() as server:
    server.replies.append(Reply.text("Hello, world"))
    server.replies.append(Reply(steps=[Text("Hel"), Cut()]))
    model = OpenAIModel("m", "gpt", "key", server.base_url)
```
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gateway.testing.openai_script import CallFragment, Chunk, Done, Finish, Raw, Reasoning, Reply, Step, Text, Usage
from gateway.testing.scripted_server import ReceivedRequest, ScriptedServer

__all__ = ["FakeOpenAI", "ReceivedRequest"]


class FakeOpenAI(ScriptedServer[Reply]):
    """Answers each POST with the next of `replies`, else with what `default` makes of it, else with status 500.

    It listens on a free port of 127.0.0.1, or on `port`; `requests` holds all that came. One event loop, no threads.
    """

    def __init__(
        self, *replies: Reply, default: Callable[[ReceivedRequest], Reply] | None = None, port: int = 0
    ) -> None:
        super().__init__(replies, default, port)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def _no_reply(self) -> Reply:
        return Reply.failure(500, "no_reply", "the script of this server has no reply left")

    def _encode(self, step: Step, request: ReceivedRequest) -> bytes:
        if isinstance(step, Raw):
            return step.data
        if isinstance(step, Done):
            return b"data: [DONE]\n\n"
        if isinstance(step, Usage) and not request.body.get("stream_options", {}).get("include_usage"):
            return b""
        base = {"id": f"chatcmpl-{id(request):x}", "model": str(request.body.get("model"))}
        value = step.value if isinstance(step, Chunk) else {**base, **_chunk(step)}
        return b"data: %b\n\n" % msgspec.json.encode(value)


def _chunk(step: Step) -> dict[str, Any]:
    chunk: dict[str, Any] = {"object": "chat.completion.chunk", "created": 1_700_000_000, "choices": []}
    if isinstance(step, Usage):
        usage: dict[str, Any] = {
            "prompt_tokens": step.prompt_tokens,
            "completion_tokens": step.completion_tokens,
            "total_tokens": step.prompt_tokens + step.completion_tokens,
        }
        if step.cached_tokens is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": step.cached_tokens}
        if step.reasoning_tokens is not None:
            usage["completion_tokens_details"] = {"reasoning_tokens": step.reasoning_tokens}
        return {**chunk, "usage": usage}
    delta: dict[str, Any] = {}
    if isinstance(step, Text):
        delta = {"content": step.text}
    elif isinstance(step, Reasoning):
        delta = {step.field: step.text}
    elif isinstance(step, CallFragment):
        delta = {"tool_calls": [_fragment(step)]}
    reason = step.reason if isinstance(step, Finish) else None
    chunk["choices"] = [{"index": 0, "delta": delta, "finish_reason": reason}]
    return chunk


def _fragment(step: CallFragment) -> dict[str, Any]:
    function = {"name": step.name, "arguments": step.arguments}
    fragment = {
        "index": step.index,
        "id": step.id,
        "type": "function" if step.name else None,
        "function": {key: value for key, value in function.items() if value is not None},
    }
    return {key: value for key, value in fragment.items() if value is not None}
