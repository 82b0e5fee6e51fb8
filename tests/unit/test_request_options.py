# SPDX-License-Identifier: LGPL-2.1-or-later
"""What comes in an a{sv}."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.bus.errors import InvalidArgumentError
from slicemgr.bus.objects import NO_LIMIT
from slicemgr.service.request_options import LIMITS, limits_of, options_of

KNOWN = {"name": str, "tree": bool, "memory-max": int}
ANYTHING = st.dictionaries(
    st.sampled_from([*KNOWN, *LIMITS, "nonsense", ""]),
    st.booleans() | st.integers(-5, NO_LIMIT) | st.text(max_size=300) | st.floats() | st.lists(st.integers()),
    max_size=4,
)


@pytest.mark.parametrize(
    ("given_options", "words"),
    [
        ({"nmae": "x"}, "no option 'nmae'; try 'name'"),
        ({"zzz": 1}, "no option 'zzz'; try 'name' or 'tree' or 'memory-max'"),
        ({"name": 1}, "'name' is a string; try org.slicemgr1.xml"),
        ({"memory-max": True}, "'memory-max' is a number; try org.slicemgr1.xml"),
        ({"tree": 1}, "'tree' is a boolean; try org.slicemgr1.xml"),
        ({"memory-max": -1}, f"'memory-max' is not below 0; try {NO_LIMIT} for no limit"),
        ({"name": "x" * 201}, "'name' is longer than 200 characters; try a shorter one"),
    ],
)
def test_what_cant_be_meant(given_options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        options_of(given_options, KNOWN)
    assert str(error.value) == words


def test_no_options_at_all() -> None:
    with pytest.raises(InvalidArgumentError, match="no option 'a'; try no options"):
        options_of({"a": 1}, {})


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({}, "no limits are given; try MemoryMax"),
        ({"CPUWeight": 0}, "'CPUWeight' is 1 to 10000; try 100"),
        ({"IOWeight": 10_001}, "'IOWeight' is 1 to 10000; try 100"),
        ({"MemoryMax": 8}, "'MemoryMax' is in bytes, and 8 is less than 1 MiB; try more"),
        ({"MemoryHigh": 5 << 20, "MemoryMax": 4 << 20}, "'MemoryHigh' is above 'MemoryMax'; try 15/16 of it"),
        ({"MemoryMx": 1 << 30}, "no option 'MemoryMx'; try 'MemoryMax'"),
    ],
)
def test_limits_that_cant_be_meant(limits: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        limits_of(limits)
    assert str(error.value) == words


@pytest.mark.parametrize(
    "limits",
    [
        {"MemoryMax": 1 << 20},
        {"MemoryHigh": NO_LIMIT, "MemoryMax": 1 << 30},
        {"MemoryHigh": 1 << 30, "MemoryMax": 1 << 30},
        {"CPUWeight": NO_LIMIT, "TasksMax": 0, "MemoryLow": 0},
    ],
)
def test_limits(limits: dict[str, int]) -> None:
    assert limits_of(limits) == limits


@given(ANYTHING)
def test_anything(options: dict[str, Any]) -> None:
    """Refused in one line that ends in what to try, or as it was, with every value of its type."""
    for read in (lambda: options_of(options, KNOWN), lambda: limits_of(options)):
        try:
            found = read()
        except InvalidArgumentError as error:
            told = str(error)
            assert re.fullmatch(r"[^\n]+; try [^\n]+", told), told
        else:
            assert found == options
            assert all(type(value) in {str, bool, int} for value in options.values())
