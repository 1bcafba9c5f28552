from __future__ import annotations

import pytest

from gateway.resources.sql_text import names_in, with_parameters


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("SELECT 1", []),
        ("SELECT :a, :b_2, :a", ["a", "b_2"]),
        ("SELECT :a::text, now()::date, x::int", ["a"]),
        ("SELECT ':a', ':''b', \":c\", `:d`, [:e] || :f", ["f"]),
        (r"SELECT E'\':a', ':b\', :c", ["c"]),
        ("SELECT $$:a$$, $x$ :b $$ :c $x$, :d", ["d"]),
        ("SELECT 1 -- :a\n, :b /* :c\n */", ["b"]),
        ("SELECT a[1:2], :1", []),
        ("SELECT a[:n]", []),
        ("SELECT (:a)", ["a"]),
    ],
)
def test_which_colons_are_parameters(text: str, names: list[str]) -> None:
    assert names_in(text) == names
    assert with_parameters(text, lambda name: f":{name}") == text


def test_parameters_are_replaced() -> None:
    assert with_parameters("a = :a::text AND b = ':a' AND c = :c", str.upper) == "a = A::text AND b = ':a' AND c = C"
