"""All of one's own taken along, and deleted without a trace, while a real gateway goes on (docs/data.md)."""

from __future__ import annotations

import asyncio
import contextlib
import json
from itertools import pairwise
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.gateways import GatewayProcess
from tests.e2e.wire import Wire


def client_of(gateway: GatewayProcess, key: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=gateway.url, headers={"X-API-Key": key}, trust_env=False, timeout=60)


def left_on_disk(gateway: GatewayProcess, mark: str) -> list[str]:
    """The files of the data directory that hold the mark."""
    return [path.name for path in gateway.folder.iterdir() if path.is_file() and mark.encode() in path.read_bytes()]


async def fill(http: httpx.AsyncClient, wire: Wire, contexts: int, size: int) -> None:
    """Contexts with a message each that nobody answers, all at once."""
    await asyncio.gather(
        *(
            wire.ask("message", id=f"m{n}", content=f"filler{n} " + "x" * size, context_id=f"c{n}", respond=False)
            for n in range(contexts)
        )
    )


# ---- export


async def test_an_export_holds_all_of_ones_own_and_no_secret(gateway: GatewayProcess) -> None:
    key, others = gateway.key("ann"), gateway.key("bob")
    async with client_of(gateway, key) as http, Wire(gateway.ws, key) as wire, Wire(gateway.ws, others) as other:
        tools = [{"name": "browser", "description": "opens", "parameters": {"type": "object"}}]
        session = (await wire.hello(tools=tools))["session_id"]
        await other.hello()
        await other.turn("bob's own", "chat")
        await http.post("/v1/contexts", json={"id": "chat", "title": "Ünïcode", "metadata": {"a": [1]}})
        await wire.turn("calc 5 * 3", "chat")
        answer = await http.get("/v1/export")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert "attachment" in answer.headers["content-disposition"]
        document = answer.json()
        (context,) = document["contexts"]
        assert (context["id"], context["title"], context["metadata"]) == ("chat", "Ünïcode", {"a": [1]})
        history = (await http.get("/v1/contexts/chat/events?limit=200")).json()["events"]
        assert [event | {"seq": 0} for event in context["events"]] == [event | {"seq": 0} for event in history]
        (kept,) = document["sessions"]
        assert (kept["id"], kept["contexts"], kept["tools"][0]["name"]) == (session, ["chat"], "browser")
        (listed,) = document["keys"]
        assert set(listed) == {"id", "role", "created_at", "revoked_at"}
        assert document["subject"] == "ann"
    for secret in (key.rsplit("_", 1)[1], "digest", "holder", "bob"):
        assert secret not in answer.text


async def test_an_export_of_nothing(gateway: GatewayProcess) -> None:
    async with client_of(gateway, gateway.key()) as http:
        document = (await http.get("/v1/export")).json()
        assert (document["contexts"], document["sessions"]) == ([], [])
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as nobody:
        assert (await nobody.get("/v1/export")).status_code == 401


async def test_exports_while_a_turn_runs_are_whole_documents(gateway: GatewayProcess) -> None:
    key = gateway.key()
    async with client_of(gateway, key) as http, Wire(gateway.ws, key) as wire:
        await wire.hello()
        running = asyncio.create_task(wire.turn("count 3", "chat"))
        seen: list[set[str]] = []
        while not running.done():
            events = (await http.get("/v1/export")).json()["contexts"]
            seen.append({event.get("id", event["type"]) for context in events for event in context["events"]})
        await running
        assert all(one <= other for one, other in pairwise(seen)), "an event was lost again"
        (context,) = (await http.get("/v1/export")).json()["contexts"]
        with_seq = [event["seq"] for event in context["events"] if "seq" in event]
        assert with_seq == sorted(set(with_seq))
        assert all("seq" in event for event in context["events"][: len(with_seq)]), "those without seq come last"


