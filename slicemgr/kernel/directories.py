# SPDX-License-Identifier: LGPL-2.1-or-later
"""New and removed cgroups in a few directories, told by inotify(7): a job comes and goes without asking any bus.

Removing a watched file of a cgroup raises nothing anywhere; its parent directory hears of it (DELETE|ISDIR).
"""

import os
from collections.abc import Collection
from typing import Final

from slicemgr.kernel import syscalls

IN_CREATE: Final = 0x100
IN_DELETE: Final = 0x200
IN_ONLYDIR: Final = 0x0100_0000
"""include/uapi/linux/inotify.h"""

_LONGEST_READ: Final = 1 << 16


class DirectoryWatch:
    """One inotify descriptor for the directories that are wanted now."""

    def __init__(self) -> None:
        """Raises OSError: EMFILE beyond fs.inotify.max_user_instances."""
        self._descriptor = syscalls.inotify_init()
        self._watches: dict[str, int] = {}

    def fileno(self) -> int:
        """Readable when something was made or removed in one of them; `drain` then."""
        return self._descriptor

    def want(self, directories: Collection[str]) -> bool:
        """Watch these and no others; whether one of them is new here: what happened in it until now has not been told.

        One that is not there, or can't be watched, is left out.
        """
        before = dict(self._watches)
        for path in self._watches.keys() - set(directories):
            watch = self._watches.pop(path)
            try:
                syscalls.inotify_rm_watch(self._descriptor, watch)
            except OSError:
                continue
        for path in directories:
            # Again for those that are known: one that was removed and made anew is another directory.
            try:
                mask = IN_CREATE | IN_DELETE | IN_ONLYDIR
                self._watches[path] = syscalls.inotify_add_watch(self._descriptor, os.fsencode(path), mask)
            except OSError:
                self._watches.pop(path, None)
        return any(before.get(path) != watch for path, watch in self._watches.items())

    def drain(self) -> bool:
        """Whether there was anything to read."""
        found = False
        while True:
            try:
                found = bool(os.read(self._descriptor, _LONGEST_READ)) or found
            except BlockingIOError:
                return found

    def close(self) -> None:
        """Ends all watches."""
        os.close(self._descriptor)
