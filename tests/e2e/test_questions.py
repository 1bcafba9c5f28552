"""Tools that ask their users while they run, over real sockets (docs/protocol.md, Questions)."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.client import connect
from gateway.servers.valkey import ValkeyServer
from protocol.frames import ToolCall, ToolResponse
from tests.e2e.cluster import running_cluster
from tests.e2e.conftest import Kept
from tests.e2e.gateways import GatewayProcess
from tests.e2e.npm_clients import FOLDER, node
from tests.e2e.terminals import in_terminal
from tests.e2e.wire import Frame, Wire
from tests.servers.valkey import command, keys_of

CONFIG = """
[models.demo]
provider = "demo"
delay = 1
[tools]
modules = ["tests.e2e.asking_tools"]
[server]
drain_seconds = 0.1
"""
ASK = 'call book {"city": "Rome"}'
_SAID = {"id": "m1", "role": "user", "content": ASK}
BODIES: dict[str, dict[str, Any]] = {
    "tidegate": {"id": "m1", "content": ASK},
    "ag-ui": {"threadId": "chat", "runId": "run", "messages": [_SAID], "tools": [], "context": []}
    | {"state": {}, "forwardedProps": {}},
    "ai-sdk": {
        "id": "chat",
        "trigger": "submit-message",
        "messages": [_SAID | {"parts": [{"type": "text", "text": ASK}]}],
    },
}


def is_question(frame: Frame) -> bool:
    return frame["type"] == "tool_call" and "asked_by" in frame


def question_in(context_id: str) -> Callable[[Frame], bool]:
    return lambda frame: is_question(frame) and frame["context_id"] == context_id


def answer_of(call_id: str) -> Callable[[Frame], bool]:
    return lambda frame: frame["type"] == "tool_response" and frame["tool_call_id"] == call_id


def end_in(context_id: str) -> Callable[[Frame], bool]:
    return lambda frame: frame["type"] == "turn_end" and frame["context_id"] == context_id


def shows(frame: Frame, call_id: str) -> bool:
    """Whether it is the call, or a snapshot in which it runs."""
    calls = [each["call"] for each in frame["running"]] if frame["type"] == "snapshot" else [frame]
    return any(call.get("id") == call_id for call in calls)


async def history(gateway: GatewayProcess, key: str, context_id: str = "chat") -> list[Frame]:
    async with httpx.AsyncClient(headers={"X-API-Key": key}) as client:
        page = await client.get(f"{gateway.url}/v1/contexts/{context_id}/events?limit=200")
        return page.json()["events"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Generator[Kept[GatewayProcess]]:
    async def make() -> GatewayProcess:
        return GatewayProcess(tmp_path_factory.mktemp("asking"), config=CONFIG)

    with closing(Kept(make)) as kept:
        yield kept


@pytest.fixture
async def gateway(kept: Kept[GatewayProcess]) -> GatewayProcess:
    """One for all tests that leave it as it was."""
    return await kept.get()


def check(events: list[Frame]) -> None:
    """One answer to each call, a question's before that of the call that asked."""
    places = {event["tool_call_id"]: n for n, event in enumerate(events) if event["type"] == "tool_response"}
    answers = Counter(event["tool_call_id"] for event in events if event["type"] == "tool_response")
    calls = [event for event in events if event["type"] == "tool_call"]
    assert answers == dict.fromkeys([call["id"] for call in calls], 1)
    assert all(places[call["id"]] < places[call["asked_by"]] for call in calls if "asked_by" in call)
    assert events[-1]["type"] == "turn_end"
    assert "seq" in events[-1]


async def test_the_second_device_answers_and_the_first_sees_it(gateway: GatewayProcess) -> None:
    key = gateway.key()
    async with Wire(gateway.ws, key) as one, Wire(gateway.ws, key) as other:
        await one.hello()
        await one.ask("message", id="m1", content=ASK, context_id="chat")
        question = await one.wait(is_question)
        assert (question["tool"], question["approval"]) == ("book", "required")
        assert question["parameters"]["message"] == "Which room in Rome?"
        assert "message_id" not in question
        await other.hello(cursors={"chat": None})
        await other.wait(lambda frame: shows(frame, question["id"]))
        form = {"nights": 2, "view": "sea"}
        approval = {"tool_call_id": question["id"], "context_id": "chat", "approved": True, "parameters": form}
        assert (await other.ask("tool_approval", id="a1", **approval))["type"] == "ack"
        assert (await other.ask("tool_approval", id="a1", **approval)).get("duplicate") is True
        late = await one.ask("tool_approval", **(approval | {"approved": False}))
        assert late["code"] == "conflict"
        answer = await one.wait(answer_of(question["id"]))
        assert (answer["status"], answer["result"]) == ("success", form)
        booked = await one.wait(answer_of(question["asked_by"]))
        assert booked["result"] == {"city": "Rome", "action": "accept", **form}
        await one.wait(end_in("chat"))
        await other.wait(end_in("chat"))
    events = await history(gateway, key)
    check(events)
    assert events[-1]["status"] == "complete"


