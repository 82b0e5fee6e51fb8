# SPDX-License-Identifier: LGPL-2.1-or-later
"""A step that does one thing after the other, as its arguments say: takes memory, locks, waits for somebody.

    python3 tests/cli/trapped_step.py grow=20M lock=FILE grow=20M unlock

Stdlib only, and started without the site's packages: so it begins as small as tests/hog.py.
"""

import fcntl
import os
import sys
import time

MIB = 1 << 20
TICK_SECONDS = 0.01
RATE = 60
"""MiB per second, as fast as a compiler."""


class Step:
    """What it holds, and what it does."""

    def __init__(self) -> None:
        self._held: list[bytearray] = []
        self._lock = -1

    def grow(self, size: str) -> None:
        """So many MiB more, at RATE."""
        wanted, begun = int(size.removesuffix("M")), time.monotonic()
        for number in range(wanted):
            self._held.append(bytearray(b"x" * MIB))
            while time.monotonic() - begun < (number + 1) / RATE:
                time.sleep(TICK_SECONDS)

    def lock(self, path: str) -> None:
        """Wait for the lock, and hold it."""
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def unlock(self, _: str) -> None:
        """Give it back."""
        os.close(self._lock)

    def read(self, path: str) -> None:
        """Wait until somebody has written to this fifo."""
        with open(path, "rb") as fifo:
            assert fifo.read(1)

    def write(self, path: str) -> None:
        """Wait until somebody reads it."""
        with open(path, "wb") as fifo:
            fifo.write(b"x")

    def mark(self, path: str) -> None:
        """Leave a file."""
        with open(path, "wb"):
            pass

    def produce(self, size: str) -> None:
        """Write so many MiB to standard output."""
        for _ in range(int(size.removesuffix("M"))):
            sys.stdout.buffer.write(b"x" * MIB)

    def consume(self, _: str) -> None:
        """Keep all that comes on standard input."""
        while piece := sys.stdin.buffer.read(MIB):
            self._held.append(bytearray(piece))

    def execute(self, command: str) -> None:
        """Become another program: what it had is gone."""
        os.execvp("/bin/sh", ["sh", "-c", f"exec {command}"])


def main() -> None:
    """Each argument is one deed."""
    step = Step()
    for argument in sys.argv[1:]:
        name, _, value = argument.partition("=")
        getattr(step, name)(value)


if __name__ == "__main__":
    main()
