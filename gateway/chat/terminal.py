"""A POSIX terminal, taken for as long as a chat has it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Final

from gateway.chat.keys import DISABLE_PASTE, ENABLE_PASTE

__all__ = ["Terminal"]

_READ: Final = 65536
_LOCAL: Final = 3
_CONTROL: Final = 6


class Terminal:
    """Standard input and output. `Ctrl-C` and `Ctrl-Z` stay signals; all else comes key by key, and is not echoed."""

    def __init__(self) -> None:
        self._in = sys.stdin.fileno()
        self._out = sys.stdout.fileno()

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        try:
            size = os.get_terminal_size(self._out)
        except OSError:
            return 80, 24
        return max(size.columns, 10), max(size.lines, 4)

    def write(self, text: str) -> None:
        """All of it. Raises OSError where the terminal is gone."""
        data = text.encode(errors="replace")
        while data:
            data = data[os.write(self._out, data) :]

    def read(self) -> bytes:
        """What there is; nothing where the terminal is gone."""
        try:
            return os.read(self._in, _READ)
        except OSError:
            return b""

    @contextmanager
    def taken(
        self,
        *,
        readable: Callable[[], None],
        interrupted: Callable[[], None],
        resized: Callable[[], None],
        ended: Callable[[], None],
    ) -> Generator[None]:
        """The callbacks run in the loop: keys can be read, Ctrl-C, another size or back from Ctrl-Z, told to end."""
        loop = asyncio.get_running_loop()
        before = termios.tcgetattr(self._in)

        def take() -> None:
            mode = termios.tcgetattr(self._in)
            mode[_LOCAL] &= ~(termios.ECHO | termios.ICANON)
            mode[_CONTROL][termios.VMIN] = 1
            mode[_CONTROL][termios.VTIME] = 0
            termios.tcsetattr(self._in, termios.TCSADRAIN, mode)
            self.write(ENABLE_PASTE)

        def continued() -> None:
            # The shell had the terminal meanwhile, and set it as it likes.
            take()
            resized()

        handlers = {
            signal.SIGINT: interrupted,
            signal.SIGWINCH: resized,
            signal.SIGCONT: continued,
            signal.SIGTERM: ended,
            signal.SIGHUP: ended,
        }
        take()
        try:
            loop.add_reader(self._in, readable)
            for number, handler in handlers.items():
                loop.add_signal_handler(number, handler)
            yield
        finally:
            loop.remove_reader(self._in)
            for number in handlers:
                loop.remove_signal_handler(number)
            with suppress(OSError, termios.error):
                self.write(DISABLE_PASTE)
                termios.tcsetattr(self._in, termios.TCSADRAIN, before)
