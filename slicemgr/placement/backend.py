# SPDX-License-Identifier: LGPL-2.1-or-later
"""What every backend gives: a job where it has been put.

No dataclasses in this folder's files that `slicemgr run` loads before its command: they are 12 ms of an interpreter
that takes 9, and the whole of `run` may take 2.5 times as long as `systemd-run --scope` (tests/bench/launch.py).
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from slicemgr.model.source import JobSource

CGROUPS = "/sys/fs/cgroup"
"""Where cgroup v2 is mounted (file-hierarchy(7)); paths of cgroups are below it."""

_BIGGEST_PAGE = 65536
_NO_LIMIT_FROM = 1 << 62
"""Some pages below LONG_MAX the kernel says `max` (PAGE_COUNTER_MAX)."""


class PlacementError(Exception):
    """A job could not be put there; the message is one line that ends in what to try."""


class JobHandle:
    """A job where it has been put."""

    __slots__ = ("_release", "backend", "cgroup", "left_out", "passed_over", "source", "unit", "why_not")

    def __init__(
        self,
        backend: str,
        source: JobSource | None,
        *,
        cgroup: str | None = None,
        unit: str | None = None,
        why_not: str = "",
        left_out: tuple[str, ...] = (),
        release: Callable[[], None] | None = None,
    ) -> None:
        self.backend = backend
        """For reports: `systemd`, `cgroup` or `embedded`."""
        self.source = source
        """Where `embedded` reads its process tree; None for a cgroup, which is read by its path."""
        self.cgroup = cgroup
        """As /proc/PID/cgroup tells it: `/user.slice/.../build.slice/slicemgr-make-123.scope`."""
        self.unit = unit
        """The scope, `slicemgr-make-123.scope`; systemd only."""
        self.why_not = why_not
        """Why the limits asked for are not in force, one line; empty if they are, or none was asked for."""
        self.left_out = left_out
        """Unit properties that this systemd does not know."""
        self.passed_over: tuple[tuple[str, str], ...] = ()
        """(backend, reason) of each one that comes before this one and could not be had."""
        self._release = release

    @property
    def limits_in_force(self) -> bool:
        """Each limit asked for was read back from the kernel."""
        return not self.why_not

    def release(self) -> None:
        """After the job's end: take away what was made for it, as far as it is empty. Once."""
        release, self._release = self._release, None
        if release is not None:
            release()


def cgroup_of(pid: int | str) -> str:
    """The cgroup of a process as /proc/PID/cgroup tells it. Raises OSError; PlacementError if it is in none of v2."""
    for line in read_text(f"/proc/{pid}/cgroup").split("\n"):  # splitlines() would cut a name at its `\r` as well.
        if line.startswith("0::/"):
            return line[3:]
    raise PlacementError("this kernel has no cgroup v2; try one from 4.5 on, with CONFIG_CGROUPS")


def read_text(path: str) -> str:
    """A file of the kernel, of up to 64 KiB. Raises OSError."""
    # Not open(): its layers are a tenth of a millisecond for each of the six files that a placement reads.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 65536).decode(errors="surrogateescape")
    finally:
        os.close(fd)


def write_text(path: str, text: str) -> None:
    """One write, as kernel files want it. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def not_in_force(directory: str, limits: Mapping[str, int | None]) -> tuple[str, ...]:
    """Which of these files of a cgroup do not hold the number asked for; None asks for nothing.

    Bytes are rounded down to whole pages by the kernel (page_counter_memparse). Raises ValueError for a file that
    holds no number.
    """
    missing = []
    for name, wanted in limits.items():
        if wanted is None:
            continue
        try:
            # io.weight: "default 100", and with IODeviceWeight= a line for each device behind it, "8:0 300".
            text = read_text(f"{directory}/{name}").split("\n", 1)[0].split()[-1]
        except (OSError, IndexError):
            missing.append(name)
            continue
        slack = _BIGGEST_PAGE if name.startswith("memory.") else 1
        held = wanted >= _NO_LIMIT_FROM if text == "max" else wanted - slack < int(text) <= wanted
        if not held:
            missing.append(name)
    return tuple(missing)


def avoid_oomd(directory: str) -> None:
    """What ManagedOOMPreference=avoid does (systemd.resource-control(5)); without it oomd is where it was."""
    try:
        os.setxattr(directory, "user.oomd_avoid", b"1")
    except OSError:
        return
