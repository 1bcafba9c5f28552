"""`tidegate chat` as its users see it: in a terminal, and in a pipe."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.client import connect
from tests.e2e.gateways import GatewayProcess, free_port
from tests.e2e.terminals import TerminalChat, in_terminal

SLOW = """
[models.demo]
provider = "demo"
delay = 10

[models.quick]
provider = "demo"
delay = 0

[tools]
modules = ["tests.e2e.slow_tools"]
"""
LONG = "".join(f"{number} " for number in range(1, 201))


def without_spaces(text: str) -> str:
    return "".join(text.split())


def times(chat: TerminalChat, expected: str) -> int:
    """How often the screen shows it, wherever its rows were broken."""
    return without_spaces(chat.text).count(without_spaces(expected))


async def prompt(chat: TerminalChat) -> None:
    """Wait until nothing is being answered."""
    await chat.until(lambda text: text.endswith(">"))


async def piped(*arguments: str, said: str | None = None, **env: str) -> tuple[int, str, str]:
    """The chat's exit status and what it wrote, with `said` on its standard input."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.cli", "chat", *arguments),
        stdin=subprocess.PIPE if said is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"TIDEGATE_TOKEN": ""} | env,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate(said.encode() if said is not None else None)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


# ---- in a terminal


async def test_text_streams_and_a_tool_has_a_bar_and_then_one_line(gateway: GatewayProcess) -> None:
    async with in_terminal(gateway.url, TIDEGATE_TOKEN=gateway.key()) as chat:
        await prompt(chat)
        chat.enter("good morning")
        await chat.until("This is the demo model. You said: good morning")
        chat.enter("count 5")
        await chat.until(lambda text: re.search(r"countdown ━+.* 3/5", text) is not None)
        text = await chat.until('✓ countdown {"count":5} → {"counted":5}')
        text = await chat.until('countdown answered: {"counted":5}')
        assert not re.search(r"\d/5", text), "the bar is gone when the tool is done"
        assert text.index("> good morning") < text.index("You said") < text.index("> count 5") < text.index("✓")
        chat.type("\x04")
        assert await chat.ended() == 0
        assert "goes on with it" in chat.text


async def test_tools_at_once_tear_no_sentence(gateway: GatewayProcess) -> None:
    async with in_terminal(gateway.url, columns=60, TIDEGATE_TOKEN=gateway.key()) as chat:
        await prompt(chat)
        chat.enter("both")
        await chat.until("countdown answered")
        said = "I start with a sum.  While it runs I count down as well.  And while both are busy I go on talking."
        assert times(chat, said) == 1


@pytest.mark.parametrize("how", ["/stop\r", "\x03"])
async def test_an_answer_is_stopped(tmp_path: Path, how: str) -> None:
    async with (
        GatewayProcess(tmp_path, config=SLOW) as gateway,
        in_terminal(gateway.url, TIDEGATE_TOKEN=gateway.key()) as chat,
    ):
        await prompt(chat)
        chat.enter("long 5000")
        await chat.until("1 2 3 4 5")
        chat.type(how)
        await chat.until("stopped")
        chat.enter("and now?")
        await chat.until("You said: and now?")
        await prompt(chat)
        chat.type("\x03")
        assert await chat.ended() == 0


async def test_a_message_that_is_typed_meanwhile_waits_and_is_answered(tmp_path: Path) -> None:
    async with (
        GatewayProcess(tmp_path, config=SLOW) as gateway,
        in_terminal(gateway.url, TIDEGATE_TOKEN=gateway.key()) as chat,
    ):
        await prompt(chat)
        chat.enter("long 200")
        await chat.until("1 2 3")
        chat.enter("next")
        await chat.until("next (waits)")
        text = await chat.until("You said: next")
        assert times(chat, LONG) == 1
        assert text.index("200") < text.index("> next")
        assert "(waits)" not in text


