# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command of a job as its caller's shell would see it: signals, terminal, stops, exit status.

The command leads a process group of its own. What arrives at slicemgr is passed on to it, what it does is
done by slicemgr too: it stops, slicemgr stops; so the shell's ^Z, `fg` and `bg` work as without slicemgr.

Who has the terminal. A shell in a terminal, with slicemgr alone in its process group: the command gets the
terminal at once, as any job would. In a pipeline or a script slicemgr shares its group with others that may
need the terminal (`| less`) or must hear of ^C (the script's shell): then slicemgr's group keeps it, ^C and
^Z are passed on, and the command gets the terminal only when it reads from it (SIGTTIN), as sudo does it.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from typing import Final

from slicemgr.kernel import procfs
from slicemgr.kernel.spawn import HeldCommand
from slicemgr.kernel.terminal import ControllingTerminal, controlling_terminal

_TO_THE_GROUP: Final = (
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGWINCH,
    signal.SIGTSTP,
)
"""What a terminal sends to a group, and what ends a build: `kill` of slicemgr means the build, as with timeout(1)."""

_TO_THE_COMMAND: Final = (signal.SIGUSR1, signal.SIGUSR2)
"""A message to one program (dd tells its progress); to its children it would be deadly."""

_INTERRUPTS: Final = frozenset({signal.SIGINT, signal.SIGQUIT})

_STOPPED_BY_TERMINAL: Final = frozenset({signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})
"""SIGSTOP is not among them: somebody stops one process, and we have to go on watching the others."""


class Command:
    """One command from its start to its end."""

    def __init__(self, command: Sequence[str]) -> None:
        """Fork it, held before its exec. Raises OSError."""
        # Ignored signals stay ignored, here and in the command: that is what nohup and `&` in a script mean.
        ignored = {number for number in _TO_THE_GROUP + _TO_THE_COMMAND if signal.getsignal(number) is signal.SIG_IGN}
        self._to_group = [number for number in _TO_THE_GROUP if number not in ignored]
        self._to_command = [number for number in _TO_THE_COMMAND if number not in ignored]
        self._terminal = controlling_terminal()
        self._group = os.getpgrp()
        self._had_terminal = False
        caught = [*self._to_group, *self._to_command, signal.SIGCHLD, signal.SIGCONT]
        self._caught = caught
        self._held = HeldCommand(command, caught)
        self._status: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def pid(self) -> int:
        """The command's pid, and the id of its process group."""
        return self._held.pid

    async def run(self) -> int:
        """Exec it and wait for its end. Returns the wait status (os.waitstatus_to_exitcode takes it).

        Raises CommandError.
        """
        loop = asyncio.get_running_loop()
        for number in self._to_group:
            loop.add_signal_handler(number, self._send_to_group, number)
        for number in self._to_command:
            loop.add_signal_handler(number, self._send_to_command, number)
        loop.add_signal_handler(signal.SIGCONT, self._continue)
        loop.add_signal_handler(signal.SIGCHLD, self._reap)
        # From the background, tcsetpgrp and writing to a terminal with `stty tostop` would stop us.
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        alone = self._terminal is not None and _has_terminal_alone(self._terminal, self._group)
        if alone and self._terminal is not None:
            self._give_terminal(self._terminal)
        try:
            self._held.let_go()
            status = await self._status
            if not alone:
                self._share_interrupt(status)
            return status
        finally:
            self._take_terminal_back()
            # While the loop closes, a SIGCHLD of an orphan would find its wake-up pipe closed, and Python complain.
            for number in self._caught:
                loop.remove_signal_handler(number)

    def _send_to_group(self, number: int) -> None:
        self._send(os.killpg, number)

    def _send_to_command(self, number: int) -> None:
        self._send(os.kill, number)

    def _send(self, send: Callable[[int, int], None], number: int) -> None:
        if self._status.done():
            return  # Once reaped, the number may be anybody's.
        try:
            send(self.pid, number)
        except ProcessLookupError:
            return  # It ended first, and is about to be reaped.

    def _share_interrupt(self, status: int) -> None:
        """^C with the terminal lent to the command reached the command alone; the script around it must hear it too."""
        if self._had_terminal and os.WIFSIGNALED(status) and os.WTERMSIG(status) in _INTERRUPTS:
            os.killpg(self._group, os.WTERMSIG(status))

    def _reap(self) -> None:
        """Collect every child that has ended or stopped: orphans of the job come to us as well."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.pid:
                if os.WIFSTOPPED(status):
                    self._stopped(os.WSTOPSIG(status))
                else:
                    self._status.set_result(status)

    def _stopped(self, number: int) -> None:
        if number not in _STOPPED_BY_TERMINAL:
            return
        terminal = self._terminal
        if number != signal.SIGTSTP and terminal is not None and terminal.foreground_group == self._group:
            self._give_terminal(terminal)  # It reads the terminal, and we have it: it's the command's now.
            self._send_to_group(signal.SIGCONT)
            return
        self._take_terminal_back()
        loop = asyncio.get_running_loop()
        loop.remove_signal_handler(signal.SIGTSTP)
        os.kill(os.getpid(), signal.SIGTSTP)
        # Here we are stopped, until the shell says `fg` or `bg`. In an orphaned process group (`ssh -t HOST
        # slicemgr run ...`) nobody could say it, so the kernel does not stop us, and we go on at once.
        if signal.SIGTSTP in self._to_group:
            loop.add_signal_handler(signal.SIGTSTP, self._send_to_group, signal.SIGTSTP)
        self._continue()

    def _continue(self) -> None:
        """After SIGCONT: with `fg` our group has the terminal again, with `bg` the shell keeps it."""
        if self._had_terminal and self._terminal is not None and self._terminal.foreground_group == self._group:
            self._give_terminal(self._terminal)
        self._send_to_group(signal.SIGCONT)

    def _give_terminal(self, terminal: ControllingTerminal) -> None:
        self._had_terminal = terminal.give_to(self.pid)

    def _take_terminal_back(self) -> None:
        if self._terminal is not None and self._terminal.foreground_group == self.pid:
            self._terminal.give_to(self._group)


def _has_terminal_alone(terminal: ControllingTerminal, group: int) -> bool:
    """A job of an interactive shell, by itself: standard input and output are the terminal (no pipeline), our
    group has it, and nobody else is in our group (no script)."""
    if not (os.isatty(0) and os.isatty(1)) or terminal.foreground_group != group:
        return False
    return all(stat.pgrp != group for pid, stat in procfs.processes().items() if pid != os.getpid())
