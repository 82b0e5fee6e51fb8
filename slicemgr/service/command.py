# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command of a job as its caller's shell would see it: signals, terminal, stops, exit status.

The command leads a process group of its own. What arrives at slicemgr is passed on to it, what it does is done by
slicemgr too: it stops, slicemgr stops; so the shell's ^Z, `fg` and `bg` work as without slicemgr. While both are
stopped nobody watches: members that do not stop with the command (a daemon in a session of its own) may grow.

All of it happens in the main thread, without asyncio: signals come through the wake-up pipe (signal.set_wakeup_fd).
"""

from __future__ import annotations

import os

from slicemgr.kernel.signals import signal
from slicemgr.kernel.spawn import HeldCommand
from slicemgr.service.loan import TerminalLoan, is_orphaned

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import FrameType
    from typing import Final

    from slicemgr.service.report import Report
    from slicemgr.service.waiting import Waiting

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

_WANTS_TERMINAL: Final = frozenset({signal.SIGTTIN, signal.SIGTTOU})


class Command:
    """One command from its start to its end."""

    def __init__(
        self,
        command: Sequence[str],
        search_path: str,
        waiting: Waiting,
        report: Callable[[Report], None],
        *,
        changed: Mapping[str, str] | None = None,
        in_child: Callable[[], None] | None = None,
        heard: Callable[[int], None] = lambda number: None,
        hears_keyboard: bool = False,
    ) -> None:
        """Fork it, held before its exec: while there is one thread only. Raises ForkError.

        `changed` and `in_child` are HeldCommand's; `heard` is told each signal that goes to all of the
        command's group: before one that ends it, after SIGCONT. `hears_keyboard`: also what a terminal sends,
        unless the command reads from it.
        """
        self._heard = heard
        self._hears_keyboard = hears_keyboard
        self._waiting = waiting
        self._report = report
        # Ignored signals stay ignored, here and in the command: that is what nohup and `&` in a script mean.
        passed_on = [*_TO_THE_GROUP, *_TO_THE_COMMAND]
        self._caught = [number for number in passed_on if signal.getsignal(number) != signal.SIG_IGN]
        self._loan = TerminalLoan()
        self._about_to_stop = False
        caught = [*self._caught, signal.SIGCHLD, signal.SIGCONT]
        self._held = HeldCommand(command, caught, search_path, changed, in_child)
        self._status: int | None = None

    @property
    def pid(self) -> int:
        """The command's pid, and the id of its process group."""
        return self._held.pid

    @property
    def has_ended(self) -> bool:
        """It has been collected: its pid may be anybody's."""
        return self._status is not None

    def give_up(self) -> None:
        """Instead of `run`: it ends without having executed anything."""
        self._held.give_up()

    def run(self) -> int:
        """Exec it and wait for its end. Returns the wait status (os.waitstatus_to_exitcode takes it).

        What else is in `waiting` is served meanwhile. Raises CommandError.
        """
        woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        wake_before = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        numbers = (*self._caught, signal.SIGCONT, signal.SIGCHLD)
        actions = [(number, signal.signal(number, _note)) for number in numbers]
        for number in numbers:
            signal.siginterrupt(number, False)  # Whichever thread it reaches: no call there is to fail for it.
        self._waiting.add_reader(woken, lambda: self._hear(woken))
        self._loan.offer(self.pid, at_once=not self._hears_keyboard)
        try:
            self._held.let_go()
            self._reap()  # It may have ended before there was a handler.
            while (status := self._status) is None:
                self._waiting.wait()
        finally:
            was_out = self._loan.take_back()
            for number, action in actions:
                signal.signal(number, signal.SIG_DFL if action is None else action)
            signal.set_wakeup_fd(wake_before)
            self._waiting.remove_reader(woken)
            os.close(woken)
            os.close(wake)
        if was_out and self._loan.shares_group and os.WIFSIGNALED(status) and os.WTERMSIG(status) in _INTERRUPTS:
            # ^C reached the command alone; the script around it must hear of it, too. So do we: we are about to
            # end by this signal anyway.
            signal.signal(os.WTERMSIG(status), signal.SIG_IGN)
            os.killpg(os.getpgrp(), os.WTERMSIG(status))
        return status

    def _hear(self, woken: int) -> None:
        """What has come through the wake-up pipe, in its order."""
        for number in _bytes_in(woken):
            if number == signal.SIGCHLD:
                self._reap()
            elif number == signal.SIGCONT:
                self._continue()
            elif number in self._caught:
                self._pass_on(number)
        # Not before the last of them: a SIGCONT that has come already is heard first, and must not be slept through.
        self._stop()

    def _pass_on(self, number: int) -> bool:
        """False if the command is not ours to signal (sudo): then that is said."""
        if self.has_ended:
            return True  # Once reaped, the number may be anybody's.
        try:
            if number in _TO_THE_COMMAND:
                os.kill(self.pid, number)
                return True
            if number != signal.SIGCONT:
                self._heard(number)
            self._send_to_group(number)
            if number == signal.SIGCONT:
                self._heard(number)
        except PermissionError:
            from slicemgr.service.report import SignalRefusedReport

            self._report(SignalRefusedReport(number))
            return False
        return True

    def _send_to_group(self, number: int) -> None:
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            # It has moved to another group and left its own empty; until it is reaped its pid is its own.
            os.kill(self.pid, number)

    def _reap(self) -> None:
        """Collect every child that has ended or stopped.

        Not the command alone: where the job is our process tree its orphans come to us, and a shell that has exec'd
        us has left us its background jobs. In a cgroup orphans go where they would without slicemgr.
        """
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
                    self._status = status

    def _stopped(self, number: int) -> None:
        """The command has stopped: lend it the terminal if that is what it wants, or else stop as well."""
        if number == signal.SIGSTOP and not self._loan.is_out:
            return  # Somebody's own decision, and no shell waits for us: the others are still to be watched.
        if number in _WANTS_TERMINAL and self._loan.lend():
            self._pass_on(signal.SIGCONT)
            return
        if is_orphaned(os.getpgrp()):
            # Nobody could ever continue us (`ssh -t HOST slicemgr run ...`), so we do not stop; a reader in the
            # background is hung up on, as the kernel does when a group with stopped members is orphaned.
            if number in _WANTS_TERMINAL and not self._pass_on(signal.SIGHUP):
                return  # Continued it would ask again, at once and for ever.
            self._pass_on(signal.SIGCONT)
            return
        self._about_to_stop = True

    def _stop(self) -> None:
        if not self._about_to_stop or self.has_ended:
            return
        self._about_to_stop = False
        from slicemgr.kernel import procfs

        try:
            if procfs.read_stat(self.pid).state != "T":
                return
        except procfs.UNSEEN:
            pass  # Hidden (hidepid, and sudo): waitpid has said that it stopped.
        if self._loan.take_back() and self._loan.shares_group:
            # ^Z reached the command alone; those who share our group stop with us.
            signal.signal(signal.SIGTSTP, signal.SIG_IGN)
            os.killpg(os.getpgrp(), signal.SIGTSTP)
            if signal.SIGTSTP in self._caught:
                signal.signal(signal.SIGTSTP, _note)
                signal.siginterrupt(signal.SIGTSTP, False)
        # SIGSTOP, since SIGTSTP may be ignored. Whoever continues us is heard by _continue.
        os.kill(os.getpid(), signal.SIGSTOP)

    def _continue(self) -> None:
        """After SIGCONT: with `fg` our group has the terminal again, with `bg` the shell keeps it."""
        self._about_to_stop = False
        if not self._loan.shares_group:
            self._loan.lend()
        self._pass_on(signal.SIGCONT)


def _note(number: int, frame: FrameType | None) -> None:
    """The action of a signal that is caught: its number goes through the wake-up pipe, and is heard there."""


def _bytes_in(pipe: int) -> Iterator[int]:
    """All that can be read now."""
    while True:
        try:
            numbers = os.read(pipe, 4096)
        except BlockingIOError:
            return
        yield from numbers
