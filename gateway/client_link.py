"""The client's connection: opens a channel, says hello, reads and writes, and opens the next until it must stop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog

from gateway.client_effects import Effect, IllegalTransition, Phase
from gateway.client_port import Channel, Closed, NotOpened, Open
from gateway.client_retry import Retry, Stop, Wait
from gateway.client_state import ClientState
from protocol.codec import decode_server, encode

__all__ = ["Credentials", "Link", "Tokens"]

Credentials = Callable[[], Awaitable[str]]

_log = structlog.get_logger(__name__)
_HELLO_SECONDS: Final = 15.0
_PROTOCOL_ERROR: Final = 1002


class Tokens:
    """The token to show: a fixed one, or what `credentials` gave last."""

    def __init__(self, token: str | None, credentials: Credentials | None) -> None:
        self._token = token
        self._credentials = credentials

    @property
    def renewable(self) -> bool:
        return self._credentials is not None

    async def get(self, *, renew: bool) -> str | None:
        """The token; a fresh one where there is none yet, or on `renew`. Raises what `credentials` raises."""
        if self._credentials is not None and (renew or self._token is None):
            self._token = await self._credentials()
        return self._token


class _Ended(msgspec.Struct, frozen=True):
    """A channel was closed with `code`; the session was open for `lived` seconds (0: never)."""

    code: int | None
    lived: float


class Link:
    """Runs `state` over one channel after another. `carry_out` is given the state's effects in order, `after_frame`
    is awaited before the next frame is read."""

    def __init__(
        self,
        open_channel: Open,
        state: ClientState,
        tokens: Tokens,
        retry: Retry,
        carry_out: Callable[[Effect], None],
        after_frame: Callable[[], Awaitable[None]],
    ) -> None:
        self.failure: Exception | None = None
        self._open = open_channel
        self._state = state
        self._tokens = tokens
        self._retry = retry
        self._carry_out = carry_out
        self._after_frame = after_frame
        self._renew = False
        self._work = asyncio.Event()

    def wake(self) -> None:
        """There may be something to write."""
        self._work.set()

    async def run(self) -> Stop:
        """Stay connected; why that is over."""
        while True:
            verdict = await self._connect()
            if isinstance(verdict, Stop):
                return verdict
            self._renew = self._renew or verdict.renew
            await asyncio.sleep(verdict.seconds)

    async def _connect(self) -> Wait | Stop:
        try:
            token = await self._tokens.get(renew=self._renew)
        except Exception as error:  # noqa: BLE001 - the boundary to the user's callback, which may fail as any network does
            _log.warning("no credentials", exc_info=True)
            self.failure = error
            return self._retry.failed()
        self._renew = False
        try:
            channel = await self._open()
        except NotOpened as error:
            self.failure = _cause(error)
            if error.final:
                return Stop(None, str(error))
            return self._retry.failed() if error.status is None else self._retry.refused(error.status)
        try:
            return await self._talk(channel, token)
        finally:
            await channel.close()

    async def _talk(self, channel: Channel, token: str | None) -> Wait | Stop:
        state = self._state
        hello = encode(state.hello(token))
        self._work.set()
        try:
            async with asyncio.TaskGroup() as group:
                writer = group.create_task(self._write(channel, hello))
                try:
                    ended = await self._read(channel)
                finally:
                    writer.cancel()
        finally:
            state.lost()
        if isinstance(ended, Stop):
            return ended
        return self._retry.closed(ended.code, state.last_error, state.goaway, ended.lived)

    async def _read(self, channel: Channel) -> _Ended | Stop:
        """Read until the channel is closed."""
        loop = asyncio.get_running_loop()
        opened: float | None = None
        try:
            async with asyncio.timeout(_HELLO_SECONDS) as limit:
                while True:
                    frame = decode_server(await channel.receive())
                    for effect in self._state.receive(frame):
                        self._carry_out(effect)
                    self._work.set()
                    if opened is None and self._state.phase is not Phase.OPENING:
                        opened = loop.time()
                        limit.reschedule(None)
                    await self._after_frame()
        except Closed as error:
            self.failure = _cause(error)
            return _Ended(error.code, 0.0 if opened is None else max(loop.time() - opened, 1e-9))
        except TimeoutError as error:
            self.failure = error
            return _Ended(None, 0.0)
        except (msgspec.DecodeError, ValueError, IllegalTransition) as error:
            # Without this frame nothing after it can be trusted, and it would come again.
            self.failure = error
            await channel.close(_PROTOCOL_ERROR)
            return Stop(_PROTOCOL_ERROR, f"the server does not speak this protocol: {error}")

    async def _write(self, channel: Channel, hello: bytes) -> None:
        try:
            await channel.send(hello)
            while True:
                while (frame := self._state.next_frame()) is not None:
                    await channel.send(encode(frame))
                self._work.clear()
                await self._work.wait()
        except Closed:
            return  # the reader learns it too, and what was not acknowledged is written again


def _cause(error: Exception) -> Exception:
    """What went wrong in the words of the library that noticed."""
    return error.__cause__ if isinstance(error.__cause__, Exception) else error
