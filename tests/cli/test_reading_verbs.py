# SPDX-License-Identifier: LGPL-2.1-or-later
"""status, list, explain and kills: on fake cgroup trees and a history of our own, with real processes."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
import subprocess
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from slicemgr.cli import explain, kills, reading, status
from slicemgr.cli import list as list_verb
from slicemgr.kernel.features import Feature, Missing
from slicemgr.model.slice import SliceKind, SliceSpec
from slicemgr.service.history import History
from slicemgr.service.record import Record, record_from_data
from slicemgr.service.report import (
    HighReport,
    KillOutcome,
)
from tests.cli.slicemgr_command import SLICEMGR, slicemgr
from tests.service.fake_cgroups import MIB, USER_ROOT, FakeCgroups, Family
from tests.unit.samples import process
from tests.unit.test_record import a_kill

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOBODY = 4_194_304 + 7
NO_NUMBERS = ("NaN", "Infinity", "-Infinity", "1e999")
REST = "the system's daemon keeps the rest; try 'sudo slicemgr kills --system'"


class Machine:
    """A fake user manager: its cgroups, its history, its control socket."""

    def __init__(self, tmp_path: Path) -> None:
        self.cgroups = FakeCgroups(tmp_path / "cgroup")
        self.history = History(str(tmp_path / "state"))
        self.manager = reading.Manager(
            uid=1000,
            runtime_directory=str(tmp_path),
            state_directory=str(tmp_path / "state"),
            specs=(SliceSpec("build.slice", SliceKind.BUILD), SliceSpec("app.slice", SliceKind.APP, grace_seconds=5.0)),
            root=USER_ROOT,
            mount=self.cgroups.mount,
            system_socket=str(tmp_path / "system"),
        )
        self.where: dict[int, str] = {}

    def cgroup_of(self, pid: int) -> str:
        return self.where[pid]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setattr(reading, "chosen_manager", lambda options: made.manager)
    monkeypatch.setattr(explain, "cgroup_of", made.cgroup_of)
    monkeypatch.setattr("slicemgr.service.explanation.cgroup_of", made.cgroup_of)
    return made


@pytest.fixture
def make(machine: Machine) -> Iterator[Family]:
    """A job `kate` in build.slice: a make with three compilers."""
    with ExitStack() as stack:
        family = Family(stack, 4, 24, 12)
        machine.cgroups.add(f"{USER_ROOT}/build.slice", current=900 * MIB, max=2 << 30, stalled=4.4)
        machine.cgroups.add(
            f"{USER_ROOT}/build.slice/slicemgr-kate-{family.pid}.scope",
            current=640 * MIB, high=960 * MIB, max=1 << 30, swap=3 * MIB, stalled=6.0, pids=list(family),
        )  # fmt: skip
        yield family


@pytest.fixture
def without_cgroup2(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is mounted where it is looked for, whatever this machine has."""
    lack = Missing(Feature.CGROUP2, "no cgroup v2 is mounted at /x", "mount")
    monkeypatch.setattr("slicemgr.service.overview.find_mount", lambda proc: (None, (lack,)))
    machine.manager = dataclasses.replace(machine.manager, mount=str(tmp_path / "none"))


