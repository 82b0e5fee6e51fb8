# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon as a process of its own, without a service manager, on a cgroup tree of plain files."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent.parent
SECONDS = 30.0
"""For a hang: nothing here takes one."""

SLICES = ("build.slice", "app.slice", "session.slice")

# Always a dry run, in a tree of its own, with no manager: nothing of the machine that runs the tests is touched.
COMPOSITION = """
import asyncio, os, sys
from pathlib import Path

from slicemgr.config import files, schema
from slicemgr.kernel.cgroupfs import CgroupDir
from slicemgr.kernel.watch import CgroupWatch
from slicemgr.service import daemon, guards, overview, publisher, slices, views
from slicemgr.service.cgroup_guard import CgroupGuard
from slicemgr.service.control import AddressInUseError
from slicemgr.service.guardian import Guardian
from slicemgr.service.machine_guard import MachineGuard

mount, config, watching = sys.argv[1:]


def no_manager(*_, **__):
    raise OSError("none in this test")


class PlainFiles(CgroupWatch):
    "Plain files can't be watched by epoll."

    added = 0

    def add_file(self, descriptor, callback):
        self._files[descriptor] = callback
        PlainFiles.added += 1


CgroupDir.open.__func__.__defaults__ = (mount,)
for each in (CgroupGuard, MachineGuard, Guardian):
    each.__init__.__kwdefaults__["mount"] = mount
slices.MOUNT = publisher.MOUNT = mount
overview.look.__defaults__ = (mount,)
daemon.connect = no_manager
daemon.user_root = views.user_root = lambda uid: "/user"
files.directories = lambda environment: [Path(config)]
if watching != "as it is":
    guards.CgroupWatch = PlainFiles

if watching == "no descriptor":
    def refused():
        raise OSError(24, "Too many open files")

    publisher.DirectoryWatch.__init__.__globals__["syscalls"].inotify_init = refused

if watching == "counted":
    ready = daemon.Readiness.ready
    daemon.Readiness.ready = lambda self, status: ready(self, f"{PlainFiles.added} files watched")


def say(line):
    print(line, flush=True)


service = daemon.Daemon(
    schema.read(files.load([Path(config)])),
    is_user=True,
    dry_run=watching == "dry run",
    environment=dict(os.environ),
    say=say,
    tell=lambda record: say(f"record {record.report}"),
)
try:
    asyncio.run(service.run())
except AddressInUseError as error:
    sys.exit(f"in use: {error}")
"""


class Machine:
    """The folders that a daemon finds, and the manager's ear."""

    def __init__(self, folder: Path) -> None:
        self.mount, self.config, self.state = folder / "cgroup", folder / "config", folder / "state"
        self.control = folder / "run/slicemgr/control"
        self.config.mkdir()
        (folder / "run").mkdir()
        for name in SLICES:
            self.make(name)
        self.ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ear.settimeout(SECONDS)
        self.ear.bind(str(folder / "notify"))
        self.environment = {
            **os.environ,
            "XDG_RUNTIME_DIR": str(folder / "run"),
            "XDG_STATE_HOME": str(self.state),
            "NOTIFY_SOCKET": str(folder / "notify"),
        }

    def make(self, name: str) -> None:
        """A calm slice."""
        directory = self.mount / "user" / name
        directory.mkdir(parents=True)
        for file, text in {
            "memory.current": "5\n",
            "memory.high": "100",
            "memory.max": "max\n",
            "memory.events": "high 0\n",
            "memory.events.local": "high 0\n",
            "memory.stat": "anon 5\n",
            "cgroup.procs": "",
        }.items():
            (directory / file).write_text(text)

    def configure(self, text: str) -> None:
        (self.config / "slicemgr.toml").write_text(text)

    def heard(self) -> list[str]:
        """The next message to the manager, as lines."""
        return self.ear.recv(4096).decode().split("\n")

    def high(self, name: str = "build.slice") -> str:
        return (self.mount / "user" / name / "memory.high").read_text()

    def ask(self, request: bytes) -> bytes:
        """The answer on the control socket."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(SECONDS)
            client.connect(str(self.control))
            client.sendall(request)
            return client.makefile("rb").readline()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.ear.close()


class Running:
    """A daemon that is ready."""

    def __init__(self, machine: Machine, *, watching: str = "plain", **environment: str) -> None:
        self.machine = machine
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMPOSITION, str(machine.mount), str(machine.config), watching],
            cwd=ROOT,
            env=machine.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> str:
        """Its status."""
        lines = self.machine.heard()
        assert lines[0] == "READY=1", (lines, self.process.poll())
        return lines[1].removeprefix("STATUS=")

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        """(status, what it said, what it should not have said)."""
        self.process.send_signal(number)
        said, wrong = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, said, wrong

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_from_the_start_to_an_end_in_order(machine: Machine, number: signal.Signals) -> None:
    """Ready with what it guards; then the manager is told, the socket gone, and nobody throttled without us."""
    with Running(machine) as daemon:
        status = daemon.ready()
        assert status.startswith("guarding build.slice, app.slice, session.slice; ")
        assert "oom_score_adj" in status
        assert machine.high() == "100"
        assert machine.ask(b"watch /user/build.slice/slicemgr-make-1.scope\n") == b"ok\n"
        returned, said, wrong = daemon.end(number)
        assert (returned, wrong) == (0, "")
        assert said.splitlines() == ["no service manager answers (none in this test): the slices are taken as they are"]
        assert machine.heard()[0] == "STOPPING=1"
        assert not machine.control.exists()
        assert machine.high() == "max"
        assert machine.high("app.slice") == "100"


def test_ready_is_who_watches(machine: Machine) -> None:
    """What happens after READY=1 is seen, also in a slice that a reload has brought: nobody's counters are read later."""
    with Running(machine, watching="counted") as daemon:
        assert daemon.ready() == "3 files watched"
        machine.make("agent.slice")
        machine.configure('[slice.agent]\nmemory_max = "500M"\n')
        daemon.process.send_signal(signal.SIGHUP)
        assert machine.heard()[0] == "RELOADING=1"
        assert daemon.ready() == "4 files watched"
        assert daemon.end()[0] == 0


