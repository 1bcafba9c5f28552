from __future__ import annotations

from stores.records import Sender
from stores.refusals import note, was_refused

EARLY, LATE = Sender("s1", 1), Sender("s1", 2)


def test_only_an_earlier_socket_of_the_session_was_refused() -> None:
    kept = note(None, "m", LATE)
    assert was_refused(kept, "m", EARLY)
    for sender in (LATE, Sender("s1", 3), Sender("s2", 0), None):
        assert not was_refused(kept, "m", sender)
    assert not was_refused(kept, "n", EARLY)
    assert not was_refused(None, "m", EARLY)


def test_the_newest_are_kept() -> None:
    kept: bytes | None = None
    for number in range(40):
        kept = note(kept, f"m{number}", LATE)
    remembered = [number for number in range(40) if was_refused(kept, f"m{number}", EARLY)]
    assert remembered == list(range(8, 40))
