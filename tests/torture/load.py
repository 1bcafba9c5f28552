"""What the users do, until it is quiet: messages of all kinds, direct calls, cancels, titles."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import httpx

from tests.torture.device import Device
from tests.torture.follower import post_message
from tests.torture.frames import Frame
from tests.torture.script import what_to_call, what_to_say
from tests.torture.world import Place, World

__all__ = ["Director"]

_MOST_OPEN = 5
_ACTIONS = {"message": 58, "post": 10, "call": 12, "note": 4, "cancel": 8, "title": 3, "subscribe": 5, "elsewhere": 2}
_WHEN_BUSY = {"queue": 60, "interrupt": 14, "steer": 16, "reject": 10}


class Director:
    """Keeps one context busy, through the devices that follow it. What it does over HTTP goes on when `run` has
    returned, until `rest` has or it is given up."""

    def __init__(self, world: World, place: Place, devices: list[Device]) -> None:
        self.place = place
        self._world = world
        self._devices = devices
        self._tasks: set[asyncio.Task[None]] = set()
        self._rng = world.rng(f"director of {place.name}")
        self._numbers = 0

    async def run(self) -> None:
        actions: dict[str, Callable[[Device], None]] = {
            "message": self._message,
            "post": self._post,
            "call": self._call,
            "note": self._note,
            "cancel": self._cancel,
            "title": self._title,
            "elsewhere": lambda device: self._start("a visit elsewhere", self._elsewhere(device)),
            "subscribe": lambda device: device.subscribe_again(self.place.context_id),
        }
        while not self._world.quiet:
            await asyncio.sleep(self._rng.uniform(0.2, 3.0))
            (name,) = self._rng.choices(list(_ACTIONS), list(_ACTIONS.values()))
            if len(self.place.open) >= _MOST_OPEN and name not in ("cancel", "subscribe"):
                continue
            actions[name](self._rng.choice(self._devices))

    async def rest(self) -> None:
        """Wait for what is under way; raises what went wrong with the client's side of it."""
        while self._tasks:
            done, self._tasks = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()

    def give_up(self) -> list[str]:
        """End what is under way; its names."""
        names = [task.get_name() for task in self._tasks if not task.done()]
        for task in self._tasks:
            task.cancel()
        return names

    def _start(self, name: str, work: Coroutine[None, None, None]) -> None:
        self._tasks.add(asyncio.create_task(work, name=name))

    def _mark(self) -> str:
        self._numbers += 1
        return f"{self.place.user.name}-{self.place.context_id}-{self._numbers}"

    def _said(self, frame_id: str) -> Frame:
        (when_busy,) = self._rng.choices(list(_WHEN_BUSY), list(_WHEN_BUSY.values()))
        content = what_to_say(self._rng, self._mark())
        frame: Frame = {"type": "message", "id": frame_id, "context_id": self.place.context_id, "content": content}
        return frame | {"when_busy": when_busy, "metadata": {"of": self.place.user.name}}

    def _message(self, device: Device) -> None:
        frame = self._said(device.new_id())
        device.send(self.place.context_id, frame)
        if self._rng.random() < 0.05:
            # Another device has it too, as after a copy of its outbox: it must not count twice.
            self._rng.choice(self._devices).send(self.place.context_id, frame)

    def _post(self, device: Device) -> None:
        frame = self._said(device.new_id())
        name = f"post of {frame['id']}"
        self._start(name, post_message(self._world, self.place, name, frame))

    async def _elsewhere(self, device: Device) -> None:
        """A context of one message, which makes it."""
        place = self._world.place(self.place.user, f"other-{self._mark()}")
        device.visit(place)
        device.send(place.context_id, self._said(device.new_id()) | {"context_id": place.context_id})
        while place.open:
            await asyncio.sleep(0.5)
        device.leave(place.context_id)

    def _call(self, device: Device) -> None:
        frame: Frame = {"type": "tool_call", "id": device.new_id(), "context_id": self.place.context_id}
        device.send(self.place.context_id, frame | what_to_call(self._rng, self._mark()))

    def _note(self, device: Device) -> None:
        frame: Frame = {"type": "message", "id": device.new_id(), "context_id": self.place.context_id}
        device.send(self.place.context_id, frame | {"content": f"a note, {self._mark()}", "respond": False})

    def _cancel(self, device: Device) -> None:
        frame: Frame = {"type": "cancel", "id": device.new_id(), "context_id": self.place.context_id}
        turns = list(self.place.open)
        # One that is not acknowledged yet may be named too: then it is not found.
        if turns and self._rng.random() < 0.5:
            frame["turn_id"] = self._rng.choice(turns)
        device.send(self.place.context_id, frame)

    def _title(self, device: Device) -> None:
        self._start("a change of the title", self._rename(self._mark()))

    async def _rename(self, title: str) -> None:
        """Once: whether an answer that was lost meant yes can't be known, and a second time would be a second event."""
        world, place = self._world, self.place
        url = f"http://127.0.0.1:{world.port(self._rng)}/v1/contexts/{place.context_id}"
        async with httpx.AsyncClient(headers=place.user.headers, timeout=20, trust_env=False) as http:
            try:
                response = await http.patch(url, json={"title": title})
            except httpx.HTTPError:
                return
        if response.status_code == 200:
            world.journal.titles.setdefault(place.name, []).append(title)
        elif response.status_code not in (429, 502, 503):
            world.violate("refused", place.name, "director", f"a title was refused with {response.text}")