@pytest.mark.parametrize(
    ("request_line", "word"),
    [
        (b"watch /elsewhere/x.scope\n", b"in no managed slice; try"),
        (b"watch /user/build.slicex\n", b"in no managed slice; try"),
        (b"watch /user/build.slice/../x\n", b"unknown request; try"),
        (b"GET /\n", b"unknown request; try"),
    ],
)
def test_what_is_not_watched(machine: Machine, request_line: bytes, word: bytes) -> None:
    with Running(machine) as daemon:
        daemon.ready()
        answer = machine.ask(request_line)
        assert answer.startswith(b"error ")
        assert word in answer


def test_a_slice_that_is_not_there(machine: Machine) -> None:
    """Said; the others are guarded."""
    machine.configure('[slice.agent]\nvictim = "whole-job"\n')
    with Running(machine) as daemon:
        assert "agent.slice" in daemon.ready()
        _, said, wrong = daemon.end()
        assert wrong == ""
        assert "agent.slice is not there, and no service manager to make it; try with systemd" in said


def test_a_broken_file_at_a_reload(machine: Machine) -> None:
    """The old configuration is kept, and that is in the status; the next good one is taken."""
    with Running(machine) as daemon:
        before = daemon.ready()
        machine.configure("[slice.build]\nmemory_mx = 5\n")
        daemon.process.send_signal(signal.SIGHUP)
        assert machine.heard()[0] == "RELOADING=1"
        kept = daemon.ready()
        assert kept.startswith("kept the old configuration: ")
        assert "memory_mx" in kept
        assert "memory_max" in kept
        assert machine.ask(b"watch /user/build.slice/x.scope\n") == b"ok\n"
        machine.make("agent.slice")
        machine.configure('[slice.agent]\nmemory_max = "500M"\n')
        daemon.process.send_signal(signal.SIGHUP)
        assert machine.heard()[0] == "RELOADING=1"
        status = daemon.ready()
        assert status != before
        assert "agent.slice" in status
        assert machine.ask(b"watch /user/agent.slice/x.scope\n") == b"ok\n"
        returned, said, wrong = daemon.end()
        assert (returned, wrong) == (0, "")
        assert "kept the old configuration" in said
        assert "read the configuration again" in said
        assert machine.high("agent.slice") == "max"


def test_a_dry_run_changes_nothing(machine: Machine) -> None:
    """Who guards a job is told to go on doing so, and no limit is touched, neither now nor at the end."""
    with Running(machine, watching="dry run") as daemon:
        assert daemon.ready().startswith("guarding build.slice")
        assert machine.ask(b"watch /user/build.slice/x.scope\n").startswith(b"error this daemon is a dry run")
        assert daemon.end() == (0, "", "")
        assert machine.high() == "100"


