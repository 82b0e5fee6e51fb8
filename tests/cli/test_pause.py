# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr pause` and `resume`: by a daemon on a real bus, and without one on real jobs."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from slicemgr.bus.errors import DeniedError, FailedError, NotSupportedError
from slicemgr.bus.objects import job_object
from slicemgr.cli import pause, polkit_agent, reading, resume
from slicemgr.kernel import procfs
from slicemgr.model.slice import SliceKind
from slicemgr.service import lone_pause
from slicemgr.service.overview import JobOverview, SliceOverview
from tests.bus.fake_daemon import BUILD, KATE, KATE_UNIT, USER_ROOT, FakeDaemon, moment, usage
from tests.service.fake_cgroups import FakeCgroups
from tests.service.running_job import named_program, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from slicemgr.bus.call import Call
    from tests.bus.private_bus import PrivateBus

VERBS = {"pause": pause.main, "resume": resume.main}


class Desk:
    """A user's slice with a job in it, and perhaps a daemon that listens."""

    def __init__(self, tmp_path: Path, bus_address: str = "") -> None:
        self.cgroups = FakeCgroups(tmp_path / "cgroup")
        self.cgroups.add(BUILD)
        self.cgroups.add(KATE)
        self.manager = reading.Manager(
            uid=1000,
            runtime_directory=str(tmp_path),
            state_directory=str(tmp_path / "state"),
            specs=(),
            root=USER_ROOT,
            mount=self.cgroups.mount,
            system_socket=str(tmp_path / "no"),
            bus_address=bus_address,
        )
        self.folder = tmp_path

    def add_job(self, name: str, pid: int) -> None:
        """Whose command this process is."""
        self.cgroups.add(f"{BUILD}/slicemgr-{name}-{pid}.scope", pids=[pid])

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """At the control socket."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self.folder / "control"))
            listener.listen()
            yield


@pytest.fixture
def program(tmp_path: Path) -> str:
    return named_program(tmp_path)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Without a daemon."""
    made = Desk(tmp_path)
    monkeypatch.setattr(reading, "chosen_manager", lambda options: made.manager)
    return made


@pytest.fixture
def daemon(bus: PrivateBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    """One that does it."""
    made = Desk(tmp_path, bus.address)
    monkeypatch.setattr(reading, "chosen_manager", lambda options: made.manager)
    with made.listening(), FakeDaemon(bus) as fake:
        fake.answers |= {"Pause": lambda call: (), "Resume": lambda call: ()}
        yield fake


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("target", ["kate", KATE_UNIT, KATE])
def test_by_the_daemon(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str], verb: str, target: str) -> None:
    """By its name, its scope, and its cgroup."""
    assert VERBS[verb]([target]) == 0
    ((path, method, arguments),) = [(call.path, call.method, call.arguments) for call in daemon.calls]
    assert (path, method, arguments) == (job_object(KATE_UNIT), verb.title(), ({},))
    assert capsys.readouterr() == (f"job 'kate' {'is paused' if verb == 'pause' else 'goes on'}\n", "")


