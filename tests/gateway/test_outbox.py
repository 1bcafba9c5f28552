from __future__ import annotations

import asyncio
from typing import Literal

from gateway.outbox import Outbox, live
from protocol.codec import decode_event
from protocol.frames import Delta
from stores.records import ContextKey, LogBatch

KEY = ContextKey("t/s", "c")


def outbox() -> Outbox:
    return Outbox(KEY, "turn", 3, 1)


def say(box: Outbox, *texts: str, message: str = "m", channel: Literal["text", "reasoning"] = "text") -> None:
    for text in texts:
        box.put(live(Delta(context_id="c", turn_id="turn", message_id=message, text=text, channel=channel)))


def took(box: Outbox) -> LogBatch:
    batch = box.take()
    assert batch is not None
    return batch


def texts(batch: LogBatch) -> list[str]:
    for event in batch.events:
        assert decode_event(event.body) == event.event
    return [event.event.text for event in batch.events if isinstance(event.event, Delta)]


def drain(box: Outbox) -> list[LogBatch]:
    batches: list[LogBatch] = []
    while (batch := box.take()) is not None:
        batches.append(batch)
        box.taken(batch)
    return batches


def test_a_batch_carries_the_turn_its_fence_and_epoch() -> None:
    box = outbox()
    say(box, "a", "b")
    batch = took(box)
    assert (batch.key, batch.turn_id, batch.fence, batch.epoch) == (KEY, "turn", 3, 1)
    assert texts(batch) == ["a", "b"]


def test_the_same_batch_is_offered_until_it_is_in_the_log() -> None:
    box = outbox()
    say(box, "a")
    batch = took(box)
    say(box, "b")
    assert box.take() is batch
    assert box.taken(batch)
    assert texts(took(box)) == ["b"]


def test_nothing_to_say() -> None:
    assert outbox().take() is None


def test_batches_are_bounded_ordered_and_each_its_own_writer() -> None:
    box = outbox()
    words = [str(number) for number in range(600)]
    say(box, *words)
    batches = drain(box)
    assert [word for batch in batches for word in texts(batch)] == words
    assert max(len(batch.events) for batch in batches) == 256
    assert len({batch.writer for batch in batches}) == len(batches) == 3


def test_a_later_fence_writes_under_other_names() -> None:
    one, other = outbox(), Outbox(KEY, "turn", 4, 1)
    say(one, "a")
    say(other, "a")
    assert took(one).writer != took(other).writer


def test_while_the_log_is_away_neighbouring_deltas_are_joined() -> None:
    box = outbox()
    words = [f"{number} " for number in range(5000)]
    say(box, *words)
    batches = drain(box)
    assert sum(len(batch.events) for batch in batches) == 1024
    assert "".join(text for batch in batches for text in texts(batch)) == "".join(words)


def test_only_deltas_of_one_message_and_channel_are_joined() -> None:
    box = outbox()
    say(box, *["x"] * 1024)
    say(box, "a", message="n")
    say(box, "b", message="n", channel="reasoning")
    say(box, "c", "d", message="n")
    assert [text for batch in drain(box) for text in texts(batch)][1024:] == ["a", "b", "cd"]


def test_under_a_new_epoch_it_says_something_else() -> None:
    box = outbox()
    say(box, "a")
    before = took(box)
    say(box, "b")
    box.restart(2, [live(Delta(context_id="c", message_id="m", text="whole"))])
    after = took(box)
    assert (texts(after), after.epoch) == (["whole"], 2)
    assert after.writer != before.writer
    # The answer to a batch that was forgotten comes late: it is not taken for the new one's.
    assert box.taken(before)
    assert box.take() is after


async def test_emptied_waits_until_the_log_has_everything() -> None:
    box = outbox()
    await box.emptied()
    say(box, "a")
    waiting = asyncio.create_task(box.emptied())
    batch = took(box)
    await asyncio.sleep(0)
    assert not waiting.done()
    assert not box.taken(batch)
    await waiting


async def test_a_restart_with_nothing_is_empty() -> None:
    box = outbox()
    say(box, "a")
    box.restart(2, [])
    await box.emptied()
    assert box.take() is None
    box.restart(3, [live(Delta(context_id="c", message_id="m", text="a"))])
    waiting = asyncio.create_task(box.emptied())
    await asyncio.sleep(0)
    assert not waiting.done()
    box.taken(took(box))
    await waiting
