# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is told of a job in a cgroup at its end: peak, OOM kills, whether anybody is left. Light, `os` alone.

A scope is removed soon after its last process has exited, and its files with it. So they are opened before the command
starts, and read when its end is heard of. Not by kernel/cgroupfs.py, which reads all that a guard needs and takes
longer to import than the rest of `slicemgr run`.
"""

from __future__ import annotations

import os


class JobFigures:
    """Four files of one cgroup, held open. What the kernel does not have, or has no more, is None."""

    __slots__ = ("_directory", "_events", "_peak", "_populated", "_procs")

    def __init__(self, directory: str) -> None:
        """`directory`: the cgroup's, with the mount point."""
        self._peak = _opened(f"{directory}/memory.peak")  # since 5.19
        self._events = _opened(f"{directory}/memory.events")
        self._populated = _opened(f"{directory}/cgroup.events")
        self._procs = _opened(f"{directory}/cgroup.procs")
        self._directory = directory

    def peak_bytes(self) -> int | None:
        """memory.peak: the most that it ever held, page cache included."""
        text = _text_of(self._peak)
        return int(text) if text else None

    def oom_kills(self) -> int | None:
        """`oom_kill` of memory.events: how many the kernel has killed here and below."""
        return _row(b"oom_kill", _text_of(self._events))

    def has_met_a_limit(self) -> bool:
        """Whether it was ever at a limit of its own, by memory.events."""
        text = _text_of(self._events)
        return any(_row(key, text) for key in (b"high", b"max", b"oom"))

    def is_populated(self) -> bool:
        """Whether somebody lives here or below; zombies do not. False once the cgroup is gone."""
        return bool(_row(b"populated", _text_of(self._populated)))

    def has_others_than(self, pid: int) -> bool:
        """Whether anybody but this process lives here or below."""
        if not self.is_populated():
            return False
        own = b"%d" % pid
        return any(each != own for each in _text_of(self._procs).split()) or _lives_below(self._directory, own)

    def close(self) -> None:
        """Let go of the files."""
        for descriptor in (self._peak, self._events, self._populated, self._procs):
            if descriptor is not None:
                os.close(descriptor)


def _opened(path: str) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _text_of(descriptor: int | None) -> bytes:
    if descriptor is None:
        return b""
    try:
        return os.pread(descriptor, 4096, 0)
    except OSError:  # ENODEV: the cgroup has been removed.
        return b""


def _lives_below(directory: str, own: bytes) -> bool:
    """Whether a process other than `own` is in a cgroup below this one; what can't be read holds nobody."""
    try:
        with os.scandir(directory) as entries:
            below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return False
    return any(_procs_of(each) - {own} or _lives_below(each, own) for each in below)


def _procs_of(directory: str) -> set[bytes]:
    try:
        with open(f"{directory}/cgroup.procs", "rb") as file:
            return set(file.read().split())
    except OSError:
        return set()


def _row(key: bytes, text: bytes) -> int | None:
    for line in text.split(b"\n"):
        name, _, value = line.partition(b" ")
        if name == key:
            return int(value)
    return None
