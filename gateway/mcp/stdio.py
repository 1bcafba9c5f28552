"""A connection to an MCP server that is a process of ours: messages are lines on its standard input and output.

The process has a group of its own, so that what it starts ends with it. It gets the few variables of the environment
that every program needs, and those of the settings; nothing else of the gateway's. What it writes to standard error is
logged at the level debug, line by line, without the settings' secrets, and at most so many lines in so many seconds.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from asyncio.subprocess import SubprocessStreamProtocol
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Final, cast

import anyio
import mcp_types as types
import structlog
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage

from gateway.mcp.settings import McpServerSettings
from gateway.mcp.transports import Ending, Facts, ServerAway, TransportStreams

__all__ = ["stdio_transport"]

_log = structlog.stdlib.get_logger(__name__)

_CHUNK: Final = 65_536
_ERROR_LINE: Final = 500
_ERRORS_KEPT: Final = 5
_LINES: Final = 100
_LINES_SECONDS: Final = 10.0
# After its input is closed, and after SIGTERM, before it is killed.
_GRACE: Final = 1.0
# What it wrote before it ended may still be in the pipe, which a process that it has left behind may hold open.
_LAST_WORDS: Final = 0.5


@asynccontextmanager
async def stdio_transport(
    server: str, settings: McpServerSettings, ending: Ending, facts: Facts
) -> AsyncGenerator[TransportStreams]:
    """Runs the server while it is entered. Raises ServerAway where it can't be started."""
    process = await _Process.start(server, settings)
    incoming, messages = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    outgoing, sent = anyio.create_memory_object_stream[SessionMessage](0)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_read, process, incoming, settings.max_message_bytes, ending, facts)
            group.start_soon(_write, process, sent, ending)
            group.start_soon(_log_errors, process, server, settings.secrets, facts)
            group.start_soon(_await_exit, process, incoming, ending)
            try:
                yield messages, outgoing
            finally:
                with anyio.CancelScope(shield=True):
                    messages.close()
                    await process.stop()
                group.cancel_scope.cancel()
    finally:
        # Whatever came between, a second cancellation too: nothing of it outlives this.
        process.kill()
        for stream in (incoming, messages, outgoing, sent):
            stream.close()


class _Protocol(SubprocessStreamProtocol):
    """Tells of the process's end at once; `Process.wait` waits for the ends of its pipes as well, which a process that
    it has started may hold open."""

    def __init__(self) -> None:
        super().__init__(limit=_CHUNK, loop=asyncio.get_running_loop())
        self.exited = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._group = cast("asyncio.SubprocessTransport", transport).get_pid()

    def process_exited(self) -> None:
        super().process_exited()
        # What it has started has nobody to serve, and its group's number may be another's when all of it has ended.
        self.signal(signal.SIGKILL)
        self.exited.set()

    def signal(self, demand: signal.Signals) -> None:
        if not self.exited.is_set():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._group, demand)


