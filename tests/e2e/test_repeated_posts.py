"""A message that is posted again by a client that has all that its response says: it ends at once."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.conftest import EVERYWHERE
from tests.e2e.gateways import GatewayProcess
from tests.e2e.sse import http_client, posting


@pytest.mark.parametrize("respond", [True, False])
@EVERYWHERE
async def test_a_response_that_has_nothing_more_to_say_ends(gateway: GatewayProcess, respond: bool) -> None:
    message: dict[str, Any] = {"id": "m1", "content": "hello", "respond": respond}
    async with http_client(gateway.url, gateway.key()) as http:
        async with posting(http, "chat", **message) as first:
            said = await first.rest()
            assert first.last_id is not None
        epoch, seq = map(int, first.last_id.split(":"))
        async with posting(http, "chat", id="m2", content="later") as other:
            await other.rest()
        # At its end, and behind it.
        for cursor in (first.last_id, f"{epoch}:{seq + 1}", other.last_id):
            async with posting(http, "chat", cursor=cursor, **message) as again:
                assert await again.rest() == []
        # Before it, there is something to say.
        async with posting(http, "chat", cursor=f"{epoch}:{seq - 1}", **message) as again:
            assert await again.rest() == said[-1:]


@pytest.mark.parametrize("format", ["ai-sdk"])
@EVERYWHERE
async def test_a_front_end_is_told_how_the_turn_ended(gateway: GatewayProcess, format: str) -> None:
    async with http_client(gateway.url, gateway.key()) as http:
        async with posting(http, "chat", id="m1", content="hello") as first:
            await first.rest()
        body = {"id": "chat", "messages": [{"id": "m1", "role": "user", "parts": [{"type": "text", "text": "hello"}]}]}
        answer = await http.post(
            f"/v1/contexts/chat/messages?format={format}", json=body, headers={"Last-Event-ID": first.last_id or ""}
        )
        assert answer.status_code == 200, answer.text
        assert answer.text.endswith("data: [DONE]\n\n")
        assert "going away" not in answer.text
