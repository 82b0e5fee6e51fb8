# SPDX-License-Identifier: LGPL-2.1-or-later
"""Steps without processes, for tests of what is done with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from slicemgr.kernel.errors import ProcessGoneError
from slicemgr.kernel.hold import HeldProcess, Stand
from slicemgr.model.process import ProcessIdentity
from slicemgr.service.job_budget import Budget
from slicemgr.service.live_step import LiveStep

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from slicemgr.kernel.errors import KernelError
    from slicemgr.kernel.step_files import StepFiles
    from slicemgr.service.step_watch import StepWatch

MIB: Final = 1 << 20


class FakeProcess:
    """In place of a HeldProcess: what it was told, and how it stands by that."""

    def __init__(self, pid: int) -> None:
        self.identity = ProcessIdentity(pid, 100 * pid)
        self.cgroup = ""
        self.told: list[str] = []
        self.stand_now = Stand.GOES_ON
        self.obeys = True
        self.refuses: KernelError | OSError | None = None
        """What a stop raises."""
        self.is_closed = False

    def stop(self) -> bool:
        if self.refuses is not None:
            raise self.refuses
        if self.stand_now in {Stand.STOPPED, Stand.STOPPED_BY_OTHERS}:
            return False
        self._stop("stop")
        return True

    def stop_again(self) -> None:
        self._stop("again")

    def _stop(self, word: str) -> None:
        if self.stand_now is Stand.GONE:
            raise ProcessGoneError(self.identity.pid)
        self.told.append(word)
        if self.obeys:
            self.stand_now = Stand.STOPPED

    def resume(self) -> None:
        if self.stand_now is Stand.GONE:
            raise ProcessGoneError(self.identity.pid)
        if self.stand_now is not Stand.STOPPED_BY_OTHERS:
            self.told.append("resume")
            self.stand_now = Stand.GOES_ON

    def stand(self) -> Stand:
        return self.stand_now

    def kill(self) -> None:
        self.told.append("kill")
        self.stand_now = Stand.GONE

    def close(self) -> None:
        assert not self.is_closed
        self.is_closed = True


class FakeFiles:
    """In place of StepFiles: what it holds."""

    def __init__(self) -> None:
        self.bytes = 0
        self.queued = 0.0
        self.is_gone = False
        self.is_closed = False

    def held_bytes(self) -> int:
        if self.is_gone:
            raise ProcessGoneError(0)
        return self.bytes

    def queued_seconds(self) -> float:
        if self.is_gone:
            raise ProcessGoneError(0)
        return self.queued

    def close(self) -> None:
        assert not self.is_closed
        self.is_closed = True


class FakeStep(LiveStep):
    """A step of those two; its pid is 1000 and its number."""

    def __init__(self, order: int, kind: str = "cc1plus", now_seconds: float = 0.0) -> None:
        self.fake_process = FakeProcess(1000 + order)
        self.fake_files = FakeFiles()
        process, files = cast("HeldProcess", self.fake_process), cast("StepFiles", self.fake_files)
        super().__init__(order, self.fake_process.identity, kind, process, files, now_seconds)
        self.progresses = True

    @property
    def pid(self) -> int:
        return self.identity.pid

    def has_progressed(self) -> bool:
        return self.progresses

    def hold_bytes(self, size: int, now_seconds: float) -> None:
        """It holds this now, and was measured."""
        self.fake_files.bytes = size
        self.measure(now_seconds)


class FakeOutliver:
    """In place of a guardian."""

    def __init__(self) -> None:
        self.held: set[tuple[int, int]] = set()
        """Whom it would resume."""
        self.is_dead = False

    def is_there(self) -> bool:
        return not self.is_dead

    def hold(self, pid: int, start_ticks: int) -> bool:
        self.held.add((pid, start_ticks))
        return not self.is_dead

    def let_go(self, pid: int, start_ticks: int) -> None:
        self.held.discard((pid, start_ticks))


class FakeWatch:
    """In place of a StepWatch: who begins and who ends at the next look is said by the test."""

    def __init__(self) -> None:
        self.steps: dict[int, LiveStep] = {}
        self.others: list[int] = []
        self.ancestors: dict[int, list[int]] = {}
        self.continuations: set[int] = set()
        self.back: list[LiveStep] = []
        self.version = 0
        self.has_ended = False
        self.raises: Exception | None = None
        self._begun: list[LiveStep] = []
        self._ended: list[LiveStep] = []

    @property
    def watch(self) -> StepWatch:
        return cast("StepWatch", self)

    def begin(self, *steps: LiveStep) -> None:
        self._begun += steps

    def end(self, *steps: LiveStep) -> None:
        self._ended += steps

    def look(
        self, now_seconds: float, *, born: Collection[int] | None = None, exited: Iterable[int] = ()
    ) -> tuple[list[LiveStep], list[LiveStep]]:
        if self.raises is not None:
            raise self.raises
        begun, self._begun = self._begun, []
        ended, self._ended = [*self._ended, *(self.steps[pid] for pid in exited if pid in self.steps)], []
        self.steps |= {step.identity.pid: step for step in begun}
        for step in ended:
            del self.steps[step.identity.pid]
            self.has_ended = True
        self.version += bool(begun or ended)
        return begun, ended

    def measure(self, now_seconds: float) -> None:
        for step in self.steps.values():
            step.measure(now_seconds)

    def ancestors_of(self, pid: int) -> list[int]:
        return self.ancestors.get(pid, [])

    def is_continuation(self, step: LiveStep) -> bool:
        return step.identity.pid in self.continuations

    def close(self) -> None:
        for step in self.steps.values():
            step.close()
        self.steps.clear()


class FakeBudget:
    """What a job may hold, and holds: all of its steps, and `base_bytes`."""

    def __init__(self, watch: FakeWatch, budget_bytes: int) -> None:
        self.watch = watch
        self.budget_bytes = budget_bytes
        self.base_bytes = 0

    def read(self, now_seconds: float) -> Budget:
        held = sum(step.held_bytes for step in self.watch.steps.values())
        return Budget(self.budget_bytes, self.base_bytes + held)
