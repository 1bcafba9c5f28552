"""`tidegate serve` that gives a client which takes nothing two seconds instead of minutes."""

from __future__ import annotations

import gateway.http.personal
import gateway.http.streams
from gateway.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    gateway.http.streams._STALLED_SECONDS = 2.0  # pyright: ignore[reportPrivateUsage]
    gateway.http.personal._STALLED_SECONDS = 2.0  # pyright: ignore[reportPrivateUsage]
    main()
