"""What the commands list."""

from __future__ import annotations

from gateway.chat.api import ContextLine, ToolLine
from gateway.chat.lists import context_list, model_list, tool_list


def test_conversations_have_a_number_a_title_and_a_time() -> None:
    named = ContextLine("conv_1", "2026-03-01T12:00:00.000Z", "Tides\x1b[2J")
    listed = context_list([named, ContextLine("conv_2", "yesterday")], "conv_2").splitlines()
    assert listed[0].startswith("   1  Tides[2J    2026-0")
    assert listed[0].endswith("  conv_1")
    assert listed[1] == "*  2  (no title)  yesterday  conv_2"
    assert context_list([], "c") == "you have no conversations yet"


def test_models_and_tools() -> None:
    assert model_list(["demo", "quick"], "quick") == "  demo\n* quick"
    tools = [ToolLine("wipe", "Wipe\na disk", "server", "required"), ToolLine("locate", "", "client")]
    assert tool_list(tools) == "wipe (asks first)  Wipe a disk\nlocate (of a client)  "
    assert tool_list([]) == "there are no tools"
