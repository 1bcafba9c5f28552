from __future__ import annotations

from itertools import product

import pytest

from gateway.core.session import (
    LEGAL,
    Effect,
    Handle,
    IllegalTransition,
    Open,
    Reply,
    SessionMachine,
    SessionState,
    Shut,
)
from protocol.errors import ProtocolError
from protocol.frames import Error, Hello, Ping, Pong, SendMessage

HELLO = Hello()
PING = Ping(id="p1")
MESSAGE = SendMessage(id="m1", content="hi")
BAD = ProtocolError("invalid_frame", "not a frame", frame_id="x1")

WAYS = {
    SessionState.HELLO: (),
    SessionState.OPENING: (SessionState.OPENING,),
    SessionState.READY: (SessionState.OPENING, SessionState.READY),
    SessionState.DRAINING: (SessionState.DRAINING,),
    SessionState.CLOSED: (SessionState.CLOSED,),
}


def session(state: SessionState = SessionState.READY, frames_per_minute: int = 6000) -> SessionMachine:
    machine = SessionMachine(frames_per_minute)
    for step in WAYS[state]:
        machine.go(step)
    return machine


def error_of(effects: list[Effect]) -> Error:
    (effect,) = effects
    assert isinstance(effect, Reply)
    assert isinstance(effect.frame, Error)
    return effect.frame


@pytest.mark.parametrize(("start", "target"), list(product(SessionState, SessionState)))
def test_a_transition_is_in_the_table_or_changes_nothing(start: SessionState, target: SessionState) -> None:
    machine = session(start)
    if target in LEGAL[start]:
        machine.go(target)
        assert machine.state is target
    else:
        with pytest.raises(IllegalTransition, match=f"{start.value} -> {target.value}"):
            machine.go(target)
        assert machine.state is start


def test_from_every_state_the_socket_can_close_and_that_is_the_end() -> None:
    assert all(SessionState.CLOSED in following for state, following in LEGAL.items() if state is not state.CLOSED)
    assert not LEGAL[SessionState.CLOSED]


def test_hello_opens_the_session_once() -> None:
    machine = session(SessionState.HELLO)
    assert machine.frame(HELLO, 0) == [Open(HELLO)]
    assert machine.state is SessionState.OPENING
    again = error_of(machine.frame(HELLO, 0))
    assert (again.code, again.path, again.id) == ("invalid_frame", "type", None)
    assert machine.state is SessionState.OPENING


def test_nothing_comes_before_hello() -> None:
    for frame in (MESSAGE, PING):
        machine = session(SessionState.HELLO)
        refused = error_of(machine.frame(frame, 0))
        assert (refused.code, refused.id) == ("invalid_frame", frame.id)
        assert machine.state is SessionState.HELLO


@pytest.mark.parametrize("state", [SessionState.OPENING, SessionState.READY])
def test_frames_are_handled_and_pings_answered(state: SessionState) -> None:
    machine = session(state)
    assert machine.frame(MESSAGE, 0) == [Handle(MESSAGE)]
    assert machine.frame(PING, 0) == [Reply(Pong(id="p1"))]


def test_a_draining_instance_takes_nothing_but_lives() -> None:
    machine = session(SessionState.DRAINING)
    assert machine.frame(PING, 0) == [Reply(Pong(id="p1"))]
    refused = error_of(machine.frame(MESSAGE, 0))
    assert (refused.code, refused.id, refused.retryable, refused.retry_after) == ("unavailable", "m1", True, 1)
    late = error_of(machine.frame(HELLO, 0))
    assert (late.code, late.id) == ("unavailable", None)
    assert machine.state is SessionState.DRAINING


def test_a_closed_socket_is_not_heard() -> None:
    machine = session(SessionState.CLOSED)
    assert machine.frame(MESSAGE, 0) == machine.frame(HELLO, 0) == machine.invalid(BAD, 0) == []


def test_the_twenty_first_invalid_frame_in_a_minute_closes() -> None:
    machine = session()
    for now in range(20):
        assert error_of(machine.invalid(BAD, now)).id == "x1"
    *_, last = machine.invalid(BAD, 59)
    assert last == Shut(4400)


def test_invalid_frames_that_come_slowly_are_only_answered() -> None:
    machine = session()
    assert all(len(machine.invalid(BAD, 3.5 * n)) == 1 for n in range(100))


def test_a_refused_order_of_frames_counts_as_invalid() -> None:
    machine = session(SessionState.HELLO)
    answers = [machine.frame(MESSAGE, 0) for _ in range(21)]
    assert [len(answer) for answer in answers] == [1] * 20 + [2]
    assert answers[-1][-1] == Shut(4400)


def test_a_flood_closes_and_says_when_to_come_back() -> None:
    machine = session(frames_per_minute=60)
    assert all(machine.frame(MESSAGE, 0) == [Handle(MESSAGE)] for _ in range(60))
    reply, shut = machine.frame(MESSAGE, 0)
    assert isinstance(reply, Reply)
    assert isinstance(reply.frame, Error)
    assert (reply.frame.code, reply.frame.id, reply.frame.retry_after) == ("rate_limited", "m1", 1)
    assert shut == Shut(4429)
    assert machine.frame(MESSAGE, 1) == [Handle(MESSAGE)]


def test_a_flood_of_hellos_has_no_id_to_answer() -> None:
    machine = session(frames_per_minute=1)
    machine.frame(PING, 0)
    reply, _ = machine.frame(HELLO, 0)
    assert isinstance(reply, Reply)
    assert reply.frame.id is None
