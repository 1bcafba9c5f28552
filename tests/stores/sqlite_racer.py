"""One process of several that use the same SQLite file (test_sqlite_processes.py): it waits for a line on its standard
input, does what its first argument names, and prints what came of it as JSON."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from stores.ports import Fenced
from stores.records import ContextKey, TurnState
from stores.sqlite import SqliteStore
from tests.stores.context_stores import NEWEST, end, epoch_of, message, turn

__all__ = ["EPOCHS", "KEY", "MESSAGES", "TURNS", "Outcome"]

KEY = ContextKey("t/ann", "shared")
EPOCHS, MESSAGES, TURNS = 200, 150, 60


class Outcome(Struct, frozen=True):
    """What the process was told it did: names, each of which only one process may be told."""

    did: list[str]


async def raise_epochs(store: SqliteStore, name: str) -> list[str]:
    """Until it is high enough and this process had its part, however late it came."""
    did: list[str] = []
    while (epoch := await epoch_of(store, KEY)) < EPOCHS or not did:
        raised = await store.raise_epoch(KEY, epoch)
        if raised is not None:
            did.append(str(raised[0]))
    return did


async def submit(store: SqliteStore, name: str) -> list[str]:
    """All processes send the same messages."""
    did: list[str] = []
    for number in range(MESSAGES):
        accepted = await store.submit(KEY, message(f"m{number}"), None)
        did += [] if accepted.duplicate else [f"m{number}"]
        did += ["created"] if accepted.created else []
    return did


async def run_turns(store: SqliteStore, name: str) -> list[str]:
    """Each process runs whatever turn it finds, and puts a new one in the queue, until there were enough
    and it had its part."""
    did: list[str] = []
    while True:
        for found in await store.turns_to_run([], 10):
            claimed = await store.claim(KEY, found.id, name, found.fence)
            if claimed is None:
                continue
            did.append(f"{found.id} under {claimed.rows.turn.fence}")
            if claimed.rows.turn.state is TurnState.RUNNING:
                with suppress(Fenced):  # the others take it over at once: to them nobody is alive
                    await store.end_turn(KEY, found.id, claimed.rows.turn.fence, [end(found.id)], NEWEST)
            await record_all(store)
        number = len((await store.history(KEY, None, 10 * TURNS)).rows) // 2
        if number >= TURNS and did:
            return did
        await store.submit(KEY, message(f"t{number}", f"t{number}"), turn(f"t{number}"))


async def record_all(store: SqliteStore) -> None:
    rows = [row for row, _ in await store.unsequenced(KEY)]
    # Seqs that nobody else gives: the test is of the store, not of a log.
    await store.record(KEY, await epoch_of(store, KEY), {row.id: row.order for row in rows})


async def delete(store: SqliteStore, name: str) -> list[str]:
    """Each process deletes its own contexts, of which nothing may be left in the file."""
    did: list[str] = []
    for number in range(15):
        mark, key = f"{name}-secret-{number:03}", ContextKey("t/ann", f"{name}{number}")
        for id in (mark, f"{mark}-again"):
            await store.submit(key, message(id), None)
        await store.delete_context(key)
        if await store.scrub():
            did.append(mark)
    return did


ACTS: dict[str, Callable[[SqliteStore, str], Awaitable[list[str]]]] = {
    "raise_epochs": raise_epochs,
    "submit": submit,
    "run_turns": run_turns,
    "delete": delete,
}


async def main(act: str, path: str, name: str) -> None:
    store = await SqliteStore.open(Path(path))
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    did = await ACTS[act](store, name)
    await store.close()
    assert max(Counter(did).values(), default=0) <= 1, did
    print(msgspec.json.encode(Outcome(did)).decode(), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
