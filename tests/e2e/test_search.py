"""Search over HTTP (docs/protocol.md, section 6), against a real gateway."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.e2e.conftest import EVERYWHERE, SHARED
from tests.e2e.gateways import GatewayProcess
from tests.e2e.wire import Wire


def client_of(gateway: GatewayProcess, key: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=gateway.url, headers={"X-API-Key": key}, trust_env=False, timeout=30)


async def search(http: httpx.AsyncClient, query: str, **more: Any) -> dict[str, Any]:
    answer = await http.get("/v1/search", params={"q": query, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_what_was_said_is_found_with_its_place(gateway: GatewayProcess) -> None:
    key = gateway.key()
    async with client_of(gateway, key) as http, Wire(gateway.ws, key) as wire:
        await wire.hello()
        events = await wire.turn("the zeppelin lands", "chat")
        await http.patch("/v1/contexts/chat", json={"title": "On airships"})
        found = (await search(http, "zepp"))["results"]
        spoken = [event for event in events if event["type"] == "message"]
        assert {hit["message_id"] for hit in found} == {event["id"] for event in spoken}
        (mine,) = [hit for hit in found if hit["role"] == "user"]
        assert (mine["context_id"], mine["title"]) == ("chat", "On airships")
        assert mine["snippet"] == [{"text": "the "}, {"text": "zeppelin", "match": True}, {"text": " lands"}]
        assert mine["timestamp"].endswith("Z")
        (title,) = (await search(http, "airships"))["results"]
        assert (title["message_id"], title["seq"]) == (None, None)

        # In the order and with the seqs of history, once they are recorded.
        seqs = {event["id"]: event["seq"] for event in spoken}
        gateway.kill()
        await gateway.start()
        found = (await search(http, "zeppelin"))["results"]
        assert [hit["seq"] for hit in found] == sorted((seqs[hit["message_id"]] for hit in found), reverse=True)


@pytest.mark.promise("6")
@EVERYWHERE
async def test_nobody_finds_what_is_anothers(gateway: GatewayProcess) -> None:
    ann, bob = gateway.key("ann"), gateway.key("bob")
    async with client_of(gateway, ann) as hers, client_of(gateway, bob) as his, Wire(gateway.ws, ann) as wire:
        await wire.hello()
        await wire.turn("my secret word", "chat")
        assert (await search(hers, "secret"))["results"]
        assert await search(his, "secret") == {"results": [], "next": None}


@EVERYWHERE
async def test_pages(gateway: GatewayProcess) -> None:
    key = gateway.key()
    async with client_of(gateway, key) as http:
        for number in range(5):
            await http.post("/v1/contexts", json={"id": f"c{number}", "title": "harbour"})
        found: list[str] = []
        more: dict[str, str] = {}
        while True:
            page = await search(http, "harbour", limit="2", **more)
            found += [hit["context_id"] for hit in page["results"]]
            if page["next"] is None:
                break
            more = {"after": page["next"]}
        assert found == ["c4", "c3", "c2", "c1", "c0"]


@SHARED
async def test_no_query_breaks_it(gateway: GatewayProcess) -> None:
    async with client_of(gateway, gateway.key()) as http:
        for query in ("", '"', "* NEAR(", "title:x", "a\0b", "'; DROP TABLE contexts;--", "x" * 8000, "京" * 500):
            assert await search(http, query) == {"results": [], "next": None}
        raw = await http.get("/v1/search?q=%ff%fe%00")
        assert raw.status_code == 200
        for path, query in (("q", ""), ("limit", "q=x&limit=0"), ("after", "q=x&after=nonsense")):
            refused = await http.get(f"/v1/search?{query}")
            assert (refused.status_code, refused.json()["error"]["path"]) == (400, path)
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as nobody:
        assert (await nobody.get("/v1/search?q=x")).status_code == 401
