# SPDX-License-Identifier: LGPL-2.1-or-later
"""oom_score_adj of real processes: who is vital has another one, and what they start has not.

Below 0 only CAP_SYS_RESOURCE gets, so everybody here begins with 300, and what is given is 137.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from slicemgr.kernel import procfs, syscalls
from slicemgr.kernel.errors import NotPermittedError, ProcessGoneError
from slicemgr.kernel.kill import RefusedError
from slicemgr.kernel.oom_adj import adjust
from slicemgr.model.process import ProcessIdentity
from slicemgr.service import vital_guard
from slicemgr.service.vital_guard import VitalGuard
from slicemgr.service.vital_ledger import FILE_NAME, VitalLedger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.conftest import Hog

    Hogs = Callable[..., Hog]

FORMER, OURS = 300, 137
GIB = 1 << 30

# The manager adopts orphans, the shell below it starts what it is told to: each line of stdin is one app.
MANAGER = """
import ctypes, os, sys
PR_SET_CHILD_SUBREAPER = 36
ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
life = int(sys.argv[2])  # Ends with the test.
def stay():
    os.read(life, 1)
    os._exit(0)
def fork(*below):
    told_read, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        pids = [os.getpid(), *(fork(*below[1:]) if below else ())]
        os.write(told, (" ".join(map(str, pids))).encode())
        os.close(told)
        if below and below[0] == "leaves":
            os._exit(0)
        stay()
    os.close(told)
    pids = os.read(told_read, 999).split()
    os.close(told_read)
    return [int(each) for each in pids]
shell = os.fork()
while shell:
    try:
        os.wait()
    except ChildProcessError:
        sys.exit()
open("/proc/self/oom_score_adj", "w").write(sys.argv[1])
print(os.getpid(), flush=True)
for line in sys.stdin:
    print(*fork(*line.split()), flush=True)
"""


class Session:
    """A manager with a shell below it."""

    def __init__(self, stack: ExitStack) -> None:
        life, ours = os.pipe()
        self._process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", MANAGER, str(FORMER), str(life)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                pass_fds=[life],
            )
        )
        os.close(life)
        assert self._process.stdin is not None
        stack.callback(self._process.stdin.close)
        stack.callback(os.close, ours)
        self.manager = self._process.pid
        (pid,) = self._told()
        self.shell = procfs.identity_of(pid)

    def start(self, *below: str) -> list[int]:
        """An app, and what is below it: `stays`, or `leaves` of one that is gone when its child is there."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(below) + "\n")
        self._process.stdin.flush()
        return self._told()

    def _told(self) -> list[int]:
        assert self._process.stdout is not None
        return [int(pid) for pid in self._process.stdout.readline().split()]


@pytest.fixture
def session() -> Iterator[Session]:
    with ExitStack() as stack:
        yield Session(stack)


def guard(folder: Path, *, total_bytes: int = 64 * GIB) -> VitalGuard:
    return VitalGuard(OURS, VitalLedger(str(folder)), total_bytes=total_bytes)


adj = procfs.read_oom_score_adj


def test_adjust(session: Session) -> None:
    pid = session.shell.pid
    assert (adjust(session.shell, OURS), adj(pid)) == (FORMER, OURS)
    # Somebody else has set it meanwhile: then it is his.
    assert (adjust(session.shell, 500, only_from=FORMER), adj(pid)) == (OURS, OURS)
    assert (adjust(session.shell, 500, only_from=OURS), adj(pid)) == (OURS, 500)


@pytest.mark.parametrize("value", [-1000, -1001, 1001])
def test_what_nobody_gets(session: Session, value: int) -> None:
    with pytest.raises(ValueError, match="no oom_score_adj that we set"):
        adjust(session.shell, value)


