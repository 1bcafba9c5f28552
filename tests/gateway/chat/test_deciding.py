from __future__ import annotations

from typing import Any

from gateway.chat.deciding import Deciding, Decision, Taken
from gateway.chat.view import View
from protocol.frames import ToolCall
from tests.gateway.chat.events import call, response

FORM = {"properties": {"city": {"type": "string"}, "nights": {"type": "integer"}}, "required": ["nights"]}


def asks(view: View, *calls: ToolCall) -> None:
    for each in calls:
        view.take(each)


def question(id: str, schema: Any = None) -> ToolCall:
    asked = {"message": "Which?"} if schema is None else {"message": "Which?", "schema": schema}
    return call(id, "t", message_id=None, approval="required", asked_by="x", parameters=asked)


def test_calls_are_decided_one_by_one() -> None:
    view = View()
    deciding = Deciding(view)
    assert (deciding.call, deciding.prompt) == (None, None)
    assert deciding.enter("y") is None
    first, second = call("a", "t", approval="required"), call("b", "t", approval="required")
    asks(view, first, second)
    assert deciding.prompt == "allow dig? [y/n] "
    assert deciding.enter("what is this?") is None
    assert deciding.enter(" Yes ") == Decision(first, True)
    assert deciding.decide(approved=False, reason="no") == Decision(second, False, reason="no")
    assert deciding.prompt is None
    assert deciding.decide(approved=True) is None


def test_a_question_is_filled_in_line_by_line() -> None:
    view = View()
    deciding = Deciding(view)
    asked = question("q", FORM)
    asks(view, asked)
    assert deciding.prompt == "city [Enter: none]: "
    assert deciding.enter("n") == Taken()
    assert deciding.enter("three") == Taken("this is no whole number")
    assert deciding.decide(approved=True) == Taken("there is more to fill in; /deny declines")
    assert deciding.enter("3") == Decision(asked, True, {"city": "n", "nights": 3})
    assert deciding.prompt is None


def test_a_question_without_a_form_is_a_yes_or_no() -> None:
    view = View()
    deciding = Deciding(view)
    first, second = question("q1"), question("q2")
    asks(view, first, second)
    assert deciding.prompt == "accept? [y/n] "
    assert deciding.enter("") is None
    assert deciding.enter("y") == Decision(first, True)
    assert deciding.enter("n") == Decision(second, False)


def test_a_question_is_declined_in_the_middle() -> None:
    view = View()
    deciding = Deciding(view)
    asked = question("q", FORM)
    asks(view, asked)
    deciding.enter("Rome")
    assert deciding.decide(approved=False) == Decision(asked, False)


def test_what_another_device_answers_is_asked_no_more() -> None:
    view = View()
    deciding = Deciding(view)
    asks(view, question("q1", FORM), question("q2", FORM))
    deciding.enter("Rome")
    view.take(response("q1", "t"))
    assert deciding.prompt == "city [Enter: none]: "
    deciding.enter("Oslo")
    assert deciding.enter("1") == Decision(question("q2", FORM), True, {"city": "Oslo", "nights": 1})
