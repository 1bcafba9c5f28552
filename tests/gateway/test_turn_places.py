"""Where a turn begins in its context, whatever store and log know of it."""

from __future__ import annotations

from gateway.conversations import Receipt
from gateway.turn_places import TurnPlaces
from protocol.codec import decode_durable, encode
from protocol.frames import Message
from protocol.ids import Cursor
from stores.records import Accepted, NewEvent, NewTurn
from tests.gateway.test_hub import KEY, World, hubbing


def _message(id: str, turn_id: str | None) -> NewEvent:
    message = Message(
        context_id=KEY.id,
        turn_id=turn_id,
        id=id,
        content=id,
        role="user",
        timestamp="2026-01-01T00:00:00.000Z",
        status="complete",
    )
    return NewEvent(id=id, type="message", body=encode(message), turn_id=turn_id)


async def _submit(world: World, id: str, *, place: bool) -> None:
    await world.store.submit(KEY, _message(id, id), NewTurn(id=id, kind="message", request=b"{}"))
    if place:
        await world.epochs.place_row(KEY, id)


def _receipt(*, duplicate: bool, turn_id: str | None, epoch: int | None = None, seq: int | None = None) -> Receipt:
    return Receipt(key=KEY, accepted=Accepted(duplicate=duplicate, turn_id=turn_id), epoch=epoch, seq=seq)


def test_a_new_message_begins_its_turn_where_it_was_placed() -> None:
    async def test(world: World) -> None:
        places = TurnPlaces(world.store, world.log, world.epochs)
        place = await places.find(_receipt(duplicate=False, turn_id="u1", epoch=1, seq=7), "u1")
        assert (place.turn_id, place.before) == ("u1", Cursor(1, 6))

    hubbing(test)


def test_a_repeated_message_begins_where_the_first_one_stands_recorded_or_not() -> None:
    async def test(world: World) -> None:
        places = TurnPlaces(world.store, world.log, world.epochs)
        await _submit(world, "u1", place=True)
        await world.say("a")
        for _ in range(2):
            place = await places.find(_receipt(duplicate=True, turn_id="u1"), "u1")
            assert (place.turn_id, place.before) == ("u1", Cursor(1, 1))
            assert await world.recorder.flush(KEY)

    hubbing(test)


def test_what_the_log_has_not_been_told_yet_comes_after_its_head() -> None:
    async def test(world: World) -> None:
        places = TurnPlaces(world.store, world.log, world.epochs)
        await world.say("a")
        await _submit(world, "u1", place=False)
        place = await places.find(_receipt(duplicate=False, turn_id="u1"), "u1")
        assert place.before == Cursor(1, 2)
        assert await places.events(place, 1, 2) == []
        await world.epochs.place_row(KEY, "u1")
        assert len(await places.events(place, 1, 3) or ()) == 1

    hubbing(test)


def test_a_steering_message_begins_with_the_turn_that_it_joins() -> None:
    async def test(world: World) -> None:
        places = TurnPlaces(world.store, world.log, world.epochs)
        await _submit(world, "u1", place=True)
        assert await world.store.claim(KEY, "u1", "here", 0)
        await world.store.steer(KEY, "u1", _message("u2", "u1"))
        for duplicate in (False, True):
            place = await places.find(_receipt(duplicate=duplicate, turn_id="u1"), "u2")
            assert (place.message_id, place.turn_id, place.before) == ("u2", "u1", Cursor(1, 1))

    hubbing(test)


def test_a_message_that_is_not_answered_has_no_turn() -> None:
    async def test(world: World) -> None:
        places = TurnPlaces(world.store, world.log, world.epochs)
        await world.store_message("note")
        place = await places.find(_receipt(duplicate=True, turn_id=None), "note")
        assert (place.turn_id, place.before) == (None, Cursor(1, 1))
        events = await places.events(place, 1, 2)
        assert events is not None
        found = decode_durable(events[0])
        assert isinstance(found, Message)
        assert (found.id, found.seq) == ("note", 2)

    hubbing(test)


def test_the_events_of_an_epoch_that_is_over_are_not_told() -> None:
    async def test(world: World) -> None:
        places = TurnPlaces(world.store, world.log, world.epochs)
        await _submit(world, "u1", place=True)
        place = await places.find(_receipt(duplicate=True, turn_id="u1"), "u1")
        await world.log.drop(KEY)
        assert await places.events(place, 1, 2) is None

    hubbing(test)