def test_who_is_not_touched(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one that has the number now; pid 1 and ourselves; who is protected for ever; who has ended."""
    other = ProcessIdentity(session.shell.pid, session.shell.start_ticks + 1)
    with pytest.raises(ProcessGoneError):
        adjust(other, OURS)
    assert adj(session.shell.pid) == FORMER
    for pid in (1, os.getpid()):
        with pytest.raises(RefusedError):
            adjust(procfs.identity_of(pid), OURS)
    read = procfs.read_oom_score_adj
    monkeypatch.setattr(procfs, "read_oom_score_adj", lambda _: -1000)
    with pytest.raises(RefusedError):
        adjust(session.shell, OURS)
    monkeypatch.setattr(procfs, "read_oom_score_adj", read)
    os.kill(session.shell.pid, signal.SIGKILL)
    while session.shell.pid in procfs.children_of(session.manager):
        os.sched_yield()
    with pytest.raises(ProcessGoneError):
        adjust(session.shell, OURS)


def test_who_may_not(session: Session) -> None:
    """Below the floor: with CAP_SYS_RESOURCE there is none."""
    if may_lower():
        assert adjust(session.shell, -500) == FORMER
        return
    with pytest.raises(NotPermittedError, match="not permitted to set oom_score_adj -500 of process"):
        adjust(session.shell, -500)


def may_lower() -> bool:
    """CAP_SYS_RESOURCE is bit 24 (include/uapi/linux/capability.h)."""
    with open("/proc/self/status", "rb") as file:
        (line,) = (line for line in file if line.startswith(b"CapEff:"))
    return bool(int(line.split()[1], 16) >> 24 & 1)


def test_the_shell_is_protected_and_its_apps_are_not(session: Session, tmp_path: Path) -> None:
    made = guard(tmp_path)
    (before,) = session.start()
    made.protect([session.shell])
    assert (adj(session.shell.pid), made.protected()) == (OURS, frozenset({session.shell}))
    app, inner = session.start("stays")
    assert (adj(before), adj(app), adj(inner)) == (FORMER, OURS, OURS)
    made.look()
    assert (adj(before), adj(app), adj(inner), adj(session.shell.pid)) == (FORMER, FORMER, FORMER, OURS)
    made.close()
    assert adj(session.shell.pid) == FORMER


def test_who_was_started_by_a_double_fork(session: Session, tmp_path: Path) -> None:
    """The manager has adopted it: it is found there, and so is what it has started."""
    made = guard(tmp_path)
    made.protect([session.shell])
    gone, orphan, inner = session.start("leaves", "stays")
    while procfs.read_stat(orphan).ppid != session.manager:
        os.sched_yield()
    made.look()
    assert (adj(orphan), adj(inner)) == (FORMER, FORMER)
    assert gone not in procfs.children_of(session.shell.pid) or procfs.read_stat(gone).state == "Z"


def test_a_shell_that_crashes_leaves_nobody_protected(session: Session, tmp_path: Path) -> None:
    """Its last app has another parent then, and nobody vital is left to look at."""
    made = guard(tmp_path)
    made.protect([session.shell])
    app, inner = session.start("stays")
    os.kill(session.shell.pid, signal.SIGKILL)
    while procfs.read_stat(app).ppid != session.manager:
        os.sched_yield()
    made.protect([])
    assert (adj(app), adj(inner)) == (FORMER, FORMER)


def test_a_long_chain(session: Session, tmp_path: Path) -> None:
    """However deep somebody nests in a second."""
    made = guard(tmp_path)
    made.protect([session.shell])
    chain = session.start(*["stays"] * 40)
    made.look()
    assert {adj(pid) for pid in chain} == {FORMER}
    assert len(chain) == 41


def test_without_descriptors_it_is_tried_again(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = guard(tmp_path)
    made.protect([session.shell])
    (app,) = session.start()

    def none(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, "none left")

    with monkeypatch.context() as patch:
        patch.setattr(vital_guard, "adjust", none)
        made.look()
    assert adj(app) == OURS
    made.look()
    assert adj(app) == FORMER


def test_a_vital_child_stays_protected(session: Session, tmp_path: Path) -> None:
    made = guard(tmp_path)
    compositor, client = session.start("stays")
    vital = [session.shell, procfs.identity_of(compositor)]
    made.protect(vital)
    made.look()
    assert [adj(pid) for pid in (session.shell.pid, compositor, client)] == [OURS, OURS, FORMER]
    # Not vital any more, with all that it has started meanwhile.
    made.protect(vital[:1])
    assert [adj(pid) for pid in (session.shell.pid, compositor, client)] == [OURS, FORMER, FORMER]


def test_what_has_a_value_of_its_own_keeps_it(session: Session, tmp_path: Path) -> None:
    """A browser gives its tabs 300 and more by itself."""
    made = guard(tmp_path)
    made.protect([session.shell])
    (app,) = session.start()
    adjust(procfs.identity_of(app), 700)
    made.look()
    made.close()
    assert adj(app) == 700


def test_who_lives_in_its_parents_memory_waits(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until its exec. For a clone(CLONE_VM) without one there is only one value, and it is the parent's."""
    made = guard(tmp_path)
    made.protect([session.shell])
    (app,) = session.start()
    monkeypatch.setattr(syscalls, "same_address_space", lambda *_: True)
    made.look()
    assert adj(app) == OURS
    monkeypatch.setattr(syscalls, "same_address_space", lambda *_: None)
    made.look()
    assert adj(app) == FORMER


def test_a_vforked_child_has_a_value_of_its_own(hog: Hogs, tmp_path: Path) -> None:
    """So a look in between harms nobody: the kernel knows a vfork from others who share their memory."""
    shell = hog("--oom-score-adj", str(FORMER), "--vfork", str(tmp_path / "fifo"))
    while not (children := procfs.children_of(shell.pid)):
        os.sched_yield()
    try:
        adjust(procfs.identity_of(children[0]), 700)
        assert (adj(shell.pid), adj(children[0])) == (FORMER, 700)
    finally:
        with (tmp_path / "fifo").open("wb"):
            pass


def test_who_holds_a_quarter_of_the_machine_is_the_leak(session: Session, hog: Hogs, tmp_path: Path) -> None:
    big = hog("--oom-score-adj", str(FORMER), "--start", "64M")
    identity = procfs.identity_of(big.pid)
    made = guard(tmp_path, total_bytes=4 * (128 << 20))
    made.protect([identity])
    assert adj(big.pid) == OURS
    made.close()
    made = guard(tmp_path, total_bytes=4 * (60 << 20))
    made.protect([identity])
    assert adj(big.pid) == FORMER
    # It grows while it is protected: here the machine shrinks.
    made._former[identity] = FORMER
    adjust(identity, OURS)
    made.protect([identity])
    assert (adj(big.pid), made.protected()) == (FORMER, frozenset())


def test_who_is_better_off_already_is_left_alone(session: Session, tmp_path: Path) -> None:
    """Somebody has meant it: the administrator, in a drop-in for the compositor."""
    adjust(session.shell, OURS - 1)
    made = guard(tmp_path)
    made.protect([session.shell])
    (app,) = session.start()
    made.look()
    made.close()
    assert (adj(session.shell.pid), adj(app)) == (OURS - 1, OURS - 1)


def test_what_somebody_else_sets_later_is_his(session: Session, tmp_path: Path) -> None:
    made = guard(tmp_path)
    made.protect([session.shell])
    adjust(session.shell, 800)
    made.close()
    assert adj(session.shell.pid) == 800


def test_after_a_sigkill(session: Session, tmp_path: Path) -> None:
    """Who comes next knows what the shell had before the first, and gives it to what was started in between."""
    guard(tmp_path).protect([session.shell])
    assert (tmp_path / FILE_NAME).read_text() == (f"{session.shell.pid} {session.shell.start_ticks} {FORMER} {OURS}\n")
    (app,) = session.start()
    made = guard(tmp_path)
    made.protect([session.shell])
    made.look()
    assert (adj(session.shell.pid), adj(app)) == (OURS, FORMER)
    made.close()
    assert adj(session.shell.pid) == FORMER
    assert (tmp_path / FILE_NAME).read_text() == ""


def test_after_a_sigkill_with_another_configuration(session: Session, tmp_path: Path) -> None:
    guard(tmp_path).protect([session.shell])
    made = VitalGuard(120, VitalLedger(str(tmp_path)), total_bytes=64 * GIB)
    made.protect([session.shell])
    assert adj(session.shell.pid) == 120
    made.close()
    assert adj(session.shell.pid) == FORMER


def test_after_a_sigkill_nobody_is_vital_any_more(session: Session, tmp_path: Path) -> None:
    """As with `vital_oom_score_adj = 0`, or without the session: nothing of it is left, in what was started either."""
    guard(tmp_path).protect([session.shell])
    (app,), (orphan,) = session.start(), session.start("leaves")[1:]
    assert (adj(app), adj(orphan)) == (OURS, OURS)
    VitalGuard.restore(VitalLedger(str(tmp_path)), total_bytes=64 * GIB)
    assert [adj(pid) for pid in (session.shell.pid, app, orphan)] == [FORMER] * 3
    assert (tmp_path / FILE_NAME).read_text() == ""


def test_a_service_with_the_same_value_keeps_it(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child of pid 1 whose user has nobody vital, as the system's dbus-daemon."""
    made = guard(tmp_path)
    made.protect([session.shell])
    _, service = session.start("leaves")
    stat, uids = procfs.read_stat, procfs.read_uids
    while stat(service).ppid != session.manager:
        os.sched_yield()
    monkeypatch.setattr(procfs, "read_stat", lambda pid: replace(stat(pid), ppid=1) if pid == service else stat(pid))
    monkeypatch.setattr(procfs, "read_uids", lambda pid: frozenset({105}) if pid == service else uids(pid))
    made.look()
    assert adj(service) == OURS
    made.close()


def test_without_a_ledger_nobody_is_given_what_was_never_his(session: Session, tmp_path: Path) -> None:
    """Lost, or of a session that is over: what is found is what somebody has meant."""
    guard(tmp_path).protect([session.shell])
    (tmp_path / FILE_NAME).write_text(f"{session.shell.pid} 1 {FORMER} {OURS}\nnonsense\n1 2 3\n")
    made = guard(tmp_path)
    made.protect([session.shell])
    made.close()
    assert adj(session.shell.pid) == OURS


def test_a_folder_that_is_not_there(session: Session, tmp_path: Path) -> None:
    made = guard(tmp_path / "none")
    made.protect([session.shell])
    assert adj(session.shell.pid) == OURS
    made.close()


def test_who_has_ended_is_no_trouble(session: Session, tmp_path: Path) -> None:
    made = guard(tmp_path)
    (app,) = session.start()
    gone = ProcessIdentity(app, 1)
    made.protect([session.shell, gone])
    assert made.protected() == {session.shell}
    os.kill(session.shell.pid, signal.SIGKILL)
    while session.shell.pid in procfs.children_of(session.manager):
        os.sched_yield()
    made.look()
    made.protect([session.shell])
    assert made.protected() == frozenset()
    made.close()


def test_children_that_are_known_are_not_read_again(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = guard(tmp_path)
    made.protect([session.shell])
    session.start()
    made.look()
    made.look()

    def read(pid: int) -> ProcessIdentity:
        raise AssertionError(f"process {pid} was read again")

    monkeypatch.setattr(procfs, "identity_of", read)
    made.look()
