# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who outlives slicemgr, also one that was SIGKILLed: a child that lifts memory.high of what nobody guards any more,
thaws what we had paused, and resumes the steps that we had stopped.

A cgroup of ours is throttled below its memory.max so that we have time to choose. Without us nobody chooses, and a job
that has reached memory.high would crawl for minutes. So a small process waits for our end, on a pipe that only we
hold open, and then lifts what we had set; memory.max stays, and the kernel's OOM killer behind it. First in the files,
which is at once; then by whoever else keeps that number, which for a slice is the manager: it writes its own again as
soon as the slice gets its first job or loses its last (3 of 10 SIGKILLs left a slice throttled so). Light, see
model/quantity.py.
"""

from __future__ import annotations

import _thread
import os
import select

from slicemgr.kernel.let_go_on import let_go_on
from slicemgr.kernel.signals import signal
from slicemgr.placement.backend import CGROUPS

NAME = "slicemgr-keeper"
"""Its comm, 15 bytes: the guard of a job knows it by that, and by how little it holds."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Keeper = Callable[[Sequence[str]], object]
    """Told the cgroups whose memory.high is lifted; whatever it raises is lost."""

_FROZEN = b"!"
"""Before a path in what it is told: every path begins with a slash."""

_HELD = b"+"
_NOT_HELD = b"-"
"""Before a pid and its start time, `+4711 98765`: that step is about to be stopped, or goes on again."""

KEEPER_SECONDS = 5
"""For the manager to answer at our end; TimeoutStopSec= of the unit is 10."""

READS_SECONDS = 1.0
"""It does nothing but read, so if its pipe (64 KiB, 3,000 steps) is full for so long somebody has stopped it."""


class Guardian:
    """The pipe to that child."""

    def __init__(self, *, in_job: bool = False, mount: str = CGROUPS, also: Keeper | None = None) -> None:
        """Fork it; so before any thread is started. Raises OSError.

        `also` is called in the child when the files are written, and has KEEPER_SECONDS.

        `in_job`: it will be put into the job's own scope, and keeps that there until the job's last figures have been
        read: without it systemd was mostly faster (36 times of 52), and memory.peak gone. It ends with the scope, by
        whatever signal ends that.
        """
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        # More than PIPE_BUF is not written in one go, and the pacer's thread tells it things as well.
        self._one_at_a_time = _thread.allocate_lock()
        self._is_deaf = False
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._pid = os.fork()
            if self._pid == 0:
                _be_guardian(reading, mount, frozenset() if in_job else None, also)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.close(reading)

    @property
    def pid(self) -> int:
        """Its pid: a child of ours that ends after us."""
        return self._pid

    def watch(self, throttled: Iterable[str], frozen: Iterable[str] = ()) -> None:
        """From now on, if we die, memory.high of these is lifted, and those are thawed; in place of all told before."""
        lines = b"".join(os.fsencode(path) + b"\n" for path in throttled)
        lines += b"".join(_FROZEN + os.fsencode(path) + b"\n" for path in frozen)
        self._tell(b"=\n" + lines)

    def is_there(self) -> bool:
        """False: somebody has killed it, or stopped it, so that it hears nothing. A pipe that nobody reads: POLLERR."""
        poll = select.poll()
        poll.register(self._writing, 0)
        return not self._is_deaf and not poll.poll(0)

    def hold(self, pid: int, start_ticks: int) -> bool:
        """Before a step is stopped: from now on, if we die, it is resumed. False: nobody is there to do it."""
        return self._tell(b"%s%d %d\n" % (_HELD, pid, start_ticks))

    def let_go(self, pid: int, start_ticks: int) -> None:
        """After it was resumed, or has ended."""
        self._tell(b"%s%d %d\n" % (_NOT_HELD, pid, start_ticks))

    def lift(self) -> None:
        """We end in order: nobody guards them from now on. Waits until it is done."""
        os.close(self._writing)
        try:
            os.waitpid(self._pid, 0)
        except ChildProcessError:  # Reaped by whoever collects all children.
            return

    def _tell(self, text: bytes) -> bool:
        """False: nobody outlives us. After a line that it got half of, nothing more is told."""
        with self._one_at_a_time:
            while text and not self._is_deaf:
                try:
                    text = text[os.write(self._writing, text) :]
                except BlockingIOError:
                    self._is_deaf = not self._has_room()
                except BrokenPipeError:  # Somebody has killed it.
                    self._is_deaf = True
            return not self._is_deaf

    def _has_room(self) -> bool:
        poll = select.poll()
        poll.register(self._writing, select.POLLOUT)
        return bool(poll.poll(READS_SECONDS * 1000))


