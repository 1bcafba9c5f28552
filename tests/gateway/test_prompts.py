from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from gateway.auth.principal import Principal
from gateway.core.policy import Policy
from gateway.prompts import PromptArgument, PromptInfo, PromptLine, Prompts, begun_with
from protocol.content import plain_text
from protocol.errors import ProtocolError
from protocol.frames import Content, ImagePart, PromptUse, ResourcePart, TextPart

ALICE = Principal(tenant="acme", subject="alice")
GUEST = Principal(tenant="acme", subject="guest", roles=("guest",))
POLICY = Policy({"guest": ["prompt:*", "!prompt:review"]})
IMAGE = ImagePart(mime_type="image/png", data="iVBORw0KGgo=")

REVIEW = PromptInfo(
    name="review",
    description="Review a change.",
    arguments=[PromptArgument(name="change", required=True), PromptArgument(name="tone")],
)


class Source:
    """Says what it was made with, its arguments first."""

    def __init__(self, *infos: PromptInfo, lines: Sequence[PromptLine] = ()) -> None:
        self._infos = infos
        self._lines = lines

    async def prompts(self, principal: Principal) -> Sequence[PromptInfo]:
        return self._infos

    async def prompt(self, principal: Principal, name: str, arguments: Mapping[str, str]) -> Sequence[PromptLine]:
        said = ", ".join(f"{key}={value}" for key, value in sorted(arguments.items()))
        return [PromptLine("user", TextPart(text=f"{name}({said})")), *self._lines]


def saying(*lines: PromptLine) -> Prompts:
    return Prompts(POLICY, [Source(PromptInfo(name="hello"), lines=lines)])


async def refused(prompts: Prompts, use: PromptUse, principal: Principal = ALICE) -> tuple[str, str | None]:
    with pytest.raises(ProtocolError) as error:
        await prompts.content(principal, use)
    return error.value.code, error.value.path


async def test_only_what_a_policy_allows_is_listed_and_used() -> None:
    prompts = Prompts(POLICY, [Source(REVIEW, PromptInfo(name="hello"))])
    assert [info.name for info in await prompts.all(ALICE)] == ["review", "hello"]
    assert [info.name for info in await prompts.all(GUEST)] == ["hello"]
    assert await refused(prompts, PromptUse(name="review"), GUEST) == ("not_found", "prompt.name")
    assert await refused(prompts, PromptUse(name="nothing")) == ("not_found", "prompt.name")


async def test_of_two_prompts_with_one_name_the_first_source_s_counts() -> None:
    first, second = Source(PromptInfo(name="hello", description="first")), Source(PromptInfo(name="hello"))
    (info,) = await Prompts(POLICY, [first, second]).all(ALICE)
    assert info.description == "first"


async def test_its_arguments_are_those_that_it_names() -> None:
    prompts = Prompts(POLICY, [Source(REVIEW)])
    use = PromptUse(name="review", arguments={"change": "42", "tone": "kind"})
    assert await prompts.content(ALICE, use) == "review(change=42, tone=kind)"
    assert await refused(prompts, PromptUse(name="review")) == ("invalid_frame", "prompt.arguments")
    other = PromptUse(name="review", arguments={"change": "42", "other": "1"})
    assert await refused(prompts, other) == ("invalid_frame", "prompt.arguments")


async def test_what_it_says_is_one_message() -> None:
    hello = PromptUse(name="hello")
    assert await saying().content(ALICE, hello) == "hello()"
    again = PromptLine("user", TextPart(text="again"))
    assert await saying(again).content(ALICE, hello) == "hello()\n\nagain"
    answered = PromptLine("assistant", TextPart(text="yes?"))
    assert await saying(answered, again).content(ALICE, hello) == "User: hello()\n\nAssistant: yes?\n\nUser: again"
    picture = PromptLine("user", IMAGE)
    assert await saying(picture).content(ALICE, hello) == [TextPart(text="hello()"), IMAGE]
    shown = await saying(answered, picture).content(ALICE, hello)
    assert shown[-2:] == [TextPart(text="User:"), IMAGE]


async def test_what_it_says_is_bounded() -> None:
    hello = PromptUse(name="hello")
    line = PromptLine("user", TextPart(text="x" * 100))
    source = Source(PromptInfo(name="hello"), lines=[line])
    assert await refused(Prompts(POLICY, [source], max_bytes=100), hello) == ("too_large", "prompt")
    assert await refused(saying(*[line] * 256), hello) == ("not_found", "prompt")


@pytest.mark.parametrize(
    ("prompt", "said", "whole"),
    [
        ("Hello.", "", "Hello."),
        ("Hello.", "There.", "Hello.\n\nThere."),
        ([IMAGE], "", [IMAGE]),
        ([IMAGE], "There.", [IMAGE, TextPart(text="There.")]),
        ("Hello.", [ResourcePart(uri="file://docs/a")], [TextPart(text="Hello."), ResourcePart(uri="file://docs/a")]),
    ],
)
def test_a_message_goes_on_after_its_prompt(prompt: Content, said: Content, whole: Content) -> None:
    assert begun_with(prompt, said) == whole
    assert plain_text(whole).startswith(plain_text(prompt))


async def test_what_it_says_may_also_be_had_as_it_is() -> None:
    hello, answered = PromptUse(name="hello"), PromptLine("assistant", TextPart(text="yes?"))
    first = PromptLine("user", TextPart(text="hello()"))
    assert list(await saying(answered).lines(ALICE, hello)) == [first, answered]
    bounded = Prompts(POLICY, [Source(PromptInfo(name="hello"))], max_bytes=10)
    for use, code in ((hello, "too_large"), (PromptUse(name="nothing"), "not_found")):
        with pytest.raises(ProtocolError) as error:
            await bounded.lines(ALICE, use)
        assert error.value.code == code
