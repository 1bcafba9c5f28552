"""What the audit says of calls, compared with the events that clients see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from gateway.auditing import MADE
from tests.e2e.gateways import GatewayProcess
from tests.e2e.sse import http_client
from tests.e2e.wire import Frame

__all__ = ["AUDITOR", "audit_of", "check_calls"]

AUDITOR = """
[roles.auditor]
permissions = ["audit:read"]
"""
"""For the settings of a gateway whose audit is read."""


async def audit_of(gateway: GatewayProcess, **asked: str) -> list[dict[str, Any]]:
    """The records of the gateway's tenant, the oldest first."""
    records: list[dict[str, Any]] = []
    async with http_client(gateway.url, gateway.key("auditor", "--role", "auditor")) as http:
        after: str | None = None
        while True:
            place = {"after": after} if after is not None else {}
            page = (await http.get("/v1/audit", params={"limit": "200", **asked, **place})).json()
            records += page["records"]
            if (after := page["next"]) is None:
                return records[::-1]


def check_calls(records: Iterable[dict[str, Any]], events: Iterable[Frame]) -> None:
    """Of each call in a context's events there is one record of what became of it when it was made, one of each
    decision of a person, and one of its end, which says what its answer says; and there are no others."""
    found: Counter[tuple[str, str]] = Counter()
    for record in records:
        made = record["kind"] == "decision" and record["outcome"] in MADE
        found[record["call_id"], "made" if made else record["outcome"]] += 1
    wanted: Counter[tuple[str, str]] = Counter()
    for event in events:
        if event["type"] == "tool_call":
            wanted[event["id"], "made"] += 1
        elif event["type"] == "tool_approval":
            wanted[event["tool_call_id"], "approved" if event["approved"] else "rejected"] += 1
        elif event["type"] == "tool_response":
            wanted[event["tool_call_id"], event["status"]] += 1
    assert found == wanted
