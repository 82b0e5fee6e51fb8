# SPDX-License-Identifier: LGPL-2.1-or-later
"""To be scheduled before the build that is watched by looking. Light, see model/quantity.py."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

OWN_RAISE: Final = 10
COMMAND_LOWERING: Final = 5
"""Steps of nice(2)."""


def go_before(pid: int) -> None:
    """Be scheduled before the build that is watched: by our own priority, or else by that of the command.

    `make -j20` on two cores has twenty tasks to run and we have one of a millisecond. On equal terms the looks
    and the exits of victims came so late that a limit of 400 MiB became 520-576; at nice -10 it was 408-412, and with
    the command at nice 5, which needs no privilege, 412-444 (docs/benchmarks.md). Before there are threads: on Linux
    a priority is a thread's own, and handed on to those that it starts. In a cgroup nobody's priority is touched: the
    kernel holds the job, however late we look.
    """
    own = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        os.setpriority(os.PRIO_PROCESS, 0, max(own - OWN_RAISE, -20))
    except PermissionError:
        os.setpriority(os.PRIO_PROCESS, pid, min(own + COMMAND_LOWERING, 19))
