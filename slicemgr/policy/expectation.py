# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a step will still take: by what was learnt of it, or else by its kin and by how it grows.

tests/pacing/simulator.py judges the numbers, and `tests/bench/pacing.py` prints what they are worth. Those with "once"
beside them were found with a simulator that is lost, and have not been measured again one by one.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from slicemgr.model.step import Profile, Step, StepState
from slicemgr.policy.forecast import Curve

FIRST_SHARE: Final = 1 / 6
"""Of the budget for a step of which nothing at all is known. A quarter made a cold build of equal steps 5 % slower;
with an eighth six of them stopped 29 steps in place of 5, and the slowest took 1.14 of the best -jN and not 1.06."""

FIRST_BYTES: Final = 10**9
"""And not more than this, however big the budget: a sixth of 20 GiB would keep most of a `make -j20` waiting that needs
4 GiB in all. Compilers and linkers above 1 GB are few, and a budget of which this is less than a sixth takes seconds
to fill, so that who grows above it is seen in time. Twenty of them fit into 20 GiB: there nobody waits at all."""

FIRST_TOGETHER: Final = 3
FIRST_SPACING_SECONDS: Final = 0.7
"""Of a build of which nothing is known only so many begin at once, then one each 0.7 s: so their peaks do not come
together either. Without it 1 of 18 cold builds ran out once; with 1.5 s short steps took 7 % longer. On a
budget that is big beside a step more begin, and faster."""

GROWING_BYTES_PER_SECOND: Final = 1 << 20
GROWING_SHARE_PER_SECOND: Final = 0.02
"""Less growth than this is none: a compiler at its peak still takes a page here and there."""

STILL_SECONDS: Final = 0.5
"""Who has not grown for so long is taken to be at its peak. With 3 s a cold build was 8 to 18 % slower once."""

GROWTH_AHEAD: Final = 1.3
"""Who grows above all that was expected will grow by this factor."""

KIN_AHEAD: Final = 1.25
"""And so will its kin that are not so far yet. Without this factor the first to end are the small ones, and all
others are expected to be as small: 12 of 48 builds ran out once, with it 1."""

STILL_AHEAD: Final = 1.02

SEEN_MOST_AHEAD: Final = 1.1
FIRST_MOST_SHARE: Final = 0.4
FIRST_MOST_GROWS: Final = 2.5
FIRST_HIGHEST_SHARE: Final = 0.6
FIRST_MOST_FADES: Final = 12
"""One of unknown size may become a tenth bigger than any that has been seen. As long as none of its kind has ended it
may also come to two fifths of the budget, and to 2.5 times of what its biggest kin holds, up to 0.6 of the budget; when
twelve have, to half of that: the small ones end first. With a quarter of the budget, and nothing else, 8 of 72
simulated cold builds lost a step, and giants among small ones took 0.95 of the best -jN, and not 0.78. With 0.45 equal
ones took 1.07 and not 1.05; without fading KDE's manuals, which are all alike, 1.60 and not 1.34. With 3 in place of 12
four of six builds of g++ lost a step, and not one."""

ENDED_SEEN: Final = 100
"""So many of a kind that have ended count, the last ones: a build of thousands is not to cost more and more."""

AT_PEAK_SHARE: Final = 0.98
MOST_AHEAD: Final = 1.02
"""A learnt peak is not the next one."""

LATE_SHARE: Final = 0.01
LATE_SECONDS: Final = 0.1
"""A step ends so much later than the last time; its end is seen late, too. Without it known builds of fast steps took
0.86 of the best -jN and not 0.89, but cold ones with a giant among them lost 9 steps and not 2."""

_SHORTEST_REST: Final = 0.5
"""Seconds that an unknown step runs on at its peak, at least."""


def is_at_peak(step: Step) -> bool:
    """Whether it holds what it was learnt to hold at most: it takes next to nothing more, and then gives all back."""
    return (
        step.profile is not None
        and step.profile.peak_bytes * AT_PEAK_SHARE <= step.held_bytes <= step.profile.peak_bytes * MOST_AHEAD
    )


def is_growing(step: Step) -> bool:
    """Whether its memory still becomes more. Who is at a learnt peak has done with it, whatever the last half second
    was like: to stop him there would keep him from giving all of it back."""
    if step.profile is not None and is_at_peak(step) and step.held_bytes <= step.profile.peak_bytes:
        return False
    return step.growth_bytes_per_second > max(GROWING_BYTES_PER_SECOND, step.held_bytes * GROWING_SHARE_PER_SECOND)


