"""What a client is told of a message that was stored, though its turn can't be read."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from gateway.conversations import Receipt
from gateway.http.streams import Following
from gateway.turn_places import Place, TurnPlaces
from protocol.ids import Cursor
from stores.ports import Unavailable
from stores.records import ContextKey
from tests.gateway.host_apps import by_query, gateway_in, hosted


async def _no_place(self: TurnPlaces, receipt: Receipt, message_id: str) -> Place:
    raise Unavailable("away")


async def _not_followed(self: Following, key: ContextKey, cursor: Cursor | None) -> None:
    raise Unavailable("away")


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
@pytest.mark.parametrize(
    "fault", [(TurnPlaces, "find", _no_place), (Following, "open", _not_followed)], ids=["find", "open"]
)
async def test_a_refusal_after_the_message_was_stored_says_so(
    fault: tuple[type, str, object], accept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = gateway_in(tmp_path, authenticate=by_query)
    app = FastAPI(lifespan=gateway.lifespan)
    app.mount("/", gateway.app)
    path, message = "/v1/contexts/c/messages?user=ann", {"id": "m1", "content": "hello"}
    async with hosted(app, "websockets-sansio") as url, httpx.AsyncClient(base_url=url, timeout=30) as http:
        with monkeypatch.context() as failing:
            failing.setattr(*fault)
            refused = await http.post(path, json=message, headers={"Accept": accept})
        assert refused.status_code == 503
        assert (refused.headers["tidegate-message-id"], refused.headers["tidegate-turn-id"]) == ("m1", "m1")
        assert "retry-after" in refused.headers
        assert "is stored" in refused.json()["error"]["message"]
        again = await http.post(path, json=message, headers={"Accept": "application/json"})
        assert (again.status_code, again.headers["tidegate-duplicate"]) == (200, "true")
