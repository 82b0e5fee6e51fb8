# SPDX-License-Identifier: LGPL-2.1-or-later
"""The a{sv} at the end of a call: every key is known, every value of its type; pure."""

import difflib
from collections.abc import Mapping
from typing import Any, Final

from slicemgr.bus.errors import InvalidArgumentError
from slicemgr.bus.objects import NO_LIMIT
from slicemgr.model.quantity import NoLimit

LIMITS: Final[Mapping[str, type]] = {
    "MemoryHigh": int,
    "MemoryMax": int,
    "MemorySwapMax": int,
    "MemoryLow": int,
    "MemoryMin": int,
    "TasksMax": int,
    "CPUWeight": int,
    "IOWeight": int,
}
"""systemd's names, as SetUnitProperties takes them (org.freedesktop.systemd1(5))."""

_WEIGHTS: Final = ("CPUWeight", "IOWeight")
_LEAST_BYTES: Final = 1 << 20
"""A scope with a memory.max below that can't even exec its command."""

_WORDS: Final[Mapping[type, str]] = {int: "a number", str: "a string", bool: "a boolean", dict: "a dictionary"}

LONGEST_TEXT: Final = 200


def options_of(given: Mapping[str, Any], known: Mapping[str, type]) -> dict[str, Any]:
    """Raises InvalidArgumentError for a key that is not known, or a value of another type."""
    for key, value in given.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"'{near[0]}'" if near else " or ".join(f"'{each}'" for each in known) or "no options"
            raise InvalidArgumentError(f"no option '{key}'; try {hint}")
        wanted = known[key]
        # True is an int for Python, and no number for anybody else.
        if not isinstance(value, wanted) or (wanted is not bool and isinstance(value, bool)):
            raise InvalidArgumentError(f"'{key}' is {_WORDS[wanted]}; try org.slicemgr1.xml")
        if isinstance(value, int) and value < 0:
            raise InvalidArgumentError(f"'{key}' is not below 0; try {NO_LIMIT} for no limit")
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            raise InvalidArgumentError(f"'{key}' is longer than {LONGEST_TEXT} characters; try a shorter one")
    return dict(given)


def limits_of(given: Mapping[str, Any]) -> dict[str, int]:
    """Properties of a unit. Raises InvalidArgumentError."""
    limits = options_of(given, LIMITS)
    if not limits:
        raise InvalidArgumentError("no limits are given; try MemoryMax")
    for key in _WEIGHTS:
        if key in limits and limits[key] != NO_LIMIT and not 1 <= limits[key] <= 10_000:
            raise InvalidArgumentError(f"'{key}' is 1 to 10000; try 100")
    for key in ("MemoryHigh", "MemoryMax"):
        if limits.get(key, NO_LIMIT) < _LEAST_BYTES:
            raise InvalidArgumentError(f"'{key}' is in bytes, and {limits[key]} is less than 1 MiB; try more")
    high, highest = limits.get("MemoryHigh", 0), limits.get("MemoryMax", NO_LIMIT)
    if high != NO_LIMIT and high > highest:
        raise InvalidArgumentError("'MemoryHigh' is above 'MemoryMax'; try 15/16 of it")
    return limits


def limit_or_none(value: int | NoLimit | None) -> int | None:
    """As a placement takes it: None is no limit."""
    return None if value is None or isinstance(value, NoLimit) or value == NO_LIMIT else value
