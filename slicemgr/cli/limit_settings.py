# SPDX-License-Identifier: LGPL-2.1-or-later
"""KEY=VALUE as a person types it -> a limit by systemd's name, in bytes or counts. Keys and values are the
configuration's (config/schema.py), and systemd's own names of the keys."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from slicemgr.cli.printable import shown
from slicemgr.config import values
from slicemgr.config.schema import SLICE_KEYS
from slicemgr.model.quantity import NoLimit, Percent, format_size
from slicemgr.model.slice import Auto
from slicemgr.policy.limits import following_high

_LONGEST_VALUE: Final = 60


class SettingError(ValueError):
    """This can't be meant; the message ends in what to try."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One that may be set."""

    key: str
    """The configuration's name: `memory_max`."""
    unit_property: str
    """systemd's, and the bus's: `MemoryMax`."""
    file: str
    """The kernel's: `memory.max`."""

    @property
    def is_size(self) -> bool:
        """In bytes."""
        return self.key.startswith("memory_")

    def show(self, value: int | None) -> str:
        """`8.0G`, `100`, `max`."""
        if value is None:
            return "max"
        return format_size(value) if self.is_size else str(value)


@dataclass(frozen=True, slots=True)
class Setting:
    """A limit, and what it is to be; None is no limit."""

    limit: Limit
    value: int | None


LIMITS: Final = (
    Limit("memory_high", "MemoryHigh", "memory.high"),
    Limit("memory_max", "MemoryMax", "memory.max"),
    Limit("memory_swap_max", "MemorySwapMax", "memory.swap.max"),
    Limit("memory_low", "MemoryLow", "memory.low"),
    Limit("memory_min", "MemoryMin", "memory.min"),
    Limit("tasks_max", "TasksMax", "pids.max"),
    Limit("cpu_weight", "CPUWeight", "cpu.weight"),
    Limit("io_weight", "IOWeight", "io.weight"),
)
BY_KEY: Final[Mapping[str, Limit]] = {each.key: each for each in LIMITS}
_BY_NAME: Final[Mapping[str, Limit]] = {**BY_KEY, **{each.unit_property: each for each in LIMITS}}


def settings_of(words: Sequence[str], total_bytes: int, total_tasks: Callable[[], int]) -> tuple[Setting, ...]:
    """In the order of typing. Raises SettingError.

    Shares are of `total_bytes`, the machine's memory; of tasks, of what `total_tasks` gives.
    """
    settings: dict[str, Setting] = {}
    for word in words:
        setting = _setting(word, total_bytes, total_tasks)
        key = setting.limit.key
        if key in settings:
            raise SettingError(f"'{key}' is given twice; try it once")
        settings[key] = setting
    return tuple(settings.values())


def followed_by_high(
    settings: Sequence[Setting], high_bytes: int | None, max_bytes: int | None, *, has_own_high: bool
) -> tuple[Setting, ...]:
    """With the memory.high that goes with a new memory.max: the daemon would add it, and here it is told of."""
    given = {each.limit.key: each.value for each in settings}
    if "memory_max" not in given or "memory_high" in given:
        return tuple(settings)
    follows = following_high(given["memory_max"], high_bytes, max_bytes, has_own_high=has_own_high)
    if follows is None:
        return tuple(settings)
    return (*settings, Setting(BY_KEY["memory_high"], follows[0]))


def _setting(word: str, total_bytes: int, total_tasks: Callable[[], int]) -> Setting:
    name, equals, text = word.partition("=")
    limit = _BY_NAME.get(name)
    if limit is None:
        raise SettingError(_no_limit(name) if equals else f"'{shown(word)}' is no KEY=VALUE; try memory_max=8G")
    if len(text) > _LONGEST_VALUE:
        raise SettingError(f"'{shown(text)}' is no value for {limit.key}; try a shorter one")
    if not text:
        raise SettingError(f"no value is given for {limit.key}; try {limit.key}={_example(limit)}")
    _, read = SLICE_KEYS[limit.key]
    is_weight = limit.key.endswith("_weight")
    try:
        value = read(int(text) if is_weight and text.isascii() and text.isdigit() else text)
    except values.RefusedError as error:
        raise SettingError(f"{limit.key}: {error}") from None
    match value:
        case Auto():
            raise SettingError(f"{limit.key}: 'auto' is for the configuration; try a size, as in {limit.key}=8G")
        case Percent():
            return Setting(limit, value.of(total_bytes if limit.is_size else total_tasks()))
        case NoLimit():
            return Setting(limit, None)
        case int():
            return Setting(limit, value)
        case _:
            raise AssertionError(f"{limit.key} is read as {value!r}")


def _no_limit(name: str) -> str:
    near = difflib.get_close_matches(name, _BY_NAME, n=1)
    return f"'{shown(name)}' is no limit; try {near[0] if near else ', '.join(BY_KEY)}"


def _example(limit: Limit) -> str:
    return "8G" if limit.is_size else "100"
