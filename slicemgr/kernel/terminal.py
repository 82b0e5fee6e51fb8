# SPDX-License-Identifier: LGPL-2.1-or-later
"""The controlling terminal, and which process group has it (termios(3), credentials(7)). Light: `os` alone."""

from __future__ import annotations

import os


class ControllingTerminal:
    """/dev/tty of this session. Its calls need SIGTTOU ignored or blocked, see tcsetpgrp(3)."""

    def __init__(self) -> None:
        """Raises OSError where there is none (ENXIO): cron, CI, a service."""
        self._descriptor = os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)

    @property
    def foreground_group(self) -> int | None:
        """The process group that has the keyboard; None after a hang-up."""
        try:
            return os.tcgetpgrp(self._descriptor)
        except OSError:
            return None

    def give_to(self, group: int) -> bool:
        """Hand over the keyboard; False if the group has ended or the terminal has hung up."""
        try:
            os.tcsetpgrp(self._descriptor, group)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Let go of the terminal."""
        os.close(self._descriptor)


def controlling_terminal() -> ControllingTerminal | None:
    """The controlling terminal, if this session has one."""
    try:
        return ControllingTerminal()
    except OSError:
        return None


def group_has_others() -> bool:
    """Whether another process is in our process group; of those that /proc shows."""
    group, ourselves = os.getpgrp(), os.getpid()
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != ourselves:
            try:
                if os.getpgid(int(name)) == group:
                    return True
            except OSError:  # It has ended meanwhile, or a security module hides it.
                continue
    return False