def data(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


class TestStatus:
    def test_a_machine_at_work(self, machine: Machine, make: Family, capsys: pytest.CaptureFixture[str]) -> None:
        """Who guards, the machine, the slices, the job, and what was done."""
        kill = a_kill(outcome=KillOutcome.EXITED)
        machine.history.append(Record(kill, time.time() - 130, "build.slice", "kate"))
        machine.history.append(Record(HighReport(1.0, 5, 3), time.time(), "build.slice", "kate"))
        assert status.main([]) == 0
        told = lines(capsys)
        assert told[0] == "no user daemon: each job guards itself; try 'systemctl --user start slicemgr'"
        assert told[1].startswith("memory: ")
        assert " available of " in told[1]
        assert told[3].split() == ["SLICE,", "JOB", "USES", "HIGH", "MAX", "SWAP", "STALL", "PROCS"]
        assert told[4].split() == ["build", "900.0M", "-", "2.0G", "0B", "4%", "4"]
        assert told[5].split() == ["kate", "640.0M", "960.0M", "1.0G", "3.0M", "6%", "4"]
        assert re.match(r"    for \d+\.\d+ s, pid ", told[6])
        assert f", pid {make.pid}: python" in told[6]
        assert told[7].split() == ["app", "-", "-", "-", "-", "-", "none"]
        assert told[9:] == [
            "last actions ('slicemgr kills' tells why):",
            "  2 min ago  killed 'cc1plus' (pid 4711), 400.0M, in job 'kate' of build",
        ]  # fmt: skip
        assert max(map(len, told[:6])) <= 80

    def test_one_slice(self, machine: Machine, make: Family, capsys: pytest.CaptureFixture[str]) -> None:
        """Its rows, and what was done in it."""
        machine.history.append(Record(a_kill(), time.time(), "build.slice", "kate"))
        assert status.main(["app"]) == 0
        told = lines(capsys)
        assert [line.split()[0] for line in told[4:5]] == ["app"]
        assert told[-1] == "nothing has been killed yet"

    def test_with_a_daemon(self, machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
        """It is named by its pid; nothing is asked of it."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(machine.manager.control_socket)
            listener.listen()
            assert status.main([]) == 0
            assert lines(capsys)[0].startswith(f"guarded by the user daemon, pid {os.getpid()}, ")
            asked, _ = listener.accept()
            with asked:
                assert asked.recv(1) == b""

    def test_with_the_daemon_of_the_system(self, machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
        """It guards the users who have none of their own."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(machine.manager.system_socket)
            listener.listen()
            assert status.main([]) == 0
        assert lines(capsys)[0].startswith(f"guarded by the system daemon, pid {os.getpid()}, ")

    @pytest.mark.parametrize("listens", ["system_socket", "control_socket", None])
    @pytest.mark.parametrize("has_kills", [False, True])
    def test_who_keeps_the_rest(
        self, machine: Machine, capsys: pytest.CaptureFixture[str], listens: str | None, has_kills: bool
    ) -> None:
        """A user's own history is not all of it where the system's daemon guards: status and kills say so."""
        by_system = listens == "system_socket"
        if has_kills:
            machine.history.append(Record(a_kill(), time.time(), "build.slice", "kate"))
        with socket.socket(socket.AF_UNIX) as listener:
            if listens is not None:
                listener.bind(getattr(machine.manager, listens))
                listener.listen()
            assert status.main([]) == 0
            last = lines(capsys)[-1]
            assert kills.main([]) == 0
            told = capsys.readouterr()
            for main in (status.main, kills.main):
                assert main(["--json"]) == 0
                assert data(capsys)["rest_kept_by"] == ("system" if by_system else None)
        if not has_kills:
            nothing = f"your own history has no kills; {REST}" if by_system else "nothing has been killed yet"
            assert (last, told.out, told.err) == (nothing, f"{nothing}\n", "")
        else:
            assert (last == REST) == by_system
            assert len(told.out.splitlines()) == 1
            assert told.err == (f"slicemgr kills: {REST}\n" if by_system else "")

    def test_the_system_sees_all_users(
        self, machine: Machine, make: Family, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Its own builds, and the slices of each user that are there."""
        machine.manager = dataclasses.replace(machine.manager, uid=None, root="/")
        machine.cgroups.add("/build.slice", current=5 * MIB)
        machine.cgroups.add("/user.slice/user-100.slice/user@100.service/app.slice", current=3 * MIB)
        machine.cgroups.add("/user.slice/user-77.slice/session-1.scope")
        machine.cgroups.add("/user.slice/user-x.slice/user@x.service/app.slice")
        assert status.main([]) == 0
        told = lines(capsys)
        assert told[0].startswith("no system daemon: ")
        rows = [line.strip().partition("  ")[0] for line in told[4:-2] if not line.startswith("    ")]
        assert rows == ["build", "app (uid 100)", "build (uid 1000)", "kate"]

    def test_a_daemon_that_went_leaves_its_socket(self, machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
        """Nobody listens there any more."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(machine.manager.control_socket)
        assert status.main([]) == 0
        assert lines(capsys)[0].startswith("no user daemon")

    def test_a_daemon_that_stands_still(
        self, machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Its queue is full: it is not waited for."""
        monkeypatch.setattr(reading, "DAEMON_SECONDS", 0.01)
        with socket.socket(socket.AF_UNIX) as listener, ExitStack() as stack:
            listener.bind(machine.manager.control_socket)
            listener.listen(0)
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.connect(machine.manager.control_socket)
            assert status.main([]) == 0
        assert lines(capsys)[0].startswith("the user daemon can't be asked: ")

    def test_json(self, machine: Machine, make: Family, capsys: pytest.CaptureFixture[str]) -> None:
        """The same in bytes."""
        record = Record(a_kill(), time.time(), "build.slice", "kate")
        machine.history.append(record)
        assert status.main(["--json"]) == 0
        told = data(capsys)
        assert told["schema"] == "slicemgr.status/1"
        assert told["manager"] == "user"
        assert told["daemon"] == {"manager": "user", "listens": False, "pid": None, "problem": ""}
        build, app = told["slices"]
        assert (build["unit"], build["kind"], build["memory_max"], build["memory_high"]) == (
            "build.slice",
            "build",
            2 << 30,
            None,
        )
        assert (app["exists"], app["jobs"]) == (False, [])
        (job,) = build["jobs"]
        assert (job["name"], job["pid"], job["processes"], job["stalled_percent"]) == ("kate", make.pid, 4, 6.0)
        assert [record_from_data(each) for each in told["last_actions"]] == [record]
        assert told["history_problem"] is None
        assert all(f'"{key}"' in status._EPILOG for key in told)

    @pytest.mark.parametrize(
        ("name", "hint"), [("biuld", "'slicemgr status build'"), ("xx\x1b[2J", "'slicemgr status'")]
    )
    def test_an_unknown_slice(self, machine: Machine, capsys: pytest.CaptureFixture[str], name: str, hint: str) -> None:
        """One line with the nearest name."""
        assert status.main([name]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err.isascii()
        assert "\x1b" not in told.err
        assert told.err.startswith("slicemgr status: no slice '")
        assert told.err.endswith(f"; try {hint}\n")

    def test_a_history_that_is_hidden(self, machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
        """Is no reason to show nothing."""
        os.makedirs(f"{machine.manager.state_directory}/history.jsonl")
        assert status.main([]) == 0
        assert lines(capsys)[-1] == "what was done last can't be read: Is a directory"
        assert status.main(["--json"]) == 0
        told = data(capsys)
        assert (told["last_actions"], told["history_problem"]) == ([], "Is a directory")


class TestList:
    def test_for_scripts(self, machine: Machine, make: Family, capsys: pytest.CaptureFixture[str]) -> None:
        """Nine fields, tabs between, none in them."""
        machine.cgroups.add(f"{USER_ROOT}/build.slice/slicemgr-a\\x09b\\x0a-{NOBODY}.scope", current=7)
        assert list_verb.main([]) == 0
        kate, ending = (line.split("\t") for line in lines(capsys))
        unit = f"slicemgr-kate-{make.pid}.scope"
        assert kate[:7] == ["kate", "build.slice", unit, str(make.pid), str(640 * MIB), str(1 << 30), "4"]
        assert kate[7].isdigit()
        assert kate[8].endswith("make 4 24 12")
        assert ending == [
            "a\\tb\\n",
            "build.slice",
            f"slicemgr-a\\\\x09b\\\\x0a-{NOBODY}.scope",
            "",
            "7",
            "max",
            "0",
            "",
            "",
        ]

    def test_for_people(
        self, machine: Machine, make: Family, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A heading, and lines that fit."""
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", "70")
        assert list_verb.main([]) == 0
        heading, kate = lines(capsys)
        assert heading.split() == ["NAME", "SLICE", "PID", "USES", "MAX", "PROCS", "AGE", "COMMAND"]
        assert kate.split()[:6] == ["kate", "build", str(make.pid), "640.0M", "1.0G", "4"]
        assert len(kate) == 70
        assert kate.endswith("…")

    def test_nothing(
        self, machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Nothing for a script, a word for a person."""
        assert list_verb.main([]) == 0
        assert lines(capsys) == []
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        assert list_verb.main([]) == 0
        assert lines(capsys) == ["no jobs"]

    def test_json(self, machine: Machine, make: Family, capsys: pytest.CaptureFixture[str]) -> None:
        """Names that are no UTF-8 are escaped."""
        machine.cgroups.add(f"{USER_ROOT}/build.slice/slicemgr-caf\\xe9-{NOBODY}.scope")
        assert list_verb.main(["--json"]) == 0
        told = data(capsys)
        assert told["schema"] == "slicemgr.list/1"
        assert [job["name"] for job in told["jobs"]] == ["kate", "caf\\xe9"]
        assert told["jobs"][0]["command_line"][-3:] == ["4", "24", "12"]


class TestExplain:
    def test_a_job(self, machine: Machine, make: Family, capsys: pytest.CaptureFixture[str]) -> None:
        """Who, why, by which rule, who next."""
        assert explain.main(["kate"]) == 0
        told = lines(capsys)
        assert told[0].startswith(f"if job 'kate' ran out of memory now, 'cc1plus' (pid {make.children[1]}) would go: ")
        assert told[3] == "rule: highest-badness-child; measured against 960.0M, memory.high of job 'kate'"
        assert told[4] == "it uses 640.0M, 3.0M in swap, in 4 processes"
        assert told[6].split() == ["POINTS", "HOLDS", "SWAP", "ADJ", "PID", "NAME"]
        assert [line.split()[-2:] for line in told[7:9]] == [
            [str(make.children[1]), "cc1plus"],
            [str(make.children[2]), "cc1plus"],
        ]  # fmt: skip
        assert told[7].startswith("victim ")
        assert told[8].startswith("then 2 ")

    def test_who_is_never_taken(self, machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
        """And why not; the daemon's ancestors are spared, and who asks is not there at all."""
        machine.cgroups.add(f"{USER_ROOT}/app.slice", pids=[os.getpid(), os.getppid()])
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(machine.manager.control_socket)
            listener.listen()
            assert explain.main(["app"]) == 0
        told = lines(capsys)
        assert told[0] == "nobody can be killed in app.slice"
        assert "SIGTERM 5.00 s before SIGKILL" in told[2]
        assert [line.split(None, 1)[0] for line in told[5:]] == ["never"]
        assert f"(pid {os.getppid()})" in told[-1]
        assert told[-1].endswith(": it is slicemgr itself or an ancestor of it")

    def test_a_pid_in_a_job(self, machine: Machine, make: Family, capsys: pytest.CaptureFixture[str]) -> None:
        """The job is what is judged, whatever the job has made of its cgroup."""
        machine.manager = dataclasses.replace(machine.manager, uid=None)
        machine.where[4711] = f"/build.slice/slicemgr-kate-{make.pid}.scope/inner"
        machine.manager = dataclasses.replace(machine.manager, root="/")
        machine.cgroups.add(f"/build.slice/slicemgr-kate-{make.pid}.scope", pids=list(make))
        assert explain.main(["4711", "--json"]) == 0
        told = data(capsys)
        assert told["schema"] == "slicemgr.explain/1"
        assert told["cgroup"] == f"/build.slice/slicemgr-kate-{make.pid}.scope"
        assert told["victim"]["pid"] == make.children[1]
        assert told["victim"]["comm"] == "cc1plus"
        assert told["for_parent"] is None
        assert told["victim"]["held_bytes"] > 24 * MIB
        assert told["rule"] == "highest-badness-child"
        assert told["limit"]["cgroup"] is None
        assert len(told["next"]) + told["later"] == 3

    def test_a_pid_of_a_user(self, machine: Machine, make: Family, capsys: pytest.CaptureFixture[str]) -> None:
        """Root asks: the user's slices are meant, with their rules."""
        machine.manager = dataclasses.replace(machine.manager, uid=None, root="/")
        machine.where[make.pid] = f"{USER_ROOT}/build.slice"
        assert explain.main([str(make.pid)]) == 0
        told = capsys.readouterr().out
        assert told.startswith("if build.slice ran out of memory now, 'cc1plus'")
        assert "measured against 2.0G, memory.max of build.slice" in told

    def test_a_pid_of_the_system(
        self, machine: Machine, make: Family, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A user asks: the system's slices can be seen by all."""
        system = dataclasses.replace(machine.manager, uid=None, root="/")
        asked: list[int | None] = []

        def manager_of(uid: int | None, environment: object) -> reading.Manager:
            asked.append(uid)
            return system

        monkeypatch.setattr(reading, "manager_of", manager_of)
        machine.cgroups.add("/build.slice", max=3 << 30, pids=list(make))
        machine.where[make.pid] = "/build.slice/x.service"
        assert explain.main([str(make.pid)]) == 0
        assert asked == [None]
        assert "measured against 3.0G, memory.max of build.slice" in capsys.readouterr().out

    def test_a_job_whose_slice_is_the_tighter_one(
        self, machine: Machine, make: Family, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Then others than its own may go, and that is said."""
        machine.cgroups.add(f"{USER_ROOT}/build.slice", max=500 * MIB)
        assert explain.main(["kate"]) == 0
        assert lines(capsys)[5] == (
            "but the limit of build.slice is the tighter one, and all in that are judged; "
            "try 'slicemgr explain build.slice'"
        )

    def test_a_pid_elsewhere(self, machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
        """The best news: it is never touched."""
        machine.where[7] = f"{USER_ROOT}/init.scope"
        assert explain.main(["7"]) == 0
        assert lines(capsys) == [
            f"process 7 is in {USER_ROOT}/init.scope, which is in no managed slice: slicemgr never touches it"
        ]  # fmt: skip
        assert explain.main(["7", "--json"]) == 0
        told = data(capsys)
        assert (told["cgroup"], told["managed"], told["rule"]) == (f"{USER_ROOT}/init.scope", False, None)

    def test_a_slice_that_is_not_there(self, machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
        """Nobody would go."""
        assert explain.main(["app"]) == 0
        assert lines(capsys) == ["nobody: app.slice is not there, because nothing runs in it"]
        assert explain.main(["app", "--json"]) == 0
        assert data(capsys)["victim"] is None

    def test_json_has_all_its_keys(self, machine: Machine, make: Family, capsys: pytest.CaptureFixture[str]) -> None:
        """In every answer the same, and --help names them: null stands where nothing is known."""
        machine.where[7] = f"{USER_ROOT}/init.scope"
        answers = []
        for target in ("kate", "7", "app"):  # Judged, unmanaged, not there.
            assert explain.main([target, "--json"]) == 0
            answers.append(data(capsys))
        judged, unmanaged, absent = answers
        assert list(judged) == list(unmanaged) == list(absent)
        assert all(f'"{key}"' in explain._EPILOG for key in judged)
        assert (unmanaged["managed"], absent["managed"]) == (False, True)
        for answer in (unmanaged, absent):
            assert not [key for key, value in answer.items() if value and key not in {"schema", "cgroup", "managed"}]

    @pytest.mark.parametrize("pid", ["9" * 11, "9" * 400, "9" * 5000], ids=len)
    def test_a_number_that_no_pid_can_be(self, machine: Machine, capsys: pytest.CaptureFixture[str], pid: str) -> None:
        """Longer than any pid, than any file name, than Python reads: one line, and 2."""
        assert explain.main([pid]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("slicemgr explain: no slice, job or process '99999999999")
        assert line.endswith("'; try a name that 'slicemgr status' shows")
        assert len(line) < 160

    def test_a_slice_without_configuration(self, machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
        """Is guarded job by job."""
        machine.cgroups.add(f"{USER_ROOT}/foo.slice/slicemgr-make-{NOBODY}.scope")
        assert explain.main(["foo"]) == 0
        assert lines(capsys) == ["foo.slice is in no configuration: only the jobs in it are guarded, each by itself"]

    def test_what_can_not_be_meant(
        self, machine: Machine, make: Family, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """One line each, and 2."""
        machine.cgroups.add(f"{USER_ROOT}/build.slice/slicemgr-kate-{NOBODY}.scope")
        assert explain.main(["ktae"]) == 2
        assert explain.main(["zzz"]) == 2
        assert explain.main(["kate"]) == 2
        monkeypatch.undo()
        monkeypatch.setattr(reading, "chosen_manager", lambda options: machine.manager)
        assert explain.main([str(NOBODY)]) == 2
        told = capsys.readouterr().err.splitlines()
        assert told[0] == "slicemgr explain: no slice, job or process 'ktae'; try 'slicemgr explain kate'"
        assert told[1] == "slicemgr explain: no slice, job or process 'zzz'; try a name that 'slicemgr status' shows"
        assert told[2].startswith("slicemgr explain: several jobs are called 'kate'; try 'slicemgr-kate-")
        assert told[3] == f"slicemgr explain: there is no process {NOBODY}; try a name that 'slicemgr status' shows"


class TestKills:
    def test_the_history(self, machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
        """The newest last; what was no kill is not in it."""
        now = time.time()
        for at in range(3):
            machine.history.append(Record(a_kill(victim=process(at, name=f"p{at}")), now - 7200 + 3000 * at))
        machine.history.append(Record(HighReport(1.0, 2, 1), now))
        assert kills.main([]) == 0
        assert [line.split("'")[1] for line in lines(capsys)] == ["p0", "p1", "p2"]
        assert kills.main(["--since", "1h 30min"]) == 0
        assert [line.split("'")[1] for line in lines(capsys)] == ["p1", "p2"]
        assert kills.main(["-n", "1"]) == 0
        assert [line.split("'")[1] for line in lines(capsys)] == ["p2"]
        assert kills.main(["-n1", "--json"]) == 0
        told = data(capsys)
        assert (told["schema"], told["skipped_lines"]) == ("slicemgr.kills/1", 0)
        assert [record_from_data(each).report.victim.name for each in told["kills"]] == ["p2"]  # type: ignore[union-attr]

    def test_nothing_yet(self, machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
        """It is said."""
        assert kills.main([]) == 0
        assert lines(capsys) == ["nothing has been killed yet"]
        assert kills.main(["--since", "2h"]) == 0
        assert lines(capsys) == ["nothing was killed in the last 2h"]
        assert kills.main(["--json"]) == 0
        assert data(capsys)["kills"] == []

    def test_torn_lines_are_mentioned(self, machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
        """Beside what could be read."""
        machine.history.append(Record(a_kill(), 1.0))
        with open(f"{machine.manager.state_directory}/history.jsonl", "a") as file:
            file.write("{\n{\n")
        assert kills.main([]) == 0
        told = capsys.readouterr()
        assert len(told.out.splitlines()) == 1
        assert told.err == "slicemgr kills: skipped 2 lines of the history: torn, or written by another version\n"

    def test_what_is_no_json_does_not_come_out(self, machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
        """A damaged number costs its record, and not the reader its parser."""
        machine.history.append(Record(a_kill(), 1.5))
        path = f"{machine.manager.state_directory}/history.jsonl"
        with open(path) as file:
            text = file.read()
        with open(path, "a") as file:
            file.write("".join(text.replace('"wall_seconds":1.5', f'"wall_seconds":{each}') for each in NO_NUMBERS))
        assert kills.main(["--json"]) == 0
        told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
        assert (len(told["kills"]), told["skipped_lines"]) == (1, len(NO_NUMBERS))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--since", "2 fortnights"], "'2 fortnights' is no duration, such as 2h or 1d"),
            (["--since", ""], "'' is no duration, such as 2h or 1d"),
            (["--since", "1h\n"], None),
            (["--since", "\x1b[2J"], "'\\x1b[2J' is no duration, such as 2h or 1d"),
            (["-n", "-1"], "'-1' is no number of kills"),
            (["-n", "٣"], "'٣' is no number of kills"),
            (["--user", "--system"], "argument --system: not allowed with argument --user"),
        ],
    )
    def test_usage(
        self, machine: Machine, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str | None
    ) -> None:
        """One line, and 2."""
        if message is None:
            assert kills.main(arguments) == 0
            return
        with pytest.raises(SystemExit) as caught:
            kills.main(arguments)
        assert caught.value.code == 2
        assert capsys.readouterr().err == f"slicemgr kills: {message}; try 'slicemgr kills --help'\n"


@pytest.mark.parametrize("verb", [["status", "build"], ["list"], ["explain", "build"]])
def test_without_cgroup2(
    machine: Machine, without_cgroup2: None, capsys: pytest.CaptureFixture[str], verb: list[str]
) -> None:
    """What is missing and what to do; 125."""
    main = {"status": status.main, "list": list_verb.main, "explain": explain.main}[verb[0]]
    assert main(verb[1:]) == 125
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == f"slicemgr {verb[0]}: no cgroup v2 is mounted at /x; try mount\n"


def test_the_status_of_a_machine_without_cgroup2(
    machine: Machine, without_cgroup2: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """All but the slices, and why not those."""
    machine.history.append(Record(a_kill(), time.time() - 130, "build.slice", "kate"))
    assert status.main([]) == 0
    told = capsys.readouterr()
    assert told.err == "slicemgr status: no cgroup v2 is mounted at /x; try mount\n"
    assert [line.split()[0] for line in told.out.splitlines() if line] == ["no", "memory:", "last", "2"]
    assert status.main(["--json"]) == 0
    known = data(capsys)
    assert (known["slices"], known["slices_problem"]) == ([], "no cgroup v2 is mounted at /x; try mount")
    assert known["machine"]["memory_total"] > 0
    assert len(known["last_actions"]) == 1


def test_no_permission(machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The history of the system is root's."""

    def refused(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", "/var/lib/slicemgr/history.jsonl")

    monkeypatch.setattr(History, "read", refused)
    assert kills.main([]) == 125
    assert capsys.readouterr().err == (
        "slicemgr kills: can't read '/var/lib/slicemgr/history.jsonl': Permission denied; try it as root\n"
    )


def test_whoever_has_read_enough(tmp_path: Path) -> None:
    """`slicemgr kills | head -1` ends quietly, and so does a closed standard output."""
    state = tmp_path / "slicemgr"
    for at in range(200):
        History(str(state)).append(Record(a_kill(), float(at)))
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    with subprocess.Popen(
        [*SLICEMGR, "kills", "--user"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as reader:
        assert reader.stdout is not None
        assert reader.stderr is not None
        reader.stdout.close()
        assert reader.stderr.read() == b""
    assert reader.returncode == 0
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*SLICEMGR, "kills", "--user"], stdout=full, stderr=subprocess.PIPE, env=environment, text=True
        )
    assert done.returncode == 125
    assert done.stderr == "slicemgr kills: can't write: No space left on device; try another place\n"


@pytest.mark.parametrize("verb", ["status", "list", "explain", "kills", "monitor"])
def test_help_needs_no_machine(verb: str) -> None:
    """It names the schema of its JSON, and fits into 120 columns."""
    ended = slicemgr(verb, "--help")
    assert ended.status == 0
    assert f'"schema": "slicemgr.{verb}/1"' in ended.stdout
    assert max(map(len, ended.stdout.splitlines())) <= 120


def test_paths_of_managers(monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG for a user, the machine's own for the system; relative ones count as unset."""
    monkeypatch.setenv("HOME", "/home/ann")
    system = reading.manager_of(None, {})
    assert (system.root, system.control_socket, system.state_directory) == (
        "/",
        "/run/slicemgr/control",
        "/var/lib/slicemgr",
    )
    bare = reading.manager_of(1000, {"XDG_STATE_HOME": "state"})
    assert (bare.root, bare.control_socket) == (USER_ROOT, "/run/user/1000/slicemgr/control")
    assert bare.state_directory == "/home/ann/.local/state/slicemgr"
    moved = reading.manager_of(1000, {"XDG_STATE_HOME": "/s", "XDG_RUNTIME_DIR": "/r"})
    assert (moved.control_socket, moved.state_directory) == ("/r/slicemgr/control", "/s/slicemgr")
    assert {spec.unit for spec in bare.specs} >= {"build.slice", "session.slice", "app.slice"}


@pytest.mark.parametrize(
    ("path", "uid"),
    [
        (f"{USER_ROOT}/build.slice/x.scope", 1000),
        (USER_ROOT, 1000),
        (f"{USER_ROOT}x/build.slice", None),
        ("/user.slice/user-1000.slice/user@1001.service/a", None),
        ("/user.slice/user-1000.slice/session-2.scope", None),
        ("/build.slice", None),
    ],
)
def test_whose_manager(path: str, uid: int | None) -> None:
    """By the cgroup of user@.service."""
    assert reading.uid_of_manager(path) == uid


def test_a_broken_configuration_is_no_reason_to_show_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The defaults are shown, and it is said."""
    (tmp_path / "slicemgr").mkdir()
    (tmp_path / "slicemgr/slicemgr.toml").write_text("[slice.build]\nmemory_maxx = 3\n")
    manager = reading.manager_of(1000, {"XDG_CONFIG_HOME": str(tmp_path)})
    assert "build.slice" in {spec.unit for spec in manager.specs}
    told = capsys.readouterr().err
    assert told.startswith("slicemgr: ignoring the configuration, for now: ")
    assert "memory_maxx" in told
    assert told.count("\n") == 1
