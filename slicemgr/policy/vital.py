# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which processes of a session are vital: those of certain names, and whoever has launched the session.

"Any session manager, process launcher or even xterm used for launching apps is yet another init" (Lubos Lunak, 2010):
to end kdeinit is to end ksmserver. Vital is said of the process alone; what it starts is an app as any other.
"""

import enum
from collections.abc import Callable, Mapping, Sequence

from slicemgr.model.process import ProcessIdentity, ProcessSample, ProcessTable
from slicemgr.model.vital import CARRYING, LEADING

Fits = Callable[[str, Sequence[str]], bool]
"""Whether a comm is one of these shell patterns, as fnmatch(3) has them."""


class Vital(enum.Enum):
    """Why a process is; the values are ends of the sentence 'it is ...'."""

    NAMED = "a part that the session can't be without"
    LAUNCHER = "what has launched the session"


def vital_processes(
    table: ProcessTable, leader: int, fits: Fits, also: Sequence[str] = (), *, is_desktop: bool = False
) -> Mapping[ProcessIdentity, Vital]:
    """The vital ones of a session's processes.

    By name: compositor, shell, session manager and what they stand on (model/vital.py), and `also`. By role: every
    ancestor of a compositor, shell or session manager within the table, up to the leader; and the leader itself, whose
    end is how one knows that the session is over. `is_desktop`: somebody has said so, though none of these names is
    there; else a login over ssh has no vital leader. The table may be torn, and lie about parents in a circle.
    """
    found: dict[ProcessIdentity, Vital] = {}
    for process in table:
        if fits(process.name, (*LEADING, *CARRYING, *also)):
            found[process.identity] = Vital.NAMED
    for process in table:
        if fits(process.name, LEADING):
            is_desktop = True
            _add_launchers(process, table, leader, found)
    first = table.get(leader)
    if is_desktop and first is not None:
        found.setdefault(first.identity, Vital.LAUNCHER)
    return found


def _add_launchers(
    process: ProcessSample, table: ProcessTable, leader: int, found: dict[ProcessIdentity, Vital]
) -> None:
    passed = {process.pid}
    while process.pid != leader:
        parent = table.get(process.ppid)
        if parent is None or parent.pid in passed:
            return
        passed.add(parent.pid)
        found.setdefault(parent.identity, Vital.LAUNCHER)
        process = parent
