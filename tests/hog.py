# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process with a chosen memory profile: start size, growth, rate, hold, exit; stdlib only.

    python3 tests/hog.py --start 20M --grow 200M --rate 50M --hold 3
    python3 tests/hog.py --start 100M --fork-share 20 --ready 1 --until-eof

`ctypes` is imported only by the option that needs it: python's start is 0.15 s in an emulated guest, and a
build of twenty hogs pays it twenty times.
"""

from __future__ import annotations

import argparse
import mmap
import os
import select
import signal
import sys
import threading
import time

PAGE_BYTES = mmap.PAGESIZE
STEP_BYTES = 1 << 20
"""Touched per call into C: 256 faults, some 0.1 ms, so that no signal or thread waits longer."""

MADV_PAGEOUT = 21
"""include/uapi/asm-generic/mman-common.h; Python 3.11 has no name for it."""

TICK_SECONDS = 0.005
"""Between two growth steps at a given rate; at 600 MB/s a step is 3 MB."""


def size(text: str) -> int:
    """'200M' -> bytes, 1024-based as in the kernel's own files; rounded up to pages."""
    factor = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:].upper(), 0)
    count = int(float(text[:-1]) * factor) if factor else int(text)
    return -(-count // PAGE_BYTES) * PAGE_BYTES


def raw_bytes(text: str) -> bytes:
    r"""'\xff\n' as typed -> the two bytes it means."""
    return os.fsencode(text).decode("unicode_escape").encode("latin-1")


def signal_number(text: str) -> int:
    return int(signal.Signals[text])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="hold memory along a profile", allow_abbrev=False)
    add = parser.add_argument
    add("--start", type=size, default=0, metavar="SIZE", help="touch this much at once")
    add("--grow", type=size, default=0, metavar="SIZE", help="then this much more")
    add("--rate", type=size, default=0, metavar="SIZE", help="growth per second (0: as fast as possible)")
    add("--hold", type=float, default=0.0, metavar="SECONDS", help="keep it, then exit")
    add("--until-eof", action="store_true", help="keep it until stdin is closed, instead of --hold")
    add("--work", action="store_true", help="use some of a core while it is kept, as a compiler does")
    add("--exit", type=int, default=0, metavar="N", help="exit status at the end")
    add("--huge", action="store_true", help="huge pages (otherwise 4 KiB ones, so that growth is smooth)")
    add("--swap-out", action="store_true", help="push the start size out to swap, where there is swap")
    add("--shmem", type=size, default=0, metavar="SIZE", help="also shared anonymous memory, at once")
    add(
        "--file",
        nargs=2,
        metavar=("SIZE", "PATH"),
        help="also page cache: map PATH (made if need be), read it",
    )
    add("--fork", type=int, default=0, metavar="N", help="N children follow the profile, this process waits")
    add(
        "--fork-share",
        type=int,
        default=0,
        metavar="N",
        help="N children only share what was there at the start",
    )
    add(
        "--vfork",
        metavar="FIFO",
        help="then hang in a vfork, its child sharing the address space, until FIFO is opened for writing",
    )
    add("--daemonise", action="store_true", help="double fork and setsid first")
    add("--dead-leader", action="store_true", help="the main thread exits, another one holds the memory")
    add(
        "--comm",
        type=raw_bytes,
        metavar="BYTES",
        help=r"name of the process; '\xff\n' and the like are understood",
    )
    add(
        "--ignore",
        type=signal_number,
        action="append",
        default=[],
        metavar="SIGTERM",
        help="ignore this signal",
    )
    add("--oom-score-adj", type=int, metavar="N")
    add("--ready", metavar="FD|PATH", help="write 'PID\\n' there when the start size is reached")
    return parser.parse_args()


def touch(region: mmap.mmap, begin: int, end: int) -> None:
    """Write to one byte of every page, inside C: a loop in emulated python would slow the growth down."""
    for at in range(begin, end, STEP_BYTES):
        stop = min(at + STEP_BYTES, end)
        with memoryview(region) as view, view[at:stop:PAGE_BYTES] as heads:
            heads[:] = b"x" * len(heads)


def read_through(region: mmap.mmap) -> None:
    """Map every page without changing one."""
    bytes(memoryview(region)[::PAGE_BYTES])


