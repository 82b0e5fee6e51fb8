# SPDX-License-Identifier: LGPL-2.1-or-later
"""The pacer of one job: its steps wait where they would not fit, so that nothing has to be killed.

It looks, asks policy/pacing.py who goes and who waits, and does it. It belongs to `slicemgr run`, with a daemon too: a
daemon that is away, or restarted, holds up no build, and who can't be signalled by the user can't be paced by him. Near
the budget new processes are seen within 10 ms; far from it the pacer looks ten times a second at one number, and at the
steps only to learn from them.

Nobody is held while the build is being ended (a stopped process hears no SIGTERM), or if nobody would resume the steps
after our death (service/holding.py).
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from slicemgr.model.step import Profile, Step, StepSignature, StepState
from slicemgr.policy.expectation import Expectation
from slicemgr.policy.pacing import Pace, is_at_risk, pace
from slicemgr.policy.safety import has_not_begun
from slicemgr.service.holding import Holding, Outliver
from slicemgr.service.job_budget import Budget
from slicemgr.service.live_step import LiveStep
from slicemgr.service.pacing_tally import PacingSummary, PacingTally
from slicemgr.service.standstill import Standstill
from slicemgr.service.step_watch import StepWatch

NEAR_SECONDS: Final = 0.01
"""Between two looks for new processes while somebody waits or might have to. A compiler takes 5 to 10 MB in its first
10 ms here; one look costs 5 us while nobody is born (kernel/births.py)."""

FAR_SECONDS: Final = 0.1
"""And while all have room: then a look is for learning alone."""

MEASURE_SECONDS: Final = 0.02
LONGEST_MEASURE_SECONDS: Final = 0.1
"""Between two measurements near the budget: by how soon the room could be used up at the present growth."""

PLAN_SECONDS: Final = 0.1
"""Between two plans while nothing else asks for one: a step that ends or begins does, and who grows too much."""

NEWCOMERS: Final = 8
"""Far from the budget means that so many more steps would fit at once: `make -j20` begins them between two looks."""

STAND_SECONDS: Final = 0.25
"""Between two questions to those that stand, whether somebody wants them to end, or has continued them."""

ENDING_SECONDS: Final = 5.0
"""After a signal that ends a build nobody is held for so long: a program may also go on after ^C, as an agent does."""

SHORT_SECONDS: Final = 0.3
"""For so long it has to be true that not even one step fits, before something irreversible is done."""

SHARED_SECONDS: Final = 30.0
"""For so long a build that has not begun leaves its first step to what other builds give back. A step that is bigger
than its fair share would wait for ever: then it begins, and the others see what they have left. Nor is anybody killed
sooner because a share is small: what others hold comes back, and until then the only one that runs may go on."""

_KIN: Final = 64
"""So many that have ended last tell about others of their kind."""


class StepMemory(Protocol):
    """What was learnt of steps before; raises nothing."""

    def profile(self, signature: StepSignature) -> Profile | None: ...
    def ended(self, program: str) -> Sequence[Profile]: ...
    def learn(self, signature: StepSignature, profile: Profile) -> None: ...


@dataclass(frozen=True, slots=True)
class Shortage:
    """Not even one step fits beside what those that wait hold."""

    steps: Mapping[int, LiveStep]
    """All, by pid."""
    short_bytes: int
    budget: Budget
    is_sure: bool = True
    """It has been so for some time. Else it was seen just now: nothing may be done that can't be undone."""


