"""The chat in a terminal: keys in, a conversation out, and the commands between."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from typing import Any, Final

from msgspec import Struct

from gateway.chat.api import Api, Unreachable
from gateway.chat.canvas import Run, Style
from gateway.chat.commands import HELP, Command, Say, Wrong, parse
from gateway.chat.deciding import Decision, Taken
from gateway.chat.keys import Key, Keys
from gateway.chat.lists import context_list, model_list, tool_list
from gateway.chat.page import Page
from gateway.chat.place import Place, last_said
from gateway.chat.screen import Screen
from gateway.chat.shown import Gone, Shown
from gateway.chat.terminal import Terminal
from gateway.chat.words import one_line
from gateway.client import Client
from gateway.client_errors import Refused
from protocol.content import words_of
from protocol.frames import Content
from protocol.ids import new_id

__all__ = ["Room", "Taste"]

_MAX_WAITING: Final = 64


class Taste(Struct, frozen=True, kw_only=True):
    """What the user wants to see, and whose answers; `model` None is the gateway's default."""

    model: str | None
    reasoning: bool
    colour: bool


class Room:
    """Runs until the user leaves. Nothing that is drawn waits for the network: lines that wait are shown as such."""

    def __init__(self, client: Client, api: Api, terminal: Terminal, taste: Taste) -> None:
        self._client = client
        self._api = api
        self._terminal = terminal
        self._taste = taste
        self._model = taste.model
        self._page = Page(reasoning=taste.reasoning)
        self._screen = Screen(terminal, colour=taste.colour)
        self._line = self._screen.line
        self._keys = Keys()
        self._lines: deque[Say | Command] = deque()
        self._news = asyncio.Event()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listed: list[str] = []
        self._unsent: set[str] = set()
        self._connected = True
        self._open = self._new()

    @property
    def context_id(self) -> str | None:
        """The conversation that is open, None where it has not begun."""
        return self._open.id if self._open.task is not None else None

    @property
    def unsent(self) -> bool:
        """Whether a message is not known to be stored."""
        return bool(self._unsent or any(isinstance(line, Say) for line in self._lines))

    async def run(self, context_id: str | None) -> None:
        """Raises Disconnected where the session is over for good."""
        with self._terminal.taken(
            readable=self._read, interrupted=self._interrupt, resized=self._resize, ended=self._leave
        ):
            try:
                self._note(f"{self._client.ready.subject} · {self._model or self._client.ready.default_model} · /help")
                if context_id is not None:
                    await self._enter(context_id, create=True)
                self._spawn(self._work())
                self._spawn(self._session())
                await self._ended
            finally:
                tasks = [*self._tasks, *filter(None, [self._open.task])]
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                if self._ended.done():
                    self._ended.exception()  # told: whatever ended it first is raised
                self._screen.close()

    def connection(self, up: bool) -> None:
        """The connection was lost, or is back."""
        self._connected = up
        self._note("(back)" if up else "(connection lost, reconnecting…)")

    # ---- the terminal

    def _read(self) -> None:
        data = self._terminal.read()
        if not data:
            self._leave()
            return
        for key in self._keys.feed(data):
            if key == Key("eof") and not self._line.text:
                self._leave()
                return
            entered = self._line.press(key)
            if entered is not None:
                self._entered(entered)
        self._draw()

    def _interrupt(self) -> None:
        if self._open.view.busy and self._open.stopping is None:
            self._spawn(self._stop())
        elif self._line.text and not self._open.view.busy:
            self._line.put("")
            self._draw()
        else:
            self._leave()

    def _resize(self) -> None:
        self._screen.resize()
        self._draw()

    def _leave(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def _fail(self, error: BaseException) -> None:
        if not self._ended.done():
            self._ended.set_exception(error)

    def _draw(self, runs: Iterable[Run] = ()) -> None:
        if self._ended.done():
            return
        view = self._open.view
        waiting = [*(said.text for said in view.waiting.values()), *map(_shown, self._lines)]
        try:
            self._screen.draw(list(runs), waiting=waiting, running=view.running.values(), prompt=self._prompt())
        except OSError:
            self._leave()

    def _prompt(self) -> str:
        asked = self._open.deciding.prompt
        if asked is not None:
            return asked
        sign = "… " if self._open.view.busy else "> "
        return sign if self._connected else f"(reconnecting) {sign}"

    def _show(self, shown: Iterable[Shown]) -> None:
        self._draw(self._page.write(shown))

    def _note(self, text: str, style: Style = "dim") -> None:
        self._draw(self._page.line(text, style))

    # ---- lines

    def _entered(self, line: str) -> None:
        asked = parse(line)
        said = asked.text if isinstance(asked, Say) else "" if asked is None else None
        if said is not None and self._decide(self._open.deciding.enter(said)):
            return
        match asked:
            case None:
                pass
            case Wrong():
                self._note(asked.reason, "bad")
            case Command(name="quit"):
                self._leave()
            # These are about what happens now, and must not wait behind a message that waits for a connection.
            case Command(name="stop"):
                self._spawn(self._stop())
            case Command(name="approve" | "deny"):
                approved, reason = asked.name == "approve", asked.argument or None
                if not self._decide(self._open.deciding.decide(approved=approved, reason=reason)):
                    self._note("no call waits for you")
            case Command(name="help"):
                self._note(HELP)
            case _ if len(self._lines) >= _MAX_WAITING:
                self._note("too many lines wait", "bad")
            case _:
                self._lines.append(asked)
                self._news.set()

    async def _session(self) -> None:
        """Whatever is open or waited for: the session's end is noticed."""
        async for _ in self._client.events():
            pass

    async def _work(self) -> None:
        """Carry out lines, one after another."""
        while True:
            while self._lines:
                # It is shown as waiting only while another one is carried out.
                line = self._lines.popleft()
                try:
                    await self._carry_out(line)
                except (Unreachable, ValueError) as error:
                    self._note(str(error), "bad")
            self._news.clear()
            await self._news.wait()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Refused as error:
            self._note(_refusal(error), "bad")
        except Exception as error:  # noqa: BLE001 - the boundary of a task: `run` raises it
            self._fail(error)

    async def _carry_out(self, line: Say | Command) -> None:
        try:
            match line:
                case Say():
                    await self._say(line.text)
                case Command(name="retry"):
                    await self._retry()
                case Command(name="edit"):
                    await self._edit(line.argument)
                case Command(name="contexts"):
                    await self._contexts()
                case Command(name="open"):
                    await self._enter(await self._picked(line.argument))
                case Command(name="new"):
                    await self._leave_context()
                    self._note("(a new conversation)")
                case Command(name="title"):
                    await self._title(line.argument)
                case Command(name="model"):
                    self._choose_model(line.argument)
                case Command(name="tools"):
                    self._note(tool_list(await self._api.tools()))
                case Command():
                    self._note(f"/{line.name} does nothing here", "bad")
        except Refused as error:
            self._note(_refusal(error), "bad")

    # ---- messages

    async def _say(self, text: str, replaces: str | None = None) -> None:
        await self._send(text, text, replaces)

    async def _retry(self) -> None:
        last = last_said(self._client.transcript(self._open.id).path)
        await self._send(last.content, words_of(last.content), last.id)

    async def _send(self, content: Content, text: str, replaces: str | None) -> None:
        place, id = self._open, new_id("msg_")
        self._unsent.add(id)
        self._show(place.view.sending(id, text))
        try:
            await self._client.send(content, place.id, id=id, model=self._model, replaces=replaces)
        except Refused:
            self._unsent.discard(id)
            place.view.refused(id)
            raise
        self._unsent.discard(id)
        self._follow(place)

    async def _edit(self, text: str) -> None:
        last = last_said(self._client.transcript(self._open.id).path)
        if text:
            await self._say(text, replaces=last.id)
        elif not self._line.text:
            self._line.put(f"/edit {words_of(last.content)}")
            self._draw()

    async def _stop(self) -> None:
        place = self._open
        if not place.view.busy:
            self._note("nothing is being answered")
            return
        turn_id = place.view.turn_id
        place.stopping = turn_id or ""
        await self._client.cancel(place.id, turn_id=turn_id)

    def _decide(self, decided: Decision | Taken | None) -> bool:
        """Whether something was decided, or is being."""
        if isinstance(decided, Taken) and decided.problem is not None:
            self._note(decided.problem, "bad")
        elif isinstance(decided, Decision):
            self._spawn(self._send_decision(decided))
        self._draw()
        return decided is not None

    async def _send_decision(self, it: Decision) -> None:
        place = it.call.context_id
        await self._client.approve(place, it.call.id, it.approved, parameters=it.parameters, reason=it.reason)

    # ---- conversations

    def _new(self) -> Place:
        id = new_id("conv_")
        return Place(id, self._client.events_of(id))

    async def _enter(self, context_id: str, *, create: bool = False) -> None:
        """Show another conversation; with `create` one that there is not yet begins with the next message."""
        if context_id == self._open.id:
            return
        place = Place(context_id, self._client.events_of(context_id))
        known = True
        try:
            await self._client.subscribe(context_id)
        except Refused as error:
            if not create or error.code != "not_found":
                await place.events.aclose()
                raise
            known = False
        await self._leave_context(place)
        if known:
            self._note(f"({context_id})")
            self._follow(place)
        else:
            self._note(f"({context_id} begins with your first message)")

    async def _leave_context(self, to: Place | None = None) -> None:
        place, self._open = self._open, to or self._new()
        self._page = Page(reasoning=self._taste.reasoning)
        if not self._screen.fresh_line:
            self._draw([Run("\n")])
        if place.task is not None:
            place.task.cancel()
            with suppress(Refused):  # it may be gone
                await self._client.unsubscribe(place.id)
        await place.events.aclose()

    def _follow(self, place: Place) -> None:
        if place.task is None:
            place.task = asyncio.get_running_loop().create_task(self._guarded(self._frames(place)))

    async def _frames(self, place: Place) -> None:
        try:
            async for frame in place.events:
                shown = place.view.take(frame)
                if place is not self._open:
                    continue
                if place.stopping is not None and place.view.turn_id != place.stopping:
                    place.stopping = None
                self._show(shown)
                if Gone() in shown:
                    break
        except Refused as error:
            self._note(f"(this conversation can't be followed any more: {error.message})", "bad")
        if place is self._open:
            place.task = None
            await self._leave_context()
            self._note("(a new conversation)")

    async def _contexts(self) -> None:
        lines = await self._api.contexts()
        self._listed = [line.id for line in lines]
        self._note(context_list(lines, self._open.id))

    async def _picked(self, which: str) -> str:
        """The id of a conversation that was named by its number or its id. Raises ValueError."""
        if not which.isdecimal() or len(which) > 4:
            return which
        if not self._listed:
            self._listed = [line.id for line in await self._api.contexts()]
        number = int(which)
        if not 1 <= number <= len(self._listed):
            raise ValueError(f"there is no number {number} in /contexts")
        return self._listed[number - 1]

    async def _title(self, title: str) -> None:
        if self._open.task is None:
            raise ValueError("nothing was said here yet")
        # The conversation tells all its devices, this one too.
        await self._api.rename(self._open.id, title)

    def _choose_model(self, name: str) -> None:
        ready = self._client.ready
        if name:
            if name not in ready.models:
                raise ValueError(f"there is no model {name!r}; /model lists them")
            self._model = name
            self._note(f"(from now on {name} answers)")
            return
        self._note(model_list(ready.models, self._model or ready.default_model))


def _refusal(error: Refused) -> str:
    return f"refused: {error.message}"


def _shown(line: Say | Command) -> str:
    return one_line(line.text if isinstance(line, Say) else f"/{line.name} {line.argument}")
