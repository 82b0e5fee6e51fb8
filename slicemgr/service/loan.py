# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who has the terminal: lent to the command, and taken back.

A shell in a terminal, with slicemgr alone in its process group: the command gets the terminal at once, as any job
would. In a pipeline or a script slicemgr shares its group with others that may need the terminal (`| less`) or must
hear of ^C and ^Z (the script's shell): then the group keeps it, and lends it only to a command that reads from it
(SIGTTIN), as sudo does. What the keyboard then sends reaches the command alone, and is shared with the group.
"""

from __future__ import annotations

import os

from slicemgr.kernel.signals import signal
from slicemgr.kernel.terminal import controlling_terminal, group_has_others


class TerminalLoan:
    """The controlling terminal, if there is one, between our process group and the command's."""

    def __init__(self) -> None:
        self._terminal = controlling_terminal()
        self._group = os.getpgrp()
        self._borrower = 0
        self._is_out = False
        self.shares_group = True
        """Others are in our group, and have a right to what the keyboard sends."""

    def offer(self, borrower: int, *, at_once: bool) -> None:
        """Lend it to this process group at once, if slicemgr is a shell's job by itself; or when it is asked for.

        What the keyboard sends, ^C above all, comes to who has it, and to nobody else.
        """
        self._borrower = borrower
        # From the background, tcsetpgrp, and writing to a terminal with `stty tostop`, would stop us.
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        if at_once and self._is_ours() and os.isatty(0) and os.isatty(1):  # Otherwise it is a pipeline.
            self.shares_group = group_has_others()
            if not self.shares_group:
                self.lend()

    def lend(self) -> bool:
        """Give it away, if our group has it; False if it has not."""
        if self._terminal is None or not self._is_ours():
            return False
        self._is_out = self._terminal.give_to(self._borrower)
        return self._is_out

    def take_back(self) -> bool:
        """End the loan; False if there was none, or a shell has taken the terminal meanwhile."""
        was_out = self.is_out
        if was_out and self._terminal is not None:
            self._terminal.give_to(self._group)
        self._is_out = False
        return was_out

    @property
    def is_out(self) -> bool:
        """The command has the keyboard, or a process group that it has made: it may be a shell itself.

        Not so once a shell above us has it again, as after SIGSTOP of slicemgr and `bg`. From such a one it must not be
        taken: bash at its prompt would read an error, and exit.
        """
        holder = self._terminal.foreground_group if self._is_out and self._terminal is not None else None
        return holder is not None and holder not in {self._group, *_groups_above()}

    def _is_ours(self) -> bool:
        return self._terminal is not None and self._terminal.foreground_group == self._group


def _groups_above() -> set[int]:
    """Those of who started us, and of the session's leader: the shell of a script, and of the terminal."""
    try:
        return {os.getpgid(os.getppid()), os.getsid(0)}  # A leader's group has its own number.
    except OSError:  # A security module hides the parent.
        return {os.getsid(0)}


def is_orphaned(group: int) -> bool:
    """No member has a parent that could tell it to continue: then the kernel stops nobody in it (credentials(7))."""
    from slicemgr.kernel import procfs  # Not for a command that is never stopped: it takes 15 ms to read.

    processes = procfs.processes()
    for stat in processes.values():
        if stat.pgrp == group:
            parent = processes.get(stat.ppid)
            if parent is not None and parent.pgrp != group and parent.session == stat.session:
                return False
    return True
