# SPDX-License-Identifier: LGPL-2.1-or-later
"""How much all running steps will hold at every moment ahead, and when one more fits.

Twenty compilers do not reach their peaks at the same moment, so the sum of their peaks says too little: it keeps
waiting who could run. What is added here is the usage of each step as a curve over time, which rises to the peak,
stays there, and drops to nothing, as HPC schedulers do it with processors ("backfill").

A curve never falls but at its end, so the sum never falls but where a step ends: between two moments it is highest
just before the later one. To look there is enough, and each look says how far to go at least.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_INSTANT = 1e-6
"""Seconds. Two moments nearer than this are one: a step may start when another ends."""

_MOST_TRIES = 64
"""To find when a step fits: each goes past one end of another step at least."""


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
    """The sum of curves over what is held in any case; between its moments it is a line that does not fall."""

    __slots__ = ("_after", "_before", "_times")

    def __init__(self, base_bytes: float, curves: Iterable[Curve] = ()) -> None:
        """`base_bytes`: what does not change: drivers, waiting steps, the kernel's own; it may be below 0.
        `curves`: of steps that go on now; all at once is faster than one after the other."""
        self._times = [0.0]
        self._before = [base_bytes]
        """The sum just before each moment."""
        self._after = [base_bytes]
        """And from it on; lower where a step ends, higher where one starts."""
        changes: list[tuple[float, float, float]] = []  # when, by how much the sum falls, by how much its slope does
        total, slope = base_bytes, 0.0
        for curve in curves:
            rise, end = curve.rise_seconds, curve.end_seconds
            if rise > _INSTANT:
                total += curve.first_bytes
                each = (curve.peak_bytes - curve.first_bytes) / rise
                slope += each
                changes.append((rise, 0.0, each))
            else:
                total += curve.peak_bytes
            changes.append((end, curve.peak_bytes, 0.0))
        self._after[0] = total
        changes.sort()
        times, before, after = self._times, self._before, self._after
        for moment, falls, flattens in changes:
            if moment > times[-1] + _INSTANT:
                total += slope * (moment - times[-1])
                times.append(moment)
                before.append(total)
                after.append(total)
            total -= falls
            slope -= flattens
            after[-1] = total

    def copy(self) -> "Forecast":
        """Another one to go on with."""
        other = Forecast.__new__(Forecast)
        other._times, other._before, other._after = self._times[:], self._before[:], self._after[:]
        return other

    def add(self, curve: Curve, at_seconds: float = 0.0) -> None:
        """A step that starts (or goes on) this far from now."""
        first, rise, peak = curve.first_bytes, curve.rise_seconds, curve.peak_bytes
        start = self._split(at_seconds)
        if rise > _INSTANT:
            self._split(at_seconds + rise)
        stop = self._split(at_seconds + curve.end_seconds)
        times, before, after = self._times, self._before, self._after
        slope = (peak - first) / rise if rise > _INSTANT else 0.0
        plateau = at_seconds + rise - _INSTANT
        if stop > start:
            after[start] += first if rise > _INSTANT else peak
        for index in range(start + 1, stop):
            moment = times[index]
            held = peak if moment >= plateau else first + slope * (moment - at_seconds)
            before[index] += held
            after[index] += held
        if stop > start:
            before[stop] += peak

    def highest(self, within_seconds: float = float("inf")) -> float:
        """The most that will be held, up to that far from now."""
        known = bisect_right(self._times, within_seconds)
        most = max(self._after[0], *self._before[1:known]) if known > 1 else self._after[0]
        return most if known == len(self._times) else max(most, self._at(within_seconds))

    def fits(self, curve: Curve, limit_bytes: float, at_seconds: float = 0.0) -> bool:
        """Whether it never becomes too much with this one more."""
        return self._blocked_until(curve, limit_bytes + _INSTANT, at_seconds) <= at_seconds

    def fits_soon(self, curve: Curve, limit_bytes: float, within_seconds: float) -> bool:
        """Whether `earliest` is that near: cheaper where it is not."""
        start, room = 0.0, limit_bytes + _INSTANT
        while start <= within_seconds:
            later = self._blocked_until(curve, room, start)
            if later <= start:
                return True
            start = later
        return False

    def earliest(self, curve: Curve, limit_bytes: float, not_before_seconds: float = 0.0) -> float | None:
        """How far from now it fits first; None if it does not fit at all, or is hard to say."""
        room = limit_bytes + _INSTANT
        if self._after[-1] + curve.peak_bytes > room:
            return None
        start = not_before_seconds
        for _ in range(_MOST_TRIES):
            later = self._blocked_until(curve, room, start)
            if later <= start:
                return start
            start = later
        return None

    def _blocked_until(self, curve: Curve, room: float, start: float) -> float:
        """`start` if it fits from there on; else a later moment before which it does not fit either.

        At each moment within its life it may hold what is free then, so it has to be so young there.
        """
        times, before = self._times, self._before
        first, peak, rise = curve.first_bytes, curve.peak_bytes, curve.rise_seconds
        end = start + curve.end_seconds
        plateau = start + rise
        slope = (peak - first) / rise if rise > 0 else 0.0
        blocked = start
        index = inner = bisect_right(times, start + _INSTANT)
        count = len(times)
        while index < count:
            moment = times[index]
            if moment > end + _INSTANT:
                break
            free = room - before[index]
            if (peak if moment >= plateau else first + slope * (moment - start)) > free:
                blocked = max(blocked, moment - curve.reaches(free), start + _INSTANT)
            index += 1
        # And at its own end, if that is between two moments.
        if index == inner or end > times[index - 1] + _INSTANT:
            if index == count:
                if self._after[-1] + peak > room:
                    blocked = float("inf")
            elif self._at(end, before=True) + peak > room:
                blocked = max(blocked, times[index] - curve.reaches(room - before[index]), start + _INSTANT)
        return blocked

    def _split(self, moment: float) -> int:
        """Make it one of the moments; its place."""
        times = self._times
        index = bisect_right(times, moment + _INSTANT)
        if index and times[index - 1] >= moment - _INSTANT:
            return index - 1
        value = self._at(moment)
        times.insert(index, moment)
        self._before.insert(index, value)
        self._after.insert(index, value)
        return index

    def _at(self, moment: float, *, before: bool = False) -> float:
        """The sum at a moment."""
        times = self._times
        index = bisect_right(times, moment + _INSTANT) - 1
        if index < 0:
            return self._after[0]
        if before and index > 0 and times[index] >= moment - _INSTANT:
            return self._before[index]
        if index == len(times) - 1:
            return self._after[index]
        start, stop = times[index], times[index + 1]
        share = max(0.0, moment - start) / (stop - start)
        return self._after[index] + (self._before[index + 1] - self._after[index]) * share


def total_area(curves: Sequence[Curve]) -> float:
    """Bytes times seconds of all."""
    return sum(curve.area for curve in curves)
