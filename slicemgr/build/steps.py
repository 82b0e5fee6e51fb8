# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which processes of a build are steps: leaves that compute. Who only starts others is a driver, and never waits.

A driver that stands still starts nobody, holds job tokens and pipes, and frees nothing. It is known by its children,
or by its name while it has none yet: gcc has none before it has started cc1. Light, see model/quantity.py.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Final

SHELLS: Final = frozenset({"sh", "bash", "dash", "zsh", "fish", "ksh", "mksh", "busybox", "tcsh", "csh"})

DRIVERS: Final = SHELLS | {
    # Build tools.
    "make", "gmake", "bmake", "remake", "ninja", "samu", "cargo", "cmake", "ctest", "meson", "scons", "bazel", "buck2",
    "gradle", "mvn", "ant", "npm", "yarn", "pnpm", "rake", "waf", "qmake", "dune", "stack", "cabal", "go", "rebar3",
    "mix", "tox", "nox", "pre-commit", "dpkg-buildpackag", "debuild", "rpmbuild", "makepkg", "emerge", "kdesrc-build",
    "ninja-build", "gprbuild", "gnatmake",
    # What runs one other program.
    "xargs", "parallel", "env", "nice", "ionice", "taskset", "chrt", "time", "timeout", "stdbuf", "setsid", "nohup",
    "sudo", "su", "doas", "runuser", "setpriv", "unshare", "strace", "ltrace", "perf", "gdb", "systemd-run", "flock",
    "chroot", "bwrap", "fakeroot", "faked", "script", "unbuffer", "watch", "entr", "find", "libtool",
    # Compiler drivers and their caches: they start the program that computes.
    "cc", "c++", "gcc", "g++", "gfortran", "gdc", "gnat", "gccgo", "collect2", "ccache", "sccache", "distcc", "distccd",
    "icecc", "iceccd", "nvcc", "mpicc", "mpicxx", "clang-cache", "rustup", "lto-wrapper",
    "gcc-ar", "gcc-ranlib", "gcc-nm",
    # What serves others while they compute: they wait for its answers.
    "faked-sysv", "faked-tcp", "dbus-daemon", "Xvfb", "ssh-agent", "gpg-agent",
    # Ours.
    "slicemgr", "slicemgr-keeper", "slicemgr-launch",
}  # fmt: skip

TOOLS: Final = frozenset({
    "[", "awk", "basename", "cat", "chgrp", "chmod", "chown", "cmp", "cp", "cut", "date", "dd", "dirname", "echo",
    "expr", "false", "gawk", "getconf", "grep", "head", "id", "install", "ln", "ls", "mawk", "mkdir", "mkfifo",
    "mktemp", "mv", "od", "pkg-config", "printf", "pwd", "readlink", "realpath", "rm", "rmdir", "sed", "seq",
    "sleep", "stat", "tail", "tar", "tee", "test", "touch", "tr", "true", "uname", "wc", "which",
})  # fmt: skip
"""What holds a few megabytes, whatever it is given. They make up most of the processes of a build and none of its
memory, and a build of which nothing is known would begin with three of them. Not sort and diff, which read all."""

_COMM_BYTES: Final = 15
"""A comm is cut there (TASK_COMM_LEN is 16, with the NUL)."""

_BY_COMM: Final = frozenset(name[:_COMM_BYTES] for name in DRIVERS)


def is_driver(name: str) -> bool:
    """Whether a process of this name (its comm, or the name of its file) starts others, as far as a name can tell.

    Also with the target before it and the version behind: aarch64-linux-gnu-g++-12. Of that the comm is cut to
    `aarch64-linux-g`, which may as well be a linker, so it is none: a driver soon has children.
    """
    if name in _BY_COMM:
        return True
    base = name.rpartition("-")[0] if name.rpartition("-")[2].replace(".", "").isdigit() else name
    return base in _BY_COMM or base.rpartition("-")[2] in {"gcc", "g++", "cc", "c++", "gfortran", "ccache"}


def is_no_step(name: str) -> bool:
    """Whether a process of this name (its comm) is never worth waiting for."""
    return name in TOOLS or is_driver(name)


def is_excluded(name: str, patterns: Iterable[str]) -> bool:
    """Whether a person has said that it must never wait, by a pattern as a shell's: `ctest`, `*_test`, `test_[ab]*`.

    A name without signs of a pattern may be longer than a comm.
    """
    from fnmatch import fnmatchcase  # With it comes `re`.

    return any(fnmatchcase(name, each if set(each) & set("*?[") else each[:_COMM_BYTES]) for each in patterns)


def is_job_of_a_shell(pid: int, group: int, parent_name: str) -> bool:
    """Whether an interactive shell has started it as a job of its own: it would see a stop, and report it."""
    return pid == group and parent_name in SHELLS