async def test_messages_are_answered_again_and_edited_and_branches_hidden(gateway: GatewayProcess) -> None:
    key = gateway.key()
    async with in_terminal(gateway.url, "--context", "chat", TIDEGATE_TOKEN=key) as chat:
        await chat.until("begins with your first message")
        chat.enter("/retry")
        await chat.until("nothing was said here yet")
        chat.enter("first words")
        await chat.until("You said: first words")
        chat.enter("/retry")
        await chat.until(lambda text: text.count("You said: first words") == 2)
        chat.enter("/edit")
        await chat.until("> /edit first words")
        chat.type("\x17")  # Ctrl-W
        chat.enter("things")
        await chat.until("You said: first things")
    async with in_terminal(gateway.url, "--context", "chat", TIDEGATE_TOKEN=key) as chat:
        text = await chat.until("You said: first things")
        assert "first words" not in text


async def test_conversations_are_listed_named_and_opened(gateway: GatewayProcess) -> None:
    async with in_terminal(gateway.url, TIDEGATE_TOKEN=gateway.key()) as chat:
        await prompt(chat)
        chat.enter("/contexts")
        await chat.until("you have no conversations yet")
        chat.enter("about tides")
        await chat.until("You said: about tides")
        chat.enter("/title Tides and gates")
        await chat.until("(title: Tides and gates)")
        chat.enter("/new")
        await chat.until("(a new conversation)")
        chat.enter("about nothing")
        await chat.until("You said: about nothing")
        chat.enter("/contexts")
        text = await chat.until("Tides and gates  20")
        number = next(m[1] for line in text.splitlines() if (m := re.match(r" +(\d) +Tides and gates", line)))
        chat.enter("/open 99")
        await chat.until("there is no number 99")
        chat.enter("/open no-such")
        await chat.until("refused:")
        chat.enter(f"/open {number}")
        await chat.until(lambda text: text.count("You said: about tides") == 2)
        chat.enter("more")
        await chat.until("You said: more")


async def test_models_are_listed_and_chosen(tmp_path: Path) -> None:
    async with GatewayProcess(tmp_path, config=SLOW) as gateway:
        key = gateway.key()
        async with in_terminal(gateway.url, "--context", "chat", TIDEGATE_TOKEN=key) as chat:
            await prompt(chat)
            chat.enter("/model")
            await chat.until("* demo\n  quick")
            chat.enter("/model slow")
            await chat.until("there is no model 'slow'")
            chat.enter("/model quick")
            await chat.until("from now on quick")
            chat.enter("/tools")
            await chat.until("wipe (asks first)")
            chat.enter("hello")
            await chat.until("You said: hello")
        async with connect(gateway.url, token=key) as client:
            events = client.events_of("chat")
            await anext(events)
            assert [getattr(event, "model", None) for event in client.transcript("chat").events] == [
                None,
                "quick",
                None,
            ]


async def test_a_call_is_allowed_and_denied(tmp_path: Path) -> None:
    async with GatewayProcess(tmp_path, config=SLOW) as gateway:
        gateway.kill()
        await gateway.start(TOOL_TRACE=str(tmp_path / "trace"))
        async with in_terminal(gateway.url, TIDEGATE_TOKEN=gateway.key()) as chat:
            await prompt(chat)
            chat.enter('call wipe {"disk": "\\u001b[2Jsda"}')
            await chat.until("allow wipe? [y/n]")
            assert '"disk":"\\u001b[2Jsda"' in chat.joined
            chat.enter("y")
            await chat.until("wipe answered: wiped")
            chat.enter('call wipe {"disk": "sdb"}')
            await chat.until("allow wipe? [y/n]")
            chat.enter("/deny not that one")
            await chat.until("→ denied")
            await chat.until("wipe failed")
        assert (tmp_path / "trace").read_text().count("wipe") == 1


async def test_another_devices_words_are_shown(gateway: GatewayProcess) -> None:
    key = gateway.key()
    async with (
        in_terminal(gateway.url, "--context", "chat", TIDEGATE_TOKEN=key) as chat,
        connect(gateway.url, token=key) as other,
    ):
        await prompt(chat)
        chat.enter("here")
        await chat.until("You said: here")
        async for _ in other.stream("from \x1b[31mthe phone", "chat"):
            pass
        await chat.until("You said: from [31mthe phone")
        assert "> from [31mthe phone" in chat.text


