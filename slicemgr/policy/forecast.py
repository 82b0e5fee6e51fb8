# SPDX-License-Identifier: LGPL-2.1-or-later
"""How much all running steps will hold at every moment ahead, and when one more fits.

Twenty compilers do not reach their peaks at the same moment, so the sum of their peaks says too little: it keeps
waiting who could run. What is added here is the usage of each step as a curve over time, which rises to the peak,
stays there, and drops to nothing, as HPC schedulers do it with processors ("backfill").
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

_INSTANT = 1e-6
"""Seconds. Two moments nearer than this are one: a step may start when another ends."""

_MOST_TRIES = 64
"""To find when a step fits: each goes past one end of another step."""


@dataclass(frozen=True, slots=True)
class Curve:
    """What one step will hold from its start (or from now) on: a line up from `first`, a plateau, and nothing."""

    first_bytes: float
    peak_bytes: float
    """Not below `first_bytes`."""
    rise_seconds: float
    end_seconds: float
    """Not below `rise_seconds`."""

    @property
    def area(self) -> float:
        """Bytes times seconds."""
        return self.rise_seconds * (self.first_bytes + self.peak_bytes) / 2 + self.peak_bytes * (
            self.end_seconds - self.rise_seconds
        )

    def at(self, seconds: float) -> float:
        """Bytes held this long after the start; at its very end still all."""
        if seconds < 0 or seconds > self.end_seconds:
            return 0.0
        if seconds >= self.rise_seconds:
            return self.peak_bytes
        return self.first_bytes + (self.peak_bytes - self.first_bytes) * seconds / self.rise_seconds

    def reaches(self, level_bytes: float) -> float:
        """How long after the start it holds more than this; its end, if it never does."""
        if level_bytes >= self.peak_bytes:
            return self.end_seconds
        if level_bytes < self.first_bytes or self.rise_seconds <= 0:
            return 0.0
        return (level_bytes - self.first_bytes) / (self.peak_bytes - self.first_bytes) * self.rise_seconds


class Forecast:
    """The sum of curves over what is held in any case; between its moments it is a line."""

    __slots__ = ("_after", "_before", "_times")

    def __init__(self, base_bytes: float) -> None:
        """`base_bytes`: what does not change: drivers, waiting steps, the kernel's own."""
        self._times = [0.0]
        self._before = [base_bytes]
        """The sum just before each moment."""
        self._after = [base_bytes]
        """And from it on; lower where a step ends."""

    def copy(self) -> "Forecast":
        """Another one to go on with."""
        other = Forecast(0.0)
        other._times, other._before, other._after = self._times[:], self._before[:], self._after[:]
        return other

    def add(self, curve: Curve, at_seconds: float = 0.0) -> None:
        """A step that starts (or goes on) this far from now."""
        end = at_seconds + curve.end_seconds
        for moment in (at_seconds, at_seconds + curve.rise_seconds, end):
            self._split(moment)
        for index, moment in enumerate(self._times):
            if moment >= at_seconds - _INSTANT:
                inside = min(moment - at_seconds, curve.end_seconds)
                if moment <= end + _INSTANT and moment > at_seconds + _INSTANT:
                    self._before[index] += curve.at(inside)
                if moment < end - _INSTANT:
                    self._after[index] += curve.at(max(0.0, inside))

    def highest(self, within_seconds: float = float("inf")) -> float:
        """The most that will be held, up to that far from now."""
        known = bisect_right(self._times, within_seconds)
        most = max([*self._before[1:known], *self._after[:known]])
        return most if known == len(self._times) else max(most, self._at(within_seconds))

    def fits(self, curve: Curve, limit_bytes: float, at_seconds: float = 0.0) -> bool:
        """Whether it never becomes too much with this one more."""
        return self._first_excess(curve, limit_bytes, at_seconds) is None

    def earliest(self, curve: Curve, limit_bytes: float, not_before_seconds: float = 0.0) -> float | None:
        """How far from now it fits first; None if it does not fit at all, or is hard to say."""
        start = not_before_seconds
        for _ in range(_MOST_TRIES):
            excess = self._first_excess(curve, limit_bytes, start)
            if excess is None:
                return start
            drop = self._next_drop(excess)
            if drop is None:
                return None
            # It has to be below what is free until then.
            start = max(start + _INSTANT, self._times[drop] - curve.reaches(limit_bytes - self._before[drop]))
        return None

    def _first_excess(self, curve: Curve, limit_bytes: float, at_seconds: float) -> float | None:
        """The first moment at which it is too much with this curve."""
        end = at_seconds + curve.end_seconds
        first = bisect_right(self._times, at_seconds + _INSTANT)
        room = limit_bytes + _INSTANT
        if self._at(at_seconds) + curve.first_bytes > room:
            return at_seconds
        plateau = at_seconds + curve.rise_seconds
        is_checked = False
        for index in range(first, len(self._times)):
            moment = self._times[index]
            if not is_checked and moment >= plateau:
                is_checked = True
                if self._at(plateau) + curve.peak_bytes > room:
                    return plateau
            if moment > end + _INSTANT:
                break
            inside = min(moment - at_seconds, curve.end_seconds)
            if self._before[index] + curve.at(inside) > room:
                return moment
            if moment < end - _INSTANT and self._after[index] + curve.at(inside) > room:
                return moment
        if not is_checked and self._at(plateau) + curve.peak_bytes > room:
            return plateau
        return end if self._at(end, before=True) + curve.peak_bytes > room else None

    def _next_drop(self, from_seconds: float) -> int | None:
        """The first moment from there on at which something is freed."""
        for index in range(bisect_right(self._times, from_seconds - _INSTANT), len(self._times)):
            if self._after[index] < self._before[index] - _INSTANT:
                return index
        return None

    def _split(self, moment: float) -> None:
        """Make it one of the moments."""
        index = bisect_right(self._times, moment + _INSTANT)
        if index and self._times[index - 1] >= moment - _INSTANT:
            return
        value = self._at(moment)
        self._times.insert(index, moment)
        self._before.insert(index, value)
        self._after.insert(index, value)

    def _at(self, moment: float, *, before: bool = False) -> float:
        """The sum at a moment."""
        index = bisect_right(self._times, moment + _INSTANT) - 1
        if index < 0:
            return self._after[0]
        if before and index > 0 and abs(self._times[index] - moment) <= _INSTANT:
            return self._before[index]
        if index == len(self._times) - 1:
            return self._after[index]
        start, stop = self._times[index], self._times[index + 1]
        share = max(0.0, moment - start) / (stop - start)
        return self._after[index] + (self._before[index + 1] - self._after[index]) * share


def total_area(curves: Sequence[Curve]) -> float:
    """Bytes times seconds of all."""
    return sum(curve.area for curve in curves)
