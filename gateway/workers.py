"""Several gateways behind one port of one machine: starts them, starts them again, and ends them together."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

import structlog
from msgspec import Struct

from gateway.listening import shared_sockets
from gateway.logs import configure_logs
from gateway.servers.process import die_with_parent
from gateway.servers.valkey import ServerError, ValkeyServer, run_valkey
from gateway.settings import Settings, SettingsError

__all__ = ["FIRST_WORKER", "Supervisor", "serve_workers", "worker_options"]

_log = structlog.get_logger(__name__)

FIRST_WORKER = "first"
_OTHER_WORKER = "other"
_POLL_SECONDS = 0.1
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 10.0
_STABLE_SECONDS = 30.0
_START_SECONDS = 10.0
_GRACE_SECONDS = 15.0


class _Worker(Struct):
    """One place for a process. `due` is when it is to be started (again), on the monotonic clock."""

    due: float = 0.0
    wait: float = _FIRST_WAIT
    started: float = 0.0
    process: subprocess.Popen[bytes] | None = None


class Supervisor:
    """Keeps `count` processes of `command` running. The first of them is told that it is. A process that ends by itself
    is started again after a while, which gets longer where it ends soon; one that can't even start, where none ever
    could, ends them all. `poll` is called by whoever has the loop, with the time."""

    def __init__(self, command: Sequence[str], count: int, env: dict[str, str]) -> None:
        self._command = list(command)
        self._env = env
        self._workers = [_Worker() for _ in range(count)]
        self._first = True
        self._stopping: float | None = None
        self._failed = 0
        self._lasted = False  # whether any has lived longer than a start takes
        self._short = 0

    def poll(self, now: float) -> int | None:
        """Do what is due; the exit status when all is over."""
        for worker in self._workers:
            if worker.process is not None and worker.process.poll() is not None:
                self._ended(worker, worker.process.returncode, now)
            if worker.process is None and self._stopping is None and now >= worker.due:
                self._start(worker, now)
        running = [worker for worker in self._workers if worker.process is not None]
        if self._stopping is None:
            return None
        if running and now > self._stopping:
            self._signal(signal.SIGKILL)
        return None if running else self._failed

    def stop(self, now: float, seconds: float) -> None:
        """Let all of them drain, for so many seconds at most; the second time, end them at once."""
        if self._stopping is not None:
            self._signal(signal.SIGKILL)
            return
        self._stopping = now + seconds + _GRACE_SECONDS
        self._signal(signal.SIGTERM)

    def _start(self, worker: _Worker, now: float) -> None:
        role = FIRST_WORKER if self._first else _OTHER_WORKER
        self._first = False
        worker.started = now
        worker.process = subprocess.Popen(  # noqa: S603 - our own command
            [*self._command, "--worker", role], env=self._env, start_new_session=True, preexec_fn=die_with_parent()
        )

    def _ended(self, worker: _Worker, status: int, now: float) -> None:
        worker.process = None
        if self._stopping is not None:
            self._failed = self._failed or max(0, status)
            return
        lived = now - worker.started
        self._lasted = self._lasted or lived > _START_SECONDS
        self._short += 1
        if status > 0 and not self._lasted and self._short >= 2 * len(self._workers):
            _log.error("no worker can start", status=status)
            self._failed = status
            self.stop(now, 0)
            return
        wait = _FIRST_WAIT if lived > _STABLE_SECONDS else worker.wait
        worker.due, worker.wait = now + wait, min(2 * wait, _LONGEST_WAIT)
        _log.warning("a worker has ended and is started again", status=status, seconds=wait)

    def _signal(self, number: signal.Signals) -> None:
        for worker in self._workers:
            if worker.process is not None and worker.process.poll() is None:
                worker.process.send_signal(number)


def worker_options(config: Path | None, data: Path | None, model: str | None) -> list[str]:
    """The options of `serve` that its workers need as well."""
    given = {"--config": config, "--data": data, "--model": model}
    return [word for option, value in given.items() if value is not None for word in (option, str(value))]


def serve_workers(settings: Settings, options: Sequence[str]) -> int:
    """Serve with as many processes as the settings say, until SIGTERM or SIGINT; the exit status. Where no Redis is
    configured they share one of their own. Raises SettingsError."""
    configure_logs()
    server = settings.server
    with ExitStack() as stack:
        # Held all the while, so that the port is theirs also when none of them listens for a moment.
        held = [stack.enter_context(opened) for opened in shared_sockets(server.host, server.port)]
        port = held[0].getsockname()[1]
        env = dict(os.environ)
        valkey: ValkeyServer | None = None
        if settings.redis.url is None:
            valkey = stack.enter_context(_own_redis())
            env["TIDEGATE_REDIS_URL"] = valkey.url
        command = [sys.executable, "-m", "gateway.cli", "serve", *options]
        command += ["--host", server.host, "--port", str(port), "--workers", str(server.workers)]
        supervisor = Supervisor(command, server.workers, env)
        with _signals() as heard:
            while (status := supervisor.poll(time.monotonic())) is None:
                time.sleep(_POLL_SECONDS)
                if valkey is not None:
                    _look_after(valkey)
                while heard:
                    heard.pop()
                    supervisor.stop(time.monotonic(), server.drain_seconds)
    return status


@contextmanager
def _own_redis() -> Generator[ValkeyServer]:
    """A server that ends with us; what is in it need not outlive it."""
    with tempfile.TemporaryDirectory(prefix="tidegate-") as folder:
        try:
            with run_valkey(Path(folder), password=secrets.token_urlsafe(32)) as valkey:
                yield valkey
        except ServerError as error:
            raise SettingsError(f"server.workers: several need a Redis: set redis.url, or: {error}") from error


def _look_after(valkey: ValkeyServer) -> None:
    """Its logs may be lost, but not it: all workers refuse everything without."""
    try:
        if valkey.revive():
            _log.warning("the Valkey has ended and was started again")
    except ServerError as error:
        _log.error("the Valkey has ended and can't be started again now", reason=str(error))
        time.sleep(_FIRST_WAIT)


@contextmanager
def _signals() -> Generator[list[int]]:
    """Those that ask to stop, as they come. They are only noted: one that comes while a worker is being started would
    pass that one by."""
    heard: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)

    before = {number: signal.signal(number, hear) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
