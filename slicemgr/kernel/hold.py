# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stopping one step of a build and letting it go on, by SIGSTOP and SIGCONT on a proven pidfd.

Why by signal and not by cgroup.freeze: that stops whole cgroups, so each step would have to be moved into one of its
own, which needs delegation, charges what it holds already to where it was, and does not work without cgroup v2. A
stopped step is seen by nobody: make, sh, ninja and cargo wait for the end of a child, not for its stop (waitpid(2)
without WUNTRACED; only an interactive shell looks). SIGSTOP works within 0.1 ms for who computes; who the kernel
throttles at memory.high sleeps up to 2 s before it obeys, and so it does with the freezer (780 and 792 ms measured).

Facts (kernel/signal.c): a stop signal for who is stopped already stays pending, and SIGCONT throws all pending ones
away. So of a step that we have stopped it can be told that somebody else stopped it too: then it is not ours to
resume. Any other signal but SIGKILL waits until the step goes on: one that ends a build would wait for ever.
"""

import enum
import os
import signal
from typing import Final

from slicemgr.kernel import formats
from slicemgr.kernel.errors import FormatError, ProcessGoneError
from slicemgr.kernel.kill import ProvenProcess
from slicemgr.model.process import ProcessIdentity


def _mask(*numbers: int) -> int:
    return sum(1 << (number - 1) for number in numbers)


_STOPS: Final = _mask(signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_ENDS: Final = _mask(signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP)
"""What ends a build. SIGALRM and others are the step's own business, and wait with it."""

_LONGEST_STATUS: Final = 8192


class Stand(enum.Enum):
    """How a process that was told to stop stands."""

    GOES_ON = "it runs: it has not obeyed yet, or somebody has continued it"
    STOPPED = "stopped"
    STOPPED_BY_OTHERS = "stopped, and somebody else has stopped it as well, whatever else waits"
    MUST_HEAR = "stopped, and a signal waits that is to end it"
    GONE = "it has ended"


class HeldProcess(ProvenProcess):
    """A proven process that can be stopped, see ProvenProcess for what is raised."""

    def __init__(self, identity: ProcessIdentity, cgroup: str = "") -> None:
        self._status: int | None = None
        super().__init__(identity, cgroup)

    def stop(self) -> bool:
        """SIGSTOP. False if it is stopped already, by somebody else, or traced: then it is none of ours.

        Raises ProcessGoneError, also if it has left its cgroup since; NotPermittedError.
        """
        state = self._signals().state
        if state in "Tt":
            return False
        if state in "ZX":
            raise ProcessGoneError(self.identity.pid)
        self._prove_cgroup()
        self._signal(signal.SIGSTOP)
        return True

    def stop_again(self) -> None:
        """After a SIGCONT for all (`fg`): stop it as before. Raises ProcessGoneError, NotPermittedError.

        Who is in a group of its own (timeout(1)) has stood all the time: a second stop would stay pending there, and
        look like somebody else's.
        """
        if self._signals().state not in "Tt":
            self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT, unless somebody else has stopped it too. Raises ProcessGoneError, NotPermittedError."""
        if self.stand() is not Stand.STOPPED_BY_OTHERS:
            self._signal(signal.SIGCONT)

    def stand(self) -> Stand:
        """How it stands now, after `stop`."""
        try:
            signals = self._signals()
        except ProcessGoneError:
            return Stand.GONE
        if signals.state not in "Tt":
            return Stand.GONE if signals.state in "ZX" else Stand.GOES_ON
        waiting = signals.pending & ~signals.blocked
        if waiting & _STOPS:
            return Stand.STOPPED_BY_OTHERS
        return Stand.MUST_HEAR if waiting & _ENDS else Stand.STOPPED

    def _signals(self) -> formats.ProcSignals:
        """Of a kept file, 15 us instead of 40: it is asked of all that wait, four times a second."""
        try:
            if self._status is None:
                self._status = self._opened()
            return formats.parse_status_signals(os.pread(self._status, _LONGEST_STATUS, 0))
        except (FileNotFoundError, ProcessLookupError, FormatError) as error:
            raise ProcessGoneError(self.identity.pid) from error

    def _opened(self) -> int:
        status = os.open(f"/proc/{self.identity.pid}/status", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.check()  # The number was its own until now.
        except BaseException:
            os.close(status)
            raise
        return status

    def close(self) -> None:
        """Let go of its descriptors; it stands as it stood."""
        if self._status is not None:
            os.close(self._status)
            self._status = None
        super().close()
