# SPDX-License-Identifier: LGPL-2.1-or-later
"""status, list, explain and kills where a daemon is on its bus; and that none of them needs one, nor GLib."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from slicemgr.bus.errors import DeniedError, NotFoundError
from slicemgr.cli import asking, explain, kills, reading, status
from slicemgr.cli import list as list_verb
from slicemgr.kernel.errors import CgroupNotPermittedError, ProcessGoneError
from slicemgr.model.slice import SliceKind, SliceSpec
from slicemgr.policy.pressure_level import PressureLevel
from slicemgr.service.action_details import details_of
from slicemgr.service.history import History, Past
from slicemgr.service.holds import Hold, HoldKind
from slicemgr.service.places import SYSTEM_SOCKET
from slicemgr.service.record import Record
from slicemgr.service.report import HighReport, KillOutcome
from tests.bus.fake_daemon import BUILD, KATE, USER_ROOT, FakeDaemon, moment
from tests.cli.slicemgr_command import SLICEMGR
from tests.service.fake_cgroups import MIB, FakeCgroups
from tests.unit.samples import process
from tests.unit.test_record import a_kill

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from slicemgr.bus.call import Call
    from tests.bus.private_bus import PrivateBus

REST = "the system's daemon keeps the rest; try 'sudo slicemgr kills --system'"

KNOWN = moment(
    paused=frozenset({KATE}),
    levels={BUILD: PressureLevel.MEDIUM},
    holds=(
        Hold(1, HoldKind.BUILDS_YIELD, "Playing\x1b", "org.example.Game", ":1.5", 1000),
        Hold(2, HoldKind.BUILDS_GROW, "Away", "", ":1.6", 1000),
    ),
    degraded=("systemd did not set app.slice",),
    dry_run=True,
)


class Machine:
    """A fake user manager, whose daemon and the system's are on one bus, and whether they listen is the test's."""

    def __init__(self, tmp_path: Path, bus: PrivateBus) -> None:
        self.cgroups = FakeCgroups(tmp_path / "cgroup")
        self.cgroups.add(BUILD, max=2 << 30)
        self.cgroups.add(KATE, high=960 * MIB, max=1 << 30)
        self.history = History(str(tmp_path / "state"))
        self.manager = reading.Manager(
            uid=1000,
            runtime_directory=str(tmp_path),
            state_directory=str(tmp_path / "state"),
            specs=(SliceSpec("build.slice", SliceKind.BUILD), SliceSpec("app.slice", SliceKind.APP)),
            root=USER_ROOT,
            mount=self.cgroups.mount,
            system_socket=str(tmp_path / "system"),
            bus_address=bus.address,
            system_bus_address=bus.address,
        )


@pytest.fixture
def machine(tmp_path: Path, bus: PrivateBus, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path, bus)
    monkeypatch.setattr(reading, "chosen_manager", lambda options: made.manager)
    monkeypatch.setattr(asking, "ANSWER_SECONDS", 20.0)  # A test machine may be busy.
    return made


@pytest.fixture
def by_user(machine: Machine) -> Iterator[None]:
    """The user's daemon listens."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(machine.manager.control_socket)
        listener.listen()
        yield