async def test_a_question_is_declined_cancelled_or_goes_with_its_turn(gateway: GatewayProcess) -> None:
    async with Wire(gateway.ws, gateway.key()) as wire:
        await wire.hello()
        for context, told in (("declined", "decline"), ("cancelled", "cancel")):
            await wire.ask("tool_call", tool="book", parameters={"city": "Oslo"}, context_id=context)
            asked = await wire.wait(question_in(context))
            at = {"tool_call_id": asked["id"], "context_id": context}
            if told == "decline":
                await wire.ask("tool_approval", approved=False, reason="none", **at)
            else:
                await wire.ask("cancel", **at)
            booked = await wire.wait(answer_of(asked["asked_by"]))
            assert booked["result"] == {"city": "Oslo", "action": told}
            answer = await wire.wait(answer_of(asked["id"]))
            assert answer["status"] == ("denied" if told == "decline" else "cancelled")
        await wire.ask("message", id="m1", content=ASK, context_id="stopped")
        asked = await wire.wait(question_in("stopped"))
        await wire.ask("cancel", context_id="stopped", turn_id="m1")
        for call_id in (asked["id"], asked["asked_by"]):
            assert (await wire.wait(answer_of(call_id)))["status"] == "cancelled"
        late = await wire.ask("tool_approval", tool_call_id=asked["id"], context_id="stopped", approved=True)
        assert late["code"] == "conflict"


async def test_the_limits_of_a_tool_stand_still_and_those_of_a_question_do_not(tmp_path: Path) -> None:
    config = CONFIG + "[limits]\nquestion_seconds = 0.8\n"
    async with GatewayProcess(tmp_path, config=config) as gateway, Wire(gateway.ws, gateway.key()) as wire:
        await wire.hello()
        await wire.ask("message", content=ASK, context_id="chat")
        question = await wire.wait(is_question)
        # The tool's own limit of silence is half a second.
        booked = await wire.wait(answer_of(question["asked_by"]))
        assert (booked["status"], booked["result"]) == ("success", {"city": "Rome", "action": "cancel"})
        assert (await wire.wait(answer_of(question["id"])))["status"] == "cancelled"


async def test_a_client_without_a_socket_is_told_that_somebody_is_waited_for(gateway: GatewayProcess) -> None:
    headers = {"X-API-Key": gateway.key(), "Accept": "application/json"}
    async with httpx.AsyncClient(headers=headers) as http, asyncio.timeout(20):
        place = f"{gateway.url}/v1/contexts/chat"
        waiting = await http.post(f"{place}/messages", json={"id": "m1", "content": ASK})
        assert waiting.status_code == 202
        (question,) = [event for event in waiting.json()["events"] if is_question(event)]
        answer = {"tool_call_id": question["id"], "approved": True, "parameters": {"nights": 1}}
        assert (await http.post(f"{place}/approvals", json=answer)).status_code == 200
        done = await http.post(f"{place}/messages", json={"id": "m1", "content": ASK}, timeout=20)
        assert done.status_code == 200
        check(done.json()["events"])


@pytest.mark.parametrize("format", BODIES)
async def test_front_ends_see_what_is_asked_and_answered(gateway: GatewayProcess, format: str) -> None:
    key = gateway.key()
    async with Wire(gateway.ws, key) as wire, httpx.AsyncClient(headers={"X-API-Key": key}) as http:
        await wire.hello()
        await wire.ask("message", id="m0", content="hello", context_id="chat")
        await wire.wait(end_in("chat"))
        body = BODIES[format]
        async with http.stream("POST", f"{gateway.url}/v1/contexts/chat/messages?format={format}", json=body) as told:
            assert told.status_code == 200
            question = await wire.wait(is_question)
            answer = {"tool_call_id": question["id"], "approved": True, "parameters": {"nights": 7}}
            await wire.ask("tool_approval", context_id="chat", **answer)
            text = "".join([line async for line in told.aiter_lines()])
        assert text.index(question["asked_by"]) < text.index(question["id"]) < text.rindex(question["asked_by"])
        assert "Which room in Rome?" in text
        assert text.count("nights") > 2


