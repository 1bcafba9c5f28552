"""MemoryLog and RedisLog answer the same to the same calls, whatever they are."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from gateway.servers.valkey import ValkeyServer
from protocol.codec import encode
from protocol.frames import (
    ContextChanged,
    Delta,
    DurableEvent,
    Event,
    Message,
    MessageStart,
    ToolCall,
    ToolProgress,
    ToolResponse,
    TurnEnd,
    Usage,
)
from stores.memory import MemoryLog
from stores.ports import EventLog, StoreError
from stores.records import ContextKey, LogBatch, LogEvent, Publication
from stores.redis_hot import RedisHot
from tests.servers.hot import running
from tests.servers.valkey import command, fresh_prefix, keys_of
from tests.stores.received import Received

KEYS = [ContextKey("o", "1"), ContextKey("o/1", ""), ContextKey("ö", "1")]
TURNS = ["t1", "t2", "t3"]
WORDS = ["", "a", "é ", '"\n', "\U0001f600", "word " * 30]
STEPS = 250


class World:
    """Random calls, the same for a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - the same for a seed
        self.writers = 0
        self.sent: list[LogBatch] = []
        self.epochs = dict.fromkeys(KEYS, 0)

    def event(self) -> LogEvent:
        pick = self.random.choice
        turn, message, call = pick(TURNS), f"m{pick('123')}", f"c{pick('12')}"
        live: list[Event] = [
            Delta(context_id="c", turn_id=turn, message_id=message, text=pick(WORDS)),
            Delta(context_id="c", turn_id=turn, message_id=message, text=pick(WORDS), channel="reasoning"),
            MessageStart(
                context_id="c", turn_id=turn, id=message, role="assistant", model=pick(WORDS), attempt=int(pick("12"))
            ),
            ToolProgress(context_id="c", turn_id=turn, tool_call_id=call, progress=self.random.random(), message="ü"),
        ]
        number = self.random.randrange(60)
        durable: list[DurableEvent] = [
            Message(context_id="c", id=message, content="x", role="assistant", timestamp="now", status="complete"),
            ToolCall(context_id="c", id=call, tool="t", parameters={}, timestamp="now", runs_on="server"),
            ToolResponse(context_id="c", id="r", tool_call_id=call, result=1, status="success", timestamp="now"),
            TurnEnd(
                context_id="c", turn_id=turn, status="complete", steps=1, usage=Usage(input_tokens=1, output_tokens=1)
            ),
            ContextChanged(context_id="c", title="x"),
        ]
        if self.random.random() < 0.7:
            event = pick(live)
            return LogEvent(event=event, body=encode(event))
        event = pick(durable)
        return LogEvent(event=event, body=encode(event), id=f"e{number}")

    def batch(self) -> LogBatch:
        pick = self.random.choice
        # The last ones: what both remember, whatever came since.
        if self.sent and self.random.random() < 0.15:
            return pick(self.sent[-8:])
        self.writers += 1
        key = pick(KEYS)
        made = LogBatch(
            key=key,
            epoch=max(0, self.epochs[key] - (self.random.random() < 0.1)),
            writer=f"w{self.writers}",
            events=[self.event() for _ in range(self.random.choice((0, 1, 1, 1, 2, 5, 150)))],
            turn_id=pick([None, *TURNS]),
            fence=self.random.choice((1, 1, 1, 1, 2)),
        )
        self.sent.append(made)
        return made


def plain(answers: Sequence[dict[str, int] | StoreError]) -> list[object]:
    return [type(answer) if isinstance(answer, StoreError) else answer for answer in answers]


async def same(logs: Sequence[EventLog], world: World) -> None:
    pick, number = world.random.choice, world.random.randrange
    key = pick(KEYS)
    epoch = world.epochs[key]
    one, other = logs
    match pick(("append",) * 6 + ("read", "fold", "ids", "recorded", "begin", "heads", "drop")):
        case "append":
            batches = [world.batch() for _ in range(number(1, 5))]
            assert plain(await one.append(batches)) == plain(await other.append(batches))
        case "read":
            head = await one.head(key)
            after = number(max(1, head.seq + 3 if head else 1))
            limit = pick((0, 100, 5000, 1 << 20))
            assert await one.read(key, epoch, after, limit) == await other.read(key, epoch, after, limit)
        case "fold":
            assert await one.fold(key) == await other.fold(key)
        case "ids":
            upto = number(300)
            assert await one.ids(key, epoch, upto) == await other.ids(key, epoch, upto)
        case "recorded":
            seq = number(200)
            await one.recorded(key, epoch, seq)
            await other.recorded(key, epoch, seq)
        case "begin" if number(4) == 0 or epoch == 0:
            wanted, base = epoch + pick((0, 1)), number(50)
            begun = await one.begin(key, wanted, base)
            assert begun == await other.begin(key, wanted, base)
            if begun:
                world.epochs[key] = wanted
        case "drop" if number(6) == 0:
            await one.drop(key)
            await other.drop(key)
        case _:
            assert await one.heads(KEYS) == await other.heads(KEYS)


@pytest.mark.parametrize("seed", range(8))
async def test_both_logs_answer_and_publish_the_same(valkey: ValkeyServer, seed: int) -> None:
    world = World(seed)
    memory, prefix = MemoryLog(max_bytes=4000), fresh_prefix()
    async with running(RedisHot(valkey.url, prefix=prefix, max_bytes=4000)) as hot:
        logs: list[EventLog] = [memory, hot.log]
        received = [[Received[Publication]() for _ in KEYS] for _ in logs]
        for log, inboxes in zip(logs, received, strict=True):
            for key, inbox in zip(KEYS, inboxes, strict=True):
                await log.follow(key, inbox)
        for _ in range(STEPS):
            await same(logs, world)
        for inbox, expected in zip(received[1], received[0], strict=True):
            assert await inbox.reach(len(expected.items)) == expected.items
    # All keys of a log go in the same moment.
    ends: dict[bytes, set[int]] = {}
    for key in keys_of(valkey.url, prefix):
        ends.setdefault(key.rpartition(b":")[0], set()).add(command(valkey.url, "PEXPIRETIME", key))
    assert ends
    assert all(len(times) == 1 and min(times) > 0 for times in ends.values())
