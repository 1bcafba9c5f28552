"""Clients in the gateway's own process: the same connection and frames as over a socket, without one."""

from __future__ import annotations

import asyncio

import structlog

from gateway.auth.principal import Principal
from gateway.client_port import Closed, NotOpened
from gateway.door import Door
from gateway.transport.memory import MemoryPipe

__all__ = ["InProcess", "InProcessChannel"]

_log = structlog.get_logger(__name__)
_CLOSE_SECONDS = 2.0


class InProcess:
    """Opens channels to a door that know their principal already, and owns the tasks that serve them."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Own the connections until cancelled."""
        try:
            async with asyncio.TaskGroup() as self._group:
                await asyncio.Event().wait()
        finally:
            self._group = None

    def open(self, principal: Principal) -> InProcessChannel:
        """A channel as this principal. Raises NotOpened, finally, unless `run` runs."""
        if self._group is None:
            raise NotOpened("the gateway is not running", final=True)
        pipe = MemoryPipe()
        return InProcessChannel(pipe, self._group.create_task(self._serve(pipe, principal)))

    async def _serve(self, pipe: MemoryPipe, principal: Principal) -> None:
        code = 1011
        try:
            await self._door.serve(pipe, pipe.receive, principal)
        except asyncio.CancelledError:
            code = 1012
            raise
        except Exception:  # noqa: BLE001 - the boundary to one connection: its failure must not end the gateway
            _log.exception("a connection in process failed")
        finally:
            pipe.close(code, "")


class InProcessChannel:
    """The client's end, a `Channel`. The gateway owns `served`, so a client that is cancelled in the middle of `close`
    leaves nothing behind."""

    def __init__(self, pipe: MemoryPipe, served: asyncio.Task[None]) -> None:
        self._pipe = pipe
        self._served = served

    async def send(self, payload: bytes) -> None:
        if not await self._pipe.put(payload):
            raise Closed(self._pipe.code)

    async def receive(self) -> bytes:
        payload = await self._pipe.take()
        if payload is None:
            raise Closed(self._pipe.code)
        return payload

    @property
    def unread(self) -> int:
        """The bytes that wait for `receive`."""
        return self._pipe.unsent

    async def close(self, code: int = 1000) -> None:
        self._pipe.hang_up(code)
        await asyncio.wait({self._served}, timeout=_CLOSE_SECONDS)
