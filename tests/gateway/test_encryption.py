"""What is sealed opens under its own name, key and purpose, and nowhere else (gateway/encryption.py)."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.encryption import (
    Altered,
    Encryption,
    EncryptionSettings,
    Sealer,
    UnknownKey,
    decode_key,
)

OLD, NEW = bytes(range(32)), bytes(range(100, 132))
SEALER = Sealer([NEW, OLD], "tokens")


def encryption(*keys: bytes) -> Encryption:
    return Encryption(EncryptionSettings(keys=tuple(base64.b64encode(key).decode() for key in keys)))


@given(st.text(), st.text(), st.binary())
def test_what_was_sealed_opens(owner: str, name: str, value: bytes) -> None:
    assert SEALER.open(owner, name, SEALER.seal(owner, name, value)) == value


@given(st.text(max_size=4), st.text(max_size=4), st.text(max_size=4), st.text(max_size=4))
def test_it_opens_under_its_own_owner_and_name_alone(owner: str, name: str, other: str, another: str) -> None:
    sealed = SEALER.seal(owner, name, b"secret")
    if (owner, name) != (other, another):
        with pytest.raises(Altered):
            SEALER.open(other, another, sealed)


def test_owner_and_name_are_not_run_together() -> None:
    with pytest.raises(Altered):
        SEALER.open("ab", "c", SEALER.seal("a", "bc", b"secret"))


def test_any_bit_that_changes_is_noticed() -> None:
    sealed = SEALER.seal("o", "n", b"secret")
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises((Altered, UnknownKey)):
            SEALER.open("o", "n", bytes(changed))


def test_any_length_that_changes_is_noticed() -> None:
    sealed = SEALER.seal("o", "n", b"secret")
    for length in range(len(sealed)):
        with pytest.raises(Altered):
            SEALER.open("o", "n", sealed[:length])
    with pytest.raises(Altered):
        SEALER.open("o", "n", sealed + b"x")


def test_the_same_value_is_sealed_in_another_way_each_time() -> None:
    sealed = {SEALER.seal("o", "n", b"secret") for _ in range(100)}
    assert len(sealed) == 100
    assert not [one for one in sealed if b"secret" in one]


def test_the_first_key_seals_and_all_open() -> None:
    before, between, after = (Sealer(keys, "tokens") for keys in ([OLD], [NEW, OLD], [NEW]))
    old = before.seal("o", "n", b"secret")
    assert before.is_current(old)
    assert between.open("o", "n", old) == b"secret"
    assert not between.is_current(old)
    new = between.seal("o", "n", b"secret")
    assert between.is_current(new)
    assert after.open("o", "n", new) == b"secret"
    with pytest.raises(UnknownKey):
        after.open("o", "n", old)
    with pytest.raises(UnknownKey):
        before.open("o", "n", new)


def test_a_purpose_has_a_key_of_its_own() -> None:
    sealed = SEALER.seal("o", "n", b"secret")
    with pytest.raises(UnknownKey):
        Sealer([NEW, OLD], "states").open("o", "n", sealed)


def test_keys_come_from_the_settings() -> None:
    assert not encryption().enabled
    with pytest.raises(ValueError, match="one key at least"):
        encryption().sealer("tokens")
    both = encryption(NEW, OLD)
    assert both.enabled
    assert both.sealer("tokens").open("o", "n", SEALER.seal("o", "n", b"secret")) == b"secret"


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(NEW).decode(),
        base64.b64encode(NEW).decode().rstrip("="),
        base64.urlsafe_b64encode(NEW).decode(),
        NEW.hex(),
        f" {NEW.hex().upper()}\n",
    ],
)
def test_a_key_is_base64_or_hex(text: str) -> None:
    assert decode_key(text) == NEW


@pytest.mark.parametrize(
    "text",
    ["", "secret", "é" * 43, "A" * 43, "0" * 64, "zz" * 32, NEW.hex()[:-2], base64.b64encode(NEW + b"x").decode()],
)
def test_what_is_no_key_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(ValueError, match="expected 32 random bytes in base64 or hex") as caught:
        decode_key(text)
    assert not text or text not in str(caught.value)


def test_no_key_shows() -> None:
    settings = EncryptionSettings(keys=(NEW.hex(),))
    assert NEW.hex() not in repr(settings)
    assert repr(Encryption(settings)) == "Encryption(1 keys)"
