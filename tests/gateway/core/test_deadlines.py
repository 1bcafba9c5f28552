"""Until when calls wait for clients and people, and what a turn makes of it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from gateway.core.deadlines import Deadlines, Waits, since_when
from gateway.core.turn import TurnMachine
from gateway.core.turn_effects import Append, CallModel, Effect, Expire, Park, Route
from gateway.core.turn_state import CallState, Phase, Recovered, TurnCall
from protocol.frames import ToolCall, ToolResponse
from tests.gateway.core.turn_parts import ASK, CLIENT, begun, called, decided, expired, machine, responded, stored
from tests.gateway.core.turn_rig import TURN, user_message

WAITS = Waits(client=10, approval=60)
CLIENT_ASKED = Route(runs_on="client", session_id="sess_1", ask=True)
QUESTION = replace(called("q", None, ASK), asked_by="k")


def _waiting(waits: Waits, **calls: Route) -> tuple[Deadlines, list[TurnCall]]:
    deadlines = Deadlines(waits)
    deadlines.note(dict.fromkeys(calls, 100.0))
    return deadlines, [TurnCall(called(id, route=route)) for id, route in calls.items()]


def _timeouts(effects: list[Effect]) -> list[tuple[str, Any]]:
    events = [event for effect in effects if isinstance(effect, Expire) for event in effect.events]
    assert all(event.status == "timeout" for event in events)
    return [(event.tool_call_id, event.result) for event in events]


# ---- deadlines


@pytest.mark.parametrize(
    ("waits", "first"),
    [(WAITS, 110.0), (Waits(client=70, approval=60), 160.0), (Waits(approval=60), 160.0), (Waits(), None)],
)
def test_the_first_of_several_counts(waits: Waits, first: float | None) -> None:
    deadlines, calls = _waiting(waits, asked=ASK, client=CLIENT, here=Route())
    assert deadlines.first(calls) == first


def test_what_has_waited_long_enough_is_told_in_words() -> None:
    deadlines, calls = _waiting(WAITS, asked=ASK, client=CLIENT, here=Route())
    assert deadlines.passed(calls, 109.9) == []
    ((late, words),) = deadlines.passed(calls, 110.0)
    assert (late.event.id, words) == (
        "client",
        "The user's device did not answer within 10 s; whether it had an effect is not known.",
    )
    ((late, words),) = [each for each in deadlines.passed(calls, 160.0) if each[0] is calls[0]]
    assert words == "Nobody decided within 60 s whether it may run, so it did not."


def test_a_call_counts_from_what_was_noted_last_and_not_before_anything_was() -> None:
    deadlines, (call,) = _waiting(WAITS, k=CLIENT)
    assert deadlines.first([TurnCall(called("unknown", route=CLIENT))]) is None
    deadlines.note({"k": 200.0})
    assert deadlines.first([call]) == 210.0


def test_what_is_answered_or_runs_or_is_a_question_waits_for_nobody() -> None:
    deadlines, (call,) = _waiting(WAITS, k=CLIENT)
    deadlines.note({"q": 100.0})
    for state in (CallState.READY, CallState.RUNNING, CallState.DENIED, CallState.ANSWERED):
        call.state = state
        assert deadlines.passed([call, TurnCall(QUESTION)], 1e9) == []


def test_calls_can_be_acted_on_since_they_were_stored_or_decided() -> None:
    events = [user_message(TURN), called("a"), called("b", route=ASK), decided("b", approved=True), responded("a")]
    assert since_when((event, float(at)) for at, event in enumerate(events)) == {"a": 1.0, "b": 3.0}


# ---- turns


def _parked(route: Route) -> tuple[TurnMachine, ToolCall, list[Effect]]:
    """A turn that waits since 100 s for whoever the route names, and what it did last."""
    turn = begun(waits=WAITS)
    (call,) = stored(turn.call("charge", {"amount": 1}, route))
    assert isinstance(call, ToolCall)
    turn.stored(call.id, 100.0)
    return turn, call, turn.finish("stop", None)


@pytest.mark.parametrize(("route", "wake_at"), [(CLIENT, 110.0), (ASK, 160.0), (CLIENT_ASKED, 160.0)])
def test_a_turn_that_waits_is_parked_until_its_first_deadline(route: Route, wake_at: float) -> None:
    turn, call, effects = _parked(route)
    assert effects[-1] == Park(wake_at)
    assert turn.tick(wake_at - 0.1) == []
    late = expired(turn, turn.tick(wake_at))
    assert [id for id, _ in _timeouts(late)] == [call.id]
    assert late[-1] == CallModel("msg_1", 0)
    assert turn.tick(1e9) == []


def test_a_client_has_its_time_from_the_approval_on() -> None:
    turn, call, _ = _parked(CLIENT_ASKED)
    approval = decided(call.id, approved=True)
    assert turn.approval(approval, 150.0) == [Append(approval), Park(160.0)]
    assert turn.tick(159.0) == []
    assert [id for id, _ in _timeouts(turn.tick(160.0))] == [call.id]


def test_an_answer_that_came_in_time_is_the_answer() -> None:
    turn, call, _ = _parked(CLIENT)
    answer = responded(call.id)
    assert turn.answered(answer)[0] == Append(answer)
    assert turn.tick(1e9) == []


def test_a_deadline_that_passes_while_the_model_talks_leaves_it_talking() -> None:
    turn = begun(waits=WAITS)
    (call,) = stored(turn.call("charge", {"amount": 1}, CLIENT))
    assert isinstance(call, ToolCall)
    assert turn.tick(1e9) == [], "it is not stored yet"
    turn.stored(call.id, 100.0)
    late = expired(turn, turn.tick(110.0))
    assert [type(effect) for effect in late] == [Expire]
    assert turn.phase is Phase.MODEL
    assert turn.finish("stop", None)[-1] == CallModel("msg_1", 0)


def test_one_that_waits_beside_another_is_waited_for_on() -> None:
    turn = begun(waits=WAITS)
    calls = [*stored(turn.call("charge", {}, CLIENT)), *stored(turn.call("charge", {}, ASK))]
    for call in calls:
        assert isinstance(call, ToolCall)
        turn.stored(call.id, 100.0)
    assert turn.finish("stop", None)[-1] == Park(110.0)
    late = expired(turn, turn.tick(110.0))
    assert len(_timeouts(late)) == 1
    assert late[-1] == Park(160.0)


@pytest.mark.parametrize(
    ("stored_before", "since", "now", "expected"),
    [
        ([called("k", route=CLIENT)], 100.0, 109.0, Park(110.0)),
        ([called("k", route=CLIENT)], 100.0, 110.0, None),
        ([called("k", route=CLIENT_ASKED)], 100.0, 159.0, Park(160.0)),
        ([called("k", route=CLIENT_ASKED), decided("k", approved=True)], 150.0, 159.0, Park(160.0)),
        ([called("k", route=CLIENT_ASKED), decided("k", approved=True)], 150.0, 160.0, None),
    ],
)
def test_whoever_takes_the_turn_over_finds_the_same_deadline(
    stored_before: list[Any], since: float, now: float, expected: Park | None
) -> None:
    turn = machine(waits=WAITS)
    found = Recovered(events=[user_message(TURN), *stored_before], since={"k": since}, now=now)
    effects = expired(turn, turn.begin(found))
    if expected is not None:
        assert effects[-1] == expected
        assert _timeouts(effects) == []
    else:
        assert [id for id, _ in _timeouts(effects)] == ["k"]
        assert isinstance(effects[-1], CallModel)


def test_whoever_came_at_the_last_moment_is_heard() -> None:
    turn = begun(waits=WAITS)
    calls = [*stored(turn.call("charge", {}, CLIENT)), *stored(turn.call("charge", {}, CLIENT_ASKED))]
    client, asked = [call.id for call in calls if isinstance(call, ToolCall)]
    turn.stored(client, 150.0)
    turn.stored(asked, 100.0)
    turn.finish("stop", None)
    late = turn.tick(160.0)
    assert [(effect.undecided, len(effect.events)) for effect in late if isinstance(effect, Expire)] == [({asked}, 2)]
    assert expired(turn, late, acted=[client, asked]) == late, "nothing is over"
    approval, answer = decided(asked, approved=True), responded(client)
    assert turn.approval(approval, 160.0) == [Append(approval), Park(160.0)]
    assert turn.answered(answer) == [Append(answer), Park(170.0)]
    assert [id for id, _ in _timeouts(turn.tick(170.0))] == [asked]


def test_the_rest_is_answered_and_waits_for_those_who_came() -> None:
    turn = begun(waits=WAITS)
    calls = [*stored(turn.call("charge", {}, CLIENT)), *stored(turn.call("charge", {}, CLIENT))]
    one, other = [call.id for call in calls if isinstance(call, ToolCall)]
    turn.stored(one, 100.0)
    turn.stored(other, 100.0)
    turn.finish("stop", None)
    # The store refuses to park as long as the answer is unread.
    assert expired(turn, turn.tick(110.0), acted=[other])[-1] == Park(110.0)
    assert isinstance(turn.answered(responded(other))[-1], CallModel)


def test_a_cancel_that_was_stored_comes_before_the_clock() -> None:
    turn = machine(waits=WAITS)
    events = [user_message(TURN), called("k", route=CLIENT)]
    effects = turn.begin(Recovered(events=events, since={"k": 0.0}, now=1e9, cancelled_calls=frozenset({"k"})))
    assert [e.status for e in stored(effects) if isinstance(e, ToolResponse)] == ["cancelled"]
