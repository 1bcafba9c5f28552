"""One socket: reads its frames one after another, and carries out what the session machine makes of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import structlog
from msgspec import Struct

from gateway.auth.authenticator import Authenticator
from gateway.auth.principal import Principal
from gateway.conversations import Conversations, Receipt, refusal
from gateway.core.session import Effect, Handle, Open, Reply, SessionMachine, SessionState, Shut
from gateway.declared_tools import as_offered
from gateway.feed import Reader
from gateway.hub import Hub, Start
from gateway.metrics import Stats
from gateway.sessions import Session, Sessions
from gateway.throttle import Connections
from gateway.transport.port import Outlet
from gateway.vigil import Vigil
from gateway.wheel import Wheel
from protocol.codec import decode_client, encode, error_frame
from protocol.errors import CLOSE_CODES, ProtocolError
from protocol.frames import (
    Ack,
    AnswerTool,
    ApproveTool,
    Auth,
    CallTool,
    Cancel,
    Expiring,
    GoAway,
    Hello,
    Limits,
    Ready,
    SendMessage,
    ServerFrame,
    Subscribe,
    Subscribed,
    Unsubscribe,
)
from protocol.ids import Cursor, new_id
from stores.ports import NotFound, StoreError
from stores.records import ContextKey

__all__ = ["Connection", "Services"]

_log = structlog.get_logger(__name__)
_MAX_FOLLOWED = 1024

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Services(Struct, frozen=True, kw_only=True):
    """What all connections share. Times are in seconds."""

    conversations: Conversations
    hub: Hub
    sessions: Sessions
    sockets: Connections
    wheel: Wheel
    stats: Stats
    limits: Limits
    frames_per_minute: int
    heartbeat: float
    hello_seconds: float
    models: tuple[str, ...]
    default_model: str
    instance: str
    version: str


class Connection:
    """A client's socket, from its acceptance to its end. `principal` None: `hello` must bring a token."""

    __slots__ = (
        "_authenticator",
        "_counted",
        "_drained",
        "_machine",
        "_outlet",
        "_principal",
        "_readers",
        "_services",
        "_session",
        "_vigil",
    )

    def __init__(
        self, services: Services, authenticator: Authenticator, outlet: Outlet, principal: Principal | None
    ) -> None:
        self._services = services
        self._authenticator = authenticator
        self._outlet = outlet
        self._principal = principal
        self._machine = SessionMachine(services.frames_per_minute)
        self._session: Session | None = None
        self._readers: dict[str, Reader] = {}
        self._counted: str | None = None
        self._drained: asyncio.Event | None = None
        self._vigil = Vigil(services.wheel, outlet, services.heartbeat, services.hello_seconds, self.close)
        outlet.on_drain(self._on_drain)

    async def run(self, receive: Receive) -> None:
        """Serve the socket until it is closed."""
        self._services.stats.sockets.inc()
        if self._principal is not None and not self._count_socket(self._principal):
            self._too_many()
        try:
            while (message := await receive())["type"] != "websocket.disconnect":
                if self._machine.state is SessionState.CLOSED:
                    continue
                await self._message(message)
                if not self._outlet.writable:
                    await self._wait_for_drain()
        finally:
            self._services.stats.sockets.dec()
            await self._leave()

    # ---- closing

    def close(self, code: int) -> None:
        """Close the socket, with the reason of the table."""
        if self._machine.state is not SessionState.CLOSED:
            self._machine.go(SessionState.CLOSED)
            self._vigil.end()
            self._outlet.close(code, CLOSE_CODES[code].reason)
            self._on_drain()

    def drain(self, retry_after: float) -> None:
        """Tell the client that the instance is about to go."""
        if self._machine.state not in (SessionState.CLOSED, SessionState.DRAINING):
            self._machine.go(SessionState.DRAINING)
            self._write(GoAway(reason="the instance is draining", retry_after=retry_after))

    async def _leave(self) -> None:
        self._vigil.end()
        if self._machine.state is not SessionState.CLOSED:
            self._machine.go(SessionState.CLOSED)
        if self._session is not None:
            self._services.sessions.close(self._session)
        if self._counted is not None:
            self._services.sockets.release(self._counted)
        for reader in self._readers.values():
            await self._services.hub.unfollow(reader)
        self._readers.clear()

    # ---- writing

    def _write(self, frame: ServerFrame) -> None:
        self._services.hub.tally.frames += 1
        self._outlet.write_one(encode(frame))

    def _on_drain(self) -> None:
        if self._drained is not None:
            self._drained.set()
        for reader in tuple(self._readers.values()):
            if reader.seq < reader.feed.head:
                self._services.hub.pump(reader)

    async def _wait_for_drain(self) -> None:
        """Read nothing more from a client that does not read its answers, until it does, or it is gone."""
        if self._outlet.unsent_since is None or self._machine.state is SessionState.CLOSED:
            return  # the socket is over already: nothing will be told of it any more, except by `receive`
        self._drained = asyncio.Event()
        await self._drained.wait()
        self._drained = None

    # ---- reading

    async def _message(self, message: MutableMapping[str, Any]) -> None:
        self._services.stats.frames_in.inc()
        text = message.get("text")
        if text is None:
            self.close(1003)
            return
        if len(text) > self._services.limits.max_frame_bytes:
            # Our own server refuses it before; a host's has a limit of its own.
            self.close(1009)
            return
        now = time.monotonic()
        try:
            effects = self._machine.frame(as_offered(decode_client(text)), now)
        except ProtocolError as error:
            effects = self._machine.invalid(error, now)
        for effect in effects:
            await self._carry_out(effect)

    async def _carry_out(self, effect: Effect) -> None:
        if isinstance(effect, Reply):
            self._write(effect.frame)
        elif isinstance(effect, Shut):
            self.close(effect.code)
        elif isinstance(effect, Open):
            await self._guard(None, self._hello(effect.hello))
        else:
            await self._guard(effect.frame.id, self._handle(effect))  # type: ignore[union-attr]

    async def _guard(self, frame_id: str | None, work: Awaitable[None]) -> None:
        """Whatever is refused is answered with exactly one error."""
        try:
            await work
        except (ProtocolError, StoreError) as error:
            self._write(error_frame(refusal(error), frame_id))
        except Exception:  # noqa: BLE001 - the boundary to a frame: our bug is answered, and does not end the socket
            error_id = new_id("err_")
            _log.exception("a frame failed", error_id=error_id)
            failure = ProtocolError("internal", f"an internal error occurred ({error_id})")
            self._write(error_frame(failure, frame_id))

    # ---- hello

    async def _hello(self, hello: Hello) -> None:
        try:
            principal = await self._authenticate(hello)
        except ProtocolError as error:
            self._write(error_frame(error))
            self.close(4401 if error.code == "unauthenticated" else 1012)
            return
        if self._counted is None and not self._count_socket(principal):
            self._too_many()
            return
        services = self._services
        try:
            opened = await services.sessions.open(principal, hello, lambda: self.close(4409))
        except StoreError as error:
            self._write(error_frame(refusal(error)))
            self.close(1012)
            return
        if opened is None:
            self.close(4409)
            return
        self._session, resumed = opened
        if self._machine.state is not SessionState.OPENING:
            return  # drained or closed meanwhile
        self._machine.go(SessionState.READY)
        self._vigil.welcome()
        self._principal = principal
        self._expect_expiry(principal)
        self._write(
            Ready(
                session_id=self._session.id,
                resumed=resumed,
                subject=principal.subject,
                heartbeat=round(services.heartbeat),
                limits=services.limits,
                models=list(services.models),
                default_model=services.default_model,
                instance=services.instance,
                version=services.version,
            )
        )
        named = hello.cursors is not None
        cursors = hello.cursors if hello.cursors is not None else dict.fromkeys(self._session.record.contexts)
        for context_id, cursor in cursors.items():
            await self._follow_again(context_id, cursor, named=named)

    async def _authenticate(self, hello: Hello) -> Principal:
        if self._principal is not None:
            return self._principal
        if hello.token is None:
            raise ProtocolError("unauthenticated", "show credentials in a header, a ticket or hello", path="token")
        return await self._authenticator.from_token(hello.token)

    def _count_socket(self, principal: Principal) -> bool:
        if not self._services.sockets.acquire(principal.owner):
            return False
        self._counted = principal.owner
        return True

    def _too_many(self) -> None:
        self._write(error_frame(ProtocolError("rate_limited", "too many sockets are open", retry_after=30)))
        self.close(4429)

    async def _follow_again(self, context_id: str, cursor: str | None, *, named: bool) -> None:
        """Follow a context of `hello`, or of the session that it resumed."""
        try:
            start = await self._start(context_id, cursor)
        except (ProtocolError, StoreError) as error:
            if named or not isinstance(error, NotFound):
                told = refusal(error)
                told.path = f"cursors.{context_id}"
                self._write(error_frame(told))
            if isinstance(error, NotFound) and self._session is not None:
                await self._session.unfollow(context_id)
            return
        self._begin(context_id, start, None)

    def _expect_expiry(self, principal: Principal) -> None:
        if principal.expires_at is not None:
            left = principal.expires_at - time.time()
            self._vigil.expire(left, lambda: self._write(Expiring(expires_in=max(0, round(min(left, 60.0))))))

    # ---- frames

    async def _handle(self, effect: Handle) -> None:
        frame = effect.frame
        principal, session = self._principal, self._session
        if principal is None or session is None:
            raise ProtocolError("unauthenticated", "hello was not accepted")
        conversations = self._services.conversations
        if isinstance(frame, SendMessage):
            work = conversations.send(principal, frame, session.id, session.attempt)
            await self._submit(principal, frame, work)
        elif isinstance(frame, CallTool):
            await self._submit(principal, frame, conversations.call(principal, frame, session.id))
        elif isinstance(frame, AnswerTool):
            await self._settle(frame, conversations.answer(principal, frame, session.id))
        elif isinstance(frame, ApproveTool):
            await self._settle(frame, conversations.approve(principal, frame))
        elif isinstance(frame, Cancel):
            await self._settle(frame, conversations.cancel(principal, frame))
        elif isinstance(frame, Subscribe):
            start = await self._start(frame.context_id, frame.cursor)
            await session.follow(frame.context_id)
            self._begin(frame.context_id, start, frame.id)
        elif isinstance(frame, Unsubscribe):
            await self._unsubscribe(session, frame)
        elif isinstance(frame, Auth):
            await self._renew(frame)

    async def _submit(self, principal: Principal, frame: SendMessage | CallTool, work: Awaitable[Receipt]) -> None:
        """A frame that stores something and subscribes its sender. The reader is held back until the `ack` is out."""
        key = self._services.conversations.key(principal, frame.context_id, frame.id)
        reader = self._reader(key.id)
        if reader is not None:
            await self._settle_with(reader, frame.id, work)
            return
        receipt = await work
        start = await self._follow_new(receipt)
        self._acknowledge(frame.id, receipt, start)
        if start is not None:
            if start.snapshot is not None:
                self._outlet.write_one(start.snapshot)
            self._enter(key.id, start)

    async def _follow_new(self, receipt: Receipt) -> Start | None:
        cursor = None
        if receipt.accepted.created and receipt.epoch is not None and receipt.seq is not None:
            cursor = Cursor(receipt.epoch, receipt.seq - 1)
        try:
            if self._session is not None and len(self._readers) < _MAX_FOLLOWED:
                start = await self._services.hub.follow(receipt.key, self._outlet, cursor)
                await self._session.follow(receipt.key.id)
                return start
        except StoreError:
            # The frame is stored and must be acknowledged; the client subscribes when it misses the events.
            _log.warning("a sender could not be subscribed", exc_info=True)
        return None

    async def _settle(self, frame: AnswerTool | ApproveTool | Cancel, work: Awaitable[Receipt]) -> None:
        await self._settle_with(self._reader(frame.context_id), frame.id, work)

    async def _settle_with(self, reader: Reader | None, frame_id: str, work: Awaitable[Receipt]) -> None:
        if reader is not None:
            reader.corked += 1
        try:
            self._acknowledge(frame_id, await work, None)
        finally:
            if reader is not None:
                self._services.hub.uncork(reader)

    def _acknowledge(self, frame_id: str, receipt: Receipt, start: Start | None) -> None:
        self._write(
            Ack(
                id=frame_id,
                context_id=receipt.key.id,
                epoch=str(start.cursor.epoch) if start is not None else None,
                seq=receipt.seq,
                duplicate=receipt.accepted.duplicate,
            )
        )

    # ---- following

    def _reader(self, context_id: str) -> Reader | None:
        """The reader of a context, unless the context was deleted under it: one of the same id is another."""
        reader = self._readers.get(context_id)
        if reader is not None and reader not in reader.feed.readers:
            del self._readers[context_id]
            return None
        return reader

    async def _start(self, context_id: str, cursor: str | None) -> Start:
        principal = self._principal
        if principal is None:
            raise ProtocolError("unauthenticated", "hello was not accepted")
        if len(self._readers) >= _MAX_FOLLOWED and context_id not in self._readers:
            raise ProtocolError("too_large", f"a session follows {_MAX_FOLLOWED} contexts at most")
        old = self._readers.pop(context_id, None)
        if old is not None:
            await self._services.hub.unfollow(old)
        key = ContextKey(principal.owner, context_id)
        return await self._services.hub.follow(key, self._outlet, Cursor.parse(cursor) if cursor else None)

    def _begin(self, context_id: str, start: Start, frame_id: str | None) -> None:
        epoch, seq = str(start.cursor.epoch), start.cursor.seq
        self._write(Subscribed(context_id=context_id, epoch=epoch, seq=seq, id=frame_id))
        if start.snapshot is not None:
            self._outlet.write_one(start.snapshot)
        self._enter(context_id, start)

    def _enter(self, context_id: str, start: Start) -> None:
        self._readers[context_id] = start.reader
        self._services.hub.uncork(start.reader)

    async def _unsubscribe(self, session: Session, frame: Unsubscribe) -> None:
        reader = self._readers.pop(frame.context_id, None)
        if reader is not None:
            await self._services.hub.unfollow(reader)
        known = frame.context_id in session.record.contexts
        await session.unfollow(frame.context_id)
        self._write(Ack(id=frame.id, context_id=frame.context_id, duplicate=not known))

    async def _renew(self, frame: Auth) -> None:
        principal = await self._authenticator.from_token(frame.token)
        if self._principal is not None and principal.owner != self._principal.owner:
            self.close(4403)
            return
        self._principal = principal
        self._vigil.renew()
        self._expect_expiry(principal)
        self._write(Ack(id=frame.id))
