"""The Python client: it reconnects, resumes, resends and checks contiguity, so that its user sees each event once.

async with connect("http://127.0.0.1:8000", token=key) as client:
    async for text in client.stream("Hello"):
        print(text, end="", flush=True)
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, Literal

from gateway.client_chat import Chat, Sent, Turn
from gateway.client_core import Core, Options
from gateway.client_errors import ClientError, Disconnected, Lost, Refused, TurnFailed
from gateway.client_events import Events
from gateway.client_follow import PlainText, Restarted, TextDelta
from gateway.client_link import Credentials, Link, Tokens
from gateway.client_port import Open
from gateway.client_websocket import over_websocket
from gateway.core.fold import Transcript
from gateway.tools.port import Tool
from protocol.frames import (
    Ack,
    ApproveTool,
    CallTool,
    Cancel,
    ClientFrame,
    ClientInfo,
    Content,
    Ping,
    Ready,
    Role,
    SendMessage,
    Subscribe,
    ToolResponse,
    Unsubscribe,
    WhenBusy,
)
from protocol.ids import new_id

__all__ = [
    "Chat",
    "Client",
    "ClientError",
    "Disconnected",
    "Events",
    "Lost",
    "Refused",
    "Restarted",
    "Sent",
    "TextDelta",
    "Turn",
    "TurnFailed",
    "connect",
    "open_client",
]


@asynccontextmanager
async def connect(
    url: str,
    *,
    token: str | None = None,
    credentials: Credentials | None = None,
    tools: Sequence[Tool] = (),
    name: str = "tidegate-python",
    version: str = "1",
    session_id: str | None = None,
    open_timeout: float = 10.0,
    retries: int = 4,
    bound: int = 256,
    compression: Literal["deflate"] | None = None,
    tls: ssl.SSLContext | None = None,
    random: Callable[[], float] = random.random,
) -> AsyncGenerator[Client]:
    """A connected client of the gateway at `url` (http, https, ws or wss).

    `token` is an API key or a JWT; `credentials` gives a fresh one, at first, before it expires and whenever it is
    refused. `tools` are functions with `@tool`, run here when a model calls them. `session_id` resumes the session of
    an earlier client. `retries` is how often a refusal that may be retried is; `bound` how many frames wait for each
    consumer. The session must open within `open_timeout` seconds; later outages are waited out.

    Leaving it ends its tasks and tools and closes the socket. Raises ValueError for a URL that is none,
    Disconnected where there is no session.
    """
    if token is not None and credentials is not None:
        raise ValueError("either a token or credentials, not both")
    options = Options(retries=retries, bound=bound, random=random)
    async with open_client(
        over_websocket(url, compression=compression, tls=tls),
        Tokens(token, credentials),
        tools,
        options,
        info=ClientInfo(name, version),
        session_id=session_id,
        open_timeout=open_timeout,
    ) as client:
        yield client


@asynccontextmanager
async def open_client(
    open_channel: Open,
    tokens: Tokens,
    tools: Sequence[Tool],
    options: Options,
    *,
    info: ClientInfo,
    session_id: str | None,
    open_timeout: float,
) -> AsyncGenerator[Client]:
    """`connect` over any channel."""
    failure: BaseException | None = None
    async with asyncio.TaskGroup() as group:
        core = Core(group, tokens, tools, options, info=info, session_id=session_id)
        core.link = Link(open_channel, core.state, tokens, core.retry, core.carry_out, core.after_frame)
        running = group.create_task(core.run())
        try:
            await core.opened(open_timeout)
            yield Client(core)
        except BaseException as error:  # noqa: BLE001 - raised below: the group would wrap it in one of its own
            failure = error
        finally:
            running.cancel()
            await core.close()
    if failure is not None:
        raise failure


class Client:
    """A session with a gateway. Everything that sends raises Refused or Disconnected, and returns once the gateway has
    stored what was sent, however many sockets that takes."""

    def __init__(self, core: Core) -> None:
        self._core = core

    @property
    def ready(self) -> Ready:
        """What the gateway said of itself when the session was opened last: models, limits, the subject."""
        return self._core.ready

    @property
    def session_id(self) -> str:
        return self._core.ready.session_id

    def context(self, context_id: str) -> Chat:
        """A context by its id, whether or not it exists or is followed."""
        return Chat(self, context_id)

    def transcript(self, context_id: str) -> Transcript:
        """What is known of a context that is followed; an empty one of any other."""
        return self._core.state.followed.get(context_id) or Transcript(context_id)

    def events(self) -> Events:
        """The events of all contexts that are followed, from now on."""
        return self._core.broadcast.open()

    def events_of(self, context_id: str) -> Events:
        """The events of one context, from now on; unless it is followed when they are asked for, it is subscribed."""

        async def begin() -> None:
            await self.subscribe(context_id)

        return self._core.broadcast.open(context_id, begin)

    # ---- sending

    async def send(
        self,
        content: Content,
        context_id: str | None = None,
        *,
        id: str | None = None,
        role: Role = "user",
        model: str | None = None,
        tools: Sequence[str] | None = None,
        resources: Sequence[str] | None = None,
        respond: bool = True,
        when_busy: WhenBusy = "queue",
        parent_id: str | None = None,
        replaces: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Sent:
        """Store a message and have it answered. Without `context_id` a context is made; the same `id` again is the same
        message. `parent_id` is the message that it comes after, `replaces` the one whose place it takes: an edited
        message, or the same one for another answer."""
        frame = SendMessage(
            id=id or new_id("msg_"),
            content=content,
            role=role,
            context_id=context_id,
            model=model,
            tools=list(tools) if tools is not None else None,
            resources=list(resources) if resources is not None else None,
            respond=respond,
            when_busy=when_busy,
            parent_id=parent_id,
            replaces=replaces,
            metadata=metadata,
        )
        return await self._send(frame)

    async def ask(self, content: Content, context_id: str | None = None, **options: Any) -> Turn:
        """Send a message, and follow its turn. `options` are those of `send`."""
        frame_id: str = options.pop("id", None) or new_id("msg_")
        events = self._core.broadcast.open(context_id)
        try:
            sent = await self.send(content, context_id, id=frame_id, **options)
        except BaseException:
            await events.aclose()
            raise
        return Turn(sent, events)

    async def stream(self, content: Content, context_id: str | None = None, **options: Any) -> AsyncGenerator[str]:
        """Send a message; the text of its answer, as it comes, until its turn is over. `options` are those of `send`.

        Each piece comes once, whatever happens to the connection. Where a message is begun again (the model's provider
        or an instance failed), what repeats the text so far is left out; where the new text differs it follows whole on
        a new line, as nothing can be taken back: `Turn.updates` tells the two apart. Raises TurnFailed, Lost.
        """
        plain = PlainText()
        async with await self.ask(content, context_id, **options) as turn:
            async with aclosing(turn.updates()) as updates:
                async for update in updates:
                    text = plain.take(update)
                    if text:
                        yield text
            if turn.end is not None and turn.end.status == "failed":
                raise TurnFailed(turn.end.error)

    async def call_tool(
        self, tool: str, parameters: dict[str, Any], context_id: str | None = None, *, id: str | None = None
    ) -> ToolResponse:
        """Run a tool directly, without a model; its response, whatever its status. Raises Lost."""
        frame = CallTool(id=id or new_id("tool_"), tool=tool, parameters=parameters, context_id=context_id)
        events = self._core.broadcast.open(context_id)
        try:
            sent = await self._send(frame)
        except BaseException:
            await events.aclose()
            raise
        async with Turn(sent, events) as turn:
            return await turn.response(frame.id)

    async def cancel(self, context_id: str, *, turn_id: str | None = None, tool_call_id: str | None = None) -> Sent:
        """Stop a turn or a call; without either, the turn that runs."""
        frame_id = new_id("cancel_")
        return await self._send(Cancel(frame_id, context_id, turn_id=turn_id, tool_call_id=tool_call_id))

    async def approve(
        self,
        context_id: str,
        tool_call_id: str,
        approved: bool = True,
        *,
        parameters: dict[str, Any] | None = None,
        reason: str | None = None,
        remember: Literal["context"] | None = None,
    ) -> Sent:
        """Release or deny a call that waits for a person."""
        frame = ApproveTool(
            id=new_id("approval_"),
            tool_call_id=tool_call_id,
            context_id=context_id,
            approved=approved,
            parameters=parameters,
            reason=reason,
            remember=remember,
        )
        return await self._send(frame)

    async def answer(
        self,
        context_id: str,
        question_id: str,
        content: dict[str, Any] | None = None,
        *,
        action: Literal["accept", "decline", "cancel"] = "accept",
    ) -> Sent:
        """Answer what a running tool asks: a call with `asked_by`, by its id. `content` is the filled form."""
        if action == "cancel":
            return await self.cancel(context_id, tool_call_id=question_id)
        return await self.approve(context_id, question_id, action == "accept", parameters=content)

    # ---- following

    async def subscribe(self, context_id: str) -> Chat:
        """Follow a context: a snapshot of it comes first, unless it is followed already."""
        if context_id not in self._core.state.followed:
            await self._core.request(Subscribe(id=new_id("sub_"), context_id=context_id))
        return Chat(self, context_id)

    async def unsubscribe(self, context_id: str) -> None:
        """Follow the context no more; its consumers end."""
        self._core.broadcast.drop(context_id, None)
        await self._core.request(Unsubscribe(id=new_id("unsub_"), context_id=context_id))

    async def ping(self) -> float:
        """The seconds until the gateway's answer."""
        began = time.perf_counter()
        await self._core.request(Ping(id=new_id("ping_")))
        return time.perf_counter() - began

    async def _send(self, frame: ClientFrame) -> Sent:
        answer = await self._core.request(frame)
        if not isinstance(answer, Ack):
            raise TypeError(f"{type(answer).__name__} is no answer to {type(frame).__name__}")
        return Sent(id=answer.id, context_id=answer.context_id or "", seq=answer.seq, duplicate=answer.duplicate)