class Pacer:
    """Only one thread calls, but for `end_soon` and `hold_again`, which say what is to be done at the next look."""

    def __init__(
        self,
        watch: StepWatch,
        births: Callable[[], Collection[int] | None],
        read_budget: Callable[[float], Budget],
        *,
        outliver: Outliver | None,
        memory: StepMemory,
        runs_again: Callable[[Sequence[int]], bool] = lambda ancestors: False,
        last_resort: Callable[[Shortage], None] = lambda shortage: None,
        planned: Callable[[Mapping[int, LiveStep], Budget], None] = lambda steps, budget: None,
        ceiling: int | None = None,
    ) -> None:
        """`births`: who was born since the last question, see StepWatch.look. `runs_again`: whether what comes below
        these pids is a step that was killed. `last_resort` is called when not even one step fits; `planned` after each
        decision. `ceiling`: at most so many run at once."""
        self._watch = watch
        self._births = births
        self._read_budget = read_budget
        self._memory = memory
        self._runs_again = runs_again
        self._last_resort = last_resort
        self._planned = planned
        self._ceiling = ceiling
        self._holding = Holding(outliver)
        self._standstill = Standstill()
        self._tally = PacingTally()
        self._ended: dict[str, list[Profile]] = {}
        self._is_near = True
        self._measure_due = self._plan_due = self._stand_due = 0.0
        self._short_since: float | None = None
        self._ending_until = 0.0
        self._is_ending = self._is_to_hold_again = False
        self.looks = 0

    @property
    def is_near(self) -> bool:
        """Whether somebody waits, or might have to soon."""
        return self._is_near

    @property
    def version(self) -> int:
        """Grows whenever `steps` changes."""
        return self._watch.version

    @property
    def steps(self) -> Mapping[int, LiveStep]:
        """Those that live, by pid."""
        return self._watch.steps

    def end_soon(self) -> None:
        """The build is being ended: nobody may stand, or they would not hear of it. From any thread."""
        self._is_ending = True

    def hold_again(self) -> None:
        """All were continued by `fg`, those that wait as well. From any thread."""
        self._is_to_hold_again = True

    def look(self, now_seconds: float, exited: Iterable[int] = ()) -> float:
        """Look, decide, act. The answer: seconds until the next look. `exited`: the pids of steps that have.

        Raises KernelError if the job can't be read.
        """
        self.looks += 1
        begun, ended = self._watch.look(now_seconds, born=self._births(), exited=exited)
        if self._is_ending:
            self._is_ending = False
            self._ending_until = now_seconds + ENDING_SECONDS
            self._measure_due = now_seconds  # So they are let go in this look.
        for step in ended:
            self._has_ended(step, now_seconds)
        for step in begun:
            self._has_begun(step, now_seconds)
        back = self._take_back(now_seconds)
        if self._is_to_hold_again:
            self._is_to_hold_again = False
            if now_seconds >= self._ending_until:  # `kill %1` sends SIGCONT behind its SIGTERM.
                self._holding.hold_again(self.steps.values(), now_seconds)
        has_changed = bool(begun or ended or back)
        if has_changed or now_seconds >= self._measure_due:
            self._decide(now_seconds, has_changed=has_changed)
        return NEAR_SECONDS if self._is_near else FAR_SECONDS

    def let_all_go(self, now_seconds: float) -> None:
        """Resume whoever we have stopped, and hold nobody that has just begun."""
        for step in self.steps.values():
            if step.state is not StepState.RUNNING:
                self._holding.let_go(step, now_seconds)

    def finish(self, now_seconds: float) -> PacingSummary:
        """The command has ended: nobody waits any more, and what is known of the living is lost."""
        self.let_all_go(now_seconds)
        for step in self.steps.values():
            self._tally.ended(step, now_seconds)
        self._watch.close()
        return self._tally.summary()

    def _has_begun(self, step: LiveStep, now_seconds: float) -> None:
        self._tally.begun()
        program = step.kind
        if step.signature is not None:
            program = step.signature.program
            step.profile = self._memory.profile(step.signature)
        if step.kind not in self._ended:
            # The latest first there, and last here.
            self._ended[step.kind] = list(self._memory.ended(program))[::-1]
        step.alone = self._runs_again(self._watch.ancestors_of(step.identity.pid))
        if self._watch.is_continuation(step):
            step.enter(StepState.RUNNING, now_seconds)

    def _take_back(self, now_seconds: float) -> bool:
        """Who has waited for a child goes on only when it fits, as if it had just been born.

        Twelve meinproc5 that each check their manual by an xmllint hold nothing while they wait for it, and 70 MB each
        afterwards: taken for running ones, they left no room for the xmllints.
        """
        back, self._watch.back = self._watch.back, []
        for step in back:
            if self._is_near and step.state is StepState.RUNNING and step.may_wait and not step.children:
                step.enter(StepState.NEW, now_seconds)
        return bool(back)

    def _has_ended(self, step: LiveStep, now_seconds: float) -> None:
        self._holding.has_ended(step)
        self._tally.ended(step, now_seconds)
        profile = step.learnt()
        # One that was ended from outside tells nothing: learnt so, 18 manuals of 75 MB were expected to hold none.
        if profile is None or not step.is_whole or now_seconds < self._ending_until:
            return
        kin = self._ended.setdefault(step.kind, [])
        kin.append(profile)
        del kin[:-_KIN]
        if step.signature is not None:
            self._memory.learn(step.signature, profile)

    def _decide(self, now_seconds: float, *, has_changed: bool) -> None:
        self._watch.measure(now_seconds)
        budget = self._read_budget(now_seconds)
        running = sum(step.state is StepState.RUNNING for step in self.steps.values())
        self._tally.used(budget.used_bytes, budget.budget_bytes, running)
        if now_seconds >= self._stand_due:
            self._stand_due = now_seconds + STAND_SECONDS
            self._holding.look(self.steps.values(), now_seconds)
        # Who waits for a child holds what it holds, and does nothing until that has ended: see _take_back.
        living = [step for step in self.steps.values() if not step.children]
        steps = [step.as_step(now_seconds) for step in living]
        base_bytes = budget.used_bytes - sum(step.held_bytes for step in living)
        can_hold = self._holding.is_possible and now_seconds >= self._ending_until
        stand = any(step.is_held for step in self.steps.values())
        has_ceiling = self._ceiling is not None
        self._is_near = can_hold and (stand or has_ceiling or self._may_come_near(steps, budget, base_bytes))
        if not self._is_near:
            self.let_all_go(now_seconds)
            self._measure_due = now_seconds + FAR_SECONDS
            self._planned(self.steps, budget)
            return
        self._measure_due = now_seconds + _seconds_to_measure(steps, budget)
        is_urgent = is_at_risk(steps, budget_bytes=budget.budget_bytes, base_bytes=base_bytes)
        if has_changed or is_urgent or now_seconds >= self._plan_due:
            self._plan_due = now_seconds + PLAN_SECONDS
            self._carry_out(
                pace(
                    steps,
                    self._ended,
                    budget_bytes=budget.budget_bytes,
                    base_bytes=base_bytes,
                    ceiling=self._ceiling,
                    is_shared=budget.is_shared and not self._has_waited_long(steps),
                ),
                budget,
                now_seconds,
            )
            self._planned(self.steps, budget)
        turn = self._standstill.turn(self.steps.values(), now_seconds)
        if turn is not None and not (budget.is_shared and has_not_begun(steps)):
            self._holding.let_go(turn, now_seconds)

    @staticmethod
    def _has_waited_long(steps: Sequence[Step]) -> bool:
        return any(step.since_seconds > SHARED_SECONDS for step in steps)

    def _may_come_near(self, steps: Sequence[Step], budget: Budget, base_bytes: int) -> bool:
        """Whether those that run, and some more of their kind, might not fit all at once."""
        expected = Expectation(steps, self._ended, budget.budget_bytes)
        peaks = [max(expected.profile_of(step).peak_bytes, step.held_bytes) for step in steps]
        # Before the first one: as somebody of whom nothing is known.
        newcomer = max(peaks, default=expected.profile_of(Step(0, StepState.NEW, 0)).peak_bytes)
        return base_bytes + sum(peaks) + NEWCOMERS * newcomer > budget.budget_bytes

    def _carry_out(self, decision: Pace, budget: Budget, now_seconds: float) -> None:
        by_order = {step.order: step for step in self.steps.values() if not step.children}
        for order in decision.stop:
            self._tally.stops += self._holding.hold(by_order[order], StepState.WAITING, now_seconds)
        for order in decision.go:
            self._holding.let_go(by_order[order], now_seconds)
        for step in by_order.values():
            if step.state is StepState.NEW and not step.is_held:
                self._holding.hold(step, StepState.NEW, now_seconds)
        if decision.short_bytes <= 0:
            self._short_since = None
        elif self._short_since is None:
            self._short_since = now_seconds
            self._last_resort(Shortage(self.steps, decision.short_bytes, budget, is_sure=False))
        elif now_seconds - self._short_since >= (SHARED_SECONDS if budget.is_shared else SHORT_SECONDS):
            self._short_since = None  # What is done takes effect, and is looked at, before more is done.
            self._last_resort(Shortage(self.steps, decision.short_bytes, budget))


def _seconds_to_measure(steps: Sequence[Step], budget: Budget) -> float:
    """A quarter of the time in which the room could be used up."""
    growth = sum(step.growth_bytes_per_second for step in steps if step.state is StepState.RUNNING)
    if not growth:
        return LONGEST_MEASURE_SECONDS
    room = max(0, budget.budget_bytes - budget.used_bytes)
    return min(max(room / growth / 4, MEASURE_SECONDS), LONGEST_MEASURE_SECONDS)
