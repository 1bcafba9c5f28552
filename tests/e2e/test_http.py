"""HTTP beside the socket (docs/protocol.md, section 6), and credentials that end on a live socket."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import jwt
import pytest

from tests.e2e.conftest import EVERYWHERE, SHARED
from tests.e2e.gateways import GatewayProcess
from tests.e2e.wire import Wire

SECRET = "a-secret-of-more-than-thirty-two-bytes"


def _client(gateway: GatewayProcess, key: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=gateway.url, headers={"X-API-Key": key}, trust_env=False)


@EVERYWHERE
async def test_a_context_is_made_renamed_listed_and_deleted_for_good(gateway: GatewayProcess) -> None:
    key = gateway.key()
    async with _client(gateway, key) as http, Wire(gateway.ws, key) as wire:
        made = await http.post("/v1/contexts", json={"id": "chat", "title": "old", "metadata": {"a": 1}})
        again = await http.post("/v1/contexts", json={"id": "chat", "title": "other"})
        assert (made.status_code, again.status_code) == (201, 200)
        assert again.json()["title"] == "old"
        await wire.hello(cursors={"chat": None})
        await wire.wait(lambda frame: frame["type"] == "snapshot")
        renamed = await http.patch("/v1/contexts/chat", json={"title": "new"})
        assert (renamed.json()["title"], renamed.json()["metadata"]) == ("new", {"a": 1})
        assert (await wire.wait(lambda frame: frame["type"] == "context"))["title"] == "new"
        listed = (await http.get("/v1/contexts")).json()
        assert ([context["id"] for context in listed["contexts"]], listed["next"]) == (["chat"], None)
        assert (await http.delete("/v1/contexts/chat")).status_code == 204
        assert (await wire.wait(lambda frame: frame.get("deleted") is True))["context_id"] == "chat"
        for gone in (await http.get("/v1/contexts/chat"), await http.get("/v1/contexts/chat/events")):
            assert gone.status_code == 404
            assert gone.json()["error"]["code"] == "not_found"
        await wire.turn("afresh", "chat")


@EVERYWHERE
async def test_history_comes_in_pages(gateway: GatewayProcess) -> None:
    key = gateway.key()
    async with _client(gateway, key) as http, Wire(gateway.ws, key) as wire:
        await wire.hello()
        for number in range(4):
            await wire.turn(f"message {number}", "chat")
        seqs: list[int] = []
        before = ""
        while True:
            page = (await http.get(f"/v1/contexts/chat/events?limit=5{before}")).json()
            seqs = [event["seq"] for event in page["events"]] + seqs
            if page["next"] is None:
                break
            before = f"&before={page['next']}"
    assert len(seqs) == 12
    assert seqs == sorted(set(seqs))


@pytest.mark.promise("6")
@EVERYWHERE
async def test_what_is_not_ones_own_is_not_found(gateway: GatewayProcess) -> None:
    async with _client(gateway, gateway.key("ann")) as ann, _client(gateway, gateway.key("bob")) as bob:
        await ann.post("/v1/contexts", json={"id": "chat"})
        for answer in (
            await bob.get("/v1/contexts/chat"),
            await bob.patch("/v1/contexts/chat", json={"title": "his"}),
            await bob.delete("/v1/contexts/chat"),
            await bob.get("/v1/contexts/chat/events"),
        ):
            assert answer.status_code == 404
        assert (await bob.get("/v1/contexts")).json()["contexts"] == []
        assert (await ann.get("/v1/contexts/chat")).json()["title"] is None


@SHARED
async def test_refusals_name_what_is_wrong(gateway: GatewayProcess) -> None:
    async with _client(gateway, gateway.key()) as http:
        answers = {
            "title": await http.post("/v1/contexts", json={"title": 7}),
            "limit": await http.get("/v1/contexts?limit=0"),
            "after": await http.get("/v1/contexts?after=nonsense"),
        }
        for path, answer in answers.items():
            assert answer.status_code == 400
            assert answer.json()["error"]["path"] == path
        large = await http.post("/v1/contexts", json={"metadata": {"x": "x" * 2_000_000}})
        assert large.status_code == 413
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as nobody:
        refused = await nobody.get("/v1/contexts")
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "unauthenticated")
        assert (await nobody.post("/v1/tickets")).status_code == 401


async def test_tools_schema_health_and_metrics(gateway: GatewayProcess) -> None:
    key = gateway.key()
    async with _client(gateway, key) as http, Wire(gateway.ws, key) as wire:
        await wire.hello(tools=[{"name": "browser", "description": "opens", "parameters": {"type": "object"}}])
        await wire.turn("count 2", "chat")
        tools = {tool["name"]: tool["runs_on"] for tool in (await http.get("/v1/tools")).json()["tools"]}
        assert tools == {"calculator": "server", "countdown": "server", "clock": "server", "browser": "client"}
        assert "SendMessage" in (await http.get("/v1/schema.json")).json()["$defs"]
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.get("/readyz")).status_code == 200
        metrics = (await http.get("/metrics")).text
    for name in (
        "tidegate_sockets 1.0",
        "tidegate_sessions 1.0",
        "tidegate_live_contexts 1.0",
        'tidegate_turns_ended_total{status="complete"} 1.0',
        "tidegate_first_token_seconds_count 2.0",
        "tidegate_store_seconds_count",
        "tidegate_log_seconds_count",
        "tidegate_reader_lag_events 0.0",
    ):
        assert name in metrics, name


async def test_credentials_that_end_are_announced_renewed_and_closed(tmp_path: Path) -> None:
    def token(subject: str, seconds: float) -> str:
        return jwt.encode({"sub": subject, "exp": int(time.time() + seconds)}, SECRET, algorithm="HS256")

    config = f'[auth.jwt]\nkey = "{SECRET}"\nleeway = 0\n'
    async with GatewayProcess(tmp_path, config=config) as gateway:
        async with Wire(gateway.ws) as wire:
            await wire.hello(token=token("ann", 4))
            expiring = await wire.wait(lambda frame: frame["type"] == "expiring")
            assert 0 <= expiring["expires_in"] <= 4
            assert (await wire.ask("auth", token="nonsense"))["code"] == "unauthenticated"
            assert (await wire.ask("auth", token=token("ann", 3600)))["type"] == "ack"
            await wire.turn("hello", "chat")
            await wire.send({"type": "auth", "id": "other", "token": token("bob", 3600)})
            assert await wire.wait_closed() == 4403
        async with Wire(gateway.ws) as wire:
            await wire.hello(token=token("ann", 2))
            assert await wire.wait_closed() == 4401
