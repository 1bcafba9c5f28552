"""What is kept of live conversations, over a real store whose reads are counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.active_context import ActiveContext
from gateway.active_contexts import ActiveContexts
from gateway.core.thread import Incomplete
from gateway.stored_events import new_event
from protocol.frames import Message
from stores.ports import ContextStore, NotFound
from stores.records import ContextKey, NewEvent, Summary
from stores.sqlite import SqliteStore

KEY = ContextKey("t/ann", "conv")


class Counting:
    """A store; `rows` counts the events that each method answered with."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.calls: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        async def call(*args: Any, **options: Any) -> Any:
            answer = await method(*args, **options)
            self.calls[name] += 1
            self.rows[name] += (
                len(answer.rows if name == "thread" else answer[0]) if name in ("thread", "older") and answer else 0
            )
            return answer

        return call


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[Counting]:
    opened = await SqliteStore.open(tmp_path / "store.db")
    yield Counting(opened)
    await opened.close()


def contexts_of(store: Counting, limit: int = 1 << 20) -> ActiveContexts:
    return ActiveContexts(cast("ContextStore", store), limit)


def said(id: str, content: str = "hello", key: ContextKey = KEY) -> NewEvent:
    return new_event(
        Message(context_id=key.id, id=id, content=content, role="user", timestamp="now", status="complete")
    )


async def say(store: Counting, *names: str, key: ContextKey = KEY, content: str = "hello") -> None:
    for name in names:
        await store.submit(key, said(name, content, key), None)


def ids(active: ActiveContext, last: str) -> list[str]:
    return [node.id for node in active.thread.path(last)][::-1]


async def test_what_is_kept_is_not_read_again(store: Counting) -> None:
    contexts = contexts_of(store)
    await say(store, *[f"m{n}" for n in range(100)])
    active = await contexts.get(KEY)
    assert store.rows["thread"] == 100
    for number in range(100, 110):
        await say(store, f"m{number}")
        assert await contexts.get(KEY) is active
    assert store.rows["thread"] == 110
    assert store.rows["older"] == 0
    assert ids(active, "m109") == [f"m{n}" for n in range(110)]


async def test_more_than_a_page_that_came_meanwhile_is_read_whole(store: Counting) -> None:
    contexts = contexts_of(store)
    await say(store, "m0")
    active = await contexts.get(KEY)
    await say(store, *[f"m{n}" for n in range(1, 450)])
    await contexts.get(KEY)
    assert ids(active, "m449") == [f"m{n}" for n in range(450)]


async def test_a_long_conversation_is_read_from_its_end_as_far_as_somebody_wants(store: Counting) -> None:
    contexts = contexts_of(store)
    await say(store, *[f"m{n}" for n in range(450)])
    active = await contexts.get(KEY)
    assert store.rows["thread"] == 200
    with pytest.raises(Incomplete):
        ids(active, "m449")
    await contexts.load_older(active)
    await contexts.load_older(active)
    assert ids(active, "m449") == [f"m{n}" for n in range(450)]


async def test_what_was_forgotten_under_who_wants_older_events_begins_with_the_newest_again(store: Counting) -> None:
    contexts = contexts_of(store)
    await say(store, *[f"m{n}" for n in range(450)])
    active = await contexts.get(KEY)
    active.unload()
    for _ in range(3):
        with pytest.raises(Incomplete):
            ids(active, "m449")
        await contexts.load_older(active)
    assert ids(active, "m449") == [f"m{n}" for n in range(450)]
    active.unload()
    await store.delete_context(KEY)
    with pytest.raises(NotFound):
        await contexts.load_older(active)


async def test_a_context_that_was_deleted_and_made_anew_is_another(store: Counting) -> None:
    contexts = contexts_of(store)
    await say(store, "old1", "old2")
    await contexts.get(KEY)
    await store.delete_context(KEY)
    with pytest.raises(NotFound):
        await contexts.get(KEY)
    await say(store, "old1", "old2")
    await contexts.get(KEY)
    await store.delete_context(KEY)
    await say(store, "new1", "new2", "new3")
    assert ids(await contexts.get(KEY), "new3") == ["new1", "new2", "new3"]


async def test_what_was_used_last_is_kept(store: Counting) -> None:
    contexts = contexts_of(store, 3000)
    keys = [ContextKey("t/ann", f"conv{n}") for n in range(4)]
    for key in keys:
        await say(store, "m", key=key, content="x" * 1200)
        await contexts.get(key)
    assert len(contexts) == 1
    await contexts.get(keys[-1])
    assert store.rows["thread"] == 4
    await contexts.get(keys[0])
    assert store.rows["thread"] == 5


async def test_one_that_is_larger_than_all_the_room_is_kept_alone(store: Counting) -> None:
    contexts = contexts_of(store, 100)
    await say(store, "m", content="x" * 4000)
    active = await contexts.get(KEY)
    assert await contexts.get(KEY) is active
    contexts.forget(KEY)
    assert len(contexts) == 0


async def test_an_unloaded_one_is_read_anew_and_keeps_the_rest(store: Counting) -> None:
    contexts = contexts_of(store)
    await say(store, "m1", "m2")
    active = await contexts.get(KEY)
    active.cuts["model"] = None
    active.unload()
    assert await contexts.get(KEY) is active
    assert ids(active, "m2") == ["m1", "m2"]
    assert "model" in active.cuts


async def test_settings_summaries_and_pins_are_those_of_now(store: Counting) -> None:
    contexts = contexts_of(store)
    await say(store, "m1", "m2")
    active = await contexts.get(KEY)
    assert (active.settings.system, active.summaries, await contexts.load_pinned(active)) == (None, {}, [])
    told = NewEvent(id="x1", type="context", body=b'{"type":"context","context_id":"conv"}')
    await store.update_context(KEY, None, None, told, settings=b'{"system":"be kind"}', pins=["m1"])
    await store.put_summary(KEY, Summary(turn_id="m1", first_id="m1", turns=1, text="They met."), active.record.born)
    await contexts.get(KEY)
    assert active.settings.system == "be kind"
    assert active.summaries["m1"].text == "They met."
    assert [node.id for node in await contexts.load_pinned(active)] == ["m1"]
    reads = store.calls["find_event"]
    await contexts.load_pinned(await contexts.get(KEY))
    assert store.calls["find_event"] == reads
