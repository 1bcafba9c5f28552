"""What the client's state promises, one socket after another, and under any interleaving of cuts."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.client_effects import Deliver, Dropped, IllegalTransition, Opened, Phase, Renew, Resubscribe, Settled
from gateway.client_state import ClientState
from protocol.frames import (
    Ack,
    Auth,
    Cancel,
    ContextChanged,
    Delta,
    Error,
    Expiring,
    GoAway,
    Hello,
    Limits,
    Ping,
    SendMessage,
    Snapshot,
    Subscribe,
    Subscribed,
    Unsubscribe,
)
from protocol.ids import Cursor
from tests.gateway.client_rig import Cable, PureGateway, message, ready


def _open() -> ClientState:
    state = ClientState()
    state.hello("token")
    state.receive(ready())
    return state


def _follow(state: ClientState, context_id: str = "c") -> None:
    state.submit(SendMessage(id=f"first_{context_id}", content="hi", context_id=context_id))
    state.next_frame()
    state.receive(Ack(id=f"first_{context_id}", context_id=context_id, epoch="1", seq=1))
    state.receive(message(context_id, f"first_{context_id}", 1))


def _error(**fields: object) -> Error:
    return Error(**{"code": "unavailable", "message": "away", "retryable": True, **fields})  # type: ignore[arg-type]


def test_hello_counts_its_attempts_and_names_session_and_cursors() -> None:
    state = ClientState()
    assert state.hello("t") == Hello(token="t", attempt=1, cursors={}, tools=[])
    state.receive(ready("sess_9"))
    _follow(state)
    state.submit(SendMessage(id="m2", content="x", context_id="other"))
    state.lost()
    again = state.hello("t2")
    assert (again.attempt, again.session_id, again.token) == (2, "sess_9", "t2")
    assert again.cursors == {"c": "1:1"}


def test_nothing_is_written_before_ready_and_never_more_than_the_limit() -> None:
    state = ClientState()
    for place in range(6):
        state.submit(SendMessage(id=f"m{place}", content="x"))
    state.hello("t")
    assert state.next_frame() is None
    assert state.receive(ready()) == [Opened(ready())]
    written = [state.next_frame() for _ in range(6)]
    assert [getattr(frame, "id", None) for frame in written] == ["m0", "m1", "m2", "m3", None, None]
    state.receive(Ack(id="m0", context_id="c0", epoch="1", seq=1))
    frame = state.next_frame()
    assert frame is not None
    assert not isinstance(frame, Hello)
    assert frame.id == "m4"


def test_what_was_not_acknowledged_is_written_again_in_order() -> None:
    state = _open()
    for place in range(3):
        state.submit(Cancel(id=f"c{place}", context_id="x"))
        state.next_frame()
    state.submit(Auth(id="a", token="t"), passing=True)
    state.next_frame()
    assert state.receive(Ack(id="c1", duplicate=True)) == [Settled("c1", Ack(id="c1", duplicate=True))]
    assert state.receive(Ack(id="c1")) == []
    state.lost()
    state.hello("t")
    state.receive(ready())
    assert [state.next_frame(), state.next_frame(), state.next_frame()] == [
        Cancel(id="c0", context_id="x"),
        Cancel(id="c2", context_id="x"),
        None,
    ]


def test_the_same_id_twice_is_one_frame_and_hello_is_not_the_users() -> None:
    state = _open()
    state.submit(Ping(id="p"))
    state.submit(Ping(id="p"))
    assert state.waiting == 1
    with pytest.raises(TypeError):
        state.submit(Hello())


def test_only_what_was_never_written_is_withdrawn() -> None:
    state = _open()
    state.submit(Ping(id="p"))
    state.submit(Ping(id="q"))
    state.next_frame()
    assert not state.withdraw("p")
    assert state.withdraw("q")
    assert not state.withdraw("q")
    assert state.next_frame() is None
    assert state.waiting == 1


def test_a_frame_that_the_next_instance_finds_too_large_is_refused_here() -> None:
    state = _open()
    state.submit(SendMessage(id="big", content="x" * 500))
    state.lost()
    state.hello("t")
    small = Limits(max_frame_bytes=100, max_unacked=64, messages_per_minute=1)
    effects = state.receive(ready(limits=small))
    assert [effect.id for effect in effects if isinstance(effect, Settled)] == ["big"]
    assert state.next_frame() is None


def test_an_ack_of_a_first_event_begins_the_context_and_any_other_waits_for_a_snapshot() -> None:
    state = _open()
    for key, seq in (("new", 1), ("old", 7)):
        state.submit(SendMessage(id=key, content="x", context_id=key))
        state.next_frame()
        state.receive(Ack(id=key, context_id=key, epoch="3", seq=seq))
    assert state.followed["new"].cursor == Cursor(3, 0)
    assert state.followed["old"].cursor is None


def test_an_ack_that_did_not_subscribe_is_followed_by_subscribe() -> None:
    state = _open()
    state.submit(SendMessage(id="m", content="x", context_id="c"))
    state.next_frame()
    state.receive(Ack(id="m", context_id="c", seq=1))
    frame = state.next_frame()
    assert isinstance(frame, Subscribe)
    assert (frame.context_id, frame.cursor) == ("c", None)


def test_a_gap_subscribes_from_the_cursor_and_hears_nothing_until_confirmed() -> None:
    state = _open()
    _follow(state)
    assert state.receive(message("c", "late", 3)) == []
    frame = state.next_frame()
    assert isinstance(frame, Subscribe)
    assert frame.cursor == "1:1"
    assert state.receive(message("c", "stale", 2)) == []
    assert state.receive(Subscribed(context_id="c", epoch="1", seq=1, id=frame.id)) == []
    event = message("c", "two", 2)
    assert state.receive(event) == [Deliver(event)]
    assert state.next_frame() is None


def test_a_gap_that_stays_is_closed_by_a_snapshot() -> None:
    state = _open()
    _follow(state)
    lost = Delta(context_id="c", message_id="never_begun", text="x", seq=2)
    cursors: list[str | None] = []
    for _ in range(2):
        state.receive(lost)
        frame = state.next_frame()
        assert isinstance(frame, Subscribe)
        cursors.append(frame.cursor)
        state.receive(Subscribed(context_id="c", epoch="1", seq=1, id=frame.id))
    assert cursors == ["1:1", None]
    snapshot = Snapshot(context_id="c", epoch="1", seq=5, events=[], has_more=False, partial=[], running=[])
    assert state.receive(snapshot) == [Deliver(snapshot)]
    assert state.followed["c"].cursor == Cursor(1, 5)


def test_a_context_that_is_gone_is_dropped_and_one_that_is_away_is_tried_again() -> None:
    state = _open()
    _follow(state, "gone")
    _follow(state, "away")
    state.lost()
    state.hello("t")
    state.receive(ready())
    gone = _error(code="not_found", retryable=False, path="cursors.gone")
    assert state.receive(gone) == [Dropped("gone", gone)]
    assert state.receive(_error(path="cursors.away", retry_after=3.0)) == [Resubscribe("away", 3.0)]
    assert list(state.followed) == ["away"]
    state.resubscribe("away")
    frame = state.next_frame()
    assert isinstance(frame, Subscribe)
    assert state.receive(_error(id=frame.id)) == [Resubscribe("away", 1.0)]
    assert state.receive(_error(path="cursors.unknown")) == []


def test_a_deleted_context_is_told_then_dropped() -> None:
    state = _open()
    _follow(state)
    event = ContextChanged(context_id="c", seq=2, deleted=True)
    assert state.receive(event) == [Deliver(event), Dropped("c", None)]
    assert state.receive(message("c", "x", 3)) == []


def test_subscribe_and_unsubscribe() -> None:
    state = _open()
    state.submit(Subscribe(id="s", context_id="c"))
    state.next_frame()
    told = Subscribed(context_id="c", epoch="1", seq=4, id="s")
    assert state.receive(told) == [Settled("s", told)]
    assert "c" in state.followed
    state.submit(Unsubscribe(id="u", context_id="c"))
    assert "c" not in state.followed
    state.next_frame()
    assert state.receive(Ack(id="u")) == [Settled("u", Ack(id="u"))]


def test_a_users_subscribe_to_what_came_to_be_followed_goes_on_from_its_cursor() -> None:
    state = _open()
    state.submit(SendMessage(id="m", content="x", context_id="c"))
    state.next_frame()
    state.submit(Subscribe(id="s", context_id="c"))
    state.receive(Ack(id="m", context_id="c", epoch="1", seq=1))
    state.receive(message("c", "m", 1))
    frame = state.next_frame()
    assert frame == Subscribe(id="s", context_id="c", cursor="1:1")
    assert state.receive(message("c", "n", 2)) == [], "it comes again after the answer"
    refusal = _error(id="s", retry_after=2.0)
    assert state.receive(refusal) == [Settled("s", refusal), Resubscribe("c", 2.0)]


def test_a_draining_instance_is_sent_nothing_and_its_refusals_don_t_count() -> None:
    state = _open()
    state.submit(Cancel(id="a", context_id="x"))
    state.next_frame()
    state.submit(Cancel(id="b", context_id="x"))
    assert state.receive(GoAway(reason="r", retry_after=4.0)) == []
    assert state.phase is Phase.DRAINING
    assert state.next_frame() is None
    assert state.receive(_error(id="a")) == []
    assert state.goaway == GoAway(reason="r", retry_after=4.0)
    state.lost()
    state.hello("t")
    state.receive(ready())
    assert [state.next_frame(), state.next_frame()] == [
        Cancel(id="a", context_id="x"),
        Cancel(id="b", context_id="x"),
    ]


def test_the_session_of_an_earlier_client_is_taken_over_with_what_it_followed() -> None:
    state = ClientState(session_id="sess_old")
    assert state.hello("t").cursors is None
    state.receive(ready("sess_old", resumed=True))
    probe = state.next_frame()
    assert isinstance(probe, Ping)
    state.receive(Subscribed(context_id="a", epoch="1", seq=3))
    state.lost()
    assert state.hello("t").cursors is None, "more of them may have been to come"
    state.receive(ready("sess_old", resumed=True))
    probe = state.next_frame()
    assert isinstance(probe, Ping)
    state.receive(Error(code="internal", message="x", retryable=True, id=probe.id))
    state.lost()
    assert state.hello("t").cursors == {"a": None}


def test_expiry_and_foreign_answers() -> None:
    state = _open()
    assert state.receive(Expiring(expires_in=60)) == [Renew(60.0)]
    assert state.receive(_error(id="unknown")) == []
    state.submit(Auth(id="a", token="t"), passing=True)
    state.next_frame()
    refused = _error(id="a", code="unauthenticated", retryable=False)
    assert state.receive(refused) == []
    assert state.last_error == refused
    with pytest.raises(IllegalTransition):
        state.receive(ready())
    assert state.phase is Phase.READY


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.sampled_from(["a", "b", None])),
        st.tuples(st.sampled_from(["foreign", "speak", "forget", "steal"]), st.sampled_from(["a", "b"])),
        st.tuples(st.sampled_from(["open", "connect", "write", "carry", "exchange", "read", "read", "cut"]), st.none()),
    ),
    max_size=80,
)


@settings(max_examples=400, deadline=None)
@given(STEPS)
@example([("foreign", "a"), ("open", None), ("send", "a"), ("exchange", None), ("read", None), ("cut", None)])
def test_any_interleaving_of_cuts_stores_each_message_once_and_delivers_each_event_once(
    steps: list[tuple[str, str | None]],
) -> None:
    gateway = PureGateway()
    cable = Cable(ClientState(), gateway)
    sent: list[str] = []
    for step, where in steps:
        match step:
            case "send":
                sent.append(f"m{len(sent)}")
                cable.state.submit(SendMessage(id=sent[-1], content=f"text {len(sent)}", context_id=where))
            case "foreign" if where is not None:
                # Another device writes to the context, or makes it.
                seq = gateway.next_seq(where)
                cable.down.extend(gateway.append(where, message(where, f"foreign_{seq}", seq)))
            case "speak" if where in gateway.logs:
                cable.down.extend(gateway.speak(where, f"t{gateway.next_seq(where)}", 3))
            case "forget" if where in gateway.logs:
                gateway.bases[where] = len(gateway.logs[where])
            case "steal" if where is not None:
                # A frame that gets lost on the way, as no gateway should let it: the gap must be seen.
                lost = next((f for f in cable.down if isinstance(f, Delta) and f.context_id == where), None)
                if lost is not None:
                    cable.down.remove(lost)
            case "open":
                cable.connect()
                cable.carry()
                cable.read()
            case "connect":
                cable.connect()
            case "exchange":
                cable.write()
                while cable.up:
                    cable.carry()
            case "cut":
                cable.cut()
            case "write":
                cable.write()
            case "carry":
                cable.carry()
            case "read":
                cable.read()
            case _:
                pass
    cable.settle()
    assert gateway.order == sent
    assert sorted(s.id for s in cable.settled) == sorted(sent)
    assert cable.state.waiting == 0
    assert set(cable.state.followed) == set(gateway.stored.values())
    for context_id, transcript in cable.state.followed.items():
        fold = gateway.fold(context_id)
        for reader in (transcript, cable.delivered[context_id]):
            assert reader.cursor == fold.cursor
            assert reader.events == fold.events
            assert reader.partial == fold.partial
