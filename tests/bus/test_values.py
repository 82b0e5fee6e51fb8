# SPDX-License-Identifier: LGPL-2.1-or-later
"""Python values on the wire and back."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.bus.values import BY_KEY, pack, split, text, variant

NUMBERS = st.integers(-(1 << 63), (1 << 64) - 1)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
LEAVES = st.booleans() | NUMBERS | st.floats(allow_nan=False) | TEXTS
DATA = st.recursive(LEAVES, lambda inner: st.dictionaries(TEXTS, inner, max_size=4), max_leaves=10)


@pytest.mark.parametrize(
    ("signature", "parts"),
    [
        ("", []),
        ("s", ["s"]),
        ("sa{sv}(us)", ["s", "a{sv}", "(us)"]),
        ("aa{sv}ah", ["aa{sv}", "ah"]),
        ("a{oa{sa{sv}}}u", ["a{oa{sa{sv}}}", "u"]),
        ("((sa{sv})sa{ss}us)", ["((sa{sv})sa{ss}us)"]),
    ],
)
def test_the_parts_of_a_signature(signature: str, parts: list[str]) -> None:
    assert split(signature) == parts


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (True, "b"),
        (1, "t"),
        (-1, "x"),
        (0.5, "d"),
        ("a", "s"),
        ([], "as"),
        (["a"], "as"),
        ((1, 2), "at"),
        ([{"a": 1}], "aa{sv}"),
        ({"a": {"b": [1]}}, "a{sv}"),
        ({"pid": 7, "points": 5, "runners-up": [], "pids": (), "reason": "high"}, "a{sv}"),
    ],
)
def test_a_variant_goes_by_its_value(value: Any, kind: str) -> None:
    made = variant(value)
    assert made.get_type_string() == kind
    assert made.unpack() == plain(value)


def plain(value: Any) -> Any:
    """As it comes back."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return list(value) if isinstance(value, tuple) else value


def test_a_key_of_ours_has_its_type() -> None:
    """Whatever its value is today: a client in C asks for one type."""
    told = [{"pid": 7, "points": 5, "runners-up": [], "victims": [{"pid": 1}]}, {"points": -5, "pids": []}]
    assert [{key: made.get_type_string() for key, made in each.items()} for each in map(members, told)] == [
        {"pid": "u", "points": "x", "runners-up": "aa{sv}", "victims": "aa{sv}"},
        {"points": "x", "pids": "au"},
    ]


def members(told: dict[str, Any]) -> dict[str, Any]:
    """The variants in a dictionary."""
    made = variant(told)
    entries = [made.get_child_value(at) for at in range(made.n_children())]
    return {each.get_child_value(0).unpack(): each.get_child_value(1).get_variant() for each in entries}


@given(st.dictionaries(TEXTS.filter(lambda key: key not in BY_KEY), DATA, max_size=5))
def test_any_dictionary_comes_back(data: dict[str, Any]) -> None:
    assert pack("(a{sv})", (data,)).unpack() == (data,)


@pytest.mark.parametrize(
    ("signature", "value"),
    [
        ("(u)", (-1,)),
        ("(u)", (1 << 32,)),
        ("(t)", ("a",)),
        ("(us)", (1,)),
        ("(us)", (1, "a", 2)),
        ("(a{sv})", ({"a": object()},)),
    ],
)
def test_no_such_value(signature: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)):
        pack(signature, value)


@given(st.text())
def test_any_name_can_be_sent(name: str) -> None:
    """GLib ends who sends a string that is no UTF-8."""
    assert pack("(s)", (text(name),)).unpack() == (text(name),)


def test_a_name_that_is_no_text() -> None:
    assert text("a\udcffb") == "a\N{REPLACEMENT CHARACTER}b"
    assert text("a\0b") == "a\N{REPLACEMENT CHARACTER}b"
    assert pack("(s)", ("\udcff",)).unpack() == ("\N{REPLACEMENT CHARACTER}",)
    assert variant({"\udcff": "\0"}).unpack() == {"\N{REPLACEMENT CHARACTER}": "\N{REPLACEMENT CHARACTER}"}
