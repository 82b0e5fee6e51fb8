# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which processes of a session are vital, as tables of real sessions."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.config.schema import DEFAULTS, PROTECTED
from slicemgr.model.process import ProcessTable
from slicemgr.model.slice import SliceKind
from slicemgr.model.vital import CARRYING, LEADING, MANAGING, VITAL_NAMES
from slicemgr.policy.vital import Vital, vital_processes
from tests.unit.samples import any_order, process, process_lists, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from slicemgr.model.process import ProcessSample

NAMED, LAUNCHER = Vital.NAMED, Vital.LAUNCHER


def fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


# name of the session: (pid of the leader, [(pid, ppid, name, why it is vital)])
SESSIONS: dict[str, tuple[int, list[tuple[int, int, str, Vital | None]]]] = {
    "the tree of the report of 2010, with the names of today": (
        10,
        [
            (10, 1, "kdeinit5", LAUNCHER),
            (11, 10, "ksmserver", NAMED),
            (12, 11, "kwin_x11", NAMED),
            (13, 10, "klauncher", None),
            (14, 10, "konsole", None),
            (15, 14, "make", None),
            (16, 15, "meinproc5", None),
        ],
    ),
    "startx": (
        20,
        [
            (20, 19, "bash", LAUNCHER),
            (21, 20, "startx", LAUNCHER),
            (22, 21, "xinit", LAUNCHER),
            (23, 22, "Xorg", NAMED),
            (24, 22, "i3", NAMED),
            (25, 24, "sh", None),
            (26, 25, "xterm", None),
            (27, 26, "bash", None),
            (28, 27, "make", None),
            (29, 24, "i3bar", None),
        ],
    ),
    "a window manager of which nobody has heard": (
        30,
        [(30, 1, "sh", LAUNCHER), (31, 30, "mywm", None), (32, 31, "firefox", None)],
    ),
    "GNOME: systemd has started the shell, the login manager the rest": (
        40,
        [
            (40, 1, "gdm-session-wor", LAUNCHER),
            (41, 40, "gdm-wayland-ses", LAUNCHER),
            (42, 41, "gnome-session-b", NAMED),
            (50, 2, "gnome-shell", NAMED),
            (51, 50, "Xwayland", NAMED),
            (52, 50, "firefox", None),
            (53, 52, "Web Content", None),
            (54, 2, "pipewire", NAMED),
            (55, 2, "gvfsd", None),
        ],
    ),
    "what anybody may start makes nobody a launcher": (
        60,
        [
            (60, 1, "sway", NAMED),
            (61, 60, "foot", None),
            (62, 61, "dbus-run-sessio", None),
            (63, 62, "dbus-daemon", NAMED),
            (64, 61, "podman", None),
            (65, 64, "systemd", None),
        ],
    ),
    "a compositor in a window makes its terminal one: an init of its own": (
        70,
        [(70, 1, "sway", NAMED), (71, 70, "foot", LAUNCHER), (72, 71, "weston", NAMED), (73, 71, "make", None)],
    ),
    "nobody is there": (80, []),
    "a login over ssh": (85, [(85, 1, "sshd", None), (86, 85, "bash", None), (87, 86, "dbus-daemon", NAMED)]),
    "the leader has ended, its session has not": (90, [(91, 90, "sh", LAUNCHER), (92, 91, "openbox", NAMED)]),
}  # fmt: skip


TOLD = {"a window manager of which nobody has heard"}
"""Somebody has said that it is a desktop."""


@pytest.mark.parametrize("name", SESSIONS)
def test_who_is_vital(name: str) -> None:
    leader, rows = SESSIONS[name]
    processes = table(*(process(pid, parent=ppid, name=comm) for pid, ppid, comm, _ in rows))
    found = vital_processes(processes, leader, fits, is_desktop=name in TOLD)
    assert {identity.pid: why for identity, why in found.items()} == {pid: why for pid, _, _, why in rows if why}


def test_the_person_may_name_more() -> None:
    """As `protect` of session.slice does; who has started those is no launcher."""
    rows = table(process(1, name="sh", parent=0), process(2, name="sh", parent=1), process(3, name="mywm", parent=2))
    found = vital_processes(rows, 1, fits, also=("mywm",), is_desktop=True)
    assert {identity.pid: why for identity, why in found.items()} == {1: LAUNCHER, 3: NAMED}


@given(process_lists(), st.integers(0, 30), st.data())
def test_any_table_in_any_order(processes: list[ProcessSample], leader: int, data: st.DataObject) -> None:
    """Circles end, a child is vital only for reasons of its own, and the order says nothing."""
    named = ["sway", "make", "Xorg", "dbus-daemon"]
    rows = [process(each.pid, parent=each.ppid, name=data.draw(st.sampled_from(named))) for each in processes]
    found = vital_processes(ProcessTable(rows), leader, fits)
    assert found == vital_processes(ProcessTable(data.draw(any_order(rows))), leader, fits)
    leading = {each.pid for each in rows if each.name in {"sway", "Xorg"}}
    parents = {each.pid: each.ppid for each in rows}
    for identity, why in found.items():
        if why is LAUNCHER and identity.pid != leader:
            assert any(identity.pid in _ancestors(pid, parents) for pid in leading)


def _ancestors(pid: int, parents: dict[int, int]) -> set[int]:
    chain: set[int] = set()
    while (pid := parents.get(pid, 0)) and pid not in chain:
        chain.add(pid)
    return chain


def test_one_list() -> None:
    """What the guards spare is what a session is made of, and the manager."""
    assert PROTECTED == VITAL_NAMES == (*LEADING, *CARRYING, *MANAGING)
    assert DEFAULTS[SliceKind.SESSION].protect == VITAL_NAMES
    assert len(set(VITAL_NAMES)) == len(VITAL_NAMES)


@pytest.mark.parametrize("pattern", VITAL_NAMES)
def test_a_pattern_that_needs_more_than_the_kernel_keeps_would_never_match(pattern: str) -> None:
    assert len(pattern.encode()) <= 15 or set(pattern) & set("*?[")
