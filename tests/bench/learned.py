# SPDX-License-Identifier: LGPL-2.1-or-later
"""What it costs to know steps again: a signature, and the file of what was learnt, empty and full.

.venv/bin/python -m tests.bench.learned
"""

import os
import shlex
import tempfile
import time
from collections.abc import Callable, Sequence

from slicemgr.build.learned import FILE_NAME, MOST_STEPS, LearnedSteps
from slicemgr.build.signature import signature_of
from slicemgr.model.step import Profile, StepSignature

COMPILER = (
    "/usr/lib/gcc/x86_64-linux-gnu/12/cc1plus -quiet -I src -imultiarch x86_64-linux-gnu -MMD obj/x.d -MF obj/x.d "
    "-MT obj/x.o -D_GNU_SOURCE -D FOO src/x.cc -quiet -dumpdir obj/ -dumpbase x.cc -dumpbase-ext .cc -mtune=generic "
    "-march=x86-64 -O2 -fasynchronous-unwind-tables -o /tmp/ccy5ZJRx.s"
)
PROJECTS = 20
NOW = 1.7e9


def _steps(count: int, name: str = "file") -> list[StepSignature]:
    return [StepSignature("cc1plus", f"obj/{name}{at}.cc", f"/home/a/p{at % PROJECTS}/build") for at in range(count)]


def _show(what: str, call: Callable[[], object], times: int = 1) -> None:
    began = time.perf_counter()
    for _ in range(times):
        call()
    print(f"{what:<48} {(time.perf_counter() - began) / times * 1e3:9.3f} ms")


def _flushed(learned: LearnedSteps, steps: Sequence[StepSignature]) -> Callable[[], None]:
    for each in steps:
        learned.learn(each, Profile(100 << 20, 1.0, 2.0), NOW)
    return learned.flush


def main() -> None:
    """Print the table."""
    arguments = shlex.split(COMPILER)
    _show("signature of a compiler", lambda: signature_of(arguments, "/a"), 5000)
    _show("signature of 100,000 words", lambda: signature_of(["x", *["y" * 9] * 100_000], "/a"))
    with tempfile.TemporaryDirectory() as directory, LearnedSteps(f"{directory}/{FILE_NAME}") as learned:
        _show("write 1,000 steps into a new file", _flushed(learned, _steps(1000)))
        _flushed(learned, _steps(MOST_STEPS))()
        print(f"{f'a file of {MOST_STEPS} steps':<48} {os.path.getsize(learned.path) / 1e6:9.1f} MB")
        _show("write 1,000 known steps into it", _flushed(learned, _steps(1000)))
        _show("write 1,000 new ones", _flushed(learned, _steps(1000, "new")))
        known = _steps(1000)
        _show("100 profiles", lambda: [learned.profile(each) for each in known[:100]], 10)
        _show("kin of the same project", lambda: learned.ended("cc1plus", "/home/a/p7/build"), 20)
        _show("kin from everywhere", lambda: learned.ended("cc1plus", "/home/b/new/build"), 20)
        _show("the twenty fattest", lambda: learned.fattest(20), 20)


if __name__ == "__main__":
    main()
