# SPDX-License-Identifier: LGPL-2.1-or-later
"""One room of tests/vm/desktop_2010.py: a process tree of one interpreter, which stands by until stdin ends.

    python3 -m tests.vm.desktop_member '["kdeinit", 8, [["ksmserver", 24, []]]]'

Forked and not started one by one, and with few imports: a start of python is 0.15 s in an emulated guest.
Each member writes `ready PID` to stdout, and `continued PID` when it has been stopped and let go on. The process
that was started ends at once, so that the first of the tree belongs to init, as a session's processes do.
"""

import json
import mmap
import os
import signal
import sys
from typing import Any

PAGE_BYTES = mmap.PAGESIZE
STEP_BYTES = 1 << 20


def live(comm: str, mib: int, children: list[Any]) -> None:
    """Be this member and have its children, until stdin ends."""
    with open("/proc/self/comm", "w") as file:
        file.write(comm)
    signal.signal(signal.SIGCONT, lambda _signal, _frame: say("continued"))
    for child in children:  # first of all: then they fill up at the same time
        if os.fork() == 0:
            live(*child)
            os._exit(0)
    own = mmap.mmap(-1, mib * STEP_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    own.madvise(mmap.MADV_NOHUGEPAGE)
    for at in range(0, len(own), STEP_BYTES):
        with memoryview(own) as view, view[at : at + STEP_BYTES : PAGE_BYTES] as heads:
            heads[:] = b"x" * len(heads)
    say("ready")
    while os.read(0, 1):
        pass
    for _ in children:
        os.wait()


def say(word: str) -> None:
    """One write, so that the lines of several members stay whole."""
    os.write(1, b"%s %d\n" % (word.encode(), os.getpid()))


if __name__ == "__main__":
    root = json.loads(sys.argv[1])
    if os.fork() == 0:
        live(*root)
    os._exit(0)
