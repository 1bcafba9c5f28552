"""Servers of one's own as child processes, which don't outlive whoever started them."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TypeVar

__all__ = ["Server", "ServerError", "die_with_parent", "free_port", "running", "serve_in_foreground"]

_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.01
_PR_SET_PDEATHSIG = 1


class ServerError(RuntimeError):
    """The server could not be set up or started; the message says why."""


class Server(ABC):
    """A server's process. `stop` ends it in order, `kill` as a crash would."""

    name: str
    end_in_order = signal.SIGTERM
    end_at_once = signal.SIGKILL
    start_seconds = 10.0

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    @abstractmethod
    def url(self) -> str: ...

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Return when it takes connections. Raises ServerError."""
        self._process = self._begin()
        deadline = time.monotonic() + self.start_seconds
        while not self._ready(self._process.pid):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise ServerError(f"{self.name} did not start: {_last_line(self._log)}")
            time.sleep(_POLL_SECONDS)

    @abstractmethod
    def _begin(self) -> subprocess.Popen[bytes]: ...

    @abstractmethod
    def _ready(self, pid: int) -> bool: ...

    def revive(self) -> bool:
        """Start it again where it has ended by itself; whether it had. Raises ServerError, after which it may be tried
        again."""
        if self._process is not None and self._process.poll() is None:
            return False
        self.start()
        return True

    def stop(self) -> None:
        self._end(self.end_in_order)

    def kill(self) -> None:
        self._end(self.end_at_once)

    def wait(self) -> int:
        """Until it has ended by itself; its exit code."""
        return self._process.wait() if self._process is not None else 0

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


_S = TypeVar("_S", bound=Server)


@contextmanager
def running(server: _S) -> Generator[_S]:
    """The server runs meanwhile. Raises ServerError."""
    server.start()
    try:
        yield server
    finally:
        server.stop()


def serve_in_foreground(make: Callable[[], Server]) -> int:
    """Run it until SIGTERM or Ctrl-C, its URL printed when it takes connections; the exit status."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    try:
        with running(make()) as server:
            print(server.url, flush=True)
            return server.wait()
    except ServerError as error:
        print(error, file=sys.stderr)
        return 1


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(0)


def die_with_parent(how: signal.Signals = signal.SIGTERM) -> Callable[[], None]:
    """For `preexec_fn`: on Linux the child gets this signal when the thread that started it ends, however it does."""
    parent = os.getpid()

    def tie() -> None:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, how)
            if os.getppid() != parent:
                os._exit(1)  # it ended before

    return tie


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "it said nothing"
