"""Messages that are larger than they look."""

from __future__ import annotations

import time
from typing import Any

import anyio
import mcp_types as types
import pytest
from mcp.shared.message import SessionMessage

from gateway.mcp.transports import Ending, Facts, WatchedMessages

MANY = 1_000_000
RESULTS: list[dict[str, Any]] = [{"tools": [1] * MANY}, {"content": [{"a": [[1] * MANY]}]}, {"deep": [[]] * MANY}]


async def received(message: Any, facts: Facts) -> SessionMessage | Exception:
    sending, receiving = anyio.create_memory_object_stream[SessionMessage | Exception](1)
    async with sending, WatchedMessages(receiving, Ending(), facts) as watched:
        await sending.send(SessionMessage(message))
        return await watched.receive()


@pytest.mark.parametrize("result", RESULTS)
async def test_an_answer_of_too_many_values_is_an_error(result: dict[str, Any]) -> None:
    began = time.process_time()
    found = await received(types.JSONRPCResponse(jsonrpc="2.0", id=7, result=result), Facts(version="2025-11-25"))
    assert time.process_time() - began < 1
    assert isinstance(found, SessionMessage)
    assert isinstance(found.message, types.JSONRPCError)
    assert (found.message.id, found.message.error.message) == (7, "an answer of more than 300,000 values")


async def test_a_request_of_too_many_values_is_not_looked_at() -> None:
    asked = types.JSONRPCRequest(jsonrpc="2.0", id=1, method="ping", params={"a": [1] * MANY})
    assert isinstance(await received(asked, Facts()), ValueError)
    notice = types.JSONRPCNotification(jsonrpc="2.0", method="notifications/progress", params={"a": 1})
    assert isinstance(await received(notice, Facts()), SessionMessage)


async def test_what_is_no_tool_is_left_out_of_a_long_list() -> None:
    fine = {"name": "fine", "inputSchema": {"type": "object"}}
    worse = {"name": "worse", "inputSchema": {"type": "object"}, "icons": [1] * 1_000}
    facts = Facts(version="2025-11-25")
    tools = [fine, worse, *([1] * 100_000)]
    found = await received(types.JSONRPCResponse(jsonrpc="2.0", id=7, result={"tools": tools}), facts)
    assert isinstance(found, SessionMessage)
    assert isinstance(found.message, types.JSONRPCResponse)
    assert found.message.result["tools"] == [fine]
    assert facts.dropped["worse"] == "hardly anything of it is as it should be"
