"""Usage and budgets over real sockets: what a provider tells, what it leaves out, and a gateway that dies."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import WebSocketException

from gateway.testing.openai_script import Cut, Done, Finish, Reply, Stall, Text, Usage, words
from gateway.testing.openai_server import FakeOpenAI
from tests.e2e.gateways import GatewayProcess
from tests.e2e.wire import Frame, Wire

DEMO = """
[models.demo]
provider = "demo"
delay = 1
input_price = 1.0
output_price = 2.0
[server]
drain_seconds = 0.1
"""
PROVIDER = """
[models.fake]
provider = "openai"
model = "m"
base_url = "{base_url}"
attempts = 1
input_price = 1.0
output_price = 10.0
cached_price = 0.5
"""
SCRIPT = [sys.executable, "-m", "tests.e2e.crashing_gateway"]


async def get_usage(gateway: GatewayProcess, key: str, query: str = "") -> Any:
    async with httpx.AsyncClient(headers={"X-API-Key": key}) as client:
        reply = await client.get(f"{gateway.url}/v1/usage{query}")
    assert reply.status_code == 200, reply.text
    return reply.json()


async def metric(gateway: GatewayProcess, line: str) -> float:
    async with httpx.AsyncClient() as client:
        text = (await client.get(f"{gateway.url}/metrics")).text
    return next((float(one.split()[-1]) for one in text.splitlines() if one.startswith(line)), 0.0)


def usages(events: list[Frame]) -> list[Frame]:
    return [event["usage"] for event in events if event["type"] == "message" and event["role"] == "assistant"]


async def test_what_the_messages_say_is_what_was_used(tmp_path: Path) -> None:
    async with GatewayProcess(tmp_path, config=DEMO) as gateway:
        key = gateway.key()
        async with Wire(gateway.ws, key) as wire:
            await wire.hello()
            told = usages(await wire.turn("hello over there", "chat")) + usages(await wire.turn("calc 6*7", "chat"))
            direct = await wire.ask("tool_call", tool="countdown", parameters={"count": 1}, context_id="chat")
            await wire.wait(lambda f: f["type"] == "turn_end" and f["turn_id"] == direct["id"])
            noted = await wire.ask("message", content="only noted", context_id="chat", respond=False)
            assert noted["type"] == "ack"
        assert len(told) == 3
        found = await get_usage(gateway, key, "?by=context")
        sent = sum(usage["input_tokens"] for usage in told)
        said = sum(usage["output_tokens"] for usage in told)
        (row,) = found["usage"]
        assert row["context"] == "chat"
        assert (row["input_tokens"], row["output_tokens"], row["steps"]) == (sent, said, 3)
        assert row["cost"] == f"0.{sent + 2 * said:06}"
        assert row["estimated_steps"] == 0
        assert found["total"] == {name: value for name, value in row.items() if name != "context"}
        assert await metric(gateway, 'tidegate_tokens_total{kind="output",model="demo"}') == said


async def test_a_deleted_context_is_still_paid_for(tmp_path: Path) -> None:
    async with GatewayProcess(tmp_path, config=DEMO) as gateway:
        key = gateway.key()
        async with Wire(gateway.ws, key) as wire:
            await wire.hello()
            await wire.turn("hello", "chat")
            before = await get_usage(gateway, key)
            async with httpx.AsyncClient(headers={"X-API-Key": key}) as client:
                assert (await client.delete(f"{gateway.url}/v1/contexts/chat")).status_code == 204
            after = await get_usage(gateway, key, "?by=context")
        assert after["total"] == before["total"]
        assert [row["context"] for row in after["usage"]] == [None]


async def test_a_context_deleted_under_its_answer_is_paid_for(tmp_path: Path) -> None:
    async with GatewayProcess(tmp_path, config=DEMO) as gateway:
        key = gateway.key()
        async with Wire(gateway.ws, key) as wire:
            await wire.hello()
            await wire.ask("message", content="long 100000", context_id="chat")
            await wire.wait(lambda f: f["type"] == "delta" and f["text"].startswith("20"))
            async with httpx.AsyncClient(headers={"X-API-Key": key}) as client:
                assert (await client.delete(f"{gateway.url}/v1/contexts/chat")).status_code == 204
        async with asyncio.timeout(20):
            while not (found := await get_usage(gateway, key, "?by=context"))["usage"]:
                await asyncio.sleep(0.05)
        (row,) = found["usage"]
        assert row["context"] is None
        assert (row["steps"], row["estimated_steps"]) == (1, 1)
        assert row["input_tokens"] > 0
        assert row["output_tokens"] > 0


async def test_usage_that_comes_once_or_twice_counts_once(tmp_path: Path) -> None:
    usage = Usage(prompt_tokens=100, completion_tokens=7, cached_tokens=40, reasoning_tokens=2)
    once = Reply.text("Hello there", usage=usage)
    twice = Reply(steps=[*words("Hello there"), Finish(), usage, usage, Done()])
    async with (
        FakeOpenAI(once, twice) as provider,
        GatewayProcess(tmp_path, config=PROVIDER.format(base_url=provider.base_url)) as gateway,
    ):
        key = gateway.key()
        async with Wire(gateway.ws, key) as wire:
            await wire.hello()
            await wire.turn("one", "chat")
            first = (await get_usage(gateway, key, "?by=model"))["usage"]
            await wire.turn("two", "chat")
        second = (await get_usage(gateway, key, "?by=model"))["usage"]
    assert first == [
        {
            "model": "fake",
            "input_tokens": 100,
            "output_tokens": 7,
            "cached_tokens": 40,
            "reasoning_tokens": 2,
            "cached_responses": 0,
            "steps": 1,
            "estimated_steps": 0,
            "cost": "0.000150",
        }
    ]
    assert (second[0]["input_tokens"], second[0]["steps"], second[0]["cost"]) == (200, 2, "0.000300")


async def test_usage_that_never_comes_is_estimated_and_marked(tmp_path: Path) -> None:
    silent = Reply(steps=[*words("sixteen letters."), Finish(), Done()])
    async with (
        FakeOpenAI(silent, Reply.failure(400, "invalid_request", "no")) as provider,
        GatewayProcess(tmp_path, config=PROVIDER.format(base_url=provider.base_url)) as gateway,
    ):
        key = gateway.key()
        async with Wire(gateway.ws, key) as wire:
            await wire.hello()
            (message,) = [e for e in await wire.turn("question", "chat") if e.get("role") == "assistant"][-1:]
            assert "usage" not in message
            answered = (await get_usage(gateway, key))["total"]
            await wire.turn("another", "chat")
            refused = (await get_usage(gateway, key))["total"]
    assert (answered["steps"], answered["estimated_steps"]) == (1, 1)
    assert answered["input_tokens"] > 0
    assert 1 < answered["output_tokens"] < 10
    # A refused request cost nothing, but is there to be seen.
    assert (refused["steps"], refused["estimated_steps"]) == (2, 2)
    assert refused["cost"] == answered["cost"]


async def test_an_answer_that_is_cancelled_or_breaks_is_not_free(tmp_path: Path) -> None:
    stalls = Reply(steps=[Text("Let me think about this. "), Stall()])
    breaks = [Reply(steps=[Text("The answer "), Cut()]) for _ in range(8)]
    async with (
        FakeOpenAI(stalls, *breaks) as provider,
        GatewayProcess(tmp_path, config=PROVIDER.format(base_url=provider.base_url)) as gateway,
    ):
        key = gateway.key()
        async with Wire(gateway.ws, key) as wire:
            await wire.hello()
            await wire.ask("message", id="m1", content="question", context_id="chat")
            await wire.wait(lambda f: f["type"] == "delta")
            await wire.ask("cancel", context_id="chat", turn_id="m1")
            await wire.wait(lambda f: f["type"] == "turn_end")
            cancelled = (await get_usage(gateway, key))["total"]
            end = (await wire.turn("another", "chat"))[-1]
            broken = (await get_usage(gateway, key))["total"]
    assert (cancelled["steps"], cancelled["estimated_steps"]) == (1, 1)
    assert cancelled["input_tokens"] > 0
    assert 3 < cancelled["output_tokens"] < 15
    assert end["status"] == "failed"
    assert broken["output_tokens"] > cancelled["output_tokens"]


# ---- budgets


async def test_a_budget_refuses_the_next_message_and_stores_nothing(tmp_path: Path) -> None:
    config = DEMO + "[budgets.small]\ntokens_per_day = 5\n"
    async with GatewayProcess(tmp_path, config=config) as gateway:
        key, other = gateway.key(), gateway.key("bob")
        async with Wire(gateway.ws, key) as wire:
            await wire.hello()
            await wire.turn("hello over there", "chat", id="m1")
            refused = await wire.ask("message", id="m2", content="more", context_id="chat")
            again = await wire.ask("message", id="m1", content="hello over there", context_id="chat")
            noted = await wire.ask("message", content="only noted", context_id="chat", respond=False)
            call = await wire.ask("tool_call", tool="countdown", parameters={"count": 1}, context_id="chat")
        assert refused["type"] == "error"
        assert refused["code"] == "rate_limited"
        assert refused["retryable"] is False
        assert 0 < refused["retry_after"] <= 24 * 3600
        assert "budget 'small' of 5 tokens a day" in refused["message"]
        assert "renews at" in refused["message"]
        # What was stored before is acknowledged again, and what asks no model is not refused.
        assert again["duplicate"]
        assert (noted["type"], call["type"]) == ("ack", "ack")
        async with httpx.AsyncClient(headers={"X-API-Key": key}) as client:
            history = (await client.get(f"{gateway.url}/v1/contexts/chat/events")).json()["events"]
        assert "m2" not in [event.get("id") for event in history]
        found = await get_usage(gateway, key)
        (budget,) = found["budgets"]
        assert (budget["name"], budget["unit"], budget["period"], budget["limit"]) == ("small", "tokens", "day", 5)
        assert budget["used"] == found["total"]["input_tokens"] + found["total"]["output_tokens"]
        assert datetime.fromisoformat(budget["renews_at"]) > datetime.now(UTC)
        async with Wire(gateway.ws, other) as wire:
            await wire.hello()
            assert (await wire.turn("hello", "chat"))[-1]["status"] == "complete"


async def test_a_turn_that_uses_its_budget_up_ends_between_its_steps(tmp_path: Path) -> None:
    config = DEMO + "[budgets.small]\ntokens_per_day = 2\n"
    async with GatewayProcess(tmp_path, config=config) as gateway:
        key = gateway.key()
        async with Wire(gateway.ws, key) as wire:
            await wire.hello()
            events = await wire.turn("calc 6*7", "chat")
        total = (await get_usage(gateway, key))["total"]
    assert [event["status"] for event in events if event["type"] == "tool_response"] == ["success"]
    assert events[-1]["status"] == "failed"
    assert events[-1]["error"]["code"] == "rate_limited"
    assert events[-1]["error"]["retryable"] is False
    assert "budget 'small' of 2 tokens a day" in events[-1]["error"]["message"]
    assert (total["steps"], total["estimated_steps"], total["input_tokens"]) == (1, 0, 2)


async def test_a_budget_by_role_and_one_of_a_whole_tenant(tmp_path: Path) -> None:
    config = (
        DEMO
        + '[roles.guest]\npermissions = ["*"]\n[roles.member]\npermissions = ["*"]\n'
        + '[budgets.guests]\nrole = "guest"\ncost_per_month = 0.000001\n'
        + '[budgets.acme]\ntenant = "acme"\nper = "tenant"\ntokens_per_month = 5\n'
    )
    async with GatewayProcess(tmp_path, config=config) as gateway:
        guest, member = gateway.key("ann", "--role", "guest"), gateway.key("bob", "--role", "member")
        one, other = gateway.key("cy", "--tenant", "acme"), gateway.key("dee", "--tenant", "acme")
        answers: list[Frame] = []
        for key in (guest, member, one, other):
            async with Wire(gateway.ws, key) as wire:
                await wire.hello()
                for _ in range(2):
                    answer = await wire.ask("message", content="hello over there", context_id="chat")
                    answers.append(answer)
                    if answer["type"] == "ack":
                        await wire.wait(lambda f: f["type"] == "turn_end" and f["turn_id"] == answer["id"])  # noqa: B023 - awaited
    guests, members, first, second = (answers[n : n + 2] for n in range(0, 8, 2))
    assert [answer["type"] for answer in guests] == ["ack", "error"]
    assert "'guests' of a cost of 0.000001 a month" in guests[1]["message"]
    assert [answer["type"] for answer in members] == ["ack", "ack"]
    # What the first of the tenant has used, the second can't use any more.
    assert [answer["type"] for answer in first] == ["ack", "error"]
    assert [answer["type"] for answer in second] == ["error", "error"]
    assert "'acme' of 5 tokens a month" in second[0]["message"]


# ---- a process that dies


async def _finish(gateway: GatewayProcess, key: str) -> None:
    for _ in range(20):
        try:
            async with Wire(gateway.ws, key) as wire:
                await wire.hello()
                ack = await wire.ask("message", id="m1", content="both", context_id="chat")
                assert ack["type"] == "ack", ack
                await wire.wait(
                    lambda f: (
                        f["type"] == "turn_end"
                        or (f["type"] == "snapshot" and any(e["type"] == "turn_end" for e in f["events"]))
                    )
                )
                return
        except (OSError, TimeoutError, WebSocketException):
            await asyncio.sleep(0.1)
            if gateway.process is not None and gateway.process.poll() is not None:
                await gateway.start(CRASH_AT="1000000")
    raise AssertionError("the turn never ended")


async def _crash(folder: Path, place: int | None = None) -> int:
    """Run the turn with a kill at a checkpoint, or without; how many checkpoints there were before."""
    folder.mkdir()
    passed = folder / "checkpoints"
    gateway = GatewayProcess(folder, config=DEMO, script=SCRIPT)
    key = gateway.key()
    await gateway.start(CRASH_AT=str(1_000_000 if place is None else place))
    try:
        await _finish(gateway, key)
        # The last steps come after the end was told.
        async with asyncio.timeout(10):
            while place is None and "record" not in passed.read_text():
                await asyncio.sleep(0.02)
        if place is not None and len(passed.read_text().splitlines()) <= place + 1:
            await gateway.died(10)
        if gateway.process is not None and gateway.process.poll() is not None:
            await gateway.start(CRASH_AT="1000000")
        async with httpx.AsyncClient(headers={"X-API-Key": key}) as client:
            page = (await client.get(f"{gateway.url}/v1/contexts/chat/events?limit=200")).json()["events"]
        steps = [event for event in page if event["type"] == "message" and event["role"] == "assistant"]
        told = [event["usage"] for event in steps if "usage" in event]
        total = (await get_usage(gateway, key))["total"]
        assert total["steps"] == len(steps)
        assert total["estimated_steps"] == len(steps) - len(told)
        if len(told) == len(steps):
            assert total["input_tokens"] == sum(usage["input_tokens"] for usage in told)
            assert total["output_tokens"] == sum(usage["output_tokens"] for usage in told)
        assert total["output_tokens"] > 0
        return len(passed.read_text().splitlines())
    finally:
        gateway.kill()


@pytest.mark.promise("4")
async def test_a_kill_between_any_two_durable_steps_counts_each_step_once(tmp_path: Path) -> None:
    count = await _crash(tmp_path / "count")
    assert count > 4
    limit = asyncio.Semaphore(2)

    async def crash_at(place: int) -> None:
        async with limit:
            await _crash(tmp_path / f"at{place}", place)

    await asyncio.gather(*(crash_at(place) for place in range(count)))
