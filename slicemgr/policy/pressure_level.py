# SPDX-License-Identifier: LGPL-2.1-or-later
"""How much a slice suffers, in one word, with hysteresis. Pure."""

import enum
from collections.abc import Mapping
from typing import Final


class PressureLevel(enum.Enum):
    """In the words of GMemoryMonitor, which desktops know; in order."""

    NONE = "none"
    LOW = "low"
    MEDIUM = "medium"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 to 3."""
        return _ORDER.index(self)


_ORDER: Final = tuple(PressureLevel)

FROM_PERCENT: Final[Mapping[PressureLevel, float]] = {
    PressureLevel.LOW: 5.0,
    PressureLevel.MEDIUM: 20.0,
    PressureLevel.CRITICAL: 40.0,
}
"""Of the last ten seconds in which somebody waited for memory (memory.pressure, some avg10). A fifth is what a person
notices; systemd-oomd's default is to kill at 60 % of `full` for 30 s, Fedora's at 50 % for 20 s."""

HYSTERESIS: Final = 0.6
"""A level is left below this share of where it begins: avg10 falls by a fifth in 2 s, so a level lasts for some."""


def pressure_level(before: PressureLevel, stalled_percent: float) -> PressureLevel:
    """The level now, by the one before."""
    reached = max(
        (level for level, percent in FROM_PERCENT.items() if stalled_percent >= percent),
        key=lambda level: level.rank,
        default=PressureLevel.NONE,
    )
    if reached.rank >= before.rank:
        return reached
    return max(
        (
            level
            for level, percent in FROM_PERCENT.items()
            if level.rank <= before.rank and stalled_percent >= percent * HYSTERESIS
        ),
        key=lambda level: level.rank,
        default=PressureLevel.NONE,
    )
