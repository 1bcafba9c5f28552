"""The command that the conformance suite starts as a client: `ask.py SOCKET URL`. It has the scenario done by the
process that listens at the socket (tests/conformance/client.py), and ends with its exit code."""

from __future__ import annotations

import json
import os
import socket
import sys


def main(place: str, url: str) -> int:
    asked = {
        "url": url,
        "scenario": os.environ["MCP_CONFORMANCE_SCENARIO"],
        "context": json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}")),
    }
    with socket.socket(socket.AF_UNIX) as link, link.makefile("rb") as answer:
        link.connect(place)
        link.sendall(json.dumps(asked).encode() + b"\n")
        told = json.loads(answer.read())
    print(told["told"])
    return told["code"]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