def keeper() -> Guardian | None:
    """For a job; None where no process is to be had for it: then figures may be missing, and a SIGKILL leaves
    memory.high."""
    try:
        return Guardian(in_job=True)
    except OSError:
        return None


def _be_guardian(reading: int, mount: str, mask: frozenset[int] | None, also: Keeper | None) -> None:
    """In the child. Without a `mask` all signals stay blocked: a service's stop goes to all that is in its cgroup."""
    try:
        os.setsid()
        _close_all_but(reading)
        _name_ourselves()
        if mask is not None:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        text = b""
        held: set[tuple[int, int]] = set()
        while piece := os.read(reading, 65536):
            text = since_last(without_steps(text + piece, held))
        let_go_on(held)
        throttled, frozen = left_behind(text)
        for path in frozen:
            _write(path, b"cgroup.freeze", b"0", mount)
        for path in throttled:
            _write(path, b"memory.high", b"max", mount)
        if also is not None and throttled:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
            signal.alarm(KEEPER_SECONDS)
            also([os.fsdecode(path) for path in throttled])
    finally:
        os._exit(0)


def since_last(text: bytes) -> bytes:
    """Without all that was told before the last time: somebody may pause and resume a job for years."""
    return text[text.rfind(b"\n=\n") + 1 :]


def without_steps(text: bytes, held: set[tuple[int, int]]) -> bytes:
    """Note in `held` who was said to be stopped or to go on; what is left is about cgroups. A torn line stays."""
    if _HELD not in text and _NOT_HELD not in text:
        return text
    *lines, torn = text.split(b"\n")
    others = b""
    for line in lines:
        if line.startswith((_HELD, _NOT_HELD)):
            try:
                pid, start_ticks = map(int, line[1:].split())
            except ValueError:
                continue  # Nothing that we say; and the others still have to go on.
            (held.add if line.startswith(_HELD) else held.discard)((pid, start_ticks))
        else:
            others += line + b"\n"
    return others + torn


def left_behind(text: bytes) -> tuple[list[bytes], list[bytes]]:
    """What was told last: the throttled, and the frozen; a torn line is none."""
    throttled: list[bytes] = []
    frozen: list[bytes] = []
    for line in text.split(b"\n")[:-1]:
        if line == b"=":
            throttled, frozen = [], []
        elif line.startswith(_FROZEN):
            frozen.append(line[len(_FROZEN) :])
        elif line:
            throttled.append(line)
    return throttled, frozen


def _write(cgroup: bytes, name: bytes, text: bytes, mount: str) -> None:
    """A cgroup that is gone, or no longer ours, needs nothing."""
    try:
        descriptor = os.open(os.fsencode(mount) + cgroup + b"/" + name, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(descriptor, text)
    except OSError:
        return
    finally:
        os.close(descriptor)


def _name_ourselves() -> None:
    try:
        with open("/proc/self/comm", "wb", buffering=0) as file:
            file.write(NAME.encode())
    except OSError:
        return


def _close_all_but(kept: int) -> None:
    """Above all standard output: who reads it (`| less`) waits for the last writer."""
    os.closerange(0, kept)
    os.closerange(kept + 1, 4096)