async def test_a_client_that_stops_reading_an_export_holds_nothing(gateway: GatewayProcess) -> None:
    key = gateway.key()
    async with client_of(gateway, key) as http, Wire(gateway.ws, key) as wire:
        await wire.hello()
        await fill(http, wire, 60, 500_000)
        assert gateway.process is not None
        memory = psutil.Process(gateway.process.pid).memory_info
        before = memory().rss
        async with http.stream("GET", "/v1/export") as stalled:
            reading = stalled.aiter_raw()
            await anext(reading)
            refused = await http.get("/v1/export")
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limited")
            # Others write, are found, and delete, traceless, meanwhile.
            await wire.turn("the zeppelin lands", "chat")
            assert (await http.get("/v1/search", params={"q": "zeppelin"})).json()["results"]
            assert (await http.delete("/v1/contexts/chat")).status_code == 204
            assert left_on_disk(gateway, "zeppelin") == []
            assert memory().rss - before < 15_000_000
        # It has gone: the next one may have all, in memory that does not grow with it.
        while (answer := await http.get("/v1/export")).status_code == 429:
            await asyncio.sleep(0.02)
        assert len(answer.json()["contexts"]) == 60


# ---- deletion


async def test_nothing_of_a_deleted_context_is_left(gateway: GatewayProcess) -> None:
    key = gateway.key()
    async with client_of(gateway, key) as http, Wire(gateway.ws, key) as wire:
        session = (await wire.hello(cursors={}))["session_id"]
        # Of the context's id the audit of its calls goes on to tell (docs/audit.md).
        await http.post("/v1/contexts", json={"id": "the-id", "title": "zeppelin", "metadata": {"zeppelin": 1}})
        await wire.turn("the zeppelin lands", "the-id", metadata={"zeppelin": 2})
        await wire.turn('call calculator {"expression": "1", "zeppelin": 3}', "the-id")
        await wire.turn("a harbour", "other")
        assert left_on_disk(gateway, "zeppelin")
        assert (await http.delete("/v1/contexts/the-id")).status_code == 204
        assert left_on_disk(gateway, "zeppelin") == []
        assert left_on_disk(gateway, "harbour")
        assert (await http.get("/v1/search", params={"q": "zeppelin"})).json()["results"] == []
        assert "zeppelin" not in (await http.get("/v1/export")).text
        assert (await http.delete("/v1/contexts/the-id")).status_code == 404
        # The session does not bring it back.
        await wire.ask("subscribe", context_id="other")
        await wire.turn("more of it", "other")
        assert left_on_disk(gateway, "zeppelin") == []
    async with Wire(gateway.ws, key) as wire:
        await wire.hello(session_id=session)
        await wire.turn("and more", "other")
        assert not [frame for frame in wire.frames if frame.get("context_id") == "the-id"]
    assert left_on_disk(gateway, "zeppelin") == []


async def test_a_turn_that_runs_in_a_deleted_context_stops_and_leaves_nothing(gateway: GatewayProcess) -> None:
    key = gateway.key()
    async with client_of(gateway, key) as http, Wire(gateway.ws, key) as wire:
        await wire.hello()
        ack = await wire.ask("message", content="long 3000 zeppelin", context_id="chat")
        assert ack["type"] == "ack"
        await wire.wait(lambda frame: frame["type"] == "delta")
        assert (await http.delete("/v1/contexts/chat")).status_code == 204
        assert left_on_disk(gateway, "zeppelin") == []
        await wire.wait(lambda frame: frame.get("deleted") is True)
        while "tidegate_turns_running 0.0" not in (await http.get("/metrics")).text:
            await asyncio.sleep(0.02)
        assert left_on_disk(gateway, "zeppelin") == []
        assert (await http.get("/v1/contexts")).json()["contexts"] == []
        await wire.turn("afresh", "chat")