async def test_a_gateway_killed_in_the_middle_of_an_answer_doubles_and_loses_nothing(tmp_path: Path) -> None:
    async with (
        GatewayProcess(tmp_path, config=SLOW) as gateway,
        in_terminal(gateway.url, TIDEGATE_TOKEN=gateway.key()) as chat,
    ):
        await prompt(chat)
        chat.enter("long 200")
        await chat.until("20 21 22")
        gateway.kill()
        await chat.until("(connection lost, reconnecting…)")
        chat.enter("still there?")
        await gateway.start()
        await chat.until("(back)")
        await chat.until("You said: still there?", 60)
        # The notices stand in the middle of the answer, on lines of their own.
        text = re.sub(r"\((connection lost, reconnecting…|back)\)", "", chat.text)
        begin = text.index("> long 200") + len("> long 200")
        assert without_spaces(text[begin : text.index("> still there?")]) == without_spaces(LONG)


async def test_a_refused_token_is_one_line(gateway: GatewayProcess) -> None:
    for token in ("wrong", ""):
        async with in_terminal(gateway.url, TIDEGATE_TOKEN=token) as chat:
            assert await chat.ended() == 1
            assert chat.joined.startswith(f"tidegate: {gateway.url} refused the credentials")
            assert "tidegate keys create --subject me" in chat.joined
            assert "TIDEGATE_TOKEN=<the key> tidegate chat" in chat.joined


async def test_credentials_that_are_good_no_longer_end_the_chat_with_one_line(gateway: GatewayProcess) -> None:
    key = gateway.key()
    async with in_terminal(gateway.url, TIDEGATE_TOKEN=key) as chat:
        await prompt(chat)
        gateway.kill()
        await chat.until("reconnecting…")
        (gateway.folder / "tidegate.db").unlink()
        for more in gateway.folder.glob("tidegate.db-*"):
            more.unlink()
        await gateway.start()
        assert await chat.ended() == 1
        assert "refused the credentials (the credentials are not valid)" in chat.text


async def test_no_gateway_is_one_line_that_names_it() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    async with in_terminal(url) as chat:
        assert await chat.ended() == 1
        assert chat.joined.startswith(f"tidegate: no gateway answers at {url}")


async def test_a_terminal_that_can_do_nothing_is_told_what_can_be_done(gateway: GatewayProcess) -> None:
    async with in_terminal(gateway.url, TERM="dumb", TIDEGATE_TOKEN=gateway.key()) as chat:
        assert await chat.ended() == 1
        assert "give one with --message" in chat.joined


async def test_the_terminal_is_given_back(gateway: GatewayProcess) -> None:
    async with in_terminal(gateway.url, TIDEGATE_TOKEN=gateway.key()) as chat:
        await prompt(chat)
        chat.process.send_signal(signal.SIGTERM)
        assert await chat.ended() == 0
        assert chat.raw.count(b"\x1b[?2004h") == chat.raw.count(b"\x1b[?2004l")


# ---- in a pipe


async def test_a_pipe_gets_the_answer_and_nothing_else(gateway: GatewayProcess) -> None:
    key = gateway.key()
    assert await piped(gateway.url, said="calc 5 * 3\n", TIDEGATE_TOKEN=key) == (
        0,
        "5 * 3 = 15\n",
        '✓ calculator {"operation":"multiply","a":5,"b":3} → {"result":15}\n',
    )
    status, out, err = await piped(gateway.url, "-m", "sum it up", said="two\nlines\n", TIDEGATE_TOKEN=key)
    assert (status, out, err) == (0, "This is the demo model. You said: two\nlines\n\nsum it up\n", "")


async def test_a_pipe_goes_on_with_a_conversation_and_prints_its_new_answer_only(gateway: GatewayProcess) -> None:
    key = gateway.key()
    for said in ("one", "two"):
        told = await piped(gateway.url, "--context", "chat", "-m", said, TIDEGATE_TOKEN=key)
        assert told == (0, f"This is the demo model. You said: {said}\n", "")


