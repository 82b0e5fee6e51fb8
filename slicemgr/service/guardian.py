# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who outlives slicemgr, also one that was SIGKILLed: a child that lifts memory.high of what nobody guards any more.

A cgroup of ours is throttled below its memory.max so that we have time to choose. Without us nobody chooses, and a job
that has reached memory.high would crawl for minutes. So a small process waits for our end, on a pipe that only we
hold open, and then lifts what we had set; memory.max stays, and the kernel's OOM killer behind it. Light, see
model/quantity.py.
"""

from __future__ import annotations

import os

from slicemgr.kernel.signals import signal

CGROUPS = "/sys/fs/cgroup"


class Guardian:
    """The pipe to that child."""

    def __init__(self, *, mount: str = CGROUPS) -> None:
        """Fork it; so before any thread is started. Raises OSError."""
        reading, self._writing = os.pipe()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._pid = os.fork()
            if self._pid == 0:
                _be_guardian(reading, mount)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.close(reading)

    @property
    def pid(self) -> int:
        """Its pid: a child of ours that ends after us."""
        return self._pid

    def watch(self, cgroups: list[str]) -> None:
        """From now on, if we die, memory.high of these is lifted; in place of those that were told before."""
        lines = b"".join(os.fsencode(path) + b"\n" for path in cgroups)
        self._tell(b"=\n" + lines)

    def lift(self) -> None:
        """We end in order: nobody guards them from now on. Waits until it is done."""
        os.close(self._writing)
        try:
            os.waitpid(self._pid, 0)
        except ChildProcessError:  # Reaped by whoever collects all children.
            return

    def _tell(self, text: bytes) -> None:
        try:
            os.write(self._writing, text)
        except BrokenPipeError:  # Somebody has killed it: then nobody outlives us.
            return


def _be_guardian(reading: int, mount: str) -> None:
    """In the child. Signals stay blocked: ^C and a hang-up are for the command."""
    try:
        os.setsid()
        _close_all_but(reading)
        text = b""
        while piece := os.read(reading, 65536):
            text += piece
        for path in to_lift(text):
            lift(path, mount)
    finally:
        os._exit(0)


def to_lift(text: bytes) -> list[bytes]:
    """The paths that were told last; a torn line is none."""
    paths: list[bytes] = []
    for line in text.split(b"\n")[:-1]:
        if line == b"=":
            paths = []
        elif line:
            paths.append(line)
    return paths


def lift(cgroup: bytes, mount: str = CGROUPS) -> None:
    """Write `max` into memory.high; a cgroup that is gone, or no longer ours, needs nothing."""
    try:
        descriptor = os.open(os.fsencode(mount) + cgroup + b"/memory.high", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(descriptor, b"max")
    except OSError:
        return
    finally:
        os.close(descriptor)


def _close_all_but(kept: int) -> None:
    """Above all standard output: who reads it (`| less`) waits for the last writer."""
    os.closerange(0, kept)
    os.closerange(kept + 1, 4096)