def page_cache(length: int, path: str) -> mmap.mmap:
    """Map PATH read-only and read it. On tmpfs such pages are shared memory and not reclaimable."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(fd).st_size < length:
            os.ftruncate(fd, length)
        region = mmap.mmap(fd, length, prot=mmap.PROT_READ)
    finally:
        os.close(fd)
    read_through(region)
    return region


def grow(region: mmap.mmap, begin: int, rate_bytes: int) -> None:
    if not rate_bytes:
        touch(region, begin, len(region))
        return
    since, done = time.monotonic(), begin
    while done < len(region):
        elapsed = time.monotonic() - since
        due = min(begin + int(rate_bytes * elapsed) // PAGE_BYTES * PAGE_BYTES, len(region))
        touch(region, done, due)
        done = due
        time.sleep(TICK_SECONDS)


def say_ready(target: str | None) -> None:
    """One write of 'PID\\n', so that the lines of several hogs on one pipe stay whole."""
    if target is None:
        return
    line = b"%d\n" % os.getpid()
    if target.isdigit():
        os.write(int(target), line)
        return
    fd = os.open(target, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.write(fd, line)
    os.close(fd)


def sharers(count: int, shmem: mmap.mmap | None) -> int:
    """Fork COUNT children that hold what they inherited; they go when the returned fd closes."""
    gone_r, gone_w = os.pipe()
    there_r, there_w = os.pipe()
    for _ in range(count):
        if os.fork() == 0:
            os.close(gone_w)
            if shmem is not None:
                read_through(shmem)  # a fork does not copy the page tables of a shared mapping
            os.close(there_w)
            os.read(gone_r, 1)
            os._exit(0)
    os.close(gone_r)
    os.close(there_w)
    while os.read(there_r, count):  # until the last child has closed its end
        pass
    os.close(there_r)
    return gone_w


def hang_in_vfork(fifo: str) -> None:
    """posix_spawn is clone(CLONE_VM | CLONE_VFORK), whose child opens FIFO before the exec and blocks there.

    FIFO is made if need be. The parent waits inside clone, open to SIGKILL only, as after any vfork.
    """
    if not os.path.exists(fifo):
        os.mkfifo(fifo)
    opening = [(os.POSIX_SPAWN_OPEN, 0, fifo, os.O_RDONLY, 0)]
    pid = os.posix_spawn("/bin/true", ["true"], {}, file_actions=opening)
    os.waitpid(pid, 0)


def work(region: mmap.mmap, args: argparse.Namespace) -> None:
    """Go over what is held, some 15 % of a core, until it need not be held any more."""
    end = time.monotonic() + args.hold
    while args.until_eof or time.monotonic() < end:
        touch(region, 0, min(len(region), 8 * STEP_BYTES))
        if args.until_eof and select.select([0], [], [], TICK_SECONDS)[0]:
            if not os.read(0, 4096):
                return
        else:
            time.sleep(TICK_SECONDS)


def follow_profile(args: argparse.Namespace) -> None:
    shmem = mmap.mmap(-1, args.shmem) if args.shmem else None
    if shmem is not None:
        touch(shmem, 0, args.shmem)
    cache = page_cache(size(args.file[0]), args.file[1]) if args.file else None
    region = None
    if args.start + args.grow:
        region = mmap.mmap(-1, args.start + args.grow, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        region.madvise(mmap.MADV_HUGEPAGE if args.huge else mmap.MADV_NOHUGEPAGE)
        touch(region, 0, args.start)
        if args.swap_out:
            region.madvise(MADV_PAGEOUT, 0, args.start)
    children = sharers(args.fork_share, shmem) if args.fork_share else None
    say_ready(args.ready)
    if region is not None:
        grow(region, args.start, args.rate)
    if args.vfork:
        hang_in_vfork(args.vfork)
    if args.work and region is not None:
        work(region, args)
    elif args.until_eof:
        while os.read(0, 4096):
            pass
    else:
        select.select([], [], [], args.hold)
    del cache, region  # until here they are held
    if children is not None:
        os.close(children)
        for _ in range(args.fork_share):
            os.wait()


def fork_profile(args: argparse.Namespace) -> int:
    """Status of the worst child, a signal as 128 + N, as make and the shell say it."""
    for _ in range(args.fork):
        if os.fork() == 0:
            follow_profile(args)
            os._exit(args.exit)
    codes = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(args.fork)]
    return max(128 - code if code < 0 else code for code in codes)


def exit_main_thread() -> None:
    """The raw exit(2) of one thread; ctypes drops the interpreter lock for the call, so the others run on."""
    import ctypes

    number = {"x86_64": 60, "aarch64": 93, "riscv64": 93}[os.uname().machine]
    ctypes.CDLL(None).syscall(number, 0)


def follow_without_leader(args: argparse.Namespace) -> None:
    """In a second thread: wait until the leader is a zombie (no event tells), then the profile."""
    try:
        while True:
            with open("/proc/self/stat", "rb") as file:
                if file.read().rpartition(b")")[2].split()[0] == b"Z":
                    break
            time.sleep(0.001)
        follow_profile(args)
    finally:
        os._exit(args.exit)  # nobody is left to return to


def daemonise() -> None:
    for step in (os.setsid, None):
        if os.fork():
            os._exit(0)
        if step:
            step()


def main() -> int:
    args = arguments()
    for number in args.ignore:
        signal.signal(number, signal.SIG_IGN)
    for name, value in (
        ("comm", args.comm),
        ("oom_score_adj", None if args.oom_score_adj is None else b"%d" % args.oom_score_adj),
    ):
        if value is not None:
            with open(f"/proc/self/{name}", "wb", buffering=0) as file:
                file.write(value)
    if args.daemonise:
        daemonise()
    if args.dead_leader:
        threading.Thread(target=follow_without_leader, args=(args,)).start()
        exit_main_thread()
    if args.fork:
        return fork_profile(args)
    follow_profile(args)
    return int(args.exit)


if __name__ == "__main__":
    sys.exit(main())
