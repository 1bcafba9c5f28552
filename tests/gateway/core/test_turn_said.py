"""Resources that messages name, read before they are given to a step (docs/protocol.md, Resources of a message)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gateway.core.resources import READ_RESOURCE
from gateway.core.turn import TurnMachine
from gateway.core.turn_effects import Append, CallModel, Effect, Park, RunTool, Store
from gateway.core.turn_said import TurnSaid
from gateway.core.turn_state import Phase, Recovered, Written
from protocol.frames import DurableEvent, Message, MessageStart, ToolCall
from tests.gateway.core.turn_parts import (
    CLIENT,
    assistant,
    called,
    decided,
    machine,
    responded,
    said,
    statuses,
    stored,
    the_end,
)
from tests.gateway.core.turn_rig import CONTEXT, TURN, user_message

FIRST, SECOND = f"read_{TURN}_0", f"read_{TURN}_1"


def reading(id: str, uri: str) -> ToolCall:
    return ToolCall(
        context_id=CONTEXT,
        turn_id=TURN,
        id=id,
        tool=READ_RESOURCE,
        parameters={"uri": uri},
        timestamp="now",
        runs_on="server",
    )


def begin(
    *later: DurableEvent, resources: Sequence[str] = ("docs:a", "docs:b"), **found: Any
) -> tuple[TurnMachine, list[Effect]]:
    turn = machine()
    events = [user_message(TURN, resources=resources), *later]
    return turn, turn.begin(Recovered(events=events, **found))


def begun(*messages: Message) -> TurnMachine:
    """A turn whose first step is being written when these messages steer it."""
    turn, _ = begin(resources=())
    for message in messages:
        assert turn.steer(message) == [Append(message)]
    return turn


# ---- the message of the turn


def test_a_turn_reads_what_its_message_names_before_its_first_step() -> None:
    turn, effects = begin()
    assert effects == [
        Store((reading(FIRST, "docs:a"), reading(SECOND, "docs:b"))),
        RunTool(FIRST, READ_RESOURCE, {"uri": "docs:a"}),
        RunTool(SECOND, READ_RESOURCE, {"uri": "docs:b"}),
    ]
    assert turn.phase is Phase.CALLS
    assert [type(effect) for effect in turn.tool_done(SECOND, "success", {"text": "b"})] == [Store]
    assert turn.tool_done(FIRST, "error", "no such resource")[-1] == CallModel("msg_0", 0)
    assert the_end(turn.finish("stop", None)).steps == 1


def test_a_read_of_the_message_can_be_cancelled_like_any_call() -> None:
    turn, _ = begin(resources=["docs:a"])
    effects = turn.cancel_call(FIRST)
    assert statuses(effects) == ["cancelled"]
    assert effects[-1] == CallModel("msg_0", 0)
    turn, _ = begin()
    effects = turn.cancel()
    assert statuses(effects) == ["cancelled", "cancelled"]
    assert the_end(effects).steps == 0


def test_a_runner_that_takes_over_reads_nothing_twice() -> None:
    reads = [reading(FIRST, "docs:a"), reading(SECOND, "docs:b")]
    _, effects = begin(*reads, responded(FIRST), begun_before=True)
    assert effects == [RunTool(SECOND, READ_RESOURCE, {"uri": "docs:b"})]
    _, effects = begin(*reads, responded(FIRST), interrupted=frozenset({SECOND}), begun_before=True)
    assert statuses(effects) == ["interrupted"]
    assert effects[-1] == CallModel("msg_0", 0)
    _, effects = begin(*reads, responded(FIRST), responded(SECOND), begun_before=True)
    assert [event.attempt for event in said(effects) if isinstance(event, MessageStart)] == [2]


def test_a_runner_that_was_gone_before_they_were_stored_is_followed_by_one_that_reads() -> None:
    turn, effects = begin(begun_before=True)
    assert [type(effect) for effect in effects] == [Store, RunTool, RunTool]
    turn.tool_done(FIRST, "success", None)
    turn.tool_done(SECOND, "success", None)
    assert turn.phase is Phase.MODEL


# ---- steering messages


def test_a_steering_message_is_read_when_the_step_is_over() -> None:
    turn = begun(user_message("msg_steer", resources=["docs:a"]), user_message("msg_plain"))
    effects = turn.finish("stop", None)
    assert stored(effects)[1:] == [reading("read_msg_steer_0", "docs:a")]
    assert effects[-1] == RunTool("read_msg_steer_0", READ_RESOURCE, {"uri": "docs:a"})
    assert turn.tool_done("read_msg_steer_0", "success", None)[-1] == CallModel("msg_1", 0, "msg_plain")
    assert the_end(turn.finish("stop", None)).steps == 2


def test_it_is_read_while_calls_run_or_wait() -> None:
    turn = begun()
    turn.call("browser", {}, CLIENT)
    assert turn.finish("stop", None)[-1] == Park()
    steer = user_message("msg_steer", resources=["docs:a"])
    effects = turn.steer(steer)
    assert effects[0] == Append(steer)
    assert effects[-1] == RunTool("read_msg_steer_0", READ_RESOURCE, {"uri": "docs:a"})
    assert turn.phase is Phase.CALLS
    assert turn.tool_done("read_msg_steer_0", "success", None)[-1] == Park()


def test_where_no_step_follows_nothing_is_read() -> None:
    turn = machine(max_steps=1)
    turn.begin(Recovered(events=[user_message(TURN)]))
    turn.steer(user_message("msg_steer", resources=["docs:a"]))
    assert the_end(turn.finish("stop", None)).status == "max_steps"


def test_a_message_that_readers_see_goes_on_before_anything_is_read_for_the_next() -> None:
    """Else a turn that is cancelled meanwhile would leave it open."""
    steers = [user_message("msg_one"), user_message("msg_two", resources=["docs:a"]), user_message("msg_three")]
    turn, effects = begin(*steers, resources=(), live=Written("msg_0", 1, "so far"), begun_before=True)
    assert effects[-1] == CallModel("msg_0", 0, "msg_one")
    effects = turn.finish("stop", None)
    assert [event.reads for event in stored(effects) if isinstance(event, Message)] == ["msg_one"]
    assert effects[-1] == RunTool("read_msg_two_0", READ_RESOURCE, {"uri": "docs:a"})
    assert turn.tool_done("read_msg_two_0", "success", None)[-1] == CallModel("msg_1", 0, "msg_three")


def test_a_torn_message_is_closed_and_then_what_steers_is_read() -> None:
    steer = user_message("msg_steer", resources=["docs:a"])
    _, effects = begin(called("tool_1"), steer, resources=(), live=Written("msg_0", 1, "torn"), begun_before=True)
    assert [type(event) for event in stored(effects)] == [Message, ToolCall]
    assert [effect.call_id for effect in effects if isinstance(effect, RunTool)] == ["tool_1", "read_msg_steer_0"]


def test_what_steered_an_earlier_step_is_read_no_more() -> None:
    steer = user_message("msg_steer", resources=["docs:a"])
    calls = [called("tool_1"), assistant("msg_0", ""), decided("tool_1", approved=True), responded("tool_1")]
    reads = [steer, reading("read_msg_steer_0", "docs:a"), responded("read_msg_steer_0")]
    _, effects = begin(*calls, *reads, resources=())
    assert effects[-1] == CallModel("msg_1", 0, "msg_steer")


# ---- what was said


def test_what_a_step_is_given_ends_before_what_is_not_read() -> None:
    told = TurnSaid(TURN, lambda message_id, place: f"{message_id}/{place}")
    for message in (
        user_message(TURN, resources=["docs:a"]),
        user_message("one"),
        user_message("two", resources=["b"]),
    ):
        told.add(message)
    assert told.missing(()) == [(f"{TURN}/0", "docs:a"), ("two/0", "b")]
    assert told.unread
    assert told.give({f"{TURN}/0"}) == "one"
    assert told.unread
    assert told.give({f"{TURN}/0", "two/0"}) == "two"
    assert not told.unread
    told.note_given("one")
    told.note_given("somebody else's")
    told.note_given(None)
    assert not told.unread
    assert told.missing(()) == [(f"{TURN}/0", "docs:a")]