class Expectation:
    """What is expected of the steps of one build at one instant."""

    def __init__(self, steps: Sequence[Step], ended: Mapping[str, Sequence[Profile]], budget_bytes: int) -> None:
        """`ended`: by kind, the steps that have ended in this build, or earlier ones of which no more is known."""
        self._ended = {kind: profiles[-ENDED_SEEN:] for kind, profiles in ended.items()}
        self._budget_bytes = budget_bytes
        self.first_bytes = min(budget_bytes * FIRST_SHARE, float(FIRST_BYTES))
        """What a step is taken to need of which nothing at all is known."""
        self._unknown: dict[str, list[Step]] = {}
        for step in steps:
            if step.profile is None and step.state is not StepState.NEW:
                self._unknown.setdefault(step.kind, []).append(step)
        self._guesses: dict[str, Profile] = {}
        self._mosts: dict[str, float] = {}

    def profile_of(self, step: Step) -> Profile:
        """Learnt, or guessed."""
        if step.profile is not None:
            return step.profile
        guess = self._guesses.get(step.kind)
        if guess is None:
            guess = self._guesses[step.kind] = self._guess(step.kind)
        return guess

    def slow_start(self) -> tuple[int, float]:
        """How many steps of unknown size begin at once, and after how many seconds each one more.

        A guess is a sixth of a small budget, and less of one above 6 GB: there are more of them, half at once and the
        others in the same time. So there is no cliff beside the budget on which all fit.
        """
        fit = self._budget_bytes / self.first_bytes if self.first_bytes else 0.0
        scale = max(1.0, fit * FIRST_SHARE)
        return int(FIRST_TOGETHER * scale), FIRST_SPACING_SECONDS / scale

    def is_first_of_kind(self, step: Step) -> bool:
        """Whether neither it nor any of its kin has ended before."""
        return step.profile is None and not self._ended.get(step.kind)

    def most_bytes(self, step: Step) -> float:
        """The most that the step may come to hold; it has to be able to end beside the others."""
        held = step.held_bytes
        if step.profile is not None and held <= step.profile.peak_bytes:
            return step.profile.peak_bytes * MOST_AHEAD
        if step.still_seconds >= STILL_SECONDS:
            return held * STILL_AHEAD
        if step.profile is not None:
            return held * GROWTH_AHEAD
        most = self._mosts.get(step.kind)
        if most is None:
            ended = self._ended.get(step.kind, ())
            seen = max((profile.peak_bytes for profile in ended), default=0) * SEEN_MOST_AHEAD
            living = max((each.held_bytes for each in self._unknown.get(step.kind, ())), default=0)
            first = self._first_most(living) / (1 + len(ended) / FIRST_MOST_FADES)
            most = self._mosts[step.kind] = max(seen, living * KIN_AHEAD, first)
        return max(most, held * KIN_AHEAD)

    def _first_most(self, living_bytes: int) -> float:
        """Of a kind of which none has ended, where so much is held by the biggest."""
        grown = min(living_bytes * FIRST_MOST_GROWS, self._budget_bytes * FIRST_HIGHEST_SHARE)
        return min(max(self._budget_bytes * FIRST_MOST_SHARE, grown), float(FIRST_BYTES))

    def curve_of(self, step: Step) -> Curve:
        """What it will hold from now on if it runs."""
        profile, held = self.profile_of(step), float(step.held_bytes)
        if step.state is StepState.RUNNING and (step.profile is None or held > profile.peak_bytes):
            rest = max(_SHORTEST_REST, (profile.run_seconds - profile.rise_seconds))
            if is_growing(step):
                peak = max(profile.peak_bytes, held * GROWTH_AHEAD if held > profile.peak_bytes * 0.9 else held)
                rise = (peak - held) / step.growth_bytes_per_second
                return Curve(held, peak, rise, rise + rest)
            if step.still_seconds >= STILL_SECONDS:
                left = max(profile.run_seconds - max(step.ran_seconds, profile.rise_seconds), rest * 0.3)
                return Curve(held, held * STILL_AHEAD, 0.0, max(_SHORTEST_REST, left))
        peak = max(profile.peak_bytes, held)
        rise = max(0.0, profile.rise_seconds - step.ran_seconds)
        late = profile.run_seconds * LATE_SHARE + LATE_SECONDS
        # Who takes longer than that may end at any moment.
        end = max(profile.run_seconds + late - step.ran_seconds, rise, late)
        return Curve(held, peak, rise, end)

    def _guess(self, kind: str) -> Profile:
        ended, unknown = self._ended.get(kind, ()), self._unknown.get(kind, ())
        leading = max((each.held_bytes * (KIN_AHEAD if is_growing(each) else 1.05) for each in unknown), default=0.0)
        if not ended:
            # It may take all that at once, and for ever.
            return Profile(int(max(self.first_bytes, leading)), 0.0, 1e4)
        peaks = [float(profile.peak_bytes) for profile in ended]
        average = sum(peaks) / len(peaks)
        # The small ones end first; those that are above already count as what they will at least become.
        peaks += [each.held_bytes * KIN_AHEAD for each in unknown if each.held_bytes > average]
        return Profile(
            int(max(_expected_peak(peaks, self._budget_bytes), leading * 0.9 if len(ended) < 3 else 0.0)),
            _middle([profile.rise_seconds for profile in ended]) * 0.9,
            _middle([profile.run_seconds for profile in ended]) * 1.05,
        )


def _expected_peak(peaks: Sequence[float], budget_bytes: int) -> float:
    """For each of as many as fit: their sum is to hold, so that one may be above its share if another is below.

    The average, and one standard deviation of the average of those that run together; with few seen, some more.
    """
    count = len(peaks)
    average = sum(peaks) / count
    if average <= 0:
        return 0.0
    spread: float = (sum((peak - average) ** 2 for peak in peaks) / count) ** 0.5
    spread = max(spread, average * 0.3 / count)
    together = max(1.0, budget_bytes / average)
    expected: float = average + spread / together**0.5 + average * 0.1 / count
    return min(expected, max(max(peaks) * 1.05, average * 1.3))


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
