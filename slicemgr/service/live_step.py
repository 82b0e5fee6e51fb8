# SPDX-License-Identifier: LGPL-2.1-or-later
"""One step of a build while it lives: measured, stopped, resumed, and learnt from at its end."""

from collections import deque
from typing import Final

from slicemgr.kernel import procfs
from slicemgr.kernel.errors import KernelError
from slicemgr.kernel.hold import HeldProcess
from slicemgr.kernel.step_files import StepFiles
from slicemgr.model.process import ProcessIdentity
from slicemgr.model.step import Profile, Step, StepSignature, StepState

GROWTH_WINDOW_SECONDS: Final = 0.5
"""Of running, over which growth is measured: malloc takes memory in jumps."""

_NOTICEABLE_BYTES: Final = 1 << 18
_NOTICEABLE_SHARE: Final = 0.01
"""More than this above the highest is growth."""

RISE_SHARE: Final = 0.25
"""The line that is learnt goes above all that was held beyond this share of the peak: below it an interpreter's
start, 8 MB at once, would make every rise a jump."""


class LiveStep:
    """What is known of one step now. Only the pacer's thread touches it."""

    def __init__(
        self,
        order: int,
        identity: ProcessIdentity,
        kind: str,
        process: HeldProcess,
        files: StepFiles,
        now_seconds: float,
    ) -> None:
        self.order = order
        self.identity = identity
        self.kind = kind
        self.process = process
        self.signature: StepSignature | None = None
        self.command_line: tuple[str, ...] = ()
        self.profile: Profile | None = None
        self.state = StepState.NEW
        self.may_wait = True
        self.is_held = False
        """We have stopped it, and not resumed it."""
        self.alone = False
        """See Step.alone."""
        self.stood = False
        """Since we have stopped it, it was seen to stand."""
        self.told_seconds = now_seconds
        """When it was told to stop."""
        self.cpu_ticks = -1
        """Its CPU time at the last question; -1 before."""
        self.turns = 0
        """How often the watchdog has let it go."""
        self.children = 0
        self.held_bytes = 0
        self.peak_bytes = 0
        self.ran_seconds = 0.0
        self.waits = 0
        self.waited_seconds = 0.0
        self.is_whole = True
        """Nothing has cut it short: its end can be learnt from."""
        self._files = files
        self._since_seconds = now_seconds
        self._seen_seconds = now_seconds
        self._grown_at_seconds = 0.0
        self._marked_bytes = 0
        self._history: deque[tuple[float, int]] = deque()
        self._course: list[tuple[float, int]] = []
        self._gap_seconds = 0.0
        self._queued_seconds = 0.0
        self._queued_debt = 0.0

    def measure(self, now_seconds: float) -> None:
        """Look at it. Keeps what it had if it is gone.

        What it ran is the time since the last look, unless it stood still, without what it waited for a processor:
        among twenty on two cores a compiler that gets no processor for half a second does not grow, and is not at its
        peak for that; and the next time there may be fewer.
        """
        gap = max(0.0, now_seconds - self._seen_seconds)
        self._seen_seconds = now_seconds
        try:
            queued, held = self._files.queued_seconds(), self._files.held_bytes()
        except KernelError:
            return
        # While it waits for a child it does not run, and that it has not grown means nothing.
        if self.state is StepState.RUNNING and not self.children:
            # The kernel tells of a wait when it has ended: it may be longer than the time since the last look.
            self._queued_debt += queued - self._queued_seconds
            absorbed = min(gap, self._queued_debt)
            self._queued_debt -= absorbed
            # We were stopped ourselves (^Z), and all with us; or the machine slept.
            self._gap_seconds = gap - absorbed if gap < 1.0 else 0.0
            self.ran_seconds += self._gap_seconds
        self._queued_seconds = queued
        if held == 0 and self.held_bytes:
            return  # A zombie by now: its memory is gone, and its end comes on the pidfd.
        self.held_bytes = held
        if self.state is not StepState.RUNNING or self.children:
            return
        # Against the size at the last mark: at a look each 20 ms who grows by 10 MB/s is never much above the last one.
        if held > self._marked_bytes * (1 + _NOTICEABLE_SHARE) + _NOTICEABLE_BYTES:
            self._marked_bytes = held
            self._grown_at_seconds = self.ran_seconds
        if held > self.peak_bytes:
            self.peak_bytes = held
            self._course.append((self.ran_seconds, held))
            if len(self._course) > 256:
                del self._course[::2]
        self._history.append((self.ran_seconds, held))
        while len(self._history) > 2 and self._history[1][0] <= self.ran_seconds - GROWTH_WINDOW_SECONDS:
            self._history.popleft()

    @property
    def growth_bytes_per_second(self) -> float:
        """Over the last half second of its running; not below 0."""
        if len(self._history) < 2:
            return 0.0
        (began, held_then), (ended, held_now) = self._history[0], self._history[-1]
        return max(0.0, (held_now - held_then) / (ended - began)) if ended > began else 0.0

    def as_step(self, now_seconds: float) -> Step:
        """For policy."""
        return Step(
            order=self.order,
            state=self.state,
            held_bytes=self.held_bytes,
            ran_seconds=self.ran_seconds,
            growth_bytes_per_second=self.growth_bytes_per_second,
            profile=self.profile,
            since_seconds=now_seconds - self._since_seconds,
            may_wait=self.may_wait and not self.children,
            still_seconds=self.ran_seconds - self._grown_at_seconds,
            kind=self.kind,
            alone=self.alone,
        )

    def enter(self, state: StepState, now_seconds: float) -> None:
        """From now on it is in this state."""
        if self.state is not StepState.RUNNING and self.waits:
            self.waited_seconds += now_seconds - self._since_seconds
        if state is not StepState.RUNNING:
            self.waits += 1
        self.state = state
        self._since_seconds = self._seen_seconds = now_seconds

    def since_seconds(self, now_seconds: float) -> float:
        """For how long it has been in its state."""
        return now_seconds - self._since_seconds

    def has_progressed(self) -> bool:
        """Whether it has used CPU time since the last question; the first says yes."""
        try:
            ticks = procfs.read_stat(self.identity.pid).cpu_ticks
        except KernelError:
            return True  # It has just ended.
        before, self.cpu_ticks = self.cpu_ticks, ticks
        return ticks != before

    def waiting_seconds(self, now_seconds: float) -> float:
        """All that it has waited for us until now."""
        stands = self.state is not StepState.RUNNING and self.waits
        return self.waited_seconds + (now_seconds - self._since_seconds if stands else 0.0)

    def learnt(self) -> Profile | None:
        """What its life has told, at its end; None if it was never seen to hold anything."""
        if not self.peak_bytes:
            return None
        # It went on growing between the last look and its end.
        peak = self.peak_bytes + int(self.growth_bytes_per_second * min(self._gap_seconds, 0.1) / 2)
        run = max(self.ran_seconds, 1e-3)
        rise = min((at * peak / held for at, held in self._course if held >= peak * RISE_SHARE), default=run)
        return Profile(peak, min(rise, run), run)

    def close(self) -> None:
        """Let go of its descriptors."""
        self._files.close()
        self.process.close()
