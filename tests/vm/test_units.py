# SPDX-License-Identifier: LGPL-2.1-or-later
"""The unit files in a real manager, put there by `slicemgr install`; a stand-in for the daemon under its hardening."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from slicemgr.kernel.machine import machine_reading
from tests.vm.bystanders import until
from tests.vm.systemd import CGROUPS, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.vm.systemd import Systemd

CHECKOUT = Path(__file__).parents[2]
MIB = 1 << 20

TESTERS_MANAGER = "user-1000.slice/user@1000.service"
"""In user.slice; it has run since before `slicemgr install`."""

CAPABILITIES = {
    # Bit in CapBnd, and what a guard without it can't do (linux/capability.h).
    "CAP_DAC_OVERRIDE": (1, {"freeze", "open cgroup.kill", "slice pressure"}),
    "CAP_KILL": (5, {"signal 0", "kill and release"}),
    "CAP_SYS_PTRACE": (19, {"read smaps_rollup", "read maps", "compare address spaces"}),
    "CAP_SYS_RESOURCE": (24, {"machine pressure", "slice pressure"}),
    "CAP_SYSLOG": (34, {"read the kernel log"}),
}


def install(*arguments: str) -> str:
    """What it says. Root's is for the system's manager, tester's for tester's."""
    return run("slicemgr", "install", *arguments)


@pytest.fixture
def installed(vm_user: str) -> Iterator[Path]:
    """The folder of the installed units."""
    install()
    yield Path("/usr/local/lib/systemd/system") if vm_user == "root" else Path.home() / ".local/share/systemd/user"
    install("--uninstall")


@dataclass
class StandIn:
    """slicemgr.service with tests/vm/guard_stand_in.py for the daemon."""

    systemd: Systemd
    drop_in: Path
    runtime: Path
    victim: int
    victim_cgroup: Path

    def start(self, *settings: str) -> dict[str, Any]:
        """What it could do and what not, with these further lines in [Service]."""
        manager = self.runtime.parent / "systemd/private"
        arguments = f"report.json {self.victim} {self.victim_cgroup} {manager}"
        lines = [
            "[Service]",
            "ExecStart=",
            f"ExecStart={sys.executable} -m tests.vm.guard_stand_in {arguments}",
            f"WorkingDirectory={CHECKOUT}",
            *settings,
        ]
        self.drop_in.parent.mkdir(parents=True, exist_ok=True)
        self.drop_in.write_text("\n".join(lines) + "\n")
        self.systemd.systemctl("daemon-reload")
        self.systemd.systemctl("restart", "slicemgr")
        told: dict[str, Any] = json.loads((self.runtime / "report.json").read_text())
        return told

    def refused(self, told: dict[str, Any]) -> dict[str, str]:
        return {deed: result for deed, result in told["needed"].items() if result != "ok"}

    def show(self, name: str) -> str:
        return self.systemd.systemctl("show", f"--property={name}", "--value", "slicemgr")


@pytest.fixture
def stand_in(vm_user: str, systemd: Systemd, installed: Path) -> Iterator[Callable[[], StandIn]]:
    """Start one with a fresh victim: a service of tester's own manager, so all files of its cgroup are tester's."""
    config = Path("/etc/systemd/system") if vm_user == "root" else Path.home() / ".config/systemd/user"
    drop_in = config / "slicemgr.service.d/stand-in.conf"
    runtime = Path("/run" if vm_user == "root" else "/run/user/1000") / "slicemgr"
    whose = ["--user", "--machine=tester@.host"] if vm_user == "root" else ["--user"]
    victims: list[str] = []

    def make() -> StandIn:
        unit = f"victim{time.monotonic_ns()}.service"
        victims.append(unit)
        run("systemd-run", "--quiet", "--collect", *whose, f"--unit={unit}", "sleep", "1000")
        victim = int(run("systemctl", *whose, "show", "--property=MainPID", "--value", unit))
        cgroup = run("systemctl", *whose, "show", "--property=ControlGroup", "--value", unit)
        return StandIn(systemd, drop_in, runtime, victim, CGROUPS / cgroup.lstrip("/"))

    assert installed.is_dir()
    yield make
    systemd.systemctl("stop", "slicemgr")
    for unit in victims:
        # The guard has killed most of them.
        subprocess.run(["systemctl", *whose, "stop", unit], capture_output=True)
    shutil.rmtree(drop_in.parent, ignore_errors=True)


def files_of(home: Path) -> set[Path]:
    etc, share = Path("/etc"), Path("/usr/share")
    folders = [home, Path("/usr/local"), Path("/var/lib/slicemgr"), etc / "systemd", etc / "xdg"]
    folders += [share / "dbus-1", share / "polkit-1"]
    return {path for folder in folders for path in folder.rglob("*") if "__pycache__" not in path.parts}


def test_uninstall_leaves_nothing(systemd: Systemd, vm_user: str) -> None:
    """Not a file, not a folder, not a limit; a second install changes nothing."""
    home = Path("/root" if vm_user == "root" else "/home/tester")
    before = files_of(home)
    flag = "" if vm_user == "root" else " --user"
    told = install().splitlines()
    assert f"ran systemctl{flag} daemon-reload" in told
    assert told[-1] == f"now try: systemctl{flag} enable --now slicemgr"
    assert {line.split()[0] for line in install().splitlines() if "/" in line} <= {"kept", "for"}
    systemd.systemctl("enable", "slicemgr")
    assert files_of(home) > before
    told = install("--uninstall").splitlines()
    services = "slicemgr.service" if vm_user == "root" else "slicemgr.service slicemgr-session.service"
    assert told[0] == f"ran systemctl{flag} disable --now {services}"
    # The folders in which `systemctl enable` has put its link.
    assert files_of(home) - before <= {home / each for each in (".config", ".config/systemd", ".config/systemd/user")}
    assert systemd.systemctl("show", "--property=LoadState", "--value", "slicemgr.service") == "not-found"


def test_systemd_analyze_is_content(installed: Path, vm_user: str, vm_files: Path) -> None:
    """Nothing to say of any line, and the system's service is OK: below 5 it would be MEDIUM, and 0 is PERFECT."""
    whose = [] if vm_user == "root" else ["--user"]
    for unit in ("slicemgr.service", "build.slice", *(() if vm_user == "root" else ("slicemgr-session.service",))):
        assert run("systemd-analyze", *whose, "verify", "--man=no", str(installed / unit)) == ""
    told = run("systemd-analyze", *whose, "security", "--no-pager", "slicemgr.service")
    (vm_files / f"security-{vm_user}.txt").write_text(told)
    ((score, word),) = re.findall(r"Overall exposure level for slicemgr.service: ([\d.]+) (\w+)", told)
    assert word in {"OK", "SAFE", "PERFECT"} or vm_user != "root"
    # Of user services the mounts, devices and capabilities count as holes that only root could close.
    assert float(score) < (2.5 if vm_user == "root" else 6.5)


