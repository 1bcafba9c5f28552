"""One run: a cluster, its users, the faults, and what the judge says."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import httpx
from msgspec import Struct

from tests.torture.cluster import Cluster, Options, running
from tests.torture.device import Device
from tests.torture.faults import Faults
from tests.torture.follower import Follower
from tests.torture.frames import Frame, text_of
from tests.torture.journal import Sent
from tests.torture.judge import Evidence, judge
from tests.torture.load import Director
from tests.torture.monitor import Monitor
from tests.torture.report import Report, write_report
from tests.torture.schedule import plan
from tests.torture.tools import runs_in
from tests.torture.world import User, World

__all__ = ["Torture", "say_aloud", "torture"]

_CALM_SECONDS = 60.0
_EVERY = 10.0


class Torture(Struct, frozen=True, kw_only=True):
    """`calm_seconds` is how long everything may take to come to rest once the faults have stopped."""

    seconds: float
    seed: int
    options: Options = Options()
    users: int = 3
    contexts: int = 2
    devices: int = 2
    calm_seconds: float = _CALM_SECONDS


async def torture(settings: Torture, say: Callable[[str], None] = lambda words: None) -> Report:
    """Run it; the folder of the processes is left where something was wrong."""
    folder = Path(tempfile.mkdtemp(prefix="tidegate-torture-"))
    kept = True
    try:
        async with running(folder, settings.options) as cluster:
            report = await _inside(settings, cluster, say)
        report.folder = str(folder) if report.broken else None
        kept = bool(report.broken)
        if kept:
            write_report(report, folder / "report.json")
        return report
    finally:
        if kept:
            say(f"the logs of all processes: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


async def _inside(settings: Torture, cluster: Cluster, say: Callable[[str], None]) -> Report:
    users = [User(name, await cluster.make_key(name)) for name in (f"user{n}" for n in range(settings.users))]
    world = World(cluster, settings.seed, users)
    async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
        await _make_contexts(settings, world, http)
        devices, followers = _clients(settings, world)
        monitor, faults = Monitor(world, devices, http), Faults(cluster, devices)
        clients = [asyncio.create_task(client.run()) for client in (*devices, *followers)]
        clients.append(asyncio.create_task(monitor.run()))
        clients.append(asyncio.create_task(_progress(settings, world, faults, say)))
        try:
            directors = [
                Director(world, place, [device for device in devices if device.user is place.user])
                for place in world.places.values()
            ]
            async with asyncio.TaskGroup() as group:
                for director in directors:
                    group.create_task(director.run())
                await faults.run(plan(settings.seed, settings.seconds, cluster=settings.options.cluster))
                await asyncio.sleep(max(0.0, world.began + settings.seconds - time.monotonic()))
                world.quiet = True
                say("quiet: everything has to come to rest now")
            try:
                await cluster.all_ready(_CALM_SECONDS)
            except TimeoutError:
                late = [instance.name for instance in cluster.instances if not instance.ready.is_set()]
                world.violate("hanging", "cluster", "judge", f"not ready after {_CALM_SECONDS:.0f} s: {late}")
            began = time.monotonic()
            await _rest(directors, settings.calm_seconds, world)
            histories = await monitor.calm(max(5.0, settings.calm_seconds - (time.monotonic() - began)))
            (cluster.folder / "faults.log").write_text("\n".join(faults.log))
            for name, history in histories.items():
                lines = "\n".join(map(text_of, history))
                (cluster.folder / f"{name.replace('/', '-')}.history").write_text(lines)
        finally:
            for task in clients:
                task.cancel()
            ended = await asyncio.gather(*clients, return_exceptions=True)
    for error in ended:
        if isinstance(error, Exception):
            # A bug of a client of ours: it must not pass for a quiet one.
            raise error
    _judge(world, histories)
    return _report(settings, world, faults, monitor, histories)


async def _rest(directors: list[Director], seconds: float, world: World) -> None:
    """Those who read their turns as responses get to the end of them, or hang."""
    try:
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
            for director in directors:
                group.create_task(director.rest())
    except TimeoutError:
        for director in directors:
            for name in director.give_up():
                world.violate("hanging", director.place.name, "judge", f"{name} does not end")


async def _make_contexts(settings: Torture, world: World, http: httpx.AsyncClient) -> None:
    """The users' contexts have the same ids, and must never meet."""
    for user in world.users:
        for number in range(settings.contexts):
            url = f"http://127.0.0.1:{world.cluster.instances[0].port}/v1/contexts"
            made = await http.post(url, json={"id": f"c{number}"}, headers=user.headers)
            made.raise_for_status()
            world.place(user, f"c{number}").exists = True


