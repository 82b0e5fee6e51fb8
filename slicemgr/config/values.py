# SPDX-License-Identifier: LGPL-2.1-or-later
"""One value of the configuration -> a model value, or a reason why it can't be meant."""

import enum
import math
import re
from collections.abc import Sequence
from typing import Final, TypeVar

from slicemgr.config import string_text
from slicemgr.model.process import OOM_SCORE_ADJ_MIN
from slicemgr.model.quantity import Amount, NoLimit, Percent, QuantityError, parse_amount
from slicemgr.model.slice import Auto, SliceAmount

_Choice = TypeVar("_Choice", bound=enum.Enum)

_LARGEST_BYTES = (1 << 63) - 1
_LEAST_LIMIT_BYTES = 1 << 20
"""As for a job (policy/limits.py): nothing that is worth a slice starts in less, so it is a mistyped unit."""
_LONGEST_GRACE_SECONDS = 90.0
"""systemd's own patience (DefaultTimeoutStopSec=90s); a machine that is out of memory has less."""
_LONGEST_COMM = 15
"""Bytes that the kernel keeps of a process name (TASK_COMM_LEN less the final zero)."""
_UNIT_SUFFIXES = (".service", ".scope", ".slice")
_LONGEST_TEXT = 200
"""Characters of a value: nothing that can be meant is longer, and an error message quotes it."""

_DURATION_UNITS: Final = {
    "": 1, "us": 1e-6, "ms": 1e-3, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800,
}  # fmt: skip
_DURATION_STEP: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([a-z]*)\s*", re.ASCII)


class RefusedError(ValueError):
    """This value can't be meant; the message ends in what to try."""


def parse_duration(text: str) -> float:
    """Read `5s`, `500ms`, `1min 30s` or `5` (seconds), as systemd.time(7) writes spans. Raises QuantityError."""
    rest, seconds = text.strip(), 0.0
    while True:
        match = _DURATION_STEP.match(rest)
        # A number without a unit stands alone: in '1 30' nobody knows which is what.
        if match is None or match[2] not in _DURATION_UNITS or (not match[2] and match[0] != text.strip()):
            raise QuantityError(f"'{text}' is no duration; try 5s, 500ms or 0")
        # Divided where that is exact: 9 * 0.001 is not 0.009, and 9 / 1000 is.
        number, unit = float(match[1]), _DURATION_UNITS[match[2]]
        seconds += number * unit if unit >= 1 else number / round(1 / unit)
        rest = rest[match.end() :]
        if not rest:
            return seconds


def refuse_oversized(value: object) -> None:
    """What is too large to be quoted in a message, and can't be meant. Raises RefusedError."""
    if isinstance(value, str) and len(value) > _LONGEST_TEXT:
        raise RefusedError(f"a text of {len(value)} characters can't be meant; try a shorter one")
    # TOML's own numbers have 64 bits; tomli reads larger ones, and Python refuses to write the largest.
    if isinstance(value, int) and abs(value) > _LARGEST_BYTES:
        raise RefusedError('a number beyond 64 bits; try a smaller one, or "max" for no limit')


def _amount(value: object) -> SliceAmount:
    if isinstance(value, str):
        if value.strip() == Auto.AUTO.value:
            return Auto.AUTO
        try:
            amount = parse_amount(value)
        except QuantityError as error:
            raise RefusedError(str(error)) from error
    elif isinstance(value, int) and not isinstance(value, bool):
        amount = value
    else:
        raise RefusedError(f'must be a size, and is {kind_of(value)}; try "8G", "60%", or a number of bytes')
    if isinstance(amount, int) and amount < 0:
        raise RefusedError(f'{amount} bytes is no size; try "60%"')
    return amount


def read_protection(value: object) -> Amount:
    """memory_low, memory_min: what is kept, so a share is one of what there is."""
    amount = read_swap(value)
    if isinstance(amount, Percent) and amount > Percent(10_000):
        raise RefusedError('more than the whole; try "100%" or less')
    return amount


def read_swap(value: object) -> Amount:
    """Swap may be more than RAM, and none at all."""
    amount = _amount(value)
    if isinstance(amount, Auto):
        raise RefusedError(
            '"auto" is the machine less the session\'s reserve, for memory_high and memory_max; try a size'
        )
    return amount


def read_limit(value: object) -> SliceAmount:
    """memory_high, memory_max: something has to be able to run below them."""
    amount = _amount(value)
    if isinstance(amount, Percent) and not Percent(0) < amount <= Percent(10_000):
        raise RefusedError(f'{amount} is no limit; try a share between "1%" and "100%", or "max" for no limit')
    if isinstance(amount, int) and amount < _LEAST_LIMIT_BYTES:
        hint = f"{amount}M" if 0 < amount < 100_000 else "64M"
        raise RefusedError(f'{amount} bytes is less than any command needs to start; try "{hint}"')
    return amount


def read_threshold(value: object) -> Amount:
    """memory_available, swap_free: below this the machine is short."""
    amount = read_protection(value)
    if amount is NoLimit.NO_LIMIT:
        raise RefusedError('"max" would be short for ever; try "5%"')
    return amount