def test_who_is_guarded_no_more_is_told(machine: Machine) -> None:
    """By a hang-up: `slicemgr run` then looks for another guard. The others stay."""
    machine.make("agent.slice")
    machine.configure('[slice.agent]\nmemory_max = "500M"\n')
    with Running(machine) as daemon, socket.socket(socket.AF_UNIX) as leaving, socket.socket(socket.AF_UNIX) as staying:
        daemon.ready()
        for client, name in ((leaving, "agent.slice"), (staying, "build.slice")):
            client.settimeout(SECONDS)
            client.connect(str(machine.control))
            client.sendall(f"watch /user/{name}/x.scope\n".encode())
            assert client.recv(100) == b"ok\n"
        machine.configure("")
        daemon.process.send_signal(signal.SIGHUP)
        assert machine.heard()[0] == "RELOADING=1"
        daemon.ready()
        assert leaving.recv(100) == b""
        staying.setblocking(False)
        with pytest.raises(BlockingIOError):
            staying.recv(100)


def test_a_second_daemon(machine: Machine) -> None:
    """Refused; the first one neither loses its socket nor its throttle."""
    with Running(machine) as first:
        first.ready()
        with Running(machine) as second:
            _, wrong = second.process.communicate(timeout=SECONDS)
            assert second.process.returncode == 1
            assert wrong == f"in use: {machine.control}\n"
        assert machine.ask(b"watch /user/build.slice/x.scope\n") == b"ok\n"
        assert machine.high() == "100"


def test_killed_and_started_again(machine: Machine) -> None:
    """What was throttled is lifted by its guardian; the successor takes over the socket."""
    with Running(machine) as daemon:
        daemon.ready()
        children = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text().split()
        (guardian,) = [os.pidfd_open(int(pid)) for pid in children]
        daemon.end(signal.SIGKILL)
        assert select.select([guardian], [], [], SECONDS)[0]
        os.close(guardian)
        assert machine.high() == "max"
        assert machine.control.exists()
    with Running(machine) as successor:
        successor.ready()
        assert machine.ask(b"watch /user/build.slice/x.scope\n") == b"ok\n"
        assert successor.end()[0] == 0


def test_the_watchdog_is_fed(machine: Machine) -> None:
    """Again and again, from when it is ready."""
    with Running(machine, WATCHDOG_USEC="20000") as daemon:
        daemon.ready()
        assert [machine.heard() for _ in range(3)] == [["WATCHDOG=1"]] * 3


def test_a_watchdog_of_somebody_else(machine: Machine) -> None:
    with Running(machine, WATCHDOG_USEC="20000", WATCHDOG_PID="1") as daemon:
        daemon.ready()
        daemon.end()
        assert machine.heard()[0] == "STOPPING=1"


def test_a_guard_that_fails_is_told(machine: Machine) -> None:
    """Once, to the log and to the history: epoll refuses plain files, as a sandbox might."""
    with Running(machine, watching="as it is") as daemon:
        daemon.ready()
        assert daemon.process.stdout is not None
        while not (line := daemon.process.stdout.readline()).startswith("record "):
            assert line, "it said nothing"
        assert "PermissionError" in line
        returned, _, wrong = daemon.end()
        assert (returned, wrong) == (0, "")
    lines = (machine.state / "slicemgr/history.jsonl").read_text().splitlines()
    assert {json.loads(line)["report"]["kind"] for line in lines} == {"guard-failed"}
    assert len(lines) == len(SLICES)


def test_no_descriptor_for_the_bus(machine: Machine) -> None:
    """128 inotify instances are what a user has, and an editor may have taken them all: it guards without a bus."""
    pytest.importorskip("gi.repository.Gio")
    with Running(machine, watching="no descriptor") as daemon:
        daemon.ready()
        returned, said, wrong = daemon.end()
        assert (returned, wrong) == (0, "")
        assert "no D-Bus API: [Errno 24] Too many open files" in said


def test_a_history_that_can_t_be_written(machine: Machine) -> None:
    """Said once, and it guards on."""
    machine.state.write_text("a file")
    with Running(machine, watching="as it is") as daemon:
        daemon.ready()
        assert daemon.process.stdout is not None
        lines = [daemon.process.stdout.readline() for _ in range(3)]
        while not any("can't write the history" in line for line in lines):
            lines.append(daemon.process.stdout.readline())
            assert lines[-1]
        returned, rest, wrong = daemon.end()
        assert (returned, wrong) == (0, "")
        assert "".join([*lines, rest]).count("can't write the history") == 1
