# SPDX-License-Identifier: LGPL-2.1-or-later
"""What this kernel and this mount can do, found by looking and not by version; what is missing, and what to do then."""

import enum
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from slicemgr.kernel import cgroup_formats as formats
from slicemgr.kernel.cgroupfs import MOUNT, CgroupDir
from slicemgr.kernel.errors import KernelError


class Feature(enum.Enum):
    """What can be missing."""

    CGROUP2 = "cgroup v2"
    """A tree of it with the controllers in it. Nothing of the service works without."""
    WRITABLE = "a writable cgroup"
    """Files below the cgroup that was asked about can be written. A service manager can do it for us."""
    MEMORY = "the memory controller"
    PIDS = "the pids controller"
    KILL = "cgroup.kill"
    """Since 5.14."""
    RECLAIM = "memory.reclaim"
    """Since 5.19."""
    PEAK = "memory.peak"
    """Since 5.19."""
    PRESSURE = "pressure stall information"
    PIDFD = "pidfd_open"
    """Since 5.3. Nobody is killed without."""


@dataclass(frozen=True, slots=True)
class Missing:
    """One thing that is missing; its text is a line for people."""

    feature: Feature
    what: str
    hint: str

    def __str__(self) -> str:
        return f"{self.what}; try {self.hint}"


@dataclass(frozen=True, slots=True)
class Features:
    """The result of all probes."""

    mount: str | None
    """Where cgroup v2 is mounted; None if it is not, or if another tree has the controllers."""
    kernel: str
    """uname -r, for reports."""
    controllers: frozenset[str]
    """Those of the cgroup that was asked about."""
    missing: tuple[Missing, ...]

    def has(self, feature: Feature) -> bool:
        """Whether it is there."""
        return self.why_not(feature) is None

    def why_not(self, feature: Feature) -> Missing | None:
        """What is missing and what to do; None if nothing is."""
        return next((each for each in self.missing if each.feature is feature), None)


_UNIFIED: Final = "`systemd.unified_cgroup_hierarchy=1` on the kernel command line"

_SINCE: Final = {Feature.KILL: "5.14", Feature.RECLAIM: "5.19", Feature.PEAK: "5.19"}


def not_mounted(mount: str = MOUNT) -> Missing:
    """There is none at all, or not where it is looked for."""
    return Missing(Feature.CGROUP2, f"no cgroup v2 is mounted at {mount}", f"mount -t cgroup2 cgroup2 {mount}")


def find_mount(proc: str = "/proc") -> tuple[str | None, tuple[Missing, ...]]:
    """Where cgroup v2 is, by /proc/self/mountinfo, and what is wrong with it. Raises FormatError."""
    try:
        with open(f"{proc}/self/mountinfo", "rb") as file:
            mounts = formats.parse_mounts(file.read())
    except OSError as error:
        return None, (Missing(Feature.CGROUP2, f"{proc} can't be read ({error.strerror})", "mount -t proc proc /proc"),)
    version_2 = [mount for mount in mounts if mount.type == "cgroup2"]
    # A mount of version 1 with net_cls alone, as some VPNs make it, takes nothing away.
    if any(mount.type == "cgroup" and "memory" in mount.options for mount in mounts):
        what = (
            "the cgroups are of version 1, or a mix of both (hybrid)" if version_2 else "the cgroups are of version 1"
        )
        return None, (Missing(Feature.CGROUP2, what, _UNIFIED),)
    if not version_2:
        return None, (not_mounted(),)
    # Of two on one another the later one is seen.
    found = next((mount for mount in reversed(version_2) if mount.point == MOUNT), version_2[-1])
    if found.read_only:
        return found.point, (Missing(Feature.WRITABLE, f"{found.point} is mounted read-only", _WRITABLE_IN_CONTAINER),)
    return found.point, ()


_WRITABLE_IN_CONTAINER: Final = (
    "`podman run --security-opt unmask=/sys/fs/cgroup`, or `docker run --security-opt writable-cgroups=true` (since 28)"
)


def controllers_missing(mount: str, path: str) -> tuple[frozenset[str], tuple[Missing, ...]]:
    """The controllers of the cgroup `path`, and which of ours it lacks."""
    here = _controllers(mount, path)
    return here, tuple(
        Missing(feature, *_why_no_controller(name, mount, path))
        for name, feature in (("memory", Feature.MEMORY), ("pids", Feature.PIDS))
        if name not in here
    )


