# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr monitor`: a line for each signal, as it happens, until there is a reason to end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from gi.repository import Gio, GLib
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.bus.interface import InterfaceTable
from slicemgr.bus.objects import MANAGER, NO_LIMIT, ROOT, job_object, slice_object
from slicemgr.cli import reading
from slicemgr.cli.monitor import _Showing
from slicemgr.cli.signal_lines import ARGUMENTS, signal_data, signal_line
from tests.bus.fake_daemon import KATE, KATE_UNIT, MIB, FakeDaemon, moment
from tests.cli.slicemgr_command import SLICEMGR

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.bus.private_bus import PrivateBus

BUILD, JOB = slice_object("build.slice"), job_object(KATE_UNIT)
WARNING = {"control-group": KATE, "memory-current": 1100 * MIB, "memory-high": 960 * MIB, "job": KATE_UNIT}
KILLED = {
    "by": "slicemgr",
    "pid": 4711,
    "name": "cc1plus",
    "held": 400 * MIB,
    "reason": "memory.high",
    "evidence": "there is no swap left to take it",
    "outcome": "exited",
    "instead-of": {"pid": 4700, "name": "make"},
    "runners-up": [{"pid": 4712, "name": "ld", "held": 200 * MIB}],
    "memory-before": 1100 * MIB,
    "limit": 960 * MIB,
    "command-line": ["cc1plus", "kate.cpp"],
}
SPARED = {"spared": [{"pid": 1, "name": "systemd", "why": "pid 1"}]}

LINES: list[tuple[str, tuple[Any, ...], str]] = [
    ("JobAdded", (KATE_UNIT, JOB), "job 'kate' has begun"),
    ("JobAdded", (KATE_UNIT, job_object(KATE_UNIT, 1000)), "job 'kate' (uid 1000) has begun"),
    ("JobRemoved", (KATE_UNIT, JOB), "job 'kate' has ended"),
    ("SessionAdded", ("c2", f"{ROOT}/sessions/c2"), "session 'c2' has begun"),
    ("SessionRemoved", ("c2", f"{ROOT}/sessions/c2"), "session 'c2' has ended"),
    ("JobPaused", (JOB, {"control-group": KATE}), "job 'kate' is paused"),
    ("JobResumed", (JOB, {"control-group": KATE}), "job 'kate' goes on"),
    ("LimitsChanged", (BUILD, {"MemoryMax": 8 << 30, "MemoryHigh": NO_LIMIT, "CPUWeight": 20}),
     "build has other limits: memory_max 8.0G, memory_high max, cpu_weight 20"),
    ("LimitsChanged", (BUILD, {"Later\x1b": 1}), "build has other limits: Later\\x1b 1"),
    ("PressureLevelChanged", (slice_object("app.slice", 1000), "medium"), "app (uid 1000): memory pressure is medium"),
    ("Warning", (JOB, WARNING),
     "job 'kate' holds 1.1G, which is above memory.high 960.0M: if that stays so, somebody will be ended"),
    ("ProcessKilled", (JOB, KILLED),
     ("killed 'cc1plus' (pid 4711), which held 400.0M, in place of its parent 'make' (pid 4700), in job 'kate': 1.1G used of "
      "memory.high 960.0M, and there is no swap left to take it; next was 'ld' (pid 4712) with 200.0M; it ran: cc1plus kate.cpp")),
    ("ProcessKilled", (ROOT, {**KILLED, "control-group": "/x\n", "reason": "MemAvailable", "memory-before": 300 * MIB, "limit": 800 * MIB,
                              "instead-of": {}, "runners-up": [], "command-line": [], "outcome": "still there after its time-out"}),
     ("sent SIGKILL in vain to 'cc1plus' (pid 4711), which held 400.0M, in /x\\n: the machine had 300.0M available of at least "
      "800.0M; nobody else could have been killed")),
    ("ProcessKilled", (BUILD, {"by": "kernel", "count": 3, "victims": [{"pid": 7, "name": "ld\n"}]}),
     "the kernel was first, in build: it killed 'ld\\n' (pid 7) and 2 processes"),
    ("ProcessKilled", (BUILD, {"by": "kernel", "count": 1, "victims": []}), "the kernel was first, in build: it killed 1 process"),
    ("NobodyToEnd", (BUILD, SPARED), "build is at its limit, and nobody in it can be ended: 'systemd' (pid 1) is pid 1"),
    ("NobodyToEnd", (BUILD, {"spared": [], "out-of-reach": True}),
     "build is at its limit, and nobody in it can be ended: what it holds is in files that no process's end frees"),
    ("HoldReleased", (3,), "hold 3 is no more"),
    ("Of\x1bTomorrow", (3,), "Of\\x1bTomorrow: a signal of a newer daemon"),
    ("JobAdded", (1, 2, 3), "JobAdded: a signal of a newer daemon"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "line"), LINES)
