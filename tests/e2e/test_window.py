"""Conversations that are longer than what a model reads: trimmed, summarised, pinned, and never refused for length."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx

from gateway.testing.openai_script import Finish, Reply, Stall, Text, Usage
from gateway.testing.openai_server import FakeOpenAI, ReceivedRequest
from tests.e2e.provider import asked, counted, gateway_of, prompts
from tests.e2e.wire import Wire

SMALL = "context_window = 3000\nmax_tokens = 500"
LONG = "word " * 60


def echo() -> FakeOpenAI:
    """Counts a token a character."""
    return FakeOpenAI(default=lambda request: counted(request, f"re {asked(request)[:20]}"))


def headers(key: str) -> dict[str, str]:
    return {"X-API-Key": key}


async def test_a_long_conversation_is_trimmed_and_goes_on(tmp_path: Path) -> None:
    async with (
        echo() as provider,
        gateway_of(provider, tmp_path, model=SMALL) as gateway,
        Wire(gateway.ws, gateway.key()) as wire,
    ):
        await wire.hello()
        for number in range(40):
            events = await wire.turn(f"{number} {LONG}", "chat")
            assert events[-1]["status"] == "complete"
    sizes = [sum(len(text) + 4 for text in texts) for texts in prompts(provider)]
    assert max(sizes[10:]) <= 2500
    assert min(sizes[10:]) >= 1000
    for texts in prompts(provider):
        assert texts[0].split()[0].isdigit(), "whole turns: the first thing is what a user said"
    # A provider that keeps what it read finds the same beginning again most of the time.
    begins = [texts[0] for texts in prompts(provider)]
    changes = sum(one != other for one, other in pairwise(begins))
    assert changes < len(begins) / 2


async def test_a_provider_that_counts_more_than_we_do_is_given_less(tmp_path: Path) -> None:
    """It refuses what is too long for it without ever having told how it counts."""

    def strict(request: ReceivedRequest) -> Reply:
        size = sum(len(str(message["content"])) for message in request.body["messages"])
        if size > 2_000:
            return Reply.failure(400, "context_length_exceeded", "maximum context length is 2000 tokens")
        return Reply(steps=[Text("ok"), Finish()])

    async with (
        FakeOpenAI(default=strict) as provider,
        gateway_of(provider, tmp_path, model=SMALL) as gateway,
        Wire(gateway.ws, gateway.key()) as wire,
    ):
        await wire.hello()
        for number in range(30):
            events = await wire.turn(f"{number} {LONG}", "chat")
            assert events[-1]["status"] == "complete", events[-1]


async def test_a_model_that_reads_less_than_was_counted_with_is_given_less(tmp_path: Path) -> None:
    """As the one that stands in for another may, whose own figures are all right."""

    def smaller(request: ReceivedRequest) -> Reply:
        size = sum(len(str(message["content"])) for message in request.body["messages"])
        if size > 1_000:
            return Reply.failure(400, "context_length_exceeded", "maximum context length is 1000 tokens")
        return counted(request, "ok " * 80)

    async with (
        FakeOpenAI(default=smaller) as provider,
        gateway_of(provider, tmp_path, model=SMALL) as gateway,
        Wire(gateway.ws, gateway.key()) as wire,
    ):
        await wire.hello()
        for number in range(12):
            events = await wire.turn(f"{number} {LONG[:60]}", "chat")
            assert events[-1]["status"] == "complete", events[-1]


async def test_a_turn_that_much_was_said_behind_is_answered_after_a_restart(tmp_path: Path) -> None:
    async with (
        FakeOpenAI(Reply(steps=[Stall()]), default=lambda _: Reply.text("fine")) as provider,
        gateway_of(provider, tmp_path) as gateway,
    ):
        key = gateway.key()
        async with Wire(gateway.ws, key) as wire:
            await wire.hello()
            await wire.ask("message", content="first", context_id="chat", id="m1")
            await wire.ask("message", content="second", context_id="chat", id="m2")
            for number in range(250):
                await wire.ask("message", content=f"note {number}", respond=False, context_id="chat")
        while not provider.requests:
            await asyncio.sleep(0.02)
        gateway.kill()
        await gateway.start()
        async with asyncio.timeout(20), httpx.AsyncClient(base_url=gateway.url, headers=headers(key)) as http:
            ends: dict[str, str] = {}
            while "m2" not in ends:
                events = (await http.get("/v1/contexts/chat/events?limit=200")).json()["events"]
                ends = {event["turn_id"]: event["status"] for event in events if event["type"] == "turn_end"}
                await asyncio.sleep(0.02)
        assert ends == {"m1": "complete", "m2": "complete"}
    assert prompts(provider)[-1][-1] == "second"


async def test_a_long_tool_result_is_shortened_rather_than_refused(tmp_path: Path) -> None:
    call = Reply.calls(("lines", {"count": 10_000}))
    async with FakeOpenAI(call, default=lambda _: Reply.text("done")) as provider:
        rest = '[tools]\nmodules = ["tests.e2e.wordy_tools"]'
        async with (
            gateway_of(provider, tmp_path, model=SMALL, rest=rest) as gateway,
            Wire(gateway.ws, gateway.key()) as wire,
        ):
            await wire.hello()
            events = await wire.turn("go", "chat")
            assert events[-1]["status"] == "complete", events[-1]
    result = prompts(provider)[-1][-1]
    assert len(result) < 12_000
    assert "characters are left out here" in result


async def test_a_message_that_is_too_long_by_itself_is_refused_clearly(tmp_path: Path) -> None:
    async with (
        echo() as provider,
        gateway_of(provider, tmp_path, model=SMALL) as gateway,
        Wire(gateway.ws, gateway.key()) as wire,
    ):
        await wire.hello()
        events = await wire.turn("x" * 20_000, "chat")
        assert events[-1]["error"]["code"] == "context_too_long"
        events = await wire.turn("short", "chat")
        assert events[-1]["status"] == "complete"


async def test_what_is_pinned_stays_in_view(tmp_path: Path) -> None:
    async with echo() as provider, gateway_of(provider, tmp_path, model=SMALL) as gateway:
        key = gateway.key()
        async with Wire(gateway.ws, key) as wire, httpx.AsyncClient(base_url=gateway.url, headers=headers(key)) as http:
            await wire.hello()
            await wire.turn("My name is Ada.", "chat", id="name")
            changed = await http.patch("/v1/contexts/chat", json={"pinned": ["name"]})
            assert changed.status_code == 200
            await wire.wait(lambda frame: frame["type"] == "context" and frame["pinned"] == ["name"])
            for number in range(20):
                await wire.turn(f"{number} {LONG}", "chat")
            assert prompts(provider)[-1][0] == "My name is Ada."
            missing = await http.patch("/v1/contexts/chat", json={"pinned": ["name", "nothing"]})
            assert (missing.status_code, missing.json()["error"]["path"]) == (404, "pinned")
            await http.patch("/v1/contexts/chat", json={"pinned": []})
            await wire.turn("and now", "chat")
            assert prompts(provider)[-1][0] != "My name is Ada."


async def test_what_the_operator_says_stays_in_view_also_after_a_restart(tmp_path: Path) -> None:
    rest = '[roles.operator]\npermissions = ["context:*", "message:system"]'
    async with echo() as provider, gateway_of(provider, tmp_path, model=SMALL, rest=rest) as gateway:
        key = gateway.key("ann", "--role", "operator")
        async with Wire(gateway.ws, key) as wire:
            await wire.hello()
            await wire.ask("message", content="Be brief.", role="system", respond=False, context_id="chat")
            for number in range(20):
                await wire.turn(f"{number} {LONG}", "chat")
        gateway.kill()
        await gateway.start()
        async with Wire(gateway.ws, key) as wire:
            await wire.hello()
            await wire.turn("still there?", "chat", id="after")
    assert prompts(provider)[-1][0] == "Be brief."


async def test_settings_of_the_context_and_of_the_model(tmp_path: Path) -> None:
    model = f'{SMALL}\nsystem = "You are kind."'
    async with echo() as provider, gateway_of(provider, tmp_path, model=model) as gateway:
        key = gateway.key()
        async with Wire(gateway.ws, key) as wire, httpx.AsyncClient(base_url=gateway.url, headers=headers(key)) as http:
            await wire.hello()
            settings: dict[str, Any] = {"system": "Answer in French.", "max_context_tokens": 600}
            made = await http.post("/v1/contexts", json={"id": "chat", "settings": settings})
            assert made.json()["settings"] == settings
            for number in range(8):
                await wire.turn(f"{number} {LONG}"[:150], "chat")
            assert prompts(provider)[-1][:2] == ["You are kind.", "Answer in French."]
            assert sum(map(len, prompts(provider)[-1])) <= 600
            assert (await http.patch("/v1/contexts/chat", json={"settings": {}})).json()["settings"] == {}
            await wire.turn("more", "chat")
            assert prompts(provider)[-1][0] == "You are kind."
            assert "Answer in French." not in prompts(provider)[-1]
            wrong = await http.patch("/v1/contexts/chat", json={"settings": {"strategy": "forget"}})
            assert wrong.status_code == 400
            assert "settings" in wrong.json()["error"]["path"]


async def test_the_estimate_follows_what_the_provider_counts(tmp_path: Path) -> None:
    """Ten turns with a provider that counts 1.7 tokens a character; its own figures keep prompts within the window."""

    def heavy(request: ReceivedRequest) -> Reply:
        asked_tokens = sum(int(1.7 * len(str(message["content"]))) for message in request.body["messages"])
        assert asked_tokens <= 2500 * 1.02, "more than fits"
        return Reply(steps=[Text("ok " * 10), Finish(), Usage(prompt_tokens=asked_tokens, completion_tokens=51)])

    async with (
        FakeOpenAI(default=heavy) as provider,
        gateway_of(provider, tmp_path, model=SMALL) as gateway,
        Wire(gateway.ws, gateway.key()) as wire,
    ):
        await wire.hello()
        for number in range(30):
            events = await wire.turn(f"{number} {LONG[:120]}", "chat")
            assert events[-1]["status"] == "complete", events[-1]
    sizes = [sum(int(1.7 * len(text)) for text in texts) for texts in prompts(provider)[10:]]
    assert max(sizes) > 2000
