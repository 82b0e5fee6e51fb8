# SPDX-License-Identifier: LGPL-2.1-or-later
"""Desktop sessions as they are known."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from slicemgr.bus.errors import InvalidArgumentError
from slicemgr.model.process import ProcessIdentity
from slicemgr.placement.systemd1 import escape
from slicemgr.policy.vital import Vital

SESSION_SLICE: Final = "session.slice"
"""Of a user's manager, for what is the desktop itself (systemd.special(7))."""

LONGEST_ID: Final = 64
"""login1's are a number, with a letter before it where the kernel's audit has none."""


@dataclass(frozen=True, slots=True)
class Session:
    """One session."""

    id: str
    """login1's, or one of ours where login1 has none."""
    uid: int
    leader: ProcessIdentity
    cgroup: str
    """Where its processes are, but for those that the user's manager runs."""
    type: str = ""
    """x11, wayland, tty, ... as login1 has it."""
    desktop: str = ""
    is_active: bool = True
    is_registered: bool = False
    """Somebody has told of it (RegisterSession); else login1 has."""
    asked: frozenset[ProcessIdentity] = frozenset()
    """Who is to be spared because somebody has asked for it (Protect)."""
    vital: Mapping[ProcessIdentity, Vital] = field(default_factory=dict)
    """Who was found to be."""

    def spared(self) -> frozenset[ProcessIdentity]:
        """Whom no guard takes."""
        return self.asked | self.vital.keys()


@dataclass(frozen=True, slots=True)
class SessionOverview:
    """One session, at one moment."""

    id: str
    """login1's, or one of ours where login1 has none."""
    uid: int
    leader_pid: int
    type: str
    """x11, wayland, tty, ... as login1 has it."""
    desktop: str
    is_active: bool
    cgroup: str
    protected: tuple[tuple[int, str], ...]
    """(pid, name) of who is vital."""
    working_set_bytes: int
    memory_low_bytes: int
    memory_min_bytes: int


def session_id(told: str, leader_pid: int) -> str:
    """What a session is called. Raises InvalidArgumentError."""
    of_leader = f"leader-{leader_pid}"
    if not told:
        return of_leader
    if told.startswith("leader-") and told != of_leader:
        raise InvalidArgumentError(f"'{told}' is what a session of another leader is called; try $XDG_SESSION_ID")
    if len(told) > LONGEST_ID or not (told.isascii() and told.isprintable()):
        raise InvalidArgumentError(f"an id has 1 to {LONGEST_ID} printable characters; try $XDG_SESSION_ID")
    return told


def session_unit(identifier: str) -> str:
    """The scope that a session is put into: no job's name (service/overview.py)."""
    return f"slicemgr_session-{escape(identifier)}.scope"