async def test_a_pipe_sends_no_escape_codes_of_a_models(gateway: GatewayProcess) -> None:
    told = await piped(gateway.url, said="\x1b]0;title\x07\x1b[31mred", TIDEGATE_TOKEN=gateway.key())
    assert told == (0, "This is the demo model. You said: ]0;title[31mred\n", "")


async def test_the_ticket_that_serve_printed_opens_a_chat_once(gateway: GatewayProcess) -> None:
    found = re.search(r"Open (\S+)", gateway.log())
    assert found is not None
    assert await piped(found[1], said="calc 1 + 1") == (
        0,
        "1 + 1 = 2\n",
        '✓ calculator {"operation":"add","a":1,"b":1} → {"result":2}\n',
    )
    status, out, err = await piped(found[1], said="calc 1 + 1")
    assert (status, out) == (1, "")
    assert err.startswith("tidegate: the ticket was used before")
    assert "tidegate keys create --subject me" in err
    assert found[1].partition("=")[2] not in err


async def test_a_pipe_shows_what_is_wrong_in_one_line(gateway: GatewayProcess) -> None:
    key = gateway.key()
    for arguments, said, words in (
        ((gateway.url, "--model", "none"), "hello", "no model 'none', only demo"),
        ((gateway.url,), " \n", "there is no message"),
        ((gateway.url, "--context", "not an id"), "hello", "refused: "),
        (("ftp://example.org",), "hello", "no URL of a gateway"),
        (("http://127.0.0.1:99999",), "hello", ""),
    ):
        status, out, err = await piped(*arguments, said=said, TIDEGATE_TOKEN=key)
        assert (status, out) == (1, "")
        assert err.startswith("tidegate: ")
        assert len(err.splitlines()) == 1
        assert words in err


async def test_a_pipe_denies_what_nobody_is_asked_and_allows_it_with_yes(tmp_path: Path) -> None:
    async with GatewayProcess(tmp_path, config=SLOW) as gateway:
        gateway.kill()
        await gateway.start(TOOL_TRACE=str(tmp_path / "trace"))
        key = gateway.key()
        said = 'call wipe {"disk": "sda"}'
        status, out, err = await piped(gateway.url, said=said, TIDEGATE_TOKEN=key)
        assert status == 0
        assert out.startswith("wipe failed")
        assert "allow it with --yes" in err
        assert not (tmp_path / "trace").exists()
        status, out, err = await piped(gateway.url, "--yes", said=said, TIDEGATE_TOKEN=key)
        assert (status, out) == (0, "wipe answered: wiped sda\n")


async def test_a_pipe_outlives_the_gateways_death(tmp_path: Path) -> None:
    async with GatewayProcess(tmp_path, config=SLOW) as gateway:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway.cli", "chat", gateway.url, "-m", "long 200"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"TIDEGATE_TOKEN": gateway.key()},
        )
        assert process.stdout is not None
        async with asyncio.timeout(60):
            first = await process.stdout.readexactly(40)
            gateway.kill()
            await gateway.start()
            rest, err = await process.communicate()
        assert (first + rest).decode() == LONG + "\n"
        assert err.decode() == "connection lost, reconnecting…\nback\n"
        assert process.returncode == 0


async def test_ctrl_c_stops_the_answer_of_a_pipe(tmp_path: Path) -> None:
    async with GatewayProcess(tmp_path, config=SLOW) as gateway:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway.cli", "chat", gateway.url, "-m", "long 5000"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"TIDEGATE_TOKEN": gateway.key()},
        )
        assert process.stdout is not None
        async with asyncio.timeout(60):
            await process.stdout.readexactly(10)
            process.send_signal(signal.SIGINT)
            _, err = await process.communicate()
        assert process.returncode == 1
        assert err.decode() == "stopped\n"


async def test_a_reader_that_leaves_ends_the_pipe_quietly(gateway: GatewayProcess) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.cli", "chat", gateway.url, "-m", "long 5000"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"TIDEGATE_TOKEN": gateway.key()},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    async with asyncio.timeout(60):
        await process.stdout.readexactly(10)
        process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]  # no public way to leave
        err = await process.stderr.read()
        assert await process.wait() == 1
    assert err == b""
