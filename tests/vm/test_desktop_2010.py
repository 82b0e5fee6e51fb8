# SPDX-License-Identifier: LGPL-2.1-or-later
"""The bystander of the other tests notices what it has to: a session that cannot complain proves nothing."""

from __future__ import annotations

import os
import select
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.vm.desktop_2010 import everybody, pidfd, standing_by, who_died
from tests.vm.systemd import CGROUPS, cgroup_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.vm.desktop_2010 import Desktop, Person
    from tests.vm.systemd import Systemd

pytestmark = pytest.mark.vm(users=("tester",))

MIB = 1 << 20


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_the_tree_of_2010(systemd: Systemd) -> None:
    """Who is whose child, how big, and in which slice."""
    with standing_by(systemd) as desktop:
        assert len(desktop.members) == 9
        assert parent_of(desktop.pid("ksmserver")) == desktop.pid("kdeinit")
        assert parent_of(desktop.pid("kwin")) == desktop.pid("ksmserver")
        init = parent_of(desktop.pid("kdeinit"))
        assert Path(f"/proc/{init}/comm").read_text() == "systemd\n"
        assert parent_of(desktop.pid("konsole")) == init
        assert cgroup_of(desktop.pid("konsole")) != cgroup_of(desktop.pid("firefox"))
        session, app = (cgroup_of(desktop.pid(comm)).parent for comm in ("kwin", "firefox"))
        if systemd.user:
            home = CGROUPS / "user.slice/user-1000.slice/user@1000.service"
            assert (session, app) == (home / "session.slice", home / "app.slice")
        assert sum(int((cgroup / "memory.current").read_text()) for cgroup in desktop.cgroups) > 150 * MIB
        assert desktop.complaints() == []


def kill(desktop: Desktop) -> None:
    with pidfd(desktop.pid("ksmserver")) as ended:
        signal.pidfd_send_signal(ended, signal.SIGKILL)
        select.select([ended], [], [])


def stop(desktop: Desktop) -> None:
    pid = desktop.pid("kwin")
    os.kill(pid, signal.SIGSTOP)
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        pass


def stop_and_continue(desktop: Desktop) -> None:
    """Unseen by whoever only looks at the end."""
    stop(desktop)
    os.kill(desktop.pid("kwin"), signal.SIGCONT)


def freeze(desktop: Desktop) -> None:
    cgroup = cgroup_of(desktop.pid("firefox"))
    (cgroup / "cgroup.freeze").write_text("1")
    while "frozen 1" not in (cgroup / "cgroup.events").read_text():
        pass


def starve(desktop: Desktop) -> None:
    (cgroup_of(desktop.pid("konsole")) / "memory.max").write_text("4M")


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (kill, r"ksmserver \(\d+\) died"),
        (stop, r"kwin \(\d+\) is stopped"),
        (stop_and_continue, r"kwin \(\d+\) was stopped, and continued"),
        (freeze, r"cgroup.events says frozen 1"),
        (starve, r"(konsole|bash) \(\d+\) died|memory.events says oom_kill"),
    ],
    ids=["killed", "stopped", "stopped for a while", "frozen", "killed by the kernel"],
)
def test_it_notices_what_was_done_to_it(systemd: Systemd, harm: Callable[[Desktop], None], complaint: str) -> None:
    """One member is enough, and the complaint names it."""
    with pytest.raises(AssertionError, match=complaint), standing_by(systemd) as desktop:
        harm(desktop)


def test_a_failure_of_the_test_itself_is_not_hidden(systemd: Systemd) -> None:
    """The session ends all the same."""
    members: tuple[Person, ...] = ()

    def fails() -> None:
        nonlocal members
        with standing_by(systemd) as desktop:
            members = desktop.members
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fails()
    assert who_died(frozenset(members)) == sorted(each.comm for each in members)
    assert members


def test_who_died() -> None:
    """By name, and only those that were there before."""
    with subprocess.Popen(["sleep", "inf"]) as before:
        since = everybody()
        with subprocess.Popen(["sleep", "inf"]) as after:
            after.kill()
        assert "sleep" not in who_died(since)
        before.kill()
        before.wait()
        assert who_died(since).count("sleep") == 1
