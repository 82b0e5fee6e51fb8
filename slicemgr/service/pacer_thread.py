# SPDX-License-Identifier: LGPL-2.1-or-later
"""The pacer in a thread of its own, waiting for the ends of steps and for the time. Its modules are imported there."""

from __future__ import annotations

import os
import select
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from slicemgr.service.job_pacer import JobPacer
    from slicemgr.service.pacing_tally import PacingSummary

FAILED_LOOKS: Final = 20
"""So many failures in a row are no moment."""

FAILED_SECONDS: Final = 0.05


class PacerThread:
    """Runs one pacer from its making to `finish`."""

    def __init__(self, make: Callable[[], JobPacer], failed: Callable[[BaseException], None]) -> None:
        """`make` is called in the thread; `failed` too, with what went wrong: from then on nobody is held.

        Raises RuntimeError without a thread, OSError without descriptors.
        """
        self._make = make
        self._failed = failed
        self._woken, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._pacer: JobPacer | None = None
        self._is_ending = False
        self._is_finishing = False
        self._has_ended = False
        self._closing = threading.Lock()
        self._is_closed = False
        self.summary: PacingSummary | None = None
        """After `finish`; None if it was not there in time, or could not be made."""
        self._thread = threading.Thread(target=self._run, name="pacer", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._close()
            raise

    def end_soon(self) -> None:
        """The build is being ended: nobody may stand."""
        self._is_ending = True  # Before the question: who is being made just now looks when he is.
        if self._pacer is not None:
            self._pacer.pacer.end_soon()
        self._call()

    def hold_again(self) -> None:
        """All of the command's group were continued."""
        if self._pacer is not None:
            self._pacer.pacer.hold_again()
        self._call()

    def mark_killed(self, pid: int) -> None:
        """A guard kills this one: where a launcher stands before it, it runs again."""
        if self._pacer is not None:
            self._pacer.mark_killed(pid)

    def finish(self) -> None:
        """Resume all, and end; what is still being imported is not waited for. A second time does nothing."""
        self._is_finishing = True
        self._call()
        if self._pacer is not None:
            self._thread.join()
        with self._closing:
            if self._has_ended:
                self._close()

    def _call(self) -> None:
        with self._closing:
            if self._is_closed:
                return
            try:
                os.write(self._wake, b"x")
            except OSError:  # Full: it will wake up.
                return

    def _close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            os.close(self._wake)
            os.close(self._woken)

    def _run(self) -> None:
        try:
            self._pace()
        finally:
            with self._closing:
                self._has_ended = True
                if self._is_finishing:  # It did not wait.
                    self._close()

    def _pace(self) -> None:
        try:
            paced = self._pacer = self._make()
        except Exception as error:  # noqa: BLE001 - told to a person; the command goes on
            if not self._is_finishing:
                self._failed(error)
            return
        if self._is_ending:
            paced.pacer.end_soon()
        try:
            self._watch(paced)
        except Exception as error:  # noqa: BLE001 - likewise; nobody stands after `finish`
            self._failed(error)
        try:
            self.summary = paced.finish(time.monotonic())
        except Exception as error:  # noqa: BLE001 - likewise; whoever still stands is resumed by who outlives us
            self._failed(error)

    def _watch(self, paced: JobPacer) -> None:
        from slicemgr.service.guard import FLEETING

        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        registered: dict[int, int] = {}
        failures = 0
        interval = 0.0
        version = -1
        is_last = self._is_finishing  # While it was made.
        while not is_last:
            # Once more when the command has ended: its last step has as well, and is the linker, the fattest of all.
            is_last = self._is_finishing
            exited: list[int] = []
            for descriptor, _ in poll.poll(0 if is_last else interval * 1000):
                if descriptor == self._woken:
                    os.read(self._woken, 4096)
                else:
                    exited.append(registered[descriptor])
            try:
                interval = paced.pacer.look(time.monotonic(), exited)
                failures = 0
            except FLEETING:
                failures += 1
                if failures == FAILED_LOOKS:
                    raise
                interval = FAILED_SECONDS
            if version != paced.pacer.version:
                version = paced.pacer.version
                self._follow(poll, registered, paced)

    @staticmethod
    def _follow(poll: select.poll, registered: dict[int, int], paced: JobPacer) -> None:
        """Wait for the ends of those that are steps now."""
        wanted = {step.process.fileno(): pid for pid, step in paced.pacer.steps.items()}
        for descriptor in registered.keys() - wanted.keys():
            try:
                poll.unregister(descriptor)
            except KeyError:
                continue
        for descriptor in wanted.keys() - registered.keys():
            poll.register(descriptor, select.POLLIN)
        # A number that was closed and given out again is another one's end, and poll(2) asks by the number.
        registered.clear()
        registered.update(wanted)
