"""What stands between the client's public face and its socket: requests that wait for their answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Final

import structlog
from msgspec import Struct

from gateway.client_effects import (
    Answer,
    Deliver,
    Dropped,
    Effect,
    Opened,
    Renew,
    Resubscribe,
    Settled,
)
from gateway.client_errors import Disconnected, Refused
from gateway.client_events import Broadcast
from gateway.client_link import Link, Tokens
from gateway.client_retry import Retry
from gateway.client_state import ClientState
from gateway.client_tools import ToolServer
from gateway.tools.port import Tool
from protocol.frames import (
    Ack,
    AnswerTool,
    Auth,
    ClientFrame,
    ClientInfo,
    Error,
    Hello,
    Pong,
    Ready,
    Snapshot,
    Subscribed,
)
from protocol.ids import new_id

__all__ = ["Core", "Options"]

_log = structlog.get_logger(__name__)
_LEFT: Final = "the client was left"
_RETRY_BASE, _RETRY_CAP = 0.25, 30.0


class Options(Struct, frozen=True, kw_only=True):
    """How a client behaves. `retries` is how often a refusal that may be retried is, `bound` how many frames wait for a
    consumer, `random` gives numbers from 0 to 1."""

    retries: int
    bound: int
    random: Callable[[], float]


class _Waiting:
    """Those who wait for the answer to one frame."""

    __slots__ = ("future", "waiters")

    def __init__(self) -> None:
        self.future: asyncio.Future[Answer | Disconnected] = asyncio.get_running_loop().create_future()
        self.waiters = 0


class Core:
    """One client's state, socket, consumers and tools. `link` is set before it is run."""

    link: Link
    ready: Ready

    def __init__(
        self,
        group: asyncio.TaskGroup,
        tokens: Tokens,
        tools: Sequence[Tool],
        options: Options,
        *,
        info: ClientInfo,
        session_id: str | None,
    ) -> None:
        self._group = group
        self._tasks: set[asyncio.Task[None]] = set()
        self._tokens = tokens
        self._options = options
        self._opened = asyncio.Event()
        self._waiting: dict[str, _Waiting] = {}
        self._turnstile = asyncio.Lock()
        self._room = asyncio.Event()
        self._stopped: Disconnected | None = None
        self.tools = ToolServer(tools, self._answer_tool, self._spawn)
        self.state = ClientState(client=info, tools=self.tools.specs, session_id=session_id)
        self.broadcast = Broadcast(self.snapshot, lambda: bool(self.state.waiting), bound=options.bound)
        self.retry = Retry(options.random, renewable=tokens.renewable)

    # ---- life

    async def run(self) -> None:
        """Stay connected until that is over for good or this is cancelled."""
        try:
            stop = await self.link.run()
            self._stop(Disconnected(stop.code, stop.reason), told=True)
        finally:
            self._stop(Disconnected(None, _LEFT), told=False)

    async def opened(self, seconds: float) -> None:
        """Wait for the first session. Raises Disconnected, whose cause is what went wrong last."""
        try:
            async with asyncio.timeout(seconds):
                await self._opened.wait()
        except TimeoutError:
            message = f"the gateway was not reached within {seconds:g} s"
            raise Disconnected(None, message) from self.link.failure
        if self._stopped is not None:
            raise self._stopped from self.link.failure

    async def close(self) -> None:
        """End what else runs."""
        for task in tuple(self._tasks):
            task.cancel()
        await self.tools.close()

    def _stop(self, error: Disconnected, *, told: bool) -> None:
        if self._stopped is not None:
            return
        self._stopped = error
        self._opened.set()
        self._room.set()
        for waiting in self._waiting.values():
            if not waiting.future.done():
                waiting.future.set_result(error)
        self._waiting.clear()
        self.broadcast.end(error if told else None)

    # ---- requests

    async def request(self, frame: ClientFrame, *, retries: int | None = None) -> Ack | Pong | Subscribed:
        """Send a frame, through any number of sockets, until it is answered. Raises Refused, Disconnected.

        Waits first while `max_unacked` frames are unanswered. A refusal that may be retried is, under the same id. When
        the caller is cancelled, a frame that was not written yet is withdrawn.
        """
        left = self._options.retries if retries is None else retries
        tries = 0
        while True:
            answer = await self._ask(frame)
            if not isinstance(answer, Error):
                return answer
            if not answer.retryable or tries >= left:
                raise Refused.of(answer)
            backoff = self._options.random() * min(_RETRY_CAP, _RETRY_BASE * 2 ** min(tries, 16))
            await asyncio.sleep((answer.retry_after or 0.0) + backoff)
            tries += 1

    async def _ask(self, frame: ClientFrame) -> Answer:
        if isinstance(frame, Hello):
            raise TypeError("hello is sent by the client itself")
        async with self._turnstile:
            while self._stopped is None and self.state.waiting >= self.state.limits.max_unacked:
                self._room.clear()
                await self._room.wait()
            if self._stopped is not None:
                raise Disconnected(self._stopped.code, self._stopped.reason)
            if self.state.too_large(frame):
                limit = self.state.limits.max_frame_bytes
                raise Refused("too_large", f"the frame is larger than {limit:,} bytes")
            waiting = self._waiting.setdefault(frame.id, _Waiting())
            self.submit(frame)
        waiting.waiters += 1
        try:
            # Shielded: others may wait for the same frame.
            answer = await asyncio.shield(waiting.future)
        finally:
            waiting.waiters -= 1
            if not waiting.waiters and not waiting.future.done() and self.state.withdraw(frame.id):
                self._waiting.pop(frame.id, None)
                self._room.set()
        if isinstance(answer, Disconnected):
            raise Disconnected(answer.code, answer.reason)
        return answer

    def submit(self, frame: ClientFrame, *, passing: bool = False) -> None:
        self.state.submit(frame, passing=passing)
        self.link.wake()
        self.broadcast.wake()

    async def _answer_tool(self, frame: AnswerTool) -> object:
        # Nobody else can answer: it is tried until the gateway takes or refuses it for good.
        return await self.request(frame, retries=1_000_000)

    async def after_frame(self) -> None:
        """Before the next frame is read: let senders and consumers go on."""
        self._room.set()
        await self.broadcast.make_room()

    # ---- effects

    def carry_out(self, effect: Effect) -> None:
        match effect:
            case Opened():
                self.ready = effect.ready
                self._opened.set()
            case Deliver():
                inherited = self.state.inherits
                self.tools.observe(effect.frame, self.state.session_id, self.ready.subject, inherited=inherited)
                self.broadcast.deliver(effect.frame)
            case Settled():
                waiting = self._waiting.pop(effect.id, None)
                if waiting is not None and not waiting.future.done():
                    waiting.future.set_result(effect.answer)
            case Dropped():
                self.broadcast.drop(effect.context_id, Refused.of(effect.error) if effect.error is not None else None)
            case Resubscribe():
                self._spawn(self._resubscribe(effect))
            case Renew():
                self._spawn(self._renew())

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _resubscribe(self, effect: Resubscribe) -> None:
        await asyncio.sleep(effect.seconds)
        self.state.resubscribe(effect.context_id)
        self.link.wake()

    async def _renew(self) -> None:
        """New credentials on the live socket, before the old ones expire."""
        if not self._tokens.renewable:
            _log.warning("the credentials expire, and there is no way to new ones")
            return
        try:
            token = await self._tokens.get(renew=True)
        except Exception:  # noqa: BLE001 - the boundary to the user's callback: the close with 4401 asks it again
            _log.warning("no new credentials", exc_info=True)
            return
        if token is not None:
            self.submit(Auth(id=new_id("auth_"), token=token), passing=True)

    def snapshot(self, context_id: str) -> Snapshot | None:
        """The context as it is folded now, for a consumer that is too far behind."""
        transcript = self.state.followed.get(context_id)
        if transcript is None or transcript.cursor is None:
            return None
        return Snapshot(
            context_id=context_id,
            epoch=str(transcript.cursor.epoch),
            seq=transcript.cursor.seq,
            events=list(transcript.events),
            has_more=transcript.has_more,
            partial=list(transcript.partial.values()),
            running=list(transcript.running.values()),
        )
