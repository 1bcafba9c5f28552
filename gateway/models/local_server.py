"""The process of a local model: llama.cpp's server, until the process that began it closes the pipe or is gone.

It is run as a file, by gateway/models/local_engine.py, and imports nothing of ours. Standard input gives one line of
JSON: the parameters, by their names in `xllamacpp.CommonParams`, and `path`, the model's. Standard output gets one: the
`url` that it listens on, or `error`.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from typing import Any

__all__ = ["main"]


def main() -> None:
    given: dict[str, Any] = json.loads(sys.stdin.readline())
    xllamacpp = import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = given.pop("path")
    for name, value in given.items():
        setattr(params, name, value)
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    print(json.dumps({"url": server.listening_address}), flush=True)
    sys.stdin.read()
    # The server's threads have no orderly end that would not outlast a request being answered.
    os._exit(0)


if __name__ == "__main__":
    main()