async def test_all_contexts_are_deleted_only_when_it_is_meant(gateway: GatewayProcess) -> None:
    ann, bob = gateway.key("ann"), gateway.key("bob")
    async with client_of(gateway, ann) as http, client_of(gateway, bob) as his, Wire(gateway.ws, ann) as wire:
        async with Wire(gateway.ws, ann) as gone:
            await gone.hello(tools=[{"name": "zeppelin", "description": "", "parameters": {}}])
        session = (await wire.hello())["session_id"]
        await fill(http, wire, 120, 100)
        await wire.turn("the zeppelin lands", "chat")
        await his.post("/v1/contexts", json={"id": "his", "title": "harbour"})
        for wrong in ("", "?confirm=yes", "?confirm="):
            refused = await http.delete(f"/v1/contexts{wrong}")
            assert (refused.status_code, refused.json()["error"]["path"]) == (400, "confirm")
        assert (await http.get("/v1/search", params={"q": "zeppelin"})).json()["results"]
        deleted = await http.delete("/v1/contexts?confirm=all")
        assert (deleted.status_code, deleted.json()) == (200, {"deleted": 121})
        for mark in ("zeppelin", "filler"):
            assert left_on_disk(gateway, mark) == []
        document = (await http.get("/v1/export")).json()
        assert document["contexts"] == []
        assert [(kept["id"], kept["contexts"]) for kept in document["sessions"]] == [(session, [])]
        assert (await http.delete("/v1/contexts?confirm=all")).json() == {"deleted": 0}
        assert len((await his.get("/v1/contexts")).json()["contexts"]) == 1
        await wire.turn("afresh", "chat")


async def test_deletions_while_others_search_export_and_delete_the_same(gateway: GatewayProcess) -> None:
    key = gateway.key()
    async with client_of(gateway, key) as http, Wire(gateway.ws, key) as wire:
        await wire.hello()
        await fill(http, wire, 80, 20_000)
        done = asyncio.Event()

        async def look(path: str) -> list[Any]:
            answers: list[Any] = []
            while not done.is_set():
                answer = await http.get(path)
                assert answer.status_code in (200, 429), answer.text
                answers.append(json.loads(answer.text))  # a whole document, whatever it lacks
            return answers

        looking = [asyncio.create_task(look(path)) for path in ("/v1/search?q=filler", "/v1/search?q=x", "/v1/export")]
        one_by_one = await asyncio.gather(*(http.delete(f"/v1/contexts/c{n}") for n in range(40) for _ in range(2)))
        both = await asyncio.gather(*(http.delete("/v1/contexts?confirm=all") for _ in range(2)))
        done.set()
        await asyncio.gather(*looking)
        assert sorted(answer.status_code for answer in one_by_one) == [204] * 40 + [404] * 40
        assert sum(answer.json()["deleted"] for answer in both) == 40
        assert left_on_disk(gateway, "filler") == []


async def test_a_deletion_whose_client_is_gone_and_a_crash_leave_nothing_after_the_start(
    gateway: GatewayProcess,
) -> None:
    key = gateway.key()
    async with client_of(gateway, key) as http, Wire(gateway.ws, key) as wire:
        await wire.hello()
        await wire.turn("the zeppelin lands", "chat")
        with contextlib.suppress(httpx.TransportError):
            deletion = asyncio.create_task(http.delete("/v1/contexts/chat"))
            await wire.wait(lambda frame: frame.get("deleted") is True)  # it is stored, if not scrubbed
            gateway.kill()
            await deletion
    await gateway.start()
    assert left_on_disk(gateway, "zeppelin") == []


@pytest.mark.promise("6")
async def test_nobody_deletes_or_exports_what_is_anothers(gateway: GatewayProcess) -> None:
    async with client_of(gateway, gateway.key("ann")) as ann, client_of(gateway, gateway.key("bob")) as bob:
        await ann.post("/v1/contexts", json={"id": "chat", "title": "hers"})
        assert (await bob.delete("/v1/contexts/chat")).status_code == 404
        assert (await bob.delete("/v1/contexts?confirm=all")).json() == {"deleted": 0}
        assert (await bob.get("/v1/export")).json()["contexts"] == []
        assert (await ann.get("/v1/contexts/chat")).json()["title"] == "hers"
