"""How close the estimate of a prompt comes to what a real server counts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.active_contexts import ActiveContexts
from gateway.assembly import Assembler, Prompt
from gateway.consent import Consent
from gateway.core.approval import Approvals
from gateway.core.policy import Policy
from gateway.core.stored_turn import StoredTurn
from gateway.declared_tools import DeclaredTools
from gateway.models.openai import OpenAIModel
from gateway.models.port import Finish, TextPiece
from gateway.routing import Routes
from gateway.stored_events import new_event
from gateway.testing.llama_server import CONTEXT_WINDOW, MODEL, STOP, llama_server
from gateway.tools.catalog import Catalog
from gateway.tools.registry import ToolRegistry
from gateway.tools.runner import ToolRunner
from gateway.turn_request import TurnRequest, encode_request
from protocol.frames import Message, TurnEnd, Usage
from stores.memory import MemoryCache
from stores.records import ContextKey, NewTurn
from stores.sqlite import SqliteStore

KEY = ContextKey("t/ann", "chat")
QUESTIONS = [
    "Hello! Who are you?",
    "Tell me about the sea, its tides, and the people who live by it.",
    "def f(x):\n    return [y ** 2 for y in range(x) if y % 3 == 0]\nWhat does this do?",
    "Und auf Deutsch? Die Straße führt über die Brücke.",
    "1234567890 + 987654321 = ?",
    "Why?",
    "Write a JSON object with the keys name, age and address.",
    "海は広いですね。",
    "A long question about nothing in particular: " + "and then, and then, and then " * 6,
    "Thank you.",
]


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with llama_server() as url:
        yield url


def _message(id: str, turn_id: str, content: str, **more: Any) -> Message:
    return Message(
        context_id=KEY.id, turn_id=turn_id, id=id, content=content, timestamp="now", status="complete", **more
    )


async def test_after_ten_turns_the_estimate_is_within_two_percent(base_url: str, tmp_path: Path) -> None:
    model = OpenAIModel(
        "local", MODEL, None, base_url, context_window=CONTEXT_WINDOW, max_tokens=48, extra={"stop": [STOP]}
    )
    store = await SqliteStore.open(tmp_path / "store.db")
    routes = Routes(
        Catalog(ToolRegistry(())),
        ToolRunner(),
        Policy({}),
        DeclaredTools(store, MemoryCache()),
        Consent(Approvals({}, {}), store),
    )
    assembler = Assembler(ActiveContexts(store), {"local": model}, routes)
    request = TurnRequest(tenant="t", subject="ann", roles=None, model="local", tools=())

    async def turn(number: int, question: str) -> tuple[Prompt, Usage]:
        turn_id = f"t{number}"
        asked = new_event(_message(turn_id, turn_id, question, role="user"))
        await store.submit(KEY, asked, NewTurn(id=turn_id, kind="message", request=encode_request(request)))
        claimed = await store.claim(KEY, turn_id, "inst", 0)
        assert claimed is not None
        prompt = await assembler.assemble(claimed.rows.turn, request, StoredTurn(claimed))
        said, usage = "", None
        async for piece in model.stream(prompt.request):
            if isinstance(piece, TextPiece):
                said += piece.text
            elif isinstance(piece, Finish):
                usage = piece.usage
        assert usage is not None
        answer = _message(f"a{number}", turn_id, said, role="assistant", usage=usage)
        end = TurnEnd(context_id=KEY.id, turn_id=turn_id, status="complete", steps=1, usage=usage)
        await store.end_turn(KEY, turn_id, claimed.rows.turn.fence, [new_event(answer), new_event(end)], 1 << 62)
        await store.record(
            KEY,
            (await _epoch(store)),
            {name: 3 * number + place + 1 for place, name in enumerate((turn_id, f"a{number}", f"{turn_id}/end"))},
        )
        return prompt, usage

    errors: list[float] = []
    for number, question in enumerate([*QUESTIONS, *QUESTIONS[:4]]):
        prompt, usage = await turn(number, question)
        errors.append(abs(prompt.tokens - usage.input_tokens) / usage.input_tokens)
        prompt.counted(usage)
    await model.close()
    await store.close()
    assert max(errors[10:]) <= 0.02, errors


async def _epoch(store: SqliteStore) -> int:
    record = await store.get_context(KEY)
    assert record is not None
    return record.epoch
