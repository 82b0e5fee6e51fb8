# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who may do what to whom, by the real bus, its real policy and the real polkit, with a second real user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.vm.bus_caller import ROOT, Asked, ask, ask_all
from tests.vm.bystanders import until
from tests.vm.living import TESTER, as_user, cgroup_path, held, living, quiet
from tests.vm.logins import logged_in
from tests.vm.recipe import USERS
from tests.vm.systemd import CGROUPS, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.vm.systemd import Systemd

pytestmark = pytest.mark.vm(users=("root",), timeout=240)

MIB = 1 << 20
OTHER = USERS["other"]
BUILD = f"{ROOT}/slices/build_2eslice"
TESTERS_BUILD = f"{ROOT}/users/u{TESTER}/slices/build_2eslice"
LIMITS: tuple[Any, ...] = ({"MemoryMax": 80 * MIB}, {})
T = {"MemoryMax": "t"}
CONFIG = '[slice.build]\nmemory_max = "400M"\n'
JOB = ("slicemgr", "run", "--max", "100M", "--")
NO_MANAGE = ("Denied", "polkit does not allow org.slicemgr1.manage;")
NO_INSPECT = ("Denied", "polkit does not allow org.slicemgr1.inspect;")
NO_OWN = ("Denied", "polkit does not allow org.slicemgr1.manage-own-jobs;")
NOT_HERE = ("NotSupported", "try that user's session bus")
NOT_YOURS = ("Denied", "it is not user 1001's in every respect")


@pytest.fixture(scope="module", autouse=True)
def policies() -> Iterator[None]:
    """Once for all: each time takes ten seconds of an emulated machine's."""
    run("slicemgr", "install", "--system")
    yield
    run("slicemgr", "install", "--system", "--uninstall")


def limits_of(interface: str, path: str) -> Asked:
    return Asked(f"{interface}.SetLimits", "(a{sv}a{sv})", LIMITS, path=path, kinds=T)


def place(pid: int) -> Asked:
    return Asked("Manager.PlaceProcess", "(hsa{sv})", (0, "build.slice", {}), pids=(pid,))


def handed(method: str, pid: int) -> Asked:
    return Asked(f"Manager.{method}", "(ha{sv})", (0, {}), pids=(pid,))


def object_of(pid: int) -> str:
    """The job that this process is in."""
    told = ask(Asked("Manager.GetJobByPIDFd", "(ha{sv})", (0, {}), pids=(pid,)), 0)
    assert told.error == "", told
    (path,) = told.answer
    return str(path)


def is_listed(pid: int) -> bool:
    return not ask(Asked("Manager.GetJobByPIDFd", "(ha{sv})", (0, {}), pids=(pid,)), 0).error


def state(pid: int) -> tuple[str, ...]:
    cgroup = CGROUPS / cgroup_path(pid)
    return (str(cgroup), *((cgroup / name).read_text() for name in ("memory.max", "memory.high", "cgroup.freeze")))


