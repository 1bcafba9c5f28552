"""`tidegate serve` that ends itself with SIGKILL at a checkpoint between two durable steps of a turn.

CRASH_AT is the number of checkpoints that are let by. The names of those that were passed are written to standard
output, so that a test knows how many there are.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from gateway.app import Gateway
from gateway.serve import serve
from gateway.settings import load_settings
from tests.e2e.slow_tools import TOOLS


def main() -> int:
    flags = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    settings = load_settings(
        Path(flags["--config"]), {}, {"data": flags["--data"], "server.port": int(flags["--port"])}
    )
    left = int(os.environ.get("CRASH_AT", "1000000"))
    passed = Path(flags["--data"], "checkpoints")

    async def checkpoint(name: str) -> None:
        nonlocal left
        with passed.open("a") as file:
            file.write(name + "\n")
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return serve(settings, Gateway(settings, tools=TOOLS, checkpoint=checkpoint))


if __name__ == "__main__":
    raise SystemExit(main())
