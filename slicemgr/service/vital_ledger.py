# SPDX-License-Identifier: LGPL-2.1-or-later
"""What vital processes had before us, in a file that a SIGKILLed slicemgr leaves to the next one.

4711 123456 200 -500      pid, start time in ticks, oom_score_adj before, and what it was given
"""

import contextlib
import os
from collections.abc import Mapping
from typing import Final

from slicemgr.model.process import OOM_SCORE_ADJ_MAX, OOM_SCORE_ADJ_MIN, ProcessIdentity

FILE_NAME: Final = "vital"
"""In the runtime directory, which the unit preserves over a restart; of use until the next boot, as it is."""

_LONGEST_READ: Final = 1 << 16


class VitalLedger:
    """Read once, written anew whenever it changes. A disk that is full costs what a SIGKILL would, and nothing else."""

    def __init__(self, directory: str) -> None:
        self._path = os.path.join(directory, FILE_NAME)
        self._found = _read(self._path)
        self._written: dict[ProcessIdentity, int] | None = None

    def former_of(self, identity: ProcessIdentity, now: int) -> int | None:
        """What it had before the slicemgr that was here before us, if it still has what that one gave it."""
        former, given = self._found.get(identity, (None, None))
        return former if given == now else None

    def left(self) -> dict[int, dict[ProcessIdentity, int]]:
        """What it has left behind: by what was given, who had what before."""
        left: dict[int, dict[ProcessIdentity, int]] = {}
        for identity, (former, given) in self._found.items():
            left.setdefault(given, {})[identity] = former
        return left

    def write(self, adj: int, formers: Mapping[ProcessIdentity, int]) -> None:
        """These have `adj` from us, and had those."""
        if formers == self._written:
            return
        text = "".join(f"{each.pid} {each.start_ticks} {former} {adj}\n" for each, former in sorted(formers.items()))
        with contextlib.suppress(OSError):
            temporary = f"{self._path}.new"
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, text.encode())
            finally:
                os.close(descriptor)
            os.rename(temporary, self._path)
            self._written = dict(formers)


def _read(path: str) -> dict[ProcessIdentity, tuple[int, int]]:
    """A line that is none says nothing."""
    found: dict[ProcessIdentity, tuple[int, int]] = {}
    try:
        with open(path, "rb") as file:
            lines = file.read(_LONGEST_READ).splitlines()
    except OSError:
        return {}
    for line in lines:
        try:
            pid, ticks, former, given = (int(word) for word in line.split())
        except ValueError:
            continue
        if OOM_SCORE_ADJ_MIN < former <= OOM_SCORE_ADJ_MAX:
            found[ProcessIdentity(pid, ticks)] = former, given
    return found