def test_a_build_in_its_slice(systemd: Systemd, installed: Path, vm_user: str) -> None:
    """As build.slice itself says: the scope is in it, it has its limit, and slicemgr runs in it."""
    command = ["slicemgr", "run", "--max", "60%", "--", "cat", "/proc/self/cgroup"]
    told = systemd.run_scope(*command, Slice="build.slice", OOMPolicy="continue")
    assert re.search(r"(^|/user@1000.service|::)/build.slice/", told), told
    cgroup = CGROUPS / systemd.systemctl("show", "--property=ControlGroup", "--value", "build.slice").lstrip("/")
    total = machine_reading().total_bytes
    systemd.systemctl("start", "build.slice")
    assert int((cgroup / "memory.max").read_text()) == pytest.approx(total * 0.8, rel=0.01)
    assert (cgroup / "cpu.weight").read_text().strip() == "50"
    assert int((cgroup / "pids.max").read_text()) > 100
    systemd.systemctl("stop", "build.slice")
    assert installed.is_dir()


@pytest.mark.vm(users=("root",))
def test_a_session_is_protected_all_the_way(systemd: Systemd, installed: Path, vm_files: Path) -> None:
    """memory.low is there at each level from the root to the manager of who logs in now.

    Who was logged in before has it up to user-1000.slice, and with systemd 252 to the end: 257 changes no service that
    runs.
    """
    assert installed.is_dir()
    systemd.systemctl("start", "user@0.service")
    try:
        lows = {
            path: int((CGROUPS / "user.slice" / path / "memory.low").read_text())
            for path in ("", "user-0.slice", "user-0.slice/user@0.service", "user-1000.slice", TESTERS_MANAGER)
        }
        (vm_files / "session.json").write_text(json.dumps(lows))
    finally:
        systemd.systemctl("stop", "user@0.service")
    version = int(run("systemctl", "--version").split()[1])
    if version >= 257:
        del lows[TESTERS_MANAGER]
    total = machine_reading().total_bytes
    assert lows == {path: pytest.approx(total * 0.2, rel=0.01) for path in lows}


@pytest.mark.vm(users=("root",))
def test_protection_needs_every_ancestor(systemd: Systemd, vm_files: Path) -> None:
    """Why there is a drop-in for each level, and why session.slice and app.slice claim all of it."""
    told = systemd.run_scope(sys.executable, "-m", "tests.vm.protection_inside", Delegate="yes")
    stays = json.loads(told)
    (vm_files / "protection.json").write_text(told + "\n" + run("findmnt", "-no", "OPTIONS", "/sys/fs/cgroup"))
    assert stays["both"] >= 55
    assert stays["both, a build reads"] >= 55
    assert stays["session alone"] < 40
    assert stays["chain alone"] >= 55, stays  # memory_recursiveprot
    assert stays["chain alone, a build reads"] < 40


