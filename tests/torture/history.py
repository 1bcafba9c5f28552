"""Reads contexts over HTTP, past all proxies, as whoever checks them would."""

from __future__ import annotations

import httpx

from tests.torture.cluster import Cluster
from tests.torture.frames import Frame
from tests.torture.world import Place

__all__ = ["read_history", "unended"]


async def read_history(cluster: Cluster, place: Place, http: httpx.AsyncClient) -> list[Frame] | None:
    """All durable events, oldest first; None where no instance answers."""
    well = [instance for instance in cluster.instances if instance.well]
    if not well:
        return None
    url = f"http://127.0.0.1:{well[0].port}/v1/contexts/{place.context_id}/events"
    pages: list[list[Frame]] = []
    before: str | None = None
    while True:
        query = {"limit": "200"} if before is None else {"limit": "200", "before": before}
        try:
            response = await http.get(url, params=query, headers=place.user.headers)
            response.raise_for_status()
        except httpx.HTTPError:
            return None
        page = response.json()
        pages.append(page["events"])
        before = page["next"]
        if before is None:
            return [event for one in reversed(pages) for event in one]


def unended(history: list[Frame]) -> set[str]:
    """The turns without an end."""
    turns = {event["turn_id"] for event in history if event.get("turn_id") is not None}
    return turns - {event["turn_id"] for event in history if event["type"] == "turn_end"}
