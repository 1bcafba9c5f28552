"""`tidegate chat` under a pseudo-terminal, read through a terminal's emulation: what a person would see."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pyte

__all__ = ["TerminalChat", "in_terminal"]

# The chat must own the terminal, so that Ctrl-C becomes a signal to it.
_OWN = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


class TerminalChat:
    """`raw` is all that was written, `text` what the screen shows, its lines without the spaces at their ends."""

    def __init__(self, master: int, process: subprocess.Popen[bytes], columns: int, rows: int) -> None:
        self.process = process
        self.raw = b""
        self._master = master
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self._news = asyncio.Event()
        self._closed = False

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        return "\n".join(self.lines).rstrip("\n")

    @property
    def joined(self) -> str:
        """All rows as one, for text that the terminal wrapped."""
        return "".join(self._screen.display)

    def readable(self) -> None:
        try:
            data = os.read(self._master, 65536)
        except OSError:
            data = b""
        if not data:
            self._closed = True
            asyncio.get_running_loop().remove_reader(self._master)
        self.raw += data
        self._stream.feed(data)
        self._news.set()

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def enter(self, line: str) -> None:
        self.type(f"{line}\r")

    async def until(self, seen: str | Callable[[str], bool], seconds: float = 30) -> str:
        """Wait until the screen shows it; the screen's text."""
        try:
            async with asyncio.timeout(seconds):
                while not (seen in self.text if isinstance(seen, str) else seen(self.text)):
                    if self._closed:
                        raise AssertionError(f"it ended, and showed:\n{self.text}")
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"{seen!r} is not on the screen:\n{self.text}") from None
        return self.text

    async def ended(self, seconds: float = 30) -> int:
        """Wait until the chat has ended; its exit status."""
        async with asyncio.timeout(seconds):
            while not self._closed:
                self._news.clear()
                await self._news.wait()
        return await asyncio.to_thread(self.process.wait)


@asynccontextmanager
async def in_terminal(*arguments: str, columns: int = 100, rows: int = 100, **env: str) -> AsyncGenerator[TerminalChat]:
    """`tidegate chat` with these arguments, killed at the end where it still runs."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    command = [sys.executable, "-c", _OWN, sys.executable, "-m", "gateway.cli", "chat", *arguments]
    process = subprocess.Popen(
        command,
        env=os.environ | {"TERM": "xterm-256color"} | env,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    chat = TerminalChat(master, process, columns, rows)
    loop = asyncio.get_running_loop()
    loop.add_reader(master, chat.readable)
    try:
        yield chat
    finally:
        loop.remove_reader(master)
        process.kill()
        process.wait()
        os.close(master)
