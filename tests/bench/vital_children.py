# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a look at the children of vital processes costs (service/vital_guard.py), on a made-up session.

PYTHONPATH=. python tests/bench/vital_children.py [PROCESSES] [THREADS OF EACH] [CHILDREN OF EACH]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack

from slicemgr.kernel import procfs
from slicemgr.service.vital_guard import VitalGuard
from slicemgr.service.vital_ledger import VitalLedger

PART = """
import os, sys, threading
threads, children = map(int, sys.argv[1:])
for _ in range(children):
    if os.fork() == 0:
        sys.stdin.read()
        os._exit(0)
for _ in range(threads - 1):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
open("/proc/self/oom_score_adj", "w").write("300")
print(flush=True)
sys.stdin.read()
os._exit(0)
"""
ROUNDS = 200


def main(processes: int, threads: int, children: int) -> None:
    with ExitStack() as stack:
        parts = []
        for _ in range(processes):
            part = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", PART, str(threads), str(children)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
            assert part.stdin is not None
            assert part.stdout is not None
            stack.callback(part.stdin.close)
            part.stdout.readline()
            parts.append(procfs.identity_of(part.pid))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        guard = VitalGuard(137, VitalLedger(folder), total_bytes=1 << 60)
        guard.protect(parts)
        above = sum(len(procfs.children_of(pid)) for pid in procfs.ancestors_of(os.getpid()))
        first = cost(guard)
        times = [cost(guard) for _ in range(ROUNDS)]
        guard.close()
    print(
        f"{processes} processes of {threads} threads and {children} children, {above} children of those above: "
        f"first {first * 1e3:.2f} ms, then {statistics.median(times) * 1e3:.2f} ms (max {max(times) * 1e3:.2f})"
    )


def cost(guard: VitalGuard) -> float:
    """Processor time of one look."""
    started = time.thread_time()
    guard.look()
    return time.thread_time() - started


if __name__ == "__main__":
    main(*([int(each) for each in sys.argv[1:]] or [12, 5, 4]))