def test_each_denied_case(systemd: Systemd, tmp_path: Path, vm_files: Path) -> None:
    """By a stranger without a seat: to another user's job, to root's, to the system's slices, and to everybody."""
    assert not systemd.user
    tmp_path.chmod(0o777)
    for folder in tmp_path.parents:
        if str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    with (
        living(CONFIG) as service,
        held(tmp_path, quiet("testers", "10M"), *JOB, uid=TESTER) as testers,
        held(tmp_path, quiet("roots", "10M"), *JOB) as roots,
    ):
        until(lambda: is_listed(testers.hog.pid) and is_listed(roots.hog.pid), "both jobs are known")
        theirs, root_job = object_of(testers.hog.pid), object_of(roots.hog.pid)
        assert theirs.startswith(f"{ROOT}/users/u{TESTER}/jobs/")
        registered = ask(
            Asked(
                "Manager.RegisterSession", "(ha{sv})", (0, {"id": "theirs", "user": TESTER}),
                pids=(testers.hog.pid,), kinds={"user": "u"},
            ),
            0,
        )  # fmt: skip
        assert registered.error == "", registered
        (session,) = registered.answer
        before = [state(each.hog.pid) for each in (testers, roots)]
        build = {
            name: (CGROUPS / "build.slice" / name).read_text() for name in ("memory.max", "memory.high", "cpu.weight")
        }
        pid, root_pid = testers.hog.pid, roots.hog.pid
        cases: list[tuple[Asked, tuple[str, str]]] = [
            # Limits.
            (Asked("Manager.SetLimits", "(sa{sv}a{sv})", ("build.slice", *LIMITS), kinds=T), NO_MANAGE),
            (limits_of("Slice", BUILD), NO_MANAGE),
            (limits_of("Slice", TESTERS_BUILD), NOT_HERE),
            (limits_of("Job", theirs), NOT_HERE),
            (limits_of("Job", root_job), NO_MANAGE),
            # Standing still, and the end.
            *((Asked(f"Job.{deed}", path=path), NO_MANAGE) for deed in ("Pause", "Resume") for path in (theirs, root_job)),
            (Asked("Job.Stop", path=root_job), NO_MANAGE),
            (Asked("Job.Stop", path=theirs), NOT_HERE),
            # What others have running.
            *(
                (Asked("Manager.Explain", "(sa{sv})", (target, {})), NO_INSPECT)
                for target in ("build.slice", str(pid), str(root_pid))
            ),
            *((Asked("Job.Explain", path=path), NO_INSPECT) for path in (theirs, root_job)),
            *((Asked("Slice.Explain", path=path), NO_INSPECT) for path in (BUILD, TESTERS_BUILD)),
            (
                Asked("Manager.ListActions", "(tua{sv})", (0, 0, {"all-users": True}), kinds={"all-users": "b"}),
                NO_INSPECT,
            ),
            # Putting others somewhere, and oneself where one has no business.
            *((place(each), NO_MANAGE) for each in (pid, root_pid, 0)),
            *((handed("PlaceJob", each), NO_MANAGE) for each in (pid, root_pid, 0)),
            (place(1), ("Denied", "it is the service manager")),
            # Sessions.
            *((handed("RegisterSession", each), NOT_YOURS) for each in (pid, root_pid)),
            (handed("RegisterSession", 0), NO_OWN),
            (
                Asked(
                    "Manager.RegisterSession", "(ha{sv})", (0, {"user": TESTER}), pids=(pid,), kinds={"user": "u"}
                ),
                NOT_YOURS,
            ),
            (Asked("Session.Protect", "(aha{sv})", ((0,), {}), path=session, pids=(0,)), NO_MANAGE),
            (Asked("Session.Unregister", path=session), NO_MANAGE),
            # All of the machine's.
            (Asked("Manager.Reload"), NO_MANAGE),
            (Asked("Manager.Hold", "(sssa{sv})", ("builds-yield", "a game", "org.example.Game", {})), NO_MANAGE),
            (
                Asked(
                    "org.freedesktop.DBus.Properties.Set", "(ssv)",
                    ("org.freedesktop.LogControl1", "LogLevel", "debug"), path="/org/freedesktop/LogControl1",
                ),
                ("org.freedesktop.DBus.Error.AccessDenied", ""),
            ),
            (
                Asked(
                    "org.freedesktop.DBus.RequestName", "(su)", ("org.slicemgr1", 4),
                    path="/org/freedesktop/DBus", destination="org.freedesktop.DBus",
                ),
                ("org.freedesktop.DBus.Error.AccessDenied", ""),
            ),
        ]  # fmt: skip
        told = ask_all([asked for asked, _ in cases], OTHER)
        lines = [
            f"{asked.member} {asked.path} {asked.pids}: {got.error}: {got.message}"
            for (asked, _), got in zip(cases, told, strict=True)
        ]
        (vm_files / "denied.txt").write_text("\n".join(lines))
        for (_, (error, words)), got, line in zip(cases, told, lines, strict=True):
            assert (got.error, words in got.message) == (error, True), line
        # Another user's bus is none of a stranger's.
        bus = f"unix:path=/run/user/{TESTER}/bus"
        assert ask(Asked("Manager.Reload"), OTHER, bus).error == "not let onto the bus"
        assert [state(each.hog.pid) for each in (testers, roots)] == before
        assert {name: (CGROUPS / "build.slice" / name).read_text() for name in build} == build
        # One's own history only: somebody else's action is none of it.
        assert ask(Asked("Manager.ListActions", "(tua{sv})", (0, 0, {})), OTHER).answer == [[]]
        assert service.pid > 0
        # Root needs nobody's leave.
        assert ask(Asked("Job.Pause", path=theirs), 0).error == ""
        assert state(testers.hog.pid)[3] == "1\n"
        assert ask(Asked("Job.Resume", path=theirs), 0).error == ""
        assert ask(Asked("Manager.Reload"), 0).error == ""


ASKS = """
import json, sys
sys.path.insert(0, "/srv/slicemgr")
from tests.vm.bus_caller import main
with open(sys.argv[1]) as file:
    words = file.read()
sys.stdout = open(sys.argv[2], "w")
main(words)
"""


@pytest.mark.parametrize("in_front", [True, False])
def test_a_person_at_the_machine(systemd: Systemd, tmp_path: Path, in_front: bool) -> None:
    """Who sits in front of it may pause an own job without a password; whose session is in the background may not."""
    assert not systemd.user
    tmp_path.chmod(0o777)
    for folder in tmp_path.parents:
        if str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    asks, asked, told = tmp_path / "asks.py", tmp_path / "asked", tmp_path / "told"
    asks.write_text(ASKS)
    profile = f"while ! [ -e {asked} ]; do sleep 0.2; done; {sys.executable} {asks} {asked} {told}.new; mv {told}.new {told}; exec sleep 1000"
    with (
        living(CONFIG),
        held(tmp_path, quiet("own", "10M"), *JOB, uid=TESTER) as own,
        logged_in(profile, in_front_of_person=in_front) as login,
    ):
        until(lambda: is_listed(own.hog.pid), "the job is known")
        assert login.show("Active") == ("yes" if in_front else "no")
        pause = {"member": "Job.Pause", "path": object_of(own.hog.pid), "signature": "(a{sv})", "arguments": [{}]}
        call = {**pause, "pids": [], "destination": "org.slicemgr1", "kinds": {}}
        words = {"bus": "system", "calls": [call]}
        new = tmp_path / "asked.new"
        new.write_text(json.dumps(words))
        new.chmod(0o644)
        new.rename(asked)
        until(told.exists, "it is answered", 60)
        (answer,) = json.loads(told.read_text())
        assert answer["error"] == ("" if in_front else "Denied"), answer
        assert state(own.hog.pid)[3] == ("1\n" if in_front else "0\n")
        if not in_front:
            assert "org.slicemgr1.manage-own-jobs" in answer["message"]


def test_a_bus_of_ones_own(systemd: Systemd) -> None:
    """Nobody but tester and root gets onto tester's bus: dbus-daemon's own rule, which the daemon there leans on."""
    assert not systemd.user
    code = "import socket; s = socket.socket(socket.AF_UNIX); s.connect('/run/user/1000/bus')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **as_user(OTHER))
    assert "PermissionError" in done.stderr
    assert os.stat("/run/user/1000").st_mode & 0o077 == 0
