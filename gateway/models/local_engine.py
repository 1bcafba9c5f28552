"""llama.cpp in a process of its own, behind a door that only we can open.

In this process it would hold the interpreter's lock all the while it loads a model, and take SIGINT and SIGTERM for
itself. Everything here blocks, the load for seconds, and belongs into a thread.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path
from typing import Any, Final

from gateway.models import local_server
from gateway.models.local_weights import STOP, TEMPLATE, check_extra, has_template, is_gguf, model_file

__all__ = ["Engine", "EngineError"]

_TCP: Final = "127.0.0.1"
# The longest path of a socket (sun_path) is 104 bytes on some systems, with the zero at its end.
_LONGEST_PATH: Final = 100
# A prompt is read in batches, between which a request that was left can end.
_BATCH: Final = 256
_PATIENCE: Final = 5.0


class EngineError(Exception):
    """The model can't be run, in words for the user; `detail` is for the log."""

    def __init__(self, words: str, detail: str) -> None:
        super().__init__(words)
        self.detail = detail


class Engine:
    """A loaded model, from `file` or (None) the package's. `slots` requests of `context_window` tokens each are
    answered at once. Its HTTP server listens on a socket `path` in a folder that is ours alone; where there are no such
    sockets (None), on a port of 127.0.0.1; in both cases at `url` and for who has the `key`. `stop` ends an answer of a
    model that has no chat template. Raises EngineError, and MissingExtra."""

    def __init__(self, file: Path | None, context_window: int, slots: int) -> None:
        check_extra(weights=file is None)
        file, own_template = _checked(file)
        self.stop = [] if own_template else [STOP]
        self.key = secrets.token_urlsafe(32)
        self._folder = tempfile.mkdtemp(prefix="tidegate-")
        self._forget = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        door = os.path.join(self._folder, "llama.sock")
        self.path = door if hasattr(socket, "AF_UNIX") and len(os.fsencode(door)) < _LONGEST_PATH else None
        params: dict[str, Any] = {
            "path": str(file),
            "hostnames": [self.path or _TCP],
            "port": 0,
            "api_keys": [self.key],
            "n_ctx": context_window * slots,
            "n_parallel": slots,
            "n_batch": _BATCH,
            "n_ubatch": _BATCH,
            # No conversation is kept beside those in the slots, and none is shown.
            "cache_ram_mib": 0,
            "endpoint_slots": False,
            "ui": False,
            "verbosity": 0,
            **({} if own_template else {"chat_template": TEMPLATE}),
        }
        # In a session of its own a Ctrl-C at the terminal reaches us alone; what llama.cpp prints may hold the
        # conversation. Without -P the modules beside the file would hide installed ones.
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", local_server.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        url = self._start(params)
        if "url" not in url:
            self.free()
            raise EngineError(
                "can't be loaded; its file may be damaged, of a kind that llama.cpp can't run, or too large for this "
                "machine's memory",
                f"{file}: {url.get('error', 'its process ended')}",
            )
        self.url = "http://llama" if self.path else url["url"]

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def free(self) -> None:
        """End what is being answered, and give back the memory; once or more."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._forget()

    def _start(self, params: dict[str, Any]) -> dict[str, str]:
        """What the process answers; nothing where it died."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None  # noqa: S101
        assert stdout is not None  # noqa: S101
        try:
            stdin.write(json.dumps(params).encode() + b"\n")
            stdin.flush()
            return json.loads(stdout.readline() or b"{}")
        except (OSError, ValueError):
            return {}


def _checked(file: Path | None) -> tuple[Path, bool]:
    """Where the model is, and whether it has a template of its own."""
    try:
        if file is None:
            file = model_file()
        if not is_gguf(file):
            raise EngineError("can't be loaded: its file is not a GGUF", str(file))
        return file, has_template(file)
    except (OSError, ValueError) as error:
        raise EngineError("can't be loaded: its file can't be read", f"{file}: {error}") from error