@pytest.mark.promise("2")
@pytest.mark.promise("4")
async def test_a_lost_log_and_a_kill_while_questions_are_open(tmp_path: Path, valkey: ValkeyServer) -> None:
    """Whoever follows sees what is asked under the next log. Another instance takes the turns over: what was asked is
    asked by nobody any more, and a tool that may run twice asks again."""
    trace = tmp_path / "trace"
    env = {"ASKING_TRACE": str(trace)}
    async with running_cluster(tmp_path, redis=valkey.url, config=CONFIG, env=env) as cluster:
        key = cluster.key()
        dying, living = cluster.members
        async with Wire(dying.ws, key) as one, Wire(living.ws, key) as other:
            await one.hello()
            asked: dict[str, Frame] = {}
            for tool in ("book", "look_up"):
                await one.ask("message", content=f'call {tool} {{"city": "Rome"}}', context_id=tool)
                asked[tool] = await one.wait(question_in(tool))
            for lost in keys_of(valkey.url, cluster.prefix):
                if b"heartbeats" not in lost:
                    command(valkey.url, "DEL", lost)
            await other.hello(cursors={"book": None, "look_up": None})
            for question in asked.values():
                await other.wait(lambda frame, it=question["id"]: shows(frame, it))
            dying.kill()
            for tool, question in asked.items():
                assert (await other.wait(answer_of(question["id"])))["status"] == "cancelled"
                late = await other.ask("tool_approval", tool_call_id=question["id"], context_id=tool, approved=True)
                assert late["code"] == "conflict"
            first = asked["look_up"]
            again = await other.wait(lambda frame: question_in("look_up")(frame) and frame["id"] != first["id"])
            assert again["asked_by"] == first["asked_by"]
            answer = {"tool_call_id": again["id"], "approved": True, "parameters": {"nights": 3}}
            await other.ask("tool_approval", context_id="look_up", **answer)
            for tool, status, runs in (("book", "interrupted", 1), ("look_up", "success", 2)):
                call_id = asked[tool]["asked_by"]
                assert (await other.wait(answer_of(call_id)))["status"] == status
                await other.wait(end_in(tool))
                check(await history(living, key, tool))
                assert [line.split()[0] for line in trace.read_text().splitlines()].count(call_id) == runs


# ---- clients


async def test_the_python_client_answers(gateway: GatewayProcess) -> None:
    answers: list[dict[str, Any]] = [{"content": {"nights": 1}}, {"action": "decline"}, {"action": "cancel"}]
    async with connect(gateway.url, token=gateway.key()) as client, asyncio.timeout(20):
        results: list[Any] = []
        for number, answer in enumerate(answers):
            chat = client.context(f"chat{number}")
            async for frame in await chat.ask(ASK):
                if isinstance(frame, ToolCall) and frame.asked_by is not None:
                    await chat.answer(frame.id, **answer)
            responses = [event for event in chat.transcript.events if isinstance(event, ToolResponse)]
            results.append(responses[-1].result)
        assert [result["action"] for result in results] == ["accept", "decline", "cancel"]
        assert results[0]["nights"] == 1


async def test_a_form_is_filled_in_at_a_terminal(gateway: GatewayProcess) -> None:
    async with in_terminal(gateway.url, columns=110, TIDEGATE_TOKEN=gateway.key()) as chat:
        await chat.until(lambda text: text.endswith(">"))
        chat.enter(ASK)
        await chat.until("book asks: Which room in Rome?")
        await chat.until("Nights [a whole number]:")
        chat.enter("two")
        await chat.until("this is no whole number")
        chat.enter("2")
        await chat.until("view [1 sea | 2 yard; Enter: yard]:")
        chat.enter("1")
        await chat.until("breakfast [y/n; Enter: none]:")
        chat.enter("")
        await chat.until('book: answered {"nights":2,"view":"sea"}')
        await chat.until('"action":"accept","nights":2')
        chat.enter("call confirm {}")
        await chat.until("open this address at example.com:")
        await chat.until("accept? [y/n]")
        chat.enter("n")
        await chat.until("confirm: declined")


async def test_a_form_is_filled_in_on_the_page(gateway: GatewayProcess, tmp_path: Path) -> None:
    """The page's own script, in Node, over as much of a document as it uses."""
    async with httpx.AsyncClient() as http:
        page = tmp_path / "page.html"
        page.write_text((await http.get(f"{gateway.url}/")).text)
        script = FOLDER / "page_question.mjs"
        process = await asyncio.create_subprocess_exec(
            *(node(), str(script), str(page), gateway.url, gateway.key()),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(40):
            out, error = await process.communicate()
        assert process.returncode == 0, error.decode()
        seen = json.loads(out)
        assert "It wants you to open this address at example.com:\nhttps://example.com/sign-in?state=1" in seen["asked"]
        booked = {"city": "Rome", "action": "accept", "nights": 2, "view": "sea", "breakfast": True}
        assert f"success: {json.dumps(booked, separators=(',', ':'))}" in seen["shown"]
        assert 'success: "decline"' in seen["shown"]
