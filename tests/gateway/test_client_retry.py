"""Whether and when the client connects again."""

from __future__ import annotations

import pytest

from gateway.client_retry import Retry, Stop, Wait
from protocol.errors import CLOSE_CODES, Close
from protocol.frames import Error, GoAway


def _retry(*, renewable: bool = True) -> Retry:
    return Retry(lambda: 0.5, renewable=renewable, base=1.0, cap=8.0)


@pytest.mark.parametrize("code", sorted(CLOSE_CODES))
def test_every_close_code_is_honoured(code: int) -> None:
    verdict = _retry().closed(code, None, None, 1.0)
    match CLOSE_CODES[code].then:
        case Close.STOP:
            assert verdict == Stop(code, CLOSE_CODES[code].reason)
        case Close.REAUTHENTICATE:
            assert verdict == Wait(0.0, renew=True)
        case Close.RECONNECT:
            assert verdict == Wait(0.5)


def test_backoff_doubles_up_to_its_cap_and_begins_anew_after_a_session_that_held() -> None:
    retry = _retry()
    assert [retry.failed().seconds for _ in range(5)] == [0.5, 1.0, 2.0, 4.0, 4.0]
    assert retry.closed(1006, None, None, 1.0) == Wait(4.0)
    assert retry.closed(None, None, None, 60.0) == Wait(0.5)


def test_goaway_and_errors_say_how_long_to_wait() -> None:
    slow_down = Error(code="rate_limited", message="m", retryable=True, retry_after=30.0)
    assert _retry().closed(1012, None, GoAway(reason="r", retry_after=10.0), 9.0) == Wait(5.0)
    assert _retry().closed(4429, slow_down, None, 9.0) == Wait(30.5)
    assert _retry().closed(1012, slow_down, None, 0.0) == Wait(30.5)
    assert _retry().closed(1012, slow_down, None, 9.0) == Wait(0.5)


def test_credentials_are_renewed_a_few_times_only() -> None:
    retry = _retry()
    assert [retry.closed(4401, None, None, 0.0) for _ in range(4)] == [
        Wait(0.0, renew=True),
        Wait(0.5, renew=True),
        Wait(1.0, renew=True),
        Stop(4401, CLOSE_CODES[4401].reason),
    ]
    assert retry.closed(4401, None, None, 1.0) == Wait(0.0, renew=True)
    told = Error(code="unauthenticated", message="no such key", retryable=False)
    assert _retry(renewable=False).closed(4401, told, None, 0.0) == Stop(4401, "no such key")


def test_a_refused_upgrade() -> None:
    assert _retry().refused(401) == Wait(0.0, renew=True)
    assert _retry().refused(503) == Wait(0.5)
    assert _retry().refused(429) == Wait(0.5)
    assert isinstance(_retry().refused(403), Stop)
    assert isinstance(_retry().refused(404), Stop)
