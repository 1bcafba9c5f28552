"""Looks during the run whether a turn hangs, and at the end whether all is quiet."""

from __future__ import annotations

import asyncio
import time

import httpx

from tests.torture.device import Device
from tests.torture.frames import Frame
from tests.torture.history import read_history, unended
from tests.torture.world import Place, World

__all__ = ["Monitor"]

_STUCK = 45.0
_WELL = 20.0


class Monitor:
    """A turn hangs where its context has had no event for 45 seconds, of which an instance and all servers were well
    for the last 20. `silence` is the longest time without one, in seconds, during which all of that was well."""

    def __init__(self, world: World, devices: list[Device], http: httpx.AsyncClient) -> None:
        self._world = world
        self._devices = devices
        self._http = http
        self._told: set[str] = set()
        self._settled: set[str] = set()
        self.silence = 0.0

    async def run(self) -> None:
        while True:
            await asyncio.sleep(1)
            for death in self._world.cluster.deaths:
                self._world.violate("died", "cluster", "monitor", death)
            self._world.cluster.deaths.clear()
            for place in tuple(self._world.places.values()):
                if place.open:
                    self.silence = max(self.silence, min(time.monotonic() - place.moved, self._well_for()))
                if place.open and time.monotonic() - place.moved > _STUCK and self._well_for() > _WELL:
                    await self._look(place)

    def _well_for(self) -> float:
        since = self._world.cluster.well_since
        return time.monotonic() - since if since is not None else 0.0

    async def _look(self, place: Place) -> None:
        moved, asked = place.moved, dict(place.open)
        history = await read_history(self._world.cluster, place, self._http)
        if history is None or place.moved != moved or not self._well_for() > _WELL:
            return
        stuck = unended(history)
        for turn_id in asked:
            if turn_id not in stuck and self._is_stored(history, turn_id):
                place.open.pop(turn_id, None)
        for turn_id in stuck - self._told:
            self._told.add(turn_id)
            last = [event for event in history if event.get("turn_id") == turn_id][-3:]
            self._world.violate("hanging", place.name, "monitor", f"{turn_id}: nothing for {_STUCK} s after {last}")

    def _is_stored(self, history: list[Frame], turn_id: str) -> bool:
        return any(event.get("id") == turn_id for event in history)

    async def calm(self, seconds: float) -> dict[str, list[Frame]]:
        """Wait until nothing is under way any more; the histories. What does not end in time hangs."""
        deadline = time.monotonic() + seconds
        histories: dict[str, list[Frame]] = {}
        while True:
            restless = await self._restless(histories)
            if not restless:
                return histories
            if time.monotonic() > deadline:
                for place, words in restless:
                    self._world.violate("hanging", place, "judge", words)
                return histories
            await asyncio.sleep(0.5)

    async def _restless(self, histories: dict[str, list[Frame]]) -> list[tuple[str, str]]:
        """What is under way, by place; the histories of all places are put in."""
        restless = [
            (device.user.name, f"{device.name} waits for {device.outbox.unanswered}")
            for device in self._devices
            if device.outbox.unanswered
        ]
        everything_sent = not restless
        for name, place in self._world.places.items():
            if name in self._settled:
                continue
            before = len(restless)
            history = await read_history(self._world.cluster, place, self._http)
            if history is None:
                restless.append((name, "its history can't be read"))
                continue
            histories[name] = history
            turns = unended(history)
            if turns:
                restless.append((name, f"the turns {sorted(turns)} do not end"))
            last = max((event.get("seq", 1 << 60) for event in history), default=0)
            restless += [
                (name, f"{reader.name} stands at {reader.cursor}, the context at {last}")
                for reader in self._world.readers.get(name, [])
                if reader.cursor is None or reader.cursor.seq < last
            ]
            # Nothing is to come any more where nothing is under way: a long history is not read again and again.
            if everything_sent and len(restless) == before:
                self._settled.add(name)
        return restless
