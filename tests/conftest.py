"""Real servers, started when a test asks for one."""

from __future__ import annotations

from tests.servers.postgres import postgres, stop_postgres
from tests.servers.valkey import valkey

__all__ = ["postgres", "stop_postgres", "valkey"]