@pytest.fixture
def by_system(machine: Machine) -> Iterator[None]:
    """The system's daemon listens, and no other."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(machine.manager.system_socket)
        listener.listen()
        yield


def told_by(capsys: pytest.CaptureFixture[str], main: Callable[[list[str]], int], *arguments: str) -> Any:
    """What --json has."""
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


class TestStatus:
    @pytest.mark.usefixtures("by_user")
    def test_for_people(self, bus: PrivateBus, capsys: pytest.CaptureFixture[str]) -> None:
        """What only the daemon knows stands where it belongs."""
        with FakeDaemon(bus, KNOWN):
            assert status.main([]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].endswith(": a dry run, it ends nobody")
        assert lines[2:7] == [
            "memory pressure: medium in build",
            "held: builds-yield, for 'Playing\\x1b', by org.example.Game",
            "held: builds-grow, for 'Away'",
            "not in force: systemd did not set app.slice",
            "",
        ]
        (job_line,) = (line for line in lines if line.startswith("    "))
        assert job_line.startswith("    paused; ")

    @pytest.mark.usefixtures("by_user")
    def test_for_programs(self, bus: PrivateBus, capsys: pytest.CaptureFixture[str]) -> None:
        with FakeDaemon(bus, KNOWN):
            told = told_by(capsys, status.main)
        assert told["told_by_daemon"] == {
            "version": "1.2",
            "dry_run": True,
            "pressure_level": "medium",
            "degraded_reasons": ["systemd did not set app.slice"],
            "holds": [
                {"cookie": 1, "what": "builds-yield", "reason": "Playing\x1b", "application_id": "org.example.Game"},
                {"cookie": 2, "what": "builds-grow", "reason": "Away", "application_id": ""},
            ],
        }
        build, app = told["slices"]
        assert (build["pressure_level"], app["pressure_level"]) == ("medium", "none")
        assert [job["paused"] for job in build["jobs"]] == [True]
        assert all(f'"{key}"' in status._EPILOG for key in told)

    @pytest.mark.usefixtures("by_user")
    def test_nothing_to_add(self, bus: PrivateBus, capsys: pytest.CaptureFixture[str]) -> None:
        """When all is well it looks as ever."""
        assert status.main([]) == 0
        without = capsys.readouterr().out.splitlines()[1:]
        with FakeDaemon(bus):
            assert status.main([]) == 0
        assert len(capsys.readouterr().out.splitlines()) == len(without) + 1

    @pytest.mark.usefixtures("by_user")
    @pytest.mark.parametrize("lack", ["daemon", "bus", "glib", "answer"])
    def test_as_ever(
        self,
        machine: Machine,
        bus: PrivateBus,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        lack: str,
        tmp_path: Path,
    ) -> None:
        """Without a daemon on the bus, without a bus, without GLib, without an answer in time."""
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(str(tmp_path / "silent"))
            silent.listen()
            if lack == "bus":
                bus.kill()
            elif lack == "glib":
                monkeypatch.setitem(sys.modules, "slicemgr.bus.control", None)
            elif lack == "answer":
                monkeypatch.setattr(asking, "ANSWER_SECONDS", 0.05)
                machine.manager = dataclasses.replace(machine.manager, bus_address=f"unix:path={tmp_path}/silent")
            told = told_by(capsys, status.main)
        assert told["told_by_daemon"] is None
        assert told["slices"][0]["pressure_level"] is None
        assert told["slices"][0]["jobs"][0]["paused"] is None

    def test_nobody_listens(self, bus: PrivateBus, machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
        """Then who is on the bus is not asked."""
        with FakeDaemon(bus, KNOWN):
            assert told_by(capsys, status.main)["told_by_daemon"] is None

    @pytest.mark.usefixtures("by_system")
    def test_what_the_systems_daemon_did(
        self, machine: Machine, bus: PrivateBus, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """To one's own: it tells, so nobody has to become root."""
        report = a_kill(victim=process(8, name="theirs"), outcome=KillOutcome.EXITED)
        kill = Record(report, time.time() - 200, "build.slice", "kate")
        other = Record(a_kill(victim=process(9, name="elsewhere")), time.time() - 100, "app.slice")
        with FakeDaemon(bus, moment(user_uid=None)) as daemon:
            daemon.answers["ListActions"] = lambda call: ([details_of(kill), details_of(other)],)
            assert status.main(["build"]) == 0
            told = capsys.readouterr().out.splitlines()
        assert told[-2:] == [
            "last actions ('slicemgr kills' tells why):",
            "  3 min ago  killed 'theirs' (pid 8), 400.0M, in job 'kate' of build",
        ]
        assert [call.arguments for call in daemon.calls] == [(0, 50, {})]