def _why_no_controller(name: str, mount: str, path: str) -> tuple[str, str]:
    if name in _controllers(mount, "/") and path.strip("/"):
        return f"cgroup {path} does not get the {name} controller", "`Delegate=cpu memory pids` in the unit above it"
    if name == "memory":
        return "the kernel runs without the memory controller", "`cgroup_enable=memory` on its command line"
    return f"the kernel runs without the {name} controller", "a kernel with CONFIG_CGROUP_PIDS"


def _controllers(mount: str, path: str) -> frozenset[str]:
    try:
        with CgroupDir.open(path, mount) as cgroup:
            return cgroup.controllers() or frozenset()
    except KernelError:
        return frozenset()


def not_writable(mount: str, path: str) -> Missing | None:
    """Why no child can be made in the cgroup `path`."""
    directory = os.path.join(mount, path.lstrip("/"))
    wanted = (directory, f"{directory.rstrip('/')}/cgroup.procs")
    if all(os.access(each, os.W_OK, effective_ids=True) for each in wanted):
        return None
    return Missing(
        Feature.WRITABLE, f"no permission to make cgroups in {path}", "a service manager, or a unit with Delegate=yes"
    )


def files_missing(mount: str, path: str) -> Iterator[Missing]:
    """Which files this kernel does not know, as seen in the cgroup `path` or, as the root has none, in one below."""
    known = _files_of_a_cgroup(mount, path)
    wanted = [(Feature.KILL, "cgroup.kill")]
    if "memory.current" in known:
        wanted += [(Feature.RECLAIM, "memory.reclaim"), (Feature.PEAK, "memory.peak")]
    for feature, name in wanted:
        if name not in known:
            yield Missing(feature, f"the kernel has no {name}", f"{_SINCE[feature]} or later")


def _files_of_a_cgroup(mount: str, path: str) -> frozenset[str]:
    """The names in the first cgroup that has memory files, from `path` upwards and then among the top ones."""
    parts = [part for part in path.split("/") if part]
    ahead = ["/".join(parts[:end]) for end in range(len(parts), -1, -1)]
    ahead += _names(mount, "", directories=True)
    best: frozenset[str] = frozenset()
    for each in ahead:
        found = frozenset(_names(mount, each))
        if "memory.current" in found:
            return found
        if "cgroup.events" in found and not best:  # Not the root, but a cgroup without the controller.
            best = found
    return best


def _names(mount: str, path: str, *, directories: bool = False) -> list[str]:
    try:
        with os.scandir(os.path.join(mount, path)) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() or not directories)
    except OSError:
        return []


def pressure_missing(proc: str = "/proc") -> Missing | None:
    """Why there is no pressure stall information."""
    try:
        with open(f"{proc}/pressure/memory", "rb") as file:
            file.read()
    except OSError as error:
        # EOPNOTSUPP is how a kernel answers that was started with psi=0, or has that as its default.
        if error.errno in {errno.ENOENT, errno.EOPNOTSUPP}:
            return Missing(
                Feature.PRESSURE, "the kernel measures no pressure (PSI)", "`psi=1` on the kernel command line"
            )
        return Missing(Feature.PRESSURE, f"{proc}/pressure can't be read ({error.strerror})", "an unmasked /proc")
    return None


def pidfd_missing(open_pidfd: Callable[[int], int] = os.pidfd_open) -> Missing | None:
    """Why no process can be held by a pidfd."""
    try:
        os.close(open_pidfd(os.getpid()))
    except OSError as error:
        what = f"pidfd_open(2) is refused ({error.strerror})"
        return Missing(Feature.PIDFD, what, "Linux 5.3 or later, or a sandbox that allows the call")
    return None


def probe(path: str = "/", proc: str = "/proc") -> Features:
    """All of it; `path` is the cgroup that we would work in. Raises FormatError for a mountinfo of an unknown form."""
    mount, missing = find_mount(proc)
    controllers: frozenset[str] = frozenset()
    if mount is not None:
        controllers, lacks = controllers_missing(mount, path)
        if not missing and (unwritable := not_writable(mount, path)):
            lacks += (unwritable,)
        missing += (*lacks, *files_missing(mount, path))
    others = (pressure_missing(proc), pidfd_missing())
    missing += tuple(each for each in others if each is not None)
    return Features(mount=mount, kernel=os.uname().release, controllers=controllers, missing=missing)
