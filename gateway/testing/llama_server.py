"""A small real model behind a real llama.cpp server on this machine; needs the extra `local`.

`python -m gateway.testing.llama_server` runs it in the foreground and prints the settings that use it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Generator

from gateway.models.local_weights import STOP, TEMPLATE, MissingExtra, load_extra, model_file

__all__ = ["CONTEXT_WINDOW", "MODEL", "STOP", "llama_server", "serve"]

MODEL = "gemma3-270m"
CONTEXT_WINDOW = 2048
_SLOTS = 2
_PREFIX = "base_url = "


@contextlib.contextmanager
def llama_server() -> Generator[str]:
    """Run the server in a process of its own, on a free port of 127.0.0.1, and yield its base_url. Raises
    RuntimeError, with what it printed last, where it does not start."""
    command = [sys.executable, "-m", "gateway.testing.llama_server"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout is not None  # noqa: S101
        try:
            line = process.stdout.readline().strip()
            if not line.startswith(_PREFIX):
                raise RuntimeError(f"the llama.cpp server did not start: {line or 'it printed nothing'}")
            yield line.removeprefix(_PREFIX)
        finally:
            process.terminate()


def serve() -> None:
    """Run the server until SIGINT or SIGTERM."""
    try:
        xllamacpp = load_extra()
        model = model_file()
    except MissingExtra as error:
        raise SystemExit(error.msg) from error
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.model_alias = {MODEL}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = CONTEXT_WINDOW * _SLOTS
    params.n_parallel = _SLOTS
    params.chat_template = TEMPLATE
    params.ui = False
    params.verbosity = 0
    server = xllamacpp.Server(params)
    base_url = f"{server.listening_address}/v1"
    print(f"{_PREFIX}{base_url}")
    print("\nIn tidegate.toml:\n[models]")
    print(
        f'local = {{ provider = "openai", model = "{MODEL}", base_url = "{base_url}", '
        f'context_window = {CONTEXT_WINDOW}, max_tokens = 256, extra = {{ stop = ["\\nUser:"] }} }}',
        flush=True,
    )
    with contextlib.suppress(KeyboardInterrupt):
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
    # The server's threads have no orderly end that would not outlast a request being answered.
    os._exit(0)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    serve()
