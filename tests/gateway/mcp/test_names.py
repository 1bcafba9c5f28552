from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.mcp.names import SERVER_NAME, Dropped, Named, NameRules, name_tools, tool_name
from gateway.testing.mcp_script import BAD_NAMES
from gateway.tools.native import TOOL_NAME

LEGAL = st.text("abAB0_-", min_size=1, max_size=12)
SERVERS = LEGAL.filter(lambda name: SERVER_NAME.fullmatch(name) is not None)


def test_a_tool_is_named_after_its_server() -> None:
    assert tool_name("github", "create_issue") == "github__create_issue"
    assert tool_name("files", "read/the file.now") == "files__read_the_file_now"


def test_a_long_name_keeps_its_beginning_and_is_told_from_others() -> None:
    one, other = tool_name("s", "x" * 200), tool_name("s", "x" * 200 + "y")
    assert one != other
    assert len(one) == len(other) == 64
    assert one.startswith("s__xxxx")
    assert tool_name("s", "x" * 61) == "s__" + "x" * 61


def test_rules_say_which_are_offered_and_as_what() -> None:
    rules = NameRules(include=("read_*", "list"), exclude=("*_secret",), rename={"read_file": "cat", "away": "x"})
    named = name_tools("fs", ["read_file", "read_secret", "list", "write_file"], rules)
    assert named == Named({"cat": "read_file", "fs__list": "list"}, [])


def test_a_new_name_is_made_legal_too() -> None:
    assert tool_name("s", "t", {"t": "my tool"}) == "my_tool"
    assert tool_name("s", "t", {"t": ""}) == "s__t"


def test_of_two_that_become_one_the_first_stays() -> None:
    named = name_tools("s", ["a b", "a/b"])
    assert named == Named({"s__a_b": "a b"}, [Dropped("a/b", "'a b' is named 's__a_b' too")])


def test_no_name_that_is_changed_takes_the_place_of_one_that_is_not() -> None:
    named = name_tools("s", ["pay now", "other", "pay_now"])
    assert named.tools == {"s__other": "other", "s__pay_now": "pay_now"}
    assert [dropped.tool for dropped in named.dropped] == ["pay now"]


def test_a_tool_without_a_name_and_one_that_is_listed_twice() -> None:
    named = name_tools("s", ["", "a", "a"])
    assert named == Named({"s__a": "a"}, [Dropped("", "it has no name")])


def test_names_of_a_hostile_server() -> None:
    named = name_tools("s", BAD_NAMES)
    assert all(TOOL_NAME.fullmatch(name) for name in named.tools)
    assert {dropped.tool for dropped in named.dropped} == {"a b", "a.b", "a/b", ""}
    assert all(len(dropped.tool) < 70 and len(dropped.reason) < 200 for dropped in named.dropped)


def test_names_of_servers() -> None:
    good = ["github", "my-server", "a_b", "9", "-", "x" * 32]
    bad = ["", "a__b", "a_", "__", "a b", "ü", "x" * 33, "a\n"]
    assert [name for name in good + bad if SERVER_NAME.fullmatch(name)] == good


@given(SERVERS, st.lists(st.text(max_size=80) | LEGAL))
def test_every_name_is_legal_and_of_one_tool(server: str, tools: list[str]) -> None:
    named = name_tools(server, tools)
    assert all(TOOL_NAME.fullmatch(name) for name in named.tools)
    assert all(name == tool_name(server, tool) for name, tool in named.tools.items())
    assert sorted([*named.tools.values(), *{dropped.tool for dropped in named.dropped}]) == sorted(set(tools)) or any(
        len(tool) > 64 for tool in tools
    )
    # Who needs no change has the name, whatever others there are.
    assert all(
        named.tools.get(f"{server}__{tool}") == tool
        for tool in tools
        if TOOL_NAME.fullmatch(f"{server}__{tool}") and tool
    )


@given(SERVERS, LEGAL, SERVERS, LEGAL)
def test_no_server_can_take_the_name_of_anothers_tool(one: str, tool: str, other: str, another: str) -> None:
    if one != other:
        assert tool_name(one, tool) != tool_name(other, another)
