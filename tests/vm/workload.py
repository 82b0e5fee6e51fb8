# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory in motion, beside tests/hog.py whose memory rests: page cache that is read and written, pages in use.

    python3 -m tests.vm.workload --seconds 10 --anon 40M --read 400M /var/tmp/data
    python3 -m tests.vm.workload --seconds 10 --anon 38M --map 128M /var/tmp/data --rummage

Without one of --read, --write and --rummage it sleeps.
"""

from __future__ import annotations

import argparse
import mmap
import os
import time
from typing import TYPE_CHECKING

from tests.hog import PAGE_BYTES, STEP_BYTES, size, touch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TOUCHES_PER_STEP = 64
"""Random pages between two looks at the clock: 20 ms where each comes from a disk."""


def prepare(path: Path, length: int) -> None:
    """Make a file of zeros whose pages are charged to nobody: written, synced and dropped from the page cache."""
    block = bytes(STEP_BYTES)
    with path.open("wb") as file:
        for _ in range(length // STEP_BYTES):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    drop(path)


def drop(path: Path) -> None:
    """Forget a file's clean pages: whoever reads them next is charged for them."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def reading(length: int, path: str) -> Callable[[], None]:
    """Read a file from begin to end, again and again."""
    fd, block, at = os.open(path, os.O_RDONLY | os.O_CLOEXEC), bytearray(STEP_BYTES), 0

    def step() -> None:
        nonlocal at
        os.preadv(fd, [block], at)
        at = (at + STEP_BYTES) % length

    return step


def writing(length: int, path: str) -> Callable[[], None]:
    """Write a file from begin to end, again and again: dirty pages, which reclaim has to write back first."""
    fd, at = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600), 0
    block = bytes(STEP_BYTES)

    def step() -> None:
        nonlocal at
        os.pwrite(fd, block, at)
        at = (at + STEP_BYTES) % length

    return step


def rummaging(regions: list[mmap.mmap]) -> Callable[[], None]:
    """Read bytes of random pages: all of the memory is in use, all of the time."""
    import random

    def step() -> None:
        for _ in range(TOUCHES_PER_STEP):
            region = random.choice(regions)
            region[random.randrange(len(region) // PAGE_BYTES) * PAGE_BYTES]

    return step


def mapped(length: int, path: str) -> mmap.mmap:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return mmap.mmap(fd, length, prot=mmap.PROT_READ)
    finally:
        os.close(fd)


def anonymous(length: int) -> mmap.mmap:
    region = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    region.madvise(mmap.MADV_NOHUGEPAGE)
    touch(region, 0, length)
    return region


def main() -> None:
    parser = argparse.ArgumentParser(description="use memory", allow_abbrev=False)
    add = parser.add_argument
    add("--seconds", type=float, required=True)
    add("--anon", type=size, default=0, metavar="SIZE", help="hold anonymous memory")
    add("--burst", nargs=2, metavar=("SIZE", "SECONDS"), help="then more of it, for SECONDS")
    add("--map", nargs=2, metavar=("SIZE", "PATH"), help="map a file")
    add("--rummage", action="store_true", help="touch random pages of --anon and --map, or of --map where there is one")
    add("--read", nargs=2, metavar=("SIZE", "PATH"), help="read a file, again and again")
    add("--write", nargs=2, metavar=("SIZE", "PATH"), help="write a file, again and again")
    args = parser.parse_args()
    end = time.monotonic() + args.seconds
    regions = [anonymous(args.anon)] if args.anon else []
    if args.burst:
        more = anonymous(size(args.burst[0]))
        time.sleep(float(args.burst[1]))
        more.close()
    if args.map:
        regions.append(mapped(size(args.map[0]), args.map[1]))
    steps = [rummaging(regions[-1:])] if args.rummage else []
    steps += [reading(size(args.read[0]), args.read[1])] if args.read else []
    steps += [writing(size(args.write[0]), args.write[1])] if args.write else []
    while (left := end - time.monotonic()) > 0:
        if not steps:
            time.sleep(left)
        for step in steps:
            step()


if __name__ == "__main__":
    main()
