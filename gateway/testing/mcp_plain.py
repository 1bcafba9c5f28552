"""An MCP server in a file of the standard library alone, so that a test can start one in a moment.

```python
command, args = plain_command("--deaf")  # standard input and output, protocol 2025-11-25
```

It answers one message after the other. Its tools: `echo` says `text`; `pid` tells its process's number and the
variables in `names`; `exit` ends it with `code`; `hang` is never answered, nor cancelled; `cancelled` tells how many
cancels came; `big` says `bytes` characters; `raw` writes `line` as it is; `stderr` writes `bytes` to standard error;
`child` starts a process that holds its output open, and tells its number; `close` closes its output and stays.
`--silent` never answers the handshake, `--deaf` ignores the end of its input and SIGTERM, `--noise N` writes N lines
and a long one to standard error at the start, each with the variable TOKEN.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

__all__ = ["plain_command"]

_NAMES = ("echo", "pid", "exit", "hang", "cancelled", "big", "raw", "stderr", "child", "close")


def plain_command(*arguments: str) -> tuple[str, list[str]]:
    """The command that runs the server, and its arguments."""
    return sys.executable, ["-I", "-S", __file__, *arguments]


class _Server:
    def __init__(self) -> None:
        self._cancels = 0

    def answer(self, method: str, params: dict[str, Any]) -> Any:
        """The result of a request; None where there is no answer, an exception for an error."""
        if method == "initialize":
            return {
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "plain", "version": "1"},
            }
        if method == "tools/list":
            return {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in _NAMES]}
        if method == "tools/call":
            text = self._run(params["name"], params.get("arguments") or {})
            return None if text is None else {"content": [{"type": "text", "text": text}]}
        raise LookupError(method)

    def hear(self, method: str) -> None:
        self._cancels += method == "notifications/cancelled"

    def _run(self, name: str, given: dict[str, Any]) -> str | None:
        if name == "echo":
            return given["text"]
        if name == "pid":
            shown = {one: os.environ.get(one) for one in given.get("names", ())}
            return json.dumps({"pid": os.getpid(), "environment": shown, "directory": os.getcwd()})
        if name == "exit":
            os._exit(given.get("code", 1))
        if name == "cancelled":
            return str(self._cancels)
        if name == "big":
            return "x" * given["bytes"]
        if name == "raw":
            _write(given["line"])
            return "written"
        if name == "stderr":
            sys.stderr.write("e" * given["bytes"] + "\n")
            sys.stderr.flush()
            return "written"
        if name == "child":
            return str(subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(1000)"]).pid)
        if name == "close":
            os.close(1)
        return None


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _main(arguments: list[str]) -> None:
    if "--deaf" in arguments:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "--noise" in arguments:
        token = os.environ.get("TOKEN", "")
        for _ in range(int(arguments[arguments.index("--noise") + 1])):
            sys.stderr.write(f"with {token} \x1b[2J\n")
        sys.stderr.write("y" * 2_000_000 + f" {token}\n")
        sys.stderr.flush()
    server = _Server()
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message:
            server.hear(message["method"])
            continue
        if "--silent" in arguments:
            continue
        try:
            result = server.answer(message["method"], message.get("params") or {})
        except LookupError as error:
            fault = {"code": -32601, "message": f"Method not found: {error}"}
            _write(json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": fault}))
            continue
        if result is not None:
            _write(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}))
    while "--deaf" in arguments:
        time.sleep(1)


if __name__ == "__main__":
    _main(sys.argv[1:])
