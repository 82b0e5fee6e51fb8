# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stopping steps and letting them go on, so that no end of ours, and nobody else's wish, leaves one standing."""

import contextlib
from collections.abc import Iterable
from typing import Final, Protocol

from slicemgr.kernel.errors import KernelError
from slicemgr.kernel.hold import Stand
from slicemgr.model.step import StepState
from slicemgr.service.live_step import LiveStep

OBEY_SECONDS: Final = 2.5
"""Who is throttled by the kernel sleeps up to 2 s (MEMCG_MAX_HIGH_DELAY_JIFFIES) before it obeys a SIGSTOP."""


class Outliver(Protocol):
    """Who resumes what we have stopped if we die, see service/guardian.py."""

    def is_there(self) -> bool: ...
    def hold(self, pid: int, start_ticks: int) -> bool: ...
    def let_go(self, pid: int, start_ticks: int) -> None: ...


class Holding:
    """Whom we have stopped. Only the pacer's thread calls."""

    def __init__(self, outliver: Outliver | None) -> None:
        """Without an `outliver` nobody is ever held."""
        self._outliver = outliver

    @property
    def is_possible(self) -> bool:
        """False: nobody would resume the steps after our death, so nobody is stopped."""
        return self._outliver is not None

    def hold(self, step: LiveStep, state: StepState, now_seconds: float) -> bool:
        """Stop it, from now on in this state. If that can't be it runs on, and never waits from now on: somebody else
        has stopped it, or it is none of ours (sudo)."""
        if self._outliver is not None and not self._outliver.hold(step.identity.pid, step.identity.start_ticks):
            self._outliver = None  # Somebody has killed that process. Those that stand are resumed by the pacer.
        if self._outliver is None or not _is_stopped(step):
            self._forget(step)
            step.may_wait = False
            step.enter(StepState.RUNNING, now_seconds)
            return False
        step.is_held = True
        _is_told(step, now_seconds)
        step.enter(state, now_seconds)
        return True

    def let_go(self, step: LiveStep, now_seconds: float) -> None:
        """It runs from now on."""
        if step.is_held:
            with contextlib.suppress(KernelError):  # It has ended.
                step.process.resume()
            self._forget(step)
        step.enter(StepState.RUNNING, now_seconds)

    def has_ended(self, step: LiveStep) -> None:
        """If it stood it was killed: from what it held nothing can be learnt."""
        if step.is_held:
            step.is_whole = False
            self._forget(step)

    def hold_again(self, steps: Iterable[LiveStep], now_seconds: float) -> None:
        """Of these, stop those that we held until now: all were continued by `fg`."""
        for step in steps:
            if step.is_held:
                with contextlib.suppress(KernelError):  # It has ended.
                    step.process.stop_again()
                _is_told(step, now_seconds)

    def look(self, steps: Iterable[LiveStep], now_seconds: float) -> None:
        """Whether somebody wants those that stand to end, has continued them, or has stopped them too; and whether who
        outlives us still would resume them."""
        if self._outliver is not None and not self._outliver.is_there():
            self._outliver = None  # As in `hold`: a build in which all wait for one holds nobody for minutes.
        for step in steps:
            if not step.is_held:
                continue
            stand = step.process.stand()
            if stand is Stand.STOPPED:
                step.stood = True
            elif stand is Stand.MUST_HEAR:
                step.may_wait = False
                step.is_whole = False
                self.let_go(step, now_seconds)
            elif stand is Stand.STOPPED_BY_OTHERS:
                # Not ours any more: who has stopped it as well has to resume it. (After ^Z that is `fg`.)
                self._forget(step)
                step.enter(StepState.RUNNING, now_seconds)
            elif stand is Stand.GOES_ON and (step.stood or now_seconds - step.told_seconds > OBEY_SECONDS):
                # Somebody has continued it; it may be stopped again like any other. Or it sleeps where no signal
                # reaches it, on a dead file server: it must not stop when nobody holds it any more.
                self.let_go(step, now_seconds)

    def _forget(self, step: LiveStep) -> None:
        step.is_held = False
        if self._outliver is not None:
            self._outliver.let_go(step.identity.pid, step.identity.start_ticks)


def _is_told(step: LiveStep, now_seconds: float) -> None:
    """To stop, just now: it goes on until it obeys."""
    step.stood = False
    step.told_seconds = now_seconds


def _is_stopped(step: LiveStep) -> bool:
    try:
        return step.process.stop()
    except (KernelError, OSError):  # It has ended, is none of ours, or no descriptor is to be had.
        return False