def test_the_guard_can_do_its_work(stand_in: Callable[[], StandIn], vm_user: str, vm_files: Path) -> None:
    """Under the hardening of the unit: all that a guard does, and nothing that it does not."""
    root = vm_user == "root"
    guard = stand_in()
    told = guard.start()
    (vm_files / f"guard-{vm_user}.json").write_text(json.dumps(told, indent=1))
    assert guard.refused(told) == {}
    assert "ok" not in told["forbidden"].values(), told["forbidden"]
    assert told["lock"] == ("LOCKED" if root else "LIMITED")
    assert told["oom_score_adj"] == (-900 if root else 100)
    assert told["nice"] == (-10 if root else 0)
    assert told["open_files"] >= 4096
    if root:
        assert told["cgroup"] == "0::/slicemgr.service"
        (bounding,) = re.findall(r"^CapBnd:\s*(\w+)", told["status"], re.MULTILINE)
        assert int(bounding, 16) == sum(1 << bit for bit, _ in CAPABILITIES.values())
    else:
        assert told["cgroup"].endswith("/user@1000.service/slicemgr.service")
    cgroup = CGROUPS / told["cgroup"].removeprefix("0::/")
    assert (cgroup / "memory.swap.max").read_text() == "0\n"
    assert (cgroup / ("memory.min" if root else "memory.low")).read_text() == f"{64 * MIB}\n"
    assert int((cgroup / "memory.current").read_text()) < 64 * MIB


def test_the_manager_hears_us(stand_in: Callable[[], StandIn]) -> None:
    """READY, STATUS, WATCHDOG, RELOADING, STOPPING: one way through the life of a service."""
    guard = stand_in()
    guard.start("WatchdogSec=10")
    assert guard.show("ActiveState") == "active"
    assert guard.show("StatusText").startswith("guarding; ")
    assert guard.show("WatchdogTimestamp")
    guard.systemd.systemctl("reload", "slicemgr")
    until(lambda: guard.show("StatusText") == "reloaded READY=0", "it has reloaded")
    assert guard.show("ActiveState") == "active"
    pid = guard.show("MainPID")
    run("kill", "-KILL", pid)
    until(lambda: guard.show("MainPID") not in {pid, "0"}, "it is started again")
    assert guard.show("NRestarts") == "1"
    guard.systemd.systemctl("stop", "slicemgr")
    assert guard.show("Result") == "success"


@pytest.mark.vm(users=("root",), timeout=400)
def test_each_capability_is_needed(stand_in: Callable[[], StandIn], vm_files: Path) -> None:
    """Without it a guard can't do exactly these."""
    refused = {name: stand_in().start(f"CapabilityBoundingSet=~{name}")["needed"] for name in CAPABILITIES}
    (vm_files / "capabilities.json").write_text(json.dumps(refused, indent=1))
    assert {name: {deed for deed, result in needed.items() if result != "ok"} for name, needed in refused.items()} == {
        name: deeds for name, (_, deeds) in CAPABILITIES.items()
    }


def test_the_daemon_itself(systemd: Systemd, installed: Path, vm_user: str, vm_files: Path) -> None:
    """With the unit as it is: READY, reload, a SIGKILL that it survives, and an end in order."""

    def show(name: str) -> str:
        return systemd.systemctl("show", f"--property={name}", "--value", "slicemgr")

    assert installed.is_dir()
    systemd.systemctl("start", "slicemgr")
    try:
        words = [show("StatusText")]
        systemd.systemctl("reload", "slicemgr")

        def has_read_again() -> bool:
            words[1:] = [show("StatusText")]
            return words[1] not in {"", "reading the configuration"}

        until(has_read_again, "it has reloaded")
        pid = show("MainPID")
        run("kill", "-KILL", pid)
        until(lambda: show("MainPID") not in {pid, "0"} and show("ActiveState") == "active", "it is back")
        assert show("NRestarts") == "1"
    finally:
        systemd.systemctl("stop", "slicemgr")
        systemd.systemctl("revert", "build.slice", "app.slice", "session.slice")
        # An ordinary user may not read a journal in /run.
        log = run("journalctl", "--unit=slicemgr", "--no-pager", "--output=cat") if vm_user == "root" else ""
        (vm_files / f"daemon-{vm_user}.txt").write_text("\n".join([*words, log]))
    assert show("Result") == "success"
    assert words[0] == words[1]
    assert ("memory locked" in words[0]) == (vm_user == "root")
    assert "not permitted" not in log