class TestList:
    @pytest.mark.usefixtures("by_user")
    def test_who_is_paused(
        self, bus: PrivateBus, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """For people and for programs; the fields for scripts stay the nine that they are."""
        with FakeDaemon(bus, KNOWN):
            assert [job["paused"] for job in told_by(capsys, list_verb.main)["jobs"]] == [True]
            assert list_verb.main([]) == 0
            assert capsys.readouterr().out.split("\t")[0] == "kate"
            monkeypatch.setattr("sys.stdout.isatty", lambda: True)
            assert list_verb.main([]) == 0
            assert capsys.readouterr().out.splitlines()[1].startswith("kate (paused)  build ")

    def test_nobody_says(self, machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
        assert [job["paused"] for job in told_by(capsys, list_verb.main)["jobs"]] == [None]


EXPLAINED: dict[str, Any] = {
    "control-group": KATE,
    "rule": "highest-badness-child",
    "limit": 960 * MIB,
    "limit-of": BUILD,
    "limit-file": "memory.high",
    "memory-current": 640 * MIB,
    "victim": {"pid": 8, "name": "cc1plus\x1b", "held": 24 * MIB, "points": 7000, "command-line": ["cc1plus", "x.cpp"]},
    "instead-of": {"pid": 7, "name": "make", "held": MIB, "points": 7100},
    "runners-up": [{"pid": 9, "name": "ld", "held": 12 * MIB, "points": 3000}],
    "spared": [{"pid": 1, "name": "systemd", "why": "pid 1"}],
}


class TestExplain:
    @pytest.fixture(autouse=True)
    def hidden(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As with hidepid: of others there is nothing to be seen."""
        monkeypatch.setattr(explain, "_are_hidden", lambda: True)

        def refused(*_: object, **__: object) -> None:
            raise CgroupNotPermittedError(KATE, "read")

        monkeypatch.setattr(explain, "explain", refused)

    @pytest.mark.usefixtures("machine")
    def test_for_people(self, bus: PrivateBus, capsys: pytest.CaptureFixture[str]) -> None:
        """The daemon sees them."""
        with FakeDaemon(bus, moment(user_uid=None)) as daemon:
            daemon.answers["Explain"] = lambda call: (EXPLAINED,)
            assert explain.main(["kate"]) == 0
        assert capsys.readouterr().out.splitlines() == [
            "if job 'kate' ran out of memory now, 'cc1plus\\x1b' (pid 8) would go: it goes in place of its parent 'make' (pid 7)",
            "it runs: cc1plus x.cpp",
            "",
            "rule: highest-badness-child; measured against 960.0M, memory.high of build.slice",
            "it uses 640.0M, as the system's daemon says",
            "",
            "        POINTS  HOLDS  PID  NAME",
            "victim    7000  24.0M    8  cc1plus\\x1b",
            "then 2    3000  12.0M    9  ld",
            "never   'systemd' (pid 1): it is pid 1",
        ]
        assert [call.arguments for call in daemon.calls] == [("kate", {})]

    @pytest.mark.usefixtures("machine")
    def test_nobody_there(self, bus: PrivateBus, capsys: pytest.CaptureFixture[str]) -> None:
        with FakeDaemon(bus, moment(user_uid=None)) as daemon:
            daemon.answers["Explain"] = lambda call: ({"control-group": BUILD, "rule": "x", "limit": 1, "victim": {}},)
            assert explain.main(["build"]) == 0
        told = capsys.readouterr().out.splitlines()
        assert told[0] == "there is nobody in build.slice"
        assert told[2] == "rule: x; measured against 1B, the machine's memory"

    @pytest.mark.usefixtures("machine")
    def test_for_programs(self, bus: PrivateBus, capsys: pytest.CaptureFixture[str]) -> None:
        """Under the same keys as from files; what is not told is null."""
        with FakeDaemon(bus, moment(user_uid=None)) as daemon:
            daemon.answers["Explain"] = lambda call: (EXPLAINED,)
            told = told_by(capsys, explain.main, "kate")
        assert list(told) == ["schema", "cgroup", "managed", *explain._JUDGED]
        assert (told["cgroup"], told["managed"], told["later"]) == (KATE, True, None)
        assert told["limit"] == {"bytes": 960 * MIB, "file": "memory.high", "cgroup": BUILD}
        assert told["victim"] == {
            "pid": 8, "start_ticks": None, "comm": "cc1plus\x1b", "points": 7000, "held_bytes": 24 * MIB,
            "rss_bytes": None, "swap_bytes": None, "oom_score_adj": None, "command_line": ["cc1plus", "x.cpp"],
        }  # fmt: skip
        assert told["usage"]["memory_current"] == 640 * MIB
        assert told["spared"] == [{"pid": 1, "start_ticks": None, "comm": "systemd", "why": "pid 1"}]

    def test_as_ever(self, machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
        """Without a daemon on the bus."""
        assert explain.main(["kate"]) == 125
        assert capsys.readouterr().err == f"slicemgr explain: not permitted to read cgroup {KATE}; try it as root\n"

    @pytest.mark.usefixtures("machine")
    def test_a_refusal(self, bus: PrivateBus, capsys: pytest.CaptureFixture[str]) -> None:
        def refuse(call: Call) -> tuple[Any, ...]:
            raise DeniedError("can't explain it: polkit does not allow it; try the option `interactive`, or as root")

        with FakeDaemon(bus, moment(user_uid=None)) as daemon:
            daemon.answers["Explain"] = refuse
            assert explain.main(["kate"]) == 125
        assert capsys.readouterr().err == (
            "slicemgr explain: can't explain it: polkit does not allow it; try in a terminal, where you can be asked for "
            "a password, or with sudo\n"
        )

    def test_a_pid_that_is_hidden(
        self, machine: Machine, bus: PrivateBus, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Who is hidden looks as if gone."""

        def gone(pid: int) -> str:
            raise ProcessGoneError(pid)

        def refuse(call: Call) -> tuple[Any, ...]:
            raise NotFoundError("no process 8; try one that lives")

        monkeypatch.setattr(explain, "cgroup_of", gone)
        with FakeDaemon(bus, moment(user_uid=None)) as daemon:
            daemon.answers["Explain"] = lambda call: (EXPLAINED,)
            assert explain.main(["8"]) == 0
            assert capsys.readouterr().out.startswith("if job 'kate' ran out of memory now")
            daemon.answers["Explain"] = refuse
            assert explain.main(["8"]) == 2
            assert capsys.readouterr().err == "slicemgr explain: no process 8; try one that lives\n"
        assert explain.main(["8"]) == 2
        assert capsys.readouterr().err == (
            "slicemgr explain: there is no process 8; try a name that 'slicemgr status' shows\n"
        )


def test_who_is_hidden_is_not_taken_for_nobody(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cgroup has more processes than we see: what could be said of them is wrong."""
    machine.cgroups.add(KATE, pids=[4_194_304 + 7])
    assert explain.main(["kate"]) == 0
    assert capsys.readouterr().out.startswith("there is nobody in job 'kate'\n")
    monkeypatch.setattr(explain, "_are_hidden", lambda: True)
    assert explain.main(["kate"]) == 125
    assert capsys.readouterr().err == (
        f"slicemgr explain: not permitted to see all processes of cgroup {KATE}; try it as root\n"
    )


def actions(*records: Record) -> Callable[[Call], tuple[Any, ...]]:
    """An answer to ListActions."""
    return lambda call: ([details_of(each) for each in records],)


class TestKills:
    MINE = Record(a_kill(victim=process(1, name="mine")), 100.0, "build.slice", "kate")
    BOTH = Record(a_kill(victim=process(2, name="both")), 200.0, "build.slice", "kate")
    THEIRS = Record(a_kill(victim=process(3, name="theirs")), 150.0, "app.slice")
    HIGH = Record(HighReport(1.0, 2, 1), 160.0, "app.slice")

    @pytest.mark.usefixtures("by_system")
    def test_both_histories(self, machine: Machine, bus: PrivateBus, capsys: pytest.CaptureFixture[str]) -> None:
        """One's own, and what the system's daemon did: in the order of time, and nothing twice."""
        machine.history.append(self.MINE)
        machine.history.append(self.BOTH)
        again = dataclasses.replace(self.BOTH, wall_seconds=199.9)
        with FakeDaemon(bus, moment(user_uid=None)) as daemon:
            daemon.answers["ListActions"] = actions(self.THEIRS, self.HIGH, again)
            assert kills.main([]) == 0
            told = capsys.readouterr()
            assert [line.split("'")[1] for line in told.out.splitlines()] == ["mine", "theirs", "both"]
            assert told.err == ""
            assert kills.main(["-n2"]) == 0
            assert [line.split("'")[1] for line in capsys.readouterr().out.splitlines()] == ["theirs", "both"]
            assert told_by(capsys, kills.main)["rest_kept_by"] is None
            assert kills.main(["--since", "1h"]) == 0
        first, _, _, last = (call.arguments for call in daemon.calls)
        assert first == (0, 0, {})
        assert abs(last[0] / 1e6 - (time.time() - 3600)) < 60

    @pytest.mark.usefixtures("by_system")
    def test_a_daemon_that_does_not_tell(
        self, machine: Machine, bus: PrivateBus, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Then it is said who keeps the rest."""
        machine.history.append(self.MINE)
        with FakeDaemon(bus, moment(user_uid=None)):
            assert kills.main([]) == 0
            assert capsys.readouterr().err == f"slicemgr kills: {REST}\n"
            assert told_by(capsys, kills.main)["rest_kept_by"] == "system"

    @pytest.fixture
    def roots(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        """The history of the system is root's, and somebody else asks for it; its daemon listens."""

        def refused(*arguments: object, **options: object) -> Past:
            raise PermissionError(13, "Permission denied", "/var/lib/slicemgr/history.jsonl")

        monkeypatch.setattr(History, "read", refused)
        machine.manager = dataclasses.replace(machine.manager, uid=None, root="/")

    @pytest.mark.usefixtures("roots", "by_user")
    def test_the_systems_history(self, bus: PrivateBus, capsys: pytest.CaptureFixture[str]) -> None:
        """Over the bus, where polkit is asked."""
        with FakeDaemon(bus, moment(user_uid=None)) as daemon:
            daemon.answers["ListActions"] = actions(self.MINE, self.HIGH, self.THEIRS)
            assert kills.main(["--system", "-n1"]) == 0
        assert capsys.readouterr().out.split("'")[1] == "theirs"
        assert [call.arguments for call in daemon.calls] == [(0, 0, {"all-users": True})]

    @pytest.mark.usefixtures("roots", "by_user")
    def test_polkit_says_no(self, bus: PrivateBus, capsys: pytest.CaptureFixture[str]) -> None:
        def refuse(call: Call) -> tuple[Any, ...]:
            raise DeniedError("can't list all actions: polkit does not allow org.slicemgr1.inspect; try as root")

        with FakeDaemon(bus, moment(user_uid=None)) as daemon:
            daemon.answers["ListActions"] = refuse
            assert kills.main(["--system"]) == 125
        assert capsys.readouterr() == (
            "",
            "slicemgr kills: can't list all actions: polkit does not allow org.slicemgr1.inspect; try with sudo\n",
        )

    @pytest.mark.usefixtures("roots", "by_user")
    def test_without_the_daemon_on_the_bus(self, capsys: pytest.CaptureFixture[str]) -> None:
        """As ever."""
        assert kills.main(["--system"]) == 125
        assert capsys.readouterr().err == (
            "slicemgr kills: can't read '/var/lib/slicemgr/history.jsonl': Permission denied; try it as root\n"
        )

    def test_what_is_no_record_is_counted(self, bus: PrivateBus) -> None:
        """It comes from a newer daemon."""
        with FakeDaemon(bus, moment(user_uid=None)) as daemon:
            daemon.answers["ListActions"] = lambda call: ([{"json": "{"}, {}, details_of(self.MINE)],)
            past = asking.past_of_daemon(bus.address, None)
        assert past == Past((self.MINE,), 2)


VERBS = [
    ["status"], ["status", "--json"], ["list"], ["list", "--json"], ["kills"], ["explain", "1"], ["config"], ["--help"],
    *([verb, "--help"] for verb in ("run", "status", "pause", "resume", "set", "monitor", "daemon", "install")),
    ["set", "build", "memory_max=1Q"], ["pause", "1"], ["resume", "nobody"], ["run", "--backend", "embedded", "--", "true"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", VERBS, ids=" ".join)
def test_who_talks_to_no_bus_loads_no_glib(arguments: list[str], tmp_path: Path) -> None:
    """It takes 30 ms, and 8 MB."""
    if reading.ask_daemon(SYSTEM_SOCKET).listens:
        pytest.skip("the system's daemon runs here, and would be asked; try without it")
    done = subprocess.run(
        [SLICEMGR[0], "-X", "importtime", *SLICEMGR[1:], *arguments],
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={tmp_path}/none"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "slicemgr.cli" in loaded
    assert not loaded & {"gi", "pydbus", "slicemgr.bus.control"}
