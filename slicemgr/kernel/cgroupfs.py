# SPDX-License-Identifier: LGPL-2.1-or-later
"""cgroup v2: a cgroup held by its directory, the tree below it, and what can be done to it.

Documentation/admin-guide/cgroup-v2.rst. Paths are those of /proc/PID/cgroup, below the mount.
"""

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Self

from slicemgr.kernel import cgroup_formats as formats
from slicemgr.kernel.cgroup_reader import CgroupReader
from slicemgr.kernel.errors import (
    CgroupGoneError,
    CgroupNotPermittedError,
    CgroupRefusedError,
    NotSupportedError,
    ProcessGoneError,
)
from slicemgr.kernel.procfs import read_process_file

MOUNT: Final = "/sys/fs/cgroup"

_UNSEEN: Final = (CgroupGoneError, CgroupNotPermittedError)


def cgroup_of(pid: int) -> str:
    """The path of a process's cgroup, by /proc/PID/cgroup.

    Raises ProcessGoneError, NotPermittedError, and NotSupportedError where there is no cgroup v2.
    """
    path = formats.parse_cgroup_path(read_process_file(pid, "cgroup"))
    if path is None:
        raise NotSupportedError(
            f"process {pid} is in no cgroup v2", "`systemd.unified_cgroup_hierarchy=1` on the kernel command line"
        )
    return path


class CgroupDir(CgroupReader):
    """One cgroup, held by a descriptor of its directory; a context manager.

    Its readers are CgroupReader's, and so is the count of descriptors. A writer opens its file for the one write; it
    raises CgroupGoneError, CgroupNotPermittedError, NotSupportedError for a file that is missing, and
    CgroupRefusedError where the kernel declines.
    """

    __slots__ = ()

    @classmethod
    def open(cls, path: str, mount: str = MOUNT) -> Self:
        """The cgroup of this path. Raises CgroupGoneError, CgroupNotPermittedError, NotSupportedError."""
        parts = [part for part in path.split("/") if part]
        if ".." in parts:
            # cgroup_namespaces(7): how a cgroup outside of our own namespace is shown.
            raise NotSupportedError(f"cgroup {path} is outside of this container", "the service on the host")
        return cls("/".join((mount, *parts)), "/" + "/".join(parts))

    def child(self, name: str) -> "CgroupDir":
        """A cgroup directly in this one. Raises CgroupGoneError, CgroupNotPermittedError."""
        return self._below(_plain(name))

    def _below(self, relative: str) -> "CgroupDir":
        path = f"{self.path.rstrip('/')}/{relative}"
        return CgroupDir(f"{self._place}/{relative}", path, beside=self._directory, name=relative)

    def children(self) -> list[str]:
        """The names of the cgroups directly in this one, sorted; none when it is gone."""
        try:
            with os.scandir(self._directory) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENODEV}:
                return []
            raise

    def walk(self) -> Iterator["CgroupDir"]:
        """This cgroup, then all below it, parents first; those that vanish or may not be read are left out.

        Each one below is closed when the next is asked for: who wants to keep it opens it anew by its path. This
        one itself stays open. One descriptor at a time, however deep somebody has nested.
        """
        yield self
        ahead = self.children()[::-1]
        while ahead:
            relative = ahead.pop()
            try:
                found = self._below(relative)
            except (*_UNSEEN, CgroupRefusedError):  # Refused: a path longer than PATH_MAX.
                continue
            with found:
                yield found
                ahead += [f"{relative}/{name}" for name in reversed(found.children())]

    def members(self) -> set[int]:
        """The pids of this cgroup and of all below it. Raises CgroupGoneError for this one itself."""
        found = set(self._processes_unless_threaded())
        walk = self.walk()
        next(walk)
        for cgroup in walk:
            try:
                found.update(cgroup._processes_unless_threaded())
            except _UNSEEN:
                continue
        return found

    def _processes_unless_threaded(self) -> list[int]:
        try:
            return self.processes()
        except NotSupportedError:
            return []

    # Writers.

    def set_limit(self, name: str, value: int | None) -> None:
        """Write a file such as memory.max or pids.max; None is `max`. Below what is used, memory.max kills at once."""
        self._order(_plain(name), "max" if value is None else str(value), f"set {name} of")

    def freeze(self, frozen: bool) -> None:
        """cgroup.freeze: all here and below stand still once `is_frozen`; SIGKILL works on them (since 5.2)."""
        self._order("cgroup.freeze", str(int(frozen)), "freeze" if frozen else "thaw")

    def kill_all(self) -> None:
        """cgroup.kill: SIGKILL for all here and below, forks in between included (since 5.14)."""
        self._order("cgroup.kill", "1", "kill everything in")

    def reclaim(self, amount: int) -> bool:
        """memory.reclaim: take back so many bytes (since 5.19); False if it was less.

        Blocks while it works, for seconds where there is much to write out: call it in a thread.
        """
        try:
            self.write("memory.reclaim", str(amount).encode(), "reclaim memory of")
        except BlockingIOError:  # EAGAIN: less than that could be reclaimed.
            return False
        except OSError as error:
            raise CgroupRefusedError(self.path, "reclaim memory of", error.errno or 0) from error
        return True

    def add(self, pid: int) -> None:
        """Move a process here. Raises ProcessGoneError too."""
        try:
            self.write("cgroup.procs", str(pid).encode(), f"move process {pid} to")
        except ProcessLookupError as error:
            raise ProcessGoneError(pid) from error
        except OSError as error:
            raise CgroupRefusedError(self.path, f"move process {pid} to", error.errno or 0) from error

    def enable(self, controllers: Iterable[str]) -> None:
        """cgroup.subtree_control: give these controllers to the children. EBUSY while a process is here itself."""
        words = " ".join(f"+{_plain(name)}" for name in sorted(controllers))
        self._order("cgroup.subtree_control", words, f"enable {words} below")

    def make_child(self, name: str) -> "CgroupDir":
        """Make a cgroup here, and open it. An existing one is refused (EEXIST): it may be somebody's."""
        self._directory_call(os.mkdir, _plain(name), "make")
        return self.child(name)

    def remove_child(self, name: str) -> None:
        """Remove an empty cgroup; EBUSY while it has processes or children. One that is gone is no failure."""
        try:
            self._directory_call(os.rmdir, _plain(name), "remove")
        except CgroupGoneError:
            return

    def _directory_call(self, call: Callable[..., None], name: str, verb: str) -> None:
        try:
            call(name, dir_fd=self._directory)
        except (FileNotFoundError, ProcessLookupError) as error:
            raise CgroupGoneError(f"{self.path.rstrip('/')}/{name}") from error
        except OSError as error:
            if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
                raise CgroupNotPermittedError(self.path, f"{verb} {name} in") from error
            raise CgroupRefusedError(self.path, f"{verb} {name} in", error.errno or 0) from error

    def _order(self, name: str, text: str, operation: str) -> None:
        try:
            self.write(name, text.encode(), operation)
        except OSError as error:
            raise CgroupRefusedError(self.path, operation, error.errno or 0) from error


def _plain(name: str) -> str:
    if not name or "/" in name or name in {".", ".."}:
        raise ValueError(f"not a name within a cgroup: {name!r}")
    return name