def test_a_line(name: str, arguments: tuple[Any, ...], line: str) -> None:
    """What it says."""
    assert signal_line(name, arguments) == line


@given(st.text(), st.text(), st.integers(0, NO_LIMIT))
def test_no_name_draws_on_the_terminal(name: str, path: str, number: int) -> None:
    """Wherever it stands; and what is missing is no reason to stop."""
    details = {"name": name, "pid": number, "why": name, "reason": name, "evidence": name}
    hostile = {"victims": [details], "spared": [details], "instead-of": details, "runners-up": [details]}
    for signal_name, names in ARGUMENTS.items():
        for each in ({}, details, hostile, {**hostile, "by": "kernel", "count": number}):
            values = {"details": each, "limits": {name: number}, "cookie": number}
            assert signal_line(signal_name, [values.get(key, path) for key in names]).isprintable()


def test_the_arguments_are_those_of_the_interface() -> None:
    """Every signal of the manual has its line, by the manual's names."""
    info = InterfaceTable().infos[MANAGER]
    assert {each.name: tuple(argument.name for argument in each.args) for each in info.signals} == ARGUMENTS


class Monitor:
    """A running one."""

    def __init__(self, address: str, *arguments: str, stdout: int = subprocess.PIPE) -> None:
        environment = {**os.environ, "DBUS_SESSION_BUS_ADDRESS": address, "DBUS_SYSTEM_BUS_ADDRESS": address}
        self.process = subprocess.Popen(
            [*SLICEMGR, "monitor", *arguments], env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True
        )

    def said(self) -> str:
        """The next line on stderr."""
        assert self.process.stderr is not None
        return self.process.stderr.readline()

    def shown(self) -> str:
        """The next line on stdout."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def signal(self) -> str:
        """Which one the next line on stdout tells of, with --json."""
        return str(json.loads(self.shown())["signal"])

    def end(self) -> tuple[int, str, str]:
        """Its status, and what was still on stdout and stderr."""
        shown, said = self.process.communicate(timeout=60)
        return self.process.returncode, shown or "", said or ""


@contextlib.contextmanager
def monitor(address: str, *arguments: str, **options: Any) -> Iterator[Monitor]:
    """It is gone afterwards."""
    made = Monitor(address, *arguments, **options)
    with made.process:
        try:
            yield made
        finally:
            made.process.kill()


LISTENING = "slicemgr monitor: listening to the user daemon\n"


def test_for_people(bus: PrivateBus) -> None:
    """The time, and what happened; nothing else is on stdout."""
    with FakeDaemon(bus) as daemon, monitor(bus.address, "--user") as it:
        assert it.said() == LISTENING
        for name, arguments, _ in LINES[:2] + LINES[11:12]:
            daemon.emit(name, *arguments)
        seen = [it.shown() for _ in range(3)]
        assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", line) for line in seen)
        assert [line[21:-1] for line in seen] == [LINES[at][2] for at in (0, 1, 11)]
        it.process.send_signal(signal.SIGINT)
        assert it.end() == (0, "", "")


def test_for_programs(bus: PrivateBus) -> None:
    """One object a line, with the arguments by their names."""
    with FakeDaemon(bus, moment(user_uid=None)) as daemon, monitor(bus.address, "--system", "--json") as it:
        assert it.said() == "slicemgr monitor: listening to the system daemon\n"
        daemon.emit("JobAdded", KATE_UNIT, JOB)
        daemon.emit("ProcessKilled", JOB, KILLED)
        lines = [json.loads(it.shown()) for _ in range(3)]
        assert {each.pop("schema") for each in lines} == {"slicemgr.monitor/1"}
        assert all(each.pop("wall_seconds") > 1e9 for each in lines)
        assert lines == [
            {"signal": "DaemonAdded"},
            {"signal": "JobAdded", "unit": KATE_UNIT, "job": JOB},
            {"signal": "ProcessKilled", "object": JOB, "details": KILLED},
        ]


def test_the_json_of_what_is_not_known() -> None:
    assert signal_data("OfTomorrow", (1, "x")) == {"signal": "OfTomorrow", "arguments": [1, "x"]}


def test_the_daemon_comes_and_goes(bus: PrivateBus) -> None:
    """It is waited for; who has its name is listened to."""
    with monitor(bus.address, "--user", "--json") as it:
        assert it.said() == (
            "slicemgr monitor: there is no user daemon on the session bus, waiting for one; "
            "try 'systemctl --user start slicemgr'\n"
        )
        seen: list[str] = []
        for said in (LISTENING, LISTENING.replace("\n", ", which is there again\n")):
            with FakeDaemon(bus) as daemon:
                assert it.said() == said
                daemon.emit("JobAdded", KATE_UNIT, JOB)
                seen += [it.signal() for _ in range(3)]
            assert it.said() == "slicemgr monitor: the user daemon has gone, waiting for it\n"
        seen.append(it.signal())
        assert seen == ["DaemonRemoved", "DaemonAdded", "JobAdded"] * 2 + ["DaemonRemoved"]
        it.process.send_signal(signal.SIGTERM)
        assert it.end() == (0, "", "")


def test_who_is_guarded_by_another_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Is told which one to listen to."""
    manager = reading.Manager(1000, str(tmp_path), "", (), system_socket=str(tmp_path / "system"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(manager.system_socket)
        listener.listen()
        for is_there in (True, False):
            assert _Showing(manager, as_json=False).present(is_there)
    assert capsys.readouterr().err.splitlines() == [
        "slicemgr monitor: listening to the user daemon",
        (
            "slicemgr monitor: there is no user daemon on the session bus, waiting for one; try 'systemctl --user start "
            "slicemgr', or 'slicemgr monitor --system' for the one that guards you"
        ),
    ]


def test_an_impostor_is_not_listened_to(bus: PrivateBus) -> None:
    """Everybody can send us a signal; only the daemon's are shown."""
    with FakeDaemon(bus) as daemon, monitor(bus.address, "--user") as it:
        assert it.said() == LISTENING
        connection = Gio.DBusConnection.new_for_address_sync(
            bus.address,
            Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION,
            None,
            None,
        )
        names = connection.call_sync(
            "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "ListNames", None, None, 0, 5000, None
        ).unpack()[0]  # fmt: skip
        for name in names:
            if name.startswith(":") and name != connection.get_unique_name():
                connection.emit_signal(name, ROOT, MANAGER, "JobAdded", GLib.Variant("(so)", ("x", "/x")))
        connection.flush_sync(None)
        connection.close_sync(None)
        daemon.emit("JobRemoved", KATE_UNIT, JOB)
        assert it.shown()[21:] == "job 'kate' has ended\n"


def test_whoever_has_read_enough(bus: PrivateBus) -> None:
    """Also while nothing happens: `slicemgr monitor | head -1` ends."""
    with FakeDaemon(bus), monitor(bus.address, "--user") as it:
        assert it.said() == LISTENING
        assert it.process.stdout is not None
        it.process.stdout.close()
        it.process.stdout = None
        assert it.end() == (0, "", "")


def test_a_disk_that_is_full(bus: PrivateBus) -> None:
    with (
        open("/dev/full", "w") as full,
        FakeDaemon(bus) as daemon,
        monitor(bus.address, "--user", stdout=full.fileno()) as it,
    ):
        assert it.said() == LISTENING
        daemon.emit("JobRemoved", KATE_UNIT, JOB)
        assert it.end() == (125, "", "slicemgr monitor: can't write: No space left on device; try another place\n")


def test_a_bus_that_goes(bus: PrivateBus) -> None:
    """With it the session has ended."""
    with FakeDaemon(bus), monitor(bus.address, "--user") as it:
        assert it.said() == LISTENING
        bus.kill()
        assert it.end() == (
            125,
            "",
            "slicemgr monitor: there is no session bus (the bus is gone); try from within your session, or --system\n",
        )


def test_no_bus() -> None:
    with monitor("unix:path=/nowhere/bus", "--system") as it:
        status, shown, said = it.end()
    assert (status, shown) == (125, "")
    assert re.fullmatch(r"slicemgr monitor: there is no system bus \(.*\); try 'systemctl status dbus'\n", said)
