"""A client that follows docs/protocol.md to the letter and checks every frame: one session, many sockets."""

from __future__ import annotations

import asyncio
import json
import random
from collections import deque

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from tests.torture.frames import DURABLE, LIVE, Cursor, Frame
from tests.torture.journal import Sent
from tests.torture.outbox import Outbox, may_be_refused
from tests.torture.script import ASK
from tests.torture.timers import Timers
from tests.torture.transcript import Problem, Stream
from tests.torture.world import Place, User, World

__all__ = ["Device"]

_SILENCE = 20.0
_ANSWERS = ("ack", "error", "pong", "subscribed")
_OUR_FAULT = {1003, 1009, 4400, 4401, 4403, 4409}


class Device:
    """Follows the contexts of a user, over one socket after the other, until it is cancelled. What is sent with `send`
    is written until it is answered, in order."""

    def __init__(self, world: World, user: User, name: str, places: list[Place]) -> None:
        self.name = name
        self.user = user
        self.places = {place.context_id: place for place in places}
        self.transcripts = {place.context_id: world.transcript(place, name) for place in places}
        self._world = world
        self._rng: random.Random = world.rng(name)
        self._socket: ClientConnection | None = None
        self._ready = False
        self._paused = False
        self._session: str | None = None
        self._attempt = 0
        self._numbers = 0
        self._heard = 0.0
        self._last: deque[str] = deque(maxlen=12)
        self.outbox = Outbox(self._rng)
        self._news = asyncio.Event()
        # The subscriptions under way, by context: until they are answered, its events count for nothing.
        self._deaf: dict[str, str] = {}
        self._deciding: set[str] = set()
        self._timers = Timers()

    # ---- what others have it do

    def new_id(self) -> str:
        self._numbers += 1
        return f"{self.name}-{self._numbers}"

    def send(self, context_id: str, frame: Frame) -> Sent:
        """Have the frame acknowledged, however long that takes."""
        entry = self._world.sent(self.places[context_id], frame)
        self.outbox.add(entry)
        self._news.set()
        return entry

    def cut(self) -> None:
        """End the connection as a network would: without a word."""
        if self._socket is not None:
            self._socket.transport.abort()

    def visit(self, place: Place) -> None:
        """Follow one more context, from the first frame that is sent there, until it is left."""
        self.places[place.context_id] = place
        self.transcripts[place.context_id] = self._world.transcript(place, self.name)

    def leave(self, context_id: str) -> None:
        """Follow the context no more."""
        del self.places[context_id], self.transcripts[context_id]
        frame: Frame = {"type": "unsubscribe", "id": self.new_id(), "context_id": context_id}
        self.outbox.add(Sent(self.user.name, frame))
        self._deaf.pop(context_id, None)
        self._news.set()

    async def pause(self, seconds: float) -> None:
        """Read nothing for a while, and so answer no ping."""
        socket = self._socket
        if socket is None or self._paused:
            return
        self._paused = True
        try:
            socket.transport.pause_reading()
            await asyncio.sleep(seconds)
        finally:
            self._paused = False
            if not socket.transport.is_closing():
                socket.transport.resume_reading()
            self._heard = asyncio.get_running_loop().time()

    def subscribe_again(self, context_id: str) -> None:
        """Subscribe from the cursor, or from nothing."""
        if self._ready and context_id not in self._deaf:
            cursor = self.transcripts[context_id].cursor
            frame: Frame = {"type": "subscribe", "id": self.new_id(), "context_id": context_id}
            if cursor is not None and self._rng.random() < 0.8:
                frame["cursor"] = str(cursor)
            self._deaf[context_id] = frame["id"]
            self.outbox.add(Sent(self.places[context_id].name, frame))
            self._news.set()

    # ---- sockets

    async def run(self) -> None:
        """Connect, again and again."""
        try:
            while True:
                try:
                    await self._connect()
                except InvalidStatus as error:
                    if error.response.status_code not in (429, 502, 503):
                        self._wrong("refused", f"the upgrade was refused with {error.response.status_code}")
                except (OSError, TimeoutError, InvalidHandshake, ConnectionClosed, EOFError):
                    pass
                self._world.counts["reconnects"] += 1
                await asyncio.sleep(self._rng.uniform(0.05, 0.6))
        finally:
            self._timers.cancel()

    async def _connect(self) -> None:
        port = self._world.port(self._rng)
        self._attempt += 1
        socket = await connect(
            f"ws://127.0.0.1:{port}/v1/ws",
            additional_headers=self.user.headers,
            max_size=None,
            compression=None,
            ping_interval=None,
            open_timeout=10,
            close_timeout=1,
            proxy=None,
        )
        self._socket = socket
        self._begin()
        loop = asyncio.get_running_loop()
        self._heard = loop.time()
        writer = asyncio.create_task(self._write(socket))
        watch = asyncio.create_task(self._watch(socket))
        try:
            await self._put(socket, self._hello())
            async for text in socket:
                self._heard = loop.time()
                assert isinstance(text, str)
                self._take(text)
        finally:
            self._end()
            writer.cancel()
            watch.cancel()
            await asyncio.gather(writer, watch, return_exceptions=True)
            socket.transport.abort()
            if socket.close_code in _OUR_FAULT:
                self._wrong("closed", f"the socket of attempt {self._attempt} was closed with {socket.close_code}")

    def _begin(self) -> None:
        self._ready = False
        self.outbox.begin()

    def _end(self) -> None:
        self._socket, self._ready = None, False
        for frame_id in self._deaf.values():
            self.outbox.settle(frame_id)
        self._deaf.clear()
        for transcript in self.transcripts.values():
            transcript.lost()

    def _hello(self) -> Frame:
        frame: Frame = {"type": "hello", "attempt": self._attempt, "client": {"name": "torture", "version": "1"}}
        frame["tools"] = [ASK]
        if self._session is not None:
            frame["session_id"] = self._session
            if self._rng.random() < 0.1:
                return frame  # what the session followed is followed again, with snapshots
        frame["cursors"] = {
            context_id: str(transcript.cursor) if transcript.cursor is not None else None
            for context_id, transcript in self.transcripts.items()
            if self.places[context_id].exists
        }
        return frame

    async def _put(self, socket: ClientConnection, frame: Frame) -> None:
        await socket.send(json.dumps(frame))

    async def _write(self, socket: ClientConnection) -> None:
        """Write what is pending and not written on this socket, in order."""
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                if not self._ready:
                    continue
                for frame in self.outbox.to_write():
                    await self._put(socket, frame)
        except (ConnectionClosed, OSError):
            return

    async def _watch(self, socket: ClientConnection) -> None:
        """Ask for a sign of life, and give up a connection that shows none."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(4)
            if self._paused:
                continue
            if loop.time() - self._heard > _SILENCE:
                self._world.counts["silent connections"] += 1
                socket.transport.abort()
                return
            if self._ready:
                ping: Frame = {"type": "ping", "id": self.new_id()}
                self.outbox.ask(ping["id"])
                try:
                    await self._put(socket, ping)
                except (ConnectionClosed, OSError):
                    return

    # ---- frames

    def _wrong(self, kind: str, words: str, context_id: str | None = None) -> None:
        place = self.places[context_id].name if context_id in self.places else self.user.name
        self._world.violate(kind, place, self.name, words, tuple(self._last))

    def _take(self, text: str) -> None:
        self._world.counts["frames"] += 1
        self._last.append(text)
        frame: Frame = json.loads(text)
        kind = frame["type"]
        if kind in DURABLE or kind in LIVE:
            self._event(frame)
        elif kind == "snapshot":
            self._snapshot(frame)
        elif kind == "ready":
            self._welcome(frame)
        elif kind in _ANSWERS:
            self._answer(frame)
        elif kind == "goaway":
            self._timers.after(self._rng.uniform(0, frame["retry_after"]), self._leave, self._socket)
        elif kind != "expiring":
            self._wrong("frame", f"what is a {kind}?")

    def _leave(self, socket: ClientConnection | None) -> None:
        if socket is not None and socket is self._socket:
            self.cut()

    def _welcome(self, frame: Frame) -> None:
        if self._session is not None and not (frame["resumed"] and frame["session_id"] == self._session):
            self._wrong("session", f"{self._session} was not resumed by {frame['instance']}: {frame}")
        if frame["subject"] != self.user.name:
            self._wrong("subject", f"{frame['subject']} was welcomed in place of {self.user.name}")
        self._session = frame["session_id"]
        self._ready = True
        for context_id, place in self.places.items():
            # Where it was visited, its session may not know of it.
            if place.exists and self.transcripts[context_id].cursor is None:
                self._timers.after(self._rng.uniform(1.0, 2.0), self._subscribe_closed, context_id, self._socket)
        self._news.set()

    def _answer(self, frame: Frame) -> None:
        frame_id = frame.get("id")
        if frame_id is None:
            self._unasked(frame)
            return
        if not self.outbox.answered(frame_id):
            self._wrong(
                "answer", f"an answer to {frame_id}, which was not asked or is answered", frame.get("context_id")
            )
        self._news.set()  # there is room for another one
        if frame["type"] == "pong":
            return
        if frame["type"] == "error":
            self._refused(frame_id, frame)
            return
        entry = self.outbox.settle(frame_id)
        if frame["type"] == "subscribed":
            self._subscribed(frame)
            return
        self._world.journal.acknowledge(frame_id)
        if frame.get("duplicate"):
            self._world.counts["duplicates"] += 1
            if entry is not None and entry.written == 1 and not entry.shared and entry.type != "unsubscribe":
                self._wrong("duplicate", f"{frame_id} was written once, and is a duplicate")
        transcript = self.transcripts.get(frame.get("context_id", ""))
        if transcript is not None and "epoch" in frame:
            self.places[frame["context_id"]].exists = True
            transcript.acknowledged(int(frame["epoch"]), frame.get("seq"))
        elif transcript is not None:
            self.places[frame["context_id"]].exists = True
            # One that could not be subscribed with its frame has to do it itself.
            self._timers.after(self._rng.uniform(0.3, 1.0), self._subscribe_closed, frame["context_id"], self._socket)

    def _unasked(self, frame: Frame) -> None:
        """What comes without an id: the subscriptions of `hello`, and what is wrong with the socket."""
        if frame["type"] == "subscribed":
            self._subscribed(frame)
            return
        context_id = frame.get("path", "").removeprefix("cursors.")
        if context_id in self.places and frame.get("retryable"):
            self._timers.after(self._rng.uniform(0.3, 1.0), self._subscribe_closed, context_id, self._socket)
        elif not frame.get("retryable") or frame["code"] == "internal":
            self._wrong("error", f"{frame}")

    def _subscribe_closed(self, context_id: str, socket: ClientConnection | None) -> None:
        transcript = self.transcripts.get(context_id)
        if socket is self._socket and transcript is not None and transcript.stream is Stream.CLOSED:
            self.subscribe_again(context_id)

    def _refused(self, frame_id: str, frame: Frame) -> None:
        entry = self.outbox.get(frame_id)
        if frame["code"] == "internal":
            self._wrong("internal", f"{frame}")
        if entry is None:
            return
        self._world.counts[f"refused as {frame['code']}"] += 1
        if frame["retryable"]:
            self.outbox.postpone(frame_id)
            self._timers.after(self._rng.uniform(0.3, 1.0), self._again, frame_id, self._socket)
            return
        if not may_be_refused(entry.type, frame["code"]):
            self._wrong("refused", f"{entry.frame} was refused: {frame}", entry.frame.get("context_id"))
        self.outbox.settle(frame_id)
        self._deaf = {key: value for key, value in self._deaf.items() if value != frame_id}
        place = self.places.get(entry.frame.get("context_id", ""))
        if place is not None:
            self._world.refused(place, frame_id, frame["code"])

    def _again(self, frame_id: str, socket: ClientConnection | None) -> None:
        if socket is self._socket:
            self.outbox.again(frame_id)
            self._news.set()

    # ---- contexts

    def _subscribed(self, frame: Frame) -> None:
        context_id = frame["context_id"]
        if context_id not in self.transcripts or self._deaf.get(context_id, frame.get("id")) != frame.get("id"):
            return
        self._deaf.pop(context_id, None)
        found = self.transcripts[context_id].subscribed(Cursor(int(frame["epoch"]), frame["seq"]))
        self._check(found, context_id)

    def _snapshot(self, frame: Frame) -> None:
        context_id = frame["context_id"]
        if context_id in self._deaf or context_id not in self.transcripts:
            return
        self._world.counts["snapshots"] += 1
        transcript = self.transcripts[context_id]
        self._check(transcript.snapshot(frame), context_id)
        for event in frame["events"]:
            self._world.observe(self.places[context_id], event)
        for call in transcript.running.values():
            self._look_at_call(context_id, call)

    def _event(self, frame: Frame) -> None:
        context_id = frame["context_id"]
        if context_id in self._deaf or context_id not in self.transcripts:
            return
        if frame.get("id") in self.outbox.fresh and frame["type"] in ("message", "tool_call"):
            self._wrong("early", f"{frame['id']} came before its ack", context_id)
        self._check(self.transcripts[context_id].event(frame), context_id)
        self._world.observe(self.places[context_id], frame)
        if frame["type"] == "tool_call":
            self._look_at_call(context_id, frame)

    def _check(self, found: list[Problem], context_id: str) -> None:
        self._world.problems(found, self.places[context_id], self.name, tuple(self._last))
        if any(problem.kind in ("gap", "epoch") for problem in found):
            self.subscribe_again(context_id)

    # ---- people

    def _look_at_call(self, context_id: str, call: Frame) -> None:
        """A person at each device decides, sooner or later, and the first one counts; what is asked of this device,
        only its own person answers."""
        if call["id"] in self._deciding:
            return
        if call.get("approval") == "required":
            self._deciding.add(call["id"])
            self._timers.after(self._rng.uniform(0.2, 4.0), self._approve, context_id, call["id"])
        elif call["runs_on"] == "client" and call["session_id"] == self._session:
            self._deciding.add(call["id"])
            self._timers.after(self._rng.uniform(0.1, 2.0), self._tell, context_id, call["id"])

    def _tell(self, context_id: str, call_id: str) -> None:
        if context_id not in self.transcripts:
            return
        frame: Frame = {"type": "tool_response", "id": self.new_id(), "context_id": context_id}
        self.send(context_id, frame | {"tool_call_id": call_id, "result": {"by": self.name}, "status": "success"})

    def _approve(self, context_id: str, call_id: str) -> None:
        if context_id in self.transcripts and call_id in self.transcripts[context_id].running:
            frame: Frame = {"type": "tool_approval", "id": self.new_id(), "context_id": context_id}
            frame |= {"tool_call_id": call_id, "approved": self._rng.random() < 0.75}
            self.send(context_id, frame)