class _Process:
    def __init__(self, transport: asyncio.SubprocessTransport, protocol: _Protocol) -> None:
        self._transport = transport
        self._protocol = protocol
        self.exited = protocol.exited
        self.stdin = cast("asyncio.StreamWriter", protocol.stdin)
        self.stdout = cast("asyncio.StreamReader", protocol.stdout)
        self.stderr = cast("asyncio.StreamReader", protocol.stderr)

    @classmethod
    async def start(cls, server: str, settings: McpServerSettings) -> _Process:
        command = (settings.command or "", *settings.args)
        try:
            transport, protocol = await asyncio.get_running_loop().subprocess_exec(
                _Protocol,
                *command,
                env=get_default_environment() | settings.env,
                cwd=settings.cwd,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "its command is none"
            _log.warning("mcp_server_not_started", server=server, command=settings.command, reason=reason)
            raise ServerAway(f"the MCP server {server!r} can't be started: {reason}") from error
        return cls(transport, protocol)

    @property
    def end(self) -> str:
        code = self._transport.get_returncode()
        if code is not None and code < 0:
            return f"was ended by {_signal_name(-code)}"
        return f"ended with exit code {code}"

    async def stop(self) -> None:
        """As the specification says (2025-11-25, Lifecycle, Shutdown): close its input, ask, kill; within seconds."""
        self.stdin.close()
        for demand in (None, signal.SIGTERM, signal.SIGKILL):
            if demand is not None:
                self._protocol.signal(demand)
            with anyio.move_on_after(_GRACE):
                await self.exited.wait()
            if self.exited.is_set():
                break
        self.kill()

    def kill(self) -> None:
        self._protocol.signal(signal.SIGKILL)
        with suppress(ProcessLookupError, PermissionError):
            self._transport.close()


async def _read(
    process: _Process,
    incoming: MemoryObjectSendStream[SessionMessage | Exception],
    longest: int,
    ending: Ending,
    facts: Facts,
) -> None:
    parts: list[bytes] = []
    size = 0
    with incoming:
        while chunk := await process.stdout.read(_CHUNK):
            facts.received += len(chunk)
            *ends, rest = chunk.split(b"\n")
            for piece in ends:
                size += len(piece)
                if size > longest:
                    break
                line = b"".join((*parts, piece))
                parts.clear()
                size = 0
                if not await _deliver(line, incoming):
                    await _drain(process)
                    return
            else:
                size += len(rest)
                if rest:
                    parts.append(rest)
            if size > longest:
                parts.clear()
                ending.set(f"sent a message of more than {longest:,} bytes")
                break
            # A buffer that is never empty would leave nobody else a turn.
            await asyncio.sleep(0)
        else:
            # The exit, if there is one, says more.
            with anyio.move_on_after(_LAST_WORDS):
                await process.exited.wait()
            ending.set(process.end if process.exited.is_set() else "closed its output")
    await _drain(process)


async def _deliver(line: bytes, incoming: MemoryObjectSendStream[SessionMessage | Exception]) -> bool:
    """Whether somebody is there to take messages."""
    if not line.strip():
        return True
    try:
        message = types.jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValueError:
        # Many print a greeting. It may hold anything, so that it is not repeated in a log.
        _log.debug("mcp_line_that_is_no_message", bytes=len(line))
        # Nobody takes it, and so nobody else would have a turn before the buffer is empty.
        await asyncio.sleep(0)
        return True
    try:
        await incoming.send(SessionMessage(message))
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        return False
    return True


async def _drain(process: _Process) -> None:
    """So that what it still has to say does not keep it from ending."""
    while True:
        if not await process.stdout.read(_CHUNK):
            return
        await asyncio.sleep(0)


async def _write(process: _Process, sent: MemoryObjectReceiveStream[SessionMessage], ending: Ending) -> None:
    with sent:
        async for item in sent:
            process.stdin.write(item.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
            try:
                await process.stdin.drain()
            except ConnectionError:
                with anyio.move_on_after(_LAST_WORDS):
                    await process.exited.wait()
                ending.set(process.end if process.exited.is_set() else "closed its input")
                return


async def _await_exit(
    process: _Process, incoming: MemoryObjectSendStream[SessionMessage | Exception], ending: Ending
) -> None:
    await process.exited.wait()
    await asyncio.sleep(_LAST_WORDS)
    ending.set(process.end)
    incoming.close()


async def _log_errors(process: _Process, server: str, secrets: frozenset[str], facts: Facts) -> None:
    begun, lines = 0.0, 0
    line = b""
    while chunk := await process.stderr.read(_CHUNK):
        *ends, rest = chunk.split(b"\n")
        for piece in (*ends, None):
            line += (rest if piece is None else piece)[: max(0, 4 * _ERROR_LINE - len(line))]
            if piece is None or not line.strip():
                continue
            text = _legible(line, secrets)
            line = b""
            facts.errors[:] = [*facts.errors, text][-_ERRORS_KEPT:]
            if time.monotonic() - begun > _LINES_SECONDS:
                begun, lines = time.monotonic(), 0
            lines += 1
            if lines <= _LINES:
                _log.debug("mcp_server_said", server=server, line=text)
        await asyncio.sleep(0)


def _legible(line: bytes, secrets: frozenset[str]) -> str:
    text = line.decode("utf-8", "replace")
    for secret in secrets:
        text = text.replace(secret, "…")
    return "".join(letter if letter.isprintable() else " " for letter in text[:_ERROR_LINE]).strip()


def _signal_name(number: int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"