def read_reserve(value: object) -> SliceAmount:
    """session_reserve: what `auto` leaves."""
    amount = _amount(value)
    if amount is NoLimit.NO_LIMIT or (isinstance(amount, Percent) and amount >= Percent(10_000)):
        raise RefusedError('the whole machine in reserve leaves builds nothing; try "10%"')
    return amount


def read_loan(value: object) -> Amount:
    """borrow: what a build may take of the session's reserve, so less than the machine."""
    amount = _amount(value)
    if isinstance(amount, Auto):
        raise RefusedError('"auto" is no size here; try "512M", or 0 for nothing')
    if amount is NoLimit.NO_LIMIT or (isinstance(amount, Percent) and amount >= Percent(10_000)):
        raise RefusedError('the whole machine is no loan, the session lives in it; try "512M", or 0 for nothing')
    return amount


def read_vital_adj(value: object) -> int:
    """vital_oom_score_adj: never -1000, which is for ever, and above 0 they would go before all others."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise RefusedError(f"must be a whole number from -999 to 0, and is {kind_of(value)}; try -500")
    if not OOM_SCORE_ADJ_MIN < value <= 0:
        raise RefusedError(f"{value} is not from -999 to 0; try {-999 if value < 0 else 0}")
    return value


def read_tasks(value: object) -> Amount:
    """tasks_max: a count, so without suffixes."""
    hint = 'try a number from 1 on, a share such as "25%", or "max"'
    if isinstance(value, str) and re.fullmatch(r"\s*(max|infinity|[0-9]+|[0-9.]+\s*%)\s*", value, re.ASCII):
        amount = read_swap(value)
        if isinstance(amount, NoLimit) or (isinstance(amount, Percent) and Percent(0) < amount <= Percent(10_000)):
            return amount
        value = amount
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    shown = kind_of(value) if not isinstance(value, int | str | Percent) else f"'{value}'"
    raise RefusedError(f"{shown} is no number of tasks; {hint}")


def read_weight(value: object) -> int:
    """cpu_weight, io_weight: the kernel's range."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise RefusedError(
            f"must be a whole number from 1 to 10000, and is {kind_of(value)}; try 100, which is everybody's"
        )
    if not 1 <= value <= 10_000:
        raise RefusedError(f"{value} is no weight from 1 to 10000; try {1 if value < 1 else 10_000}")
    return value


def read_grace(value: object) -> float:
    """grace: seconds between SIGTERM and SIGKILL."""
    if isinstance(value, str):
        try:
            value = parse_duration(value)
        except QuantityError as error:
            raise RefusedError(str(error)) from error
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RefusedError(f'must be a duration, and is {kind_of(value)}; try "5s", "500ms" or 0')
    if not (math.isfinite(value) and 0 <= value <= _LONGEST_GRACE_SECONDS):
        raise RefusedError(f'{value} seconds is no time to wait for memory; try "5s", and at most "90s"')
    return float(value)


def read_patterns(value: object) -> tuple[str, ...]:
    """protect: shell patterns of process names, or of unit names."""
    patterns = _patterns(value, '["gnome-shell", "kwin_*"]')
    for each in patterns:
        name = each.encode()
        if len(name) > _LONGEST_COMM and not set(each) & set("*?[") and not each.endswith(_UNIT_SUFFIXES):
            cut = name[:_LONGEST_COMM].decode(errors="ignore")
            raise RefusedError(f"'{each}' matches no process, since the kernel keeps 15 bytes of a name; try '{cut}'")
    return patterns


def read_steps(value: object) -> tuple[str, ...]:
    """never_hold: shell patterns of process names; a whole name may be longer than what the kernel keeps of it."""
    return _patterns(value, '["ctest", "*_test"]')


def _patterns(value: object, example: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise RefusedError(f"must be a list of shell patterns; try {example}")
    for each in value:
        if not each or len(each) > _LONGEST_TEXT or "/" in each or not each.isprintable():
            raise RefusedError(
                f"{string_text(each[:_LONGEST_TEXT])} matches no process; try a name as 'ps -e' shows it"
            )
    return tuple(value)


def read_switch(value: object) -> bool:
    """enabled: on or off."""
    if not isinstance(value, bool):
        raise RefusedError(f"must be true or false, and is {kind_of(value)}; try true")
    return value


def read_choice(choices: type[_Choice], value: object) -> _Choice:
    """One of the words of an enum."""
    words = [str(each.value) for each in choices]
    if value in words:
        return choices(value)
    if not isinstance(value, str):
        raise RefusedError(f"must be a text, and is {kind_of(value)}; try {_or(words)}")
    from difflib import get_close_matches  # Only when something is wrong.

    raise RefusedError(f"'{value}' is none of its words; try {_or(get_close_matches(value, words, 1) or words)}")


def kind_of(value: object) -> str:
    """What TOML calls it."""
    names = ((bool, "true or false"), (int, "a number"), (float, "a number"), (str, "a text"), (list, "a list"))
    if isinstance(value, dict):
        return "a table"
    return next((name for kind, name in names if isinstance(value, kind)), "a date or a time")


def _or(words: Sequence[str]) -> str:
    return " or ".join(f'"{each}"' for each in words)