def test_by_the_pid_of_a_member(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cgroup says in which job it is, however far below."""
    monkeypatch.setattr(pause, "cgroup_of", lambda pid: f"{KATE}/container")
    assert pause.main([str(os.getpid())]) == 0
    assert [call.method for call in daemon.calls] == ["Pause"]


REFUSED: list[tuple[list[str], Exception | None, int, str]] = [
    (["kaet"], None, 2, "no job 'kaet'; try 'slicemgr pause kate'"),
    (["zz\x1b[2J"], None, 2, "no job 'zz\\x1b[2J'; try a name that 'slicemgr list' shows, or a pid"),
    (["build"], None, 2, "'build' is a slice; try one of its jobs, which 'slicemgr list' shows"),
    (["biuld"], None, 2, "no job 'biuld'; try a name that 'slicemgr list' shows, or a pid"),
    (["4194305"], None, 2, "there is no process 4194305; try a name that 'slicemgr list' shows"),
    (["9" * 50], None, 2, f"no job '{'9' * 50}'; try a name that 'slicemgr list' shows, or a pid"),
    (["kate"], DeniedError("can't pause x: polkit does not allow it; try as root"), 125,
     "can't pause x: polkit does not allow it; try with sudo"),
    (["kate"], NotSupportedError("this daemon is a dry run; try without --dry-run"), 125,
     "this daemon is a dry run; try without --dry-run"),
    (["kate"], FailedError("the daemon is ending; try again"), 125, "the daemon is ending; try again"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "error", "status", "line"), REFUSED)
def test_what_is_refused(
    daemon: FakeDaemon,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    error: Exception | None,
    status: int,
    line: str,
) -> None:
    """One line that ends in what to try. What a daemon refuses is not done behind its back."""

    def refuse(call: Call) -> tuple[Any, ...]:
        assert error is not None
        raise error

    daemon.answers["Pause"] = refuse
    assert pause.main(arguments) == status
    assert capsys.readouterr() == ("", f"slicemgr pause: {line}\n")


def test_several_of_one_name(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.add_job("kate", 8)
    assert resume.main(["kate"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("slicemgr resume: several jobs are called 'kate'; try 'slicemgr-kate-")
    assert " or " in told


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("arguments", "line"), [([], "no JOB given"), (["--json", "kate"], "unrecognized arguments: --json")]
)
def test_usage(capsys: pytest.CaptureFixture[str], verb: str, arguments: list[str], line: str) -> None:
    with pytest.raises(SystemExit) as caught:
        VERBS[verb](arguments)
    assert caught.value.code == 2
    assert capsys.readouterr() == ("", f"slicemgr {verb}: {line}; try 'slicemgr {verb} --help'\n")


def test_a_person_at_a_terminal_may_be_asked(bus: PrivateBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the system bus, unless told not to."""
    made = Desk(tmp_path)
    manager = reading.Manager(
        None, str(tmp_path), str(tmp_path), (), mount=made.cgroups.mount,
        bus_address=bus.address, system_bus_address=bus.address,
    )  # fmt: skip
    monkeypatch.setattr(reading, "chosen_manager", lambda options: manager)
    monkeypatch.setattr(polkit_agent, "can_ask", lambda: True)
    monkeypatch.setattr(polkit_agent, "asking_on_terminal", contextlib.nullcontext)
    with made.listening(), FakeDaemon(bus, moment(user_uid=None)) as daemon:
        daemon.answers["Pause"] = lambda call: ()
        assert pause.main([KATE_UNIT]) == 0
        assert pause.main(["--no-ask-password", KATE_UNIT]) == 0
    assert [call.arguments for call in daemon.calls] == [({"interactive": True},), ({},)]


def test_without_a_daemon_by_name(desk: Desk, program: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its command's pid is in the name of its scope, and its `slicemgr run` is the parent of that."""
    with running(program) as job:
        desk.add_job("make", job.command)
        for _ in range(2):
            assert pause.main(["make"]) == 0
            assert job.states() == ("T", "T")
        for _ in range(2):
            assert resume.main(["make"]) == 0
            assert job.say("word") == "heard word"
    assert capsys.readouterr().out == "job 'make' is paused\n" * 2 + "job 'make' goes on\n" * 2


@pytest.mark.parametrize("which", ["of its run", "of its command"])
def test_a_job_without_a_cgroup(desk: Desk, program: str, capsys: pytest.CaptureFixture[str], which: str) -> None:
    """By a pid: nobody else knows it."""
    with running(program) as job:
        pid = str(job.process.pid if which == "of its run" else job.command)
        assert pause.main([pid]) == 0
        assert job.states() == ("T", "T")
        assert resume.main([pid]) == 0
        assert job.say("word") == "heard word"
    assert capsys.readouterr().out == f"the job of process {pid} is paused\nthe job of process {pid} goes on\n"


def know(daemon: FakeDaemon, mount: Path, pid: int) -> str:
    """The daemon and the files show a job whose command this process is."""
    unit = f"slicemgr-make-{pid}.scope"
    FakeCgroups(mount).add(f"{BUILD}/{unit}", pids=[pid])
    job = JobOverview(unit, f"{BUILD}/{unit}", "make", usage(), pid, ("make",), 1.0)
    daemon.show(slices=(SliceOverview("build.slice", BUILD, SliceKind.BUILD, usage(), (job,)),))
    return unit


def test_the_pid_of_a_run_means_its_job(daemon: FakeDaemon, tmp_path: Path, program: str) -> None:
    """It is outside of the job's cgroup itself; the daemon freezes what it has started."""
    with running(program) as job:
        unit = know(daemon, tmp_path / "cgroup", job.command)
        assert pause.main([str(job.process.pid)]) == 0
        assert "T" not in job.states()
    assert [(call.path, call.method) for call in daemon.calls] == [(job_object(unit), "Pause")]


def test_one_that_was_stopped_before_there_was_a_daemon(daemon: FakeDaemon, tmp_path: Path, program: str) -> None:
    """Or by ^Z: the daemon thaws what is not frozen, and the run that stands is continued too."""
    with running(program) as job:
        lone_pause.pause(job.identity)
        unit = know(daemon, tmp_path / "cgroup", job.command)
        assert resume.main(["make"]) == 0
        assert job.say("word") == "heard word"
    assert [(call.path, call.method) for call in daemon.calls] == [(job_object(unit), "Resume")]


def test_a_daemon_that_is_not_on_the_bus(
    desk: Desk, program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It guards, and was started without GLib: then it is done without it."""
    desk.manager = dataclasses.replace(desk.manager, bus_address=f"unix:path={tmp_path}/none")
    with desk.listening(), running(program) as job:
        desk.add_job("make", job.command)
        assert pause.main(["make"]) == 0
        assert job.states() == ("T", "T")
        assert resume.main(["make"]) == 0
        assert job.say("word") == "heard word"


FAILS: list[tuple[str, Callable[[Desk], str], str]] = [
    ("its command has ended", lambda desk: "kate",
     "job 'kate' needs a daemon to freeze it: its command has ended; try 'systemctl --user start slicemgr'"),
    ("nobody's", lambda desk: str(os.getpid()),
     f"process {os.getpid()} is in no job; try a name that 'slicemgr list' shows"),
    ("adopted", lambda desk: desk.add_job("old", os.getpid()) or "old",  # type: ignore[func-returns-value]
     "job 'old' needs a daemon to freeze it: no 'slicemgr run' has started it; try 'systemctl --user start slicemgr'"),
]  # fmt: skip


@pytest.mark.parametrize(("target", "line"), [row[1:] for row in FAILS], ids=[row[0] for row in FAILS])
@pytest.mark.parametrize("verb", VERBS)
def test_nobody_is_there_to_do_it(
    desk: Desk, capsys: pytest.CaptureFixture[str], verb: str, target: Callable[[Desk], str], line: str
) -> None:
    assert VERBS[verb]([target(desk)]) == 125
    assert capsys.readouterr() == ("", f"slicemgr {verb}: {line}\n")


def test_no_shell_above_it(desk: Desk, program: str, capsys: pytest.CaptureFixture[str]) -> None:
    """From cron, say: it goes on, and it is said why."""
    with running(program, session=True) as job:
        assert pause.main([str(job.process.pid)]) == 125
        assert job.say("word") == "heard word"
    assert capsys.readouterr().err == (
        f"slicemgr pause: 'slicemgr run' (pid {job.process.pid}) has no shell above it that could continue it; "
        "try 'systemctl --user start slicemgr', whose jobs are frozen\n"
    )


def test_where_there_is_no_cgroup2(desk: Desk, program: str, tmp_path: Path) -> None:
    """Only pids mean something."""
    (tmp_path / "cgroup/cgroup.controllers").unlink()
    assert pause.main(["kate"]) == 2
    with running(program) as job:
        assert pause.main([str(job.command)]) == 0
        assert procfs.read_stat(job.command).state == "T"
