# SPDX-License-Identifier: LGPL-2.1-or-later
"""Start a command in two steps: forked and held before its exec, then let go. Light, see kernel/signals.py.

In between it is an ordinary process with a pid, so it can be put where it belongs before it has touched a
page as itself (charges follow the first touch), and be given the terminal. subprocess can't do this: it
returns only after the exec.
"""

from __future__ import annotations

import errno
import os

from slicemgr.kernel.signals import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Final, NoReturn

# The interpreter ignores these at start-up (Py_Initialize); a command must not inherit that.
_CHANGED_BY_PYTHON: Final = (signal.SIGPIPE, signal.SIGXFSZ)


class ForkError(OSError):
    """No process could be made for the command."""


class CommandError(OSError):
    """The command could not be executed; errno tells why (ENOENT: not found)."""


class HeldCommand:
    """A forked child, leader of a process group of its own, that waits for `let_go` before its exec."""

    def __init__(
        self,
        command: Sequence[str],
        caught_signals: Iterable[int],
        search_path: str,
        changed: Mapping[str, str] | None = None,
        in_child: Callable[[], None] | None = None,
    ) -> None:
        """Fork. `caught_signals` get their default action back in the child; `search_path` is $PATH.

        `changed`: what is different in its environment; `in_child` is called there before its exec. Raises ForkError.
        """
        gate_read, self._gate = os.pipe()
        self._failure, failure_write = os.pipe()
        # No signal may reach a handler of ours in the child: it would write into the parent's wake-up pipe.
        blocked_before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self.pid = _fork()
            if self.pid == 0:
                os.close(self._gate)
                os.close(self._failure)
                reset = [*caught_signals, *_CHANGED_BY_PYTHON]
                prepare = _Preparation(reset, blocked_before, changed or {}, in_child)
                _become(command, search_path, gate_read, failure_write, prepare)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked_before)
        os.close(gate_read)
        os.close(failure_write)
        os.setpgid(self.pid, self.pid)

    def let_go(self) -> None:
        """Let it exec, and wait until it has. Raises CommandError if it could not.

        It has ended then, and is collected: it had told why before its end (in 185 of 200 runs it still ran here).
        """
        try:  # noqa: SIM105 - contextlib takes 2.6 ms to read
            os.write(self._gate, b"x")
        except BrokenPipeError:
            pass  # Killed while it was held: its status tells.
        os.close(self._gate)
        number = os.read(self._failure, 16)
        os.close(self._failure)
        if number:
            self._collect()
            raise CommandError(int(number), os.strerror(int(number)))

    def give_up(self) -> None:
        """Instead of `let_go`: it ends without having executed anything, and is collected."""
        os.close(self._gate)
        os.close(self._failure)
        self._collect()

    def _collect(self) -> None:
        """Wait for its end. Until then it lives in its cgroup, which could not be removed."""
        try:
            os.waitpid(self.pid, 0)
        except ChildProcessError:  # SIGCHLD is ignored, as whoever started us left it: the kernel has collected it.
            return


def _fork() -> int:
    try:
        return os.fork()
    except OSError as error:
        raise ForkError(error.errno, error.strerror) from error


class _Preparation:
    """What the child does to itself before it is the command."""

    def __init__(
        self,
        reset: Iterable[int],
        mask: Iterable[int],
        changed: Mapping[str, str],
        in_child: Callable[[], None] | None,
    ) -> None:
        self._reset = reset
        self._mask = mask
        self._changed = changed
        self._in_child = in_child

    def __call__(self) -> None:
        signal.set_wakeup_fd(-1)
        for number in self._reset:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        for name, value in self._changed.items():
            os.putenv(name, value)  # execv(3) takes it from there.
        if self._in_child is not None:
            self._in_child()


def _become(command: Sequence[str], search_path: str, gate: int, failure: int, prepare: _Preparation) -> NoReturn:
    """In the child: wait at the gate, then be the command. Never returns into the parent's code."""
    try:
        prepare()
        if os.read(gate, 1):  # Nothing: the parent is gone, and with it whoever wanted the command.
            _execute(command, search_path)
    except OSError as error:
        os.write(failure, str(error.errno or errno.ENOEXEC).encode())
    finally:
        os._exit(127)


def _execute(command: Sequence[str], search_path: str) -> NoReturn:
    """execvp(3). Not Python's: that imports `warnings` first, 1.5 ms, and knows no scripts without '#!'."""
    name = command[0]
    if "/" in name:
        _execute_file(name, command)
    refused: OSError | None = None
    missing: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    for directory in search_path.split(":"):
        try:
            _execute_file(f"{directory or '.'}/{name}", command)
        except (FileNotFoundError, NotADirectoryError) as error:
            missing = error
        except PermissionError as error:  # Another one further on may do; if none does, this one is told of.
            refused = refused or error
    raise refused or missing


def _execute_file(path: str, command: Sequence[str]) -> NoReturn:
    try:
        os.execv(path, list(command))
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        os.execv("/bin/sh", ["/bin/sh", path, *command[1:]])  # A script without '#!' is the shell's.
