# SPDX-License-Identifier: LGPL-2.1-or-later
"""Job control from outside: what ^Z and `fg` do to a process at a terminal, done to a proven one."""

import os
import signal

from slicemgr.kernel import procfs
from slicemgr.kernel.errors import ProcessGoneError
from slicemgr.kernel.kill import ProvenProcess


class ControlledProcess(ProvenProcess):
    """A proven process that is asked to stop and to go on, see ProvenProcess for what is raised."""

    def ask_to_stop(self) -> None:
        """SIGTSTP, which it may handle: `slicemgr run` passes it on, and stops when its command has."""
        self._signal(signal.SIGTSTP)

    def go_on(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def is_stopped(self) -> bool:
        """By a signal; one that is traced too. Raises ProcessGoneError, NotPermittedError."""
        state = procfs.read_stat(self.identity.pid).state
        self.check()
        return state in {"T", "t"}

    def group(self) -> int:
        """Its process group. Raises ProcessGoneError."""
        try:
            group = os.getpgid(self.identity.pid)
        except ProcessLookupError as error:
            raise ProcessGoneError(self.identity.pid) from error
        self.check()
        return group
