"""Titles and summaries: made in the background, never waited for, and never in the way."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from gateway.testing.openai_script import Hold, Reply, Text
from gateway.testing.openai_server import FakeOpenAI, ReceivedRequest
from protocol.ids import new_id
from tests.e2e.gateways import GatewayProcess
from tests.e2e.provider import asked, counted, gateway_of, prompts
from tests.e2e.wire import Frame, Wire

LONG = "word " * 60
SMALL = 'context_window = 3000\nmax_tokens = 500\nstrategy = "summarise"'
TITLES = "[context]\ntitles = true"


def is_about(request: ReceivedRequest, what: str) -> bool:
    first = request.body["messages"][0]
    return first["role"] == "system" and str(first["content"]).startswith(what)


def answer(request: ReceivedRequest) -> Reply:
    if is_about(request, "Write a title"):
        return Reply.text('"A talk about words."')
    if is_about(request, "Summarise"):
        return counted(request, "They talked about words.")
    return counted(request, "fine")


def renamed(frame: Frame) -> bool:
    return frame["type"] == "context" and "title" in frame


async def test_a_context_gets_a_title_and_its_followers_hear_of_it(tmp_path: Path) -> None:
    async with FakeOpenAI(default=answer) as provider, gateway_of(provider, tmp_path, rest=TITLES) as gateway:
        key = gateway.key()
        async with Wire(gateway.ws, key) as wire:
            await wire.hello()
            await wire.turn("hello", "chat")
            assert (await wire.wait(renamed))["title"] == "A talk about words."
            await wire.turn("again", "chat")
            await wire.turn("and again", "chat")
        async with httpx.AsyncClient(headers={"X-API-Key": key}) as http:
            assert (await http.get(f"{gateway.url}/v1/contexts/chat")).json()["title"] == "A talk about words."
    assert sum(is_about(request, "Write a title") for request in provider.requests) == 1


async def test_a_title_of_the_users_own_stays(tmp_path: Path) -> None:
    """Also where it comes while the model thinks of another."""
    released = asyncio.Event()

    def slow(request: ReceivedRequest) -> Reply:
        if is_about(request, "Write a title"):
            return Reply(steps=[Text("A model's"), Hold(released), *Reply.text(" title").steps])
        return answer(request)

    async with FakeOpenAI(default=slow) as provider, gateway_of(provider, tmp_path, rest=TITLES) as gateway:
        key = gateway.key()
        async with Wire(gateway.ws, key) as wire, httpx.AsyncClient(headers={"X-API-Key": key}) as http:
            await wire.hello()
            await wire.turn("hello", "chat")
            while not any(is_about(request, "Write a title") for request in provider.requests):
                await asyncio.sleep(0.02)
            await http.patch(f"{gateway.url}/v1/contexts/chat", json={"title": "Mine"})
            released.set()
            await wire.turn("again", "chat")
            await wire.turn("and again", "chat")
            assert (await http.get(f"{gateway.url}/v1/contexts/chat")).json()["title"] == "Mine"
    assert sum(is_about(request, "Write a title") for request in provider.requests) == 1


async def test_no_titles_unless_they_are_wanted(tmp_path: Path) -> None:
    async with (
        FakeOpenAI(default=answer) as provider,
        gateway_of(provider, tmp_path) as gateway,
        Wire(gateway.ws, gateway.key()) as wire,
    ):
        await wire.hello()
        await wire.turn("hello", "chat")
        await wire.turn("again", "chat")
    assert len(provider.requests) == 2


async def _talk(gateway: GatewayProcess, key: str, turns: int, context_id: str = "chat") -> list[str]:
    """How the turns ended."""
    async with Wire(gateway.ws, key) as wire:
        await wire.hello()
        ends = [await wire.turn(f"{number} {LONG}", context_id, id=new_id("msg_")) for number in range(turns)]
        return [events[-1]["status"] for events in ends]


async def test_a_long_conversation_is_summarised(tmp_path: Path) -> None:
    async with FakeOpenAI(default=answer) as provider, gateway_of(provider, tmp_path, model=SMALL) as gateway:
        key = gateway.key()
        assert await _talk(gateway, key, 40) == ["complete"] * 40
        given = [texts for texts in prompts(provider) if texts[0].startswith("[What was said before")]
        assert len(given) > 10
        assert given[-1][0].endswith("They talked about words.")
        made = [request for request in provider.requests if is_about(request, "Summarise")]
        assert 1 < len(made) < 20
        for request in made[1:]:
            assert "[Summary of what was said before]\nThey talked about words." in asked(request)
        before = len(provider.requests)
        gateway.kill()
        await gateway.start()
        assert await _talk(gateway, key, 1) == ["complete"]
        assert prompts(provider)[before][0].endswith("They talked about words.")


async def test_a_summary_that_fails_or_never_comes_costs_nothing(tmp_path: Path) -> None:
    released = asyncio.Event()

    def never(request: ReceivedRequest) -> Reply:
        if is_about(request, "Summarise"):
            return Reply(steps=[Text("They"), Hold(released)])
        return counted(request, "fine")

    def fails(request: ReceivedRequest) -> Reply:
        if is_about(request, "Summarise"):
            return Reply.failure(400, "invalid_request", "no")
        return counted(request, "fine")

    for number, default in enumerate((never, fails)):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with FakeOpenAI(default=default) as provider, gateway_of(provider, folder, model=SMALL) as gateway:
            assert await _talk(gateway, gateway.key(), 25) == ["complete"] * 25
            assert any(is_about(request, "Summarise") for request in provider.requests)
            assert "word" not in gateway.log()
    released.set()


async def test_a_summary_is_of_the_path_that_it_is_used_on(tmp_path: Path) -> None:
    def tell(request: ReceivedRequest) -> Reply:
        if is_about(request, "Summarise"):
            return counted(request, f"Covers {asked(request).count('User:')} turns.")
        return counted(request, "fine")

    async with (
        FakeOpenAI(default=tell) as provider,
        gateway_of(provider, tmp_path, model=SMALL) as gateway,
        Wire(gateway.ws, gateway.key()) as wire,
    ):
        await wire.hello()
        for number in range(20):
            await wire.turn(f"{number} {LONG}", "chat", id=f"m{number}")
        assert any("Covers" in text for text in prompts(provider)[-1])
        await wire.turn("back to the start", "chat", replaces="m1")
    last = next(texts for texts in reversed(prompts(provider)) if "back to the start" in texts)
    assert last == [f"0 {LONG}", "fine", "back to the start"]