def _clients(settings: Torture, world: World) -> tuple[list[Device], list[Follower]]:
    devices: list[Device] = []
    for user in world.users:
        places = [place for place in world.places.values() if place.user is user]
        devices += [Device(world, user, f"{user.name}-d{n}", places) for n in range(settings.devices)]
    followers = [Follower(world, place, f"{place.name}-sse") for place in world.places.values()]
    return devices, followers


async def _progress(settings: Torture, world: World, faults: Faults, say: Callable[[str], None]) -> None:
    while True:
        await asyncio.sleep(_EVERY)
        open_turns = sum(len(place.open) for place in world.places.values())
        say(
            f"{time.monotonic() - world.began:6.0f} of {settings.seconds:.0f} s: {faults.counts.total()} faults, "
            f"{world.counts['frames']} frames, {world.journal.count('acknowledged', 'message')} messages acknowledged, "
            f"{open_turns} turns open, {world.counts['violations']} violations, "
            f"well: {[instance.number for instance in world.cluster.instances if instance.well]}"
        )


def _judge(world: World, histories: dict[str, list[Frame]]) -> None:
    runs = runs_in(world.cluster.ledger)
    sent: defaultdict[str, list[Sent]] = defaultdict(list)
    for entry in world.journal.sent.values():
        sent[entry.place].append(entry)
    for name, place in world.places.items():
        evidence = Evidence(
            place=name,
            history=histories.get(name, []),
            sent=sent[name],
            titles=world.journal.titles.get(name, []),
            runs=runs,
            told=place.told,
            readers=world.readers.get(name, []),
        )
        for found in judge(evidence):
            world.violate(found.kind, found.place, found.who, found.words)
    calls = {e["id"] for history in histories.values() for e in history if e["type"] == "tool_call"}
    for call_id in runs.keys() - calls:
        world.violate("stranger", "ledger", "judge", f"a tool ran for {call_id}, which is nowhere")


def _report(
    settings: Torture, world: World, faults: Faults, monitor: Monitor, histories: dict[str, list[Frame]]
) -> Report:
    events = [event for history in histories.values() for event in history]
    figures = {
        "frames checked": world.counts["frames"],
        "messages acknowledged": world.journal.count("acknowledged", "message"),
        "direct calls acknowledged": world.journal.count("acknowledged", "tool_call"),
        "cancels acknowledged": world.journal.count("acknowledged", "cancel"),
        "approvals acknowledged": world.journal.count("acknowledged", "tool_approval"),
        "turns": sum(event["type"] == "turn_end" for event in events),
        "calls": sum(event["type"] == "tool_call" for event in events),
        "calls interrupted": sum(event.get("status") == "interrupted" for event in events),
        "messages truncated": sum(event.get("status") == "truncated" for event in events),
        "messages without a beginning": sum(len(p.meanings.without_beginning) for p in world.places.values()),
        "longest silence while well, s": round(monitor.silence),
        "duplicates": world.counts["duplicates"],
        "snapshots": world.counts["snapshots"],
        "reconnects": world.counts["reconnects"],
        "connections given up": world.counts["silent connections"],
        "starts of instances": sum(instance.starts for instance in world.cluster.instances),
        "takeovers": world.cluster.figures["tidegate_takeovers_total"],
        "turns fenced": world.cluster.figures["tidegate_turns_fenced_total"],
        "epochs begun": world.cluster.figures["tidegate_epochs_begun"],
    }
    figures |= {name: count for name, count in sorted(world.counts.items()) if name.startswith("refused as")}
    return Report(
        seed=settings.seed,
        seconds=settings.seconds,
        instances=settings.options.instances,
        redis=settings.options.redis if settings.options.cluster else None,
        faults=dict(faults.counts),
        skipped=faults.skipped,
        figures=figures,
        broken=world.counts["violations"],
        violations=world.violations,
    )


def say_aloud(words: str) -> None:
    sys.stdout.write(words + "\n")
    sys.stdout.flush()
