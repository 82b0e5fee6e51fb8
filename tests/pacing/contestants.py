# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who is compared: slicemgr's policy, cold and known; oomstaller's rule; the plain rules that come to mind first."""

from collections.abc import Mapping, Sequence
from typing import Final

from slicemgr.model.step import Profile, StepState
from slicemgr.policy.last_resort import least_work_lost
from slicemgr.policy.pacing import is_at_risk, pace
from tests.pacing.builds import BIRTH_BYTES, Build
from tests.pacing.simulator import LOOK_SECONDS, Answer, Live, Look

DECIDE_SECONDS: Final = 0.1
"""The pacer asks `pace` so often, and when somebody was born, has ended, or is at risk."""


class Paced:
    """slicemgr: `pace` as service/pacer.py asks it."""

    holds_at_birth = True
    look_seconds = LOOK_SECONDS

    def __init__(self, profiles: Mapping[int, Profile] | None = None, ceiling: int | None = None) -> None:
        """`profiles`: by index of the work, what an earlier run has taught; none: the build is cold."""
        self._profiles = profiles or {}
        self._ended: dict[str, list[Profile]] = {}
        self._ceiling = ceiling
        self._decided = -1.0
        self.short_looks = 0

    def decide(self, look: Look) -> Answer:
        """What `pace` says, and whom to kill when waiting can't help any more."""
        for live in look.ended:
            self._ended.setdefault(live.work.kind, []).append(live.learnt())
        steps = [live.as_step(look.now, self._profiles.get(live.index)) for live in look.steps]
        base, budget = int(look.base_bytes), int(look.limit_bytes)
        is_due = look.is_event or look.now - self._decided >= DECIDE_SECONDS - 1e-9
        if not is_due and not is_at_risk(steps, budget_bytes=budget, base_bytes=base):
            return Answer()
        self._decided = look.now
        told = pace(steps, self._ended, budget_bytes=budget, base_bytes=base, ceiling=self._ceiling)
        if told.short_bytes:
            self.short_looks += 1
            gone = least_work_lost(steps, told.short_bytes)
            return Answer(
                tuple(order for order in told.stop if order not in gone),
                tuple(order for order in told.go if order not in gone),
                gone,
            )
        return Answer(told.stop, told.go)


class FirstCome:
    """`make -jN` and nobody else: what most builds are."""

    holds_at_birth = False
    look_seconds = 1.0

    def decide(self, look: Look) -> Answer:
        """Nothing."""
        return Answer()


class Oomstaller:
    """Its 0.4.0: once a second the largest runs, and the newest are stopped first while more than
    usable/largest + 1 run. The largest that was ever seen counts, half as much after each ten that have ended."""

    holds_at_birth = False
    look_seconds = 1.0

    def __init__(self) -> None:
        self._largest = 0.0
        self._ended = 0

    def decide(self, look: Look) -> Answer:
        """As read from its source; without its rules for swap: there is none."""
        for _ in look.ended:
            self._ended += 1
            if self._ended % 10 == 0:
                self._largest *= 0.5
        if not look.steps:
            return Answer()
        largest = max(look.steps, key=lambda live: live.held)
        self._largest = max(self._largest, largest.held)
        usable = look.limit_bytes - look.base_bytes
        count = len(look.steps)
        stop: list[int] = []
        for live in reversed(look.steps):
            if live is not largest and count > usable / self._largest + 1:
                stop.append(live.order)
                count -= 1
        return _towards(look.steps, [live.order for live in look.steps if live.order not in stop])


class PauseNewest:
    """Stop the newest that run at 0.9 of the limit, resume the oldest below 0.75: pausing alone, no prediction."""

    holds_at_birth = False
    look_seconds = LOOK_SECONDS

    def decide(self, look: Look) -> Answer:
        """One at each look."""
        running = [live for live in look.steps if live.state is StepState.RUNNING]
        waiting = [live for live in look.steps if live.state is not StepState.RUNNING]
        usage = look.usage
        if usage > look.limit_bytes * 0.9 and len(running) > 1:
            return Answer(stop=(running[-1].order,))
        if waiting and (usage < look.limit_bytes * 0.75 or not running):
            return Answer(go=(waiting[0].order,))
        return Answer()


class _Admission:
    """Held at birth; let go oldest first, never stopped again. Peaks are known."""

    holds_at_birth = True
    look_seconds = LOOK_SECONDS

    def __init__(self, build: Build) -> None:
        self._peaks: Sequence[float] = [work.peak_bytes * 1.01 for work in build.works]

    def _peak(self, live: Live) -> float:
        return max(self._peaks[live.index], live.held)

    def decide(self, look: Look) -> Answer:
        """Begin whoever is admitted."""
        running = [live for live in look.steps if live.state is StepState.RUNNING]
        held = [live for live in look.steps if live.state is not StepState.RUNNING]
        going: list[int] = []
        for live in held:
            if running and not self._admits(look, running, live):
                break
            running.append(live)
            going.append(live.order)
        return Answer(go=tuple(going))

    def _admits(self, look: Look, running: Sequence[Live], live: Live) -> bool:
        raise NotImplementedError


class SumOfPeaks(_Admission):
    """The peaks of all that run have to fit beside what the held ones hold."""

    def _admits(self, look: Look, running: Sequence[Live], live: Live) -> bool:
        held = (len(look.steps) - len(running) - 1) * BIRTH_BYTES
        peaks = sum(self._peak(each) for each in (*running, live))
        return look.base_bytes + held + peaks <= look.limit_bytes


class Banker(_Admission):
    """The banker's algorithm: whoever grows needs a state in which all can still end one after the other. Here the
    state is judged at each look for all that want to grow; who would make it unsafe is stopped."""

    def decide(self, look: Look) -> Answer:
        """Oldest first: those whose growth until the next look but one leaves the state safe."""
        grown = {live.order: live.held for live in look.steps}
        want: list[int] = []
        for live in look.steps:
            before = grown[live.order]
            grown[live.order] = min(self._peak(live), before + max(live.growth, 200e6) * 3 * LOOK_SECONDS)
            if self._is_safe(look, grown):
                want.append(live.order)
            else:
                grown[live.order] = before
        if not want and look.steps:
            want = [min(look.steps, key=lambda live: (self._peak(live) - live.held, live.order)).order]
        return _towards(look.steps, want)

    def _is_safe(self, look: Look, grown: Mapping[int, float]) -> bool:
        free = look.limit_bytes * 0.99 - look.base_bytes - sum(grown.values())
        if free < 0:
            return False
        for needs, holds in sorted(
            (max(0.0, self._peak(live) - grown[live.order]), grown[live.order]) for live in look.steps
        ):
            if needs > free:
                return False
            free += holds
        return True


def _towards(steps: Sequence[Live], want: Sequence[int]) -> Answer:
    stop = [live.order for live in steps if live.state is StepState.RUNNING and live.order not in want]
    go = [live.order for live in steps if live.state is not StepState.RUNNING and live.order in want]
    return Answer(tuple(stop), tuple(go))
