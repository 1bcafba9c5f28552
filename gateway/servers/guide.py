"""What to try with a cluster of one's own: said once all of it serves.

python -m gateway.servers.guide PORT PORT
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence

import httpx

__all__ = ["main"]

_WORDS = """
Two gateways serve the same conversations:
  http://127.0.0.1:{one}   http://127.0.0.1:{other}
Open the page that each printed above ("Open … good once"), side by side.
In one of them say:                  long 400
and while it answers, in a terminal: pkill -9 -f 'python.*serve --port {one}'
Both pages go on with the answer, whole; the gateway is started again by itself.
"""


def main(ports: Sequence[str]) -> int:
    """Wait for the gateways on these ports, say what to try, and stay until SIGTERM."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: sys.exit(0))
    with httpx.Client(trust_env=False, timeout=2) as client:
        while not all(_serves(client, port) for port in ports):
            time.sleep(0.2)
    print(_WORDS.format(one=ports[0], other=ports[-1]), flush=True)
    signal.pause()
    return 0


def _serves(client: httpx.Client, port: str) -> bool:
    try:
        return client.get(f"http://127.0.0.1:{port}/readyz").is_success
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
