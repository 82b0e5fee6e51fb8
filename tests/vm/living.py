# SPDX-License-Identifier: LGPL-2.1-or-later
"""A daemon as a real service of a manager, from its start to its end, and jobs that have begun and not yet leaked."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.conftest import HOG
from tests.vm.bystanders import until, whole_lines
from tests.vm.desktop_2010 import person, standing_by
from tests.vm.systemd import CGROUPS, Systemd

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.vm.desktop_2010 import Person

MIB, TESTER = 1 << 20, 1000
UNIT = "slicemgr-alive.service"
NO_JOB_LIMIT = '[slice.build]\nmemory_max = "max"\n'

_AS_MADE = {
    "build.slice": "MemoryMax=infinity MemoryHigh=infinity MemorySwapMax=infinity TasksMax=infinity CPUWeight=100",
    "app.slice": "MemoryMax=infinity MemoryHigh=infinity MemoryLow=0 MemoryMin=0 TasksMax=infinity CPUWeight=100",
    "session.slice": "MemoryMax=infinity MemoryHigh=infinity MemoryLow=0 MemoryMin=0 TasksMax=infinity CPUWeight=100",
}
"""What a daemon sets lasts until the next boot: so for the next test the slices are made what they were."""

UNIT_FILE = Path(__file__).parents[2] / "units/system/slicemgr.service"
_SANDBOX = re.compile(r"(Protect|Private|Restrict|Inaccessible|Capability|BindReadOnly|Device|State|Runtime)\w+=")


def is_gone(who: Person) -> bool:
    found = person(who.pid)
    return found is None or found[0].start_ticks != who.start_ticks or found[1] in "ZX"


def as_user(uid: int) -> dict[str, Any]:
    """What makes a child of root's test another user's process, with the way to that user's manager."""
    if uid == os.getuid():
        return {}
    home = pwd.getpwuid(uid).pw_dir
    runtime = f"/run/user/{uid}"
    environment = {**os.environ, "HOME": home, "XDG_RUNTIME_DIR": runtime}
    environment["DBUS_SESSION_BUS_ADDRESS"] = f"unix:path={runtime}/bus"
    return {"user": uid, "group": uid, "extra_groups": [], "env": environment}


def slice_directory(unit: str, uid: int | None = None) -> Path:
    """The cgroup of a slice of this user's manager."""
    uid = os.getuid() if uid is None else uid
    return CGROUPS / unit if uid == 0 else CGROUPS / f"user.slice/user-{uid}.slice/user@{uid}.service" / unit


@dataclass
class Service:
    """A daemon that a manager has started."""

    uid: int
    unit: str
    config: Path
    _told_before: int = field(init=False)

    def __post_init__(self) -> None:
        self._told_before = len(self._lines())

    def systemctl(self, *arguments: str) -> str:
        whose = [] if self.uid == 0 else ["--user"]
        command = ["systemctl", *whose, *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True, **as_user(self.uid))
        return str(done.stdout).strip()

    def show(self, name: str) -> str:
        return self.systemctl("show", "--value", f"--property={name}", self.unit)

    @property
    def pid(self) -> int:
        return int(self.show("MainPID"))

    @property
    def socket(self) -> Path:
        return Path("/run/slicemgr/control" if self.uid == 0 else f"/run/user/{self.uid}/slicemgr/control")

    def history(self) -> list[dict[str, Any]]:
        """What it has told since it was started."""
        return [json.loads(line) for line in self._lines()[self._told_before :]]

    def victims(self) -> list[str]:
        """Whom it has ended, in order."""
        reports = [each["report"] for each in self.history() if each["report"]["kind"] == "kill"]
        return [each["victim"]["name"] for each in reports]

    def configure(self, text: str) -> None:
        """For a daemon of the user who runs the test."""
        self.config.parent.mkdir(parents=True, exist_ok=True)
        self.config.write_text(text)

    def _lines(self) -> list[str]:
        home = Path("/var/lib") if self.uid == 0 else Path(pwd.getpwuid(self.uid).pw_dir) / ".local/state"
        file = home / "slicemgr/history.jsonl"
        return whole_lines(file.read_text()) if file.exists() else []


@contextlib.contextmanager
def prepared(config: str = "", *, uid: int | None = None) -> Iterator[Service]:
    """A configuration, and no daemon yet; afterwards neither, and the slices as they were."""
    uid = os.getuid() if uid is None else uid
    home = Path("/etc") if uid == 0 else Path(pwd.getpwuid(uid).pw_dir) / ".config"
    service = Service(uid, UNIT, home / "slicemgr/slicemgr.toml.d/50-test.toml")
    if config:
        service.configure(config)
    try:
        yield service
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            service.systemctl("stop", service.unit)
        with contextlib.suppress(subprocess.CalledProcessError):
            service.systemctl("reset-failed", service.unit)
        service.config.unlink(missing_ok=True)
        units = _AS_MADE if uid else {"build.slice": _AS_MADE["build.slice"]}
        for unit, properties in units.items():
            service.systemctl("set-property", "--runtime", unit, *properties.split())
        # What is set comes after the unit files, and wins: a test of these is not to find it.
        service.systemctl("revert", *units)


def start(service: Service, *options: str, properties: Mapping[str, str] | None = None) -> None:
    """As the units do it. Returns when the daemon has told that it is ready."""
    whose = [] if service.uid == 0 else ["--user"]
    command = ["systemd-run", *whose, f"--unit={service.unit}", "--quiet", "--slice=-.slice", "--service-type=notify"]
    settings = {"WatchdogSec": "60", "TimeoutStopSec": "20", "OOMPolicy": "continue", **(properties or {})}
    command += [f"--property={name}={value}" for name, value in settings.items()]
    kind = "--system" if service.uid == 0 else "--user"
    command += ["slicemgr", "daemon", kind, *options]
    done = subprocess.run(command, capture_output=True, text=True, **as_user(service.uid))
    assert done.returncode == 0, done.stderr


def sandbox() -> dict[str, str]:
    """What the unit of the system's daemon takes from it, but for the system calls; and for the network, whose
    namespace hides a socket from `connections`."""
    lines = [line for line in UNIT_FILE.read_text().splitlines() if _SANDBOX.match(line)]
    return {name: value for name, _, value in (line.partition("=") for line in lines) if name != "PrivateNetwork"}


@contextlib.contextmanager
def living(
    config: str = "", *options: str, uid: int | None = None, properties: Mapping[str, str] | None = None
) -> Iterator[Service]:
    """A daemon that is ready."""
    with prepared(config, uid=uid) as service:
        start(service, *options, properties=properties)
        yield service


class Job:
    """`slicemgr run`, or whatever else holds a hog, and the hog in it."""

    def __init__(self, process: subprocess.Popen[str], hog: Person) -> None:
        self.process = process
        self.hog = hog

    def told(self) -> str:
        """Wait for its end; its standard error."""
        return self.process.communicate(timeout=60)[1]


@contextlib.contextmanager
def held(folder: Path, hog: list[str], *before: str, uid: int | None = None) -> Iterator[Job]:
    """`before` (the way to run it), with a hog behind it that has reached its start size. Both are gone afterwards."""
    ready = folder / f"ready-{time.monotonic_ns()}"
    ready.touch(mode=0o666)
    ready.chmod(0o666)
    process = subprocess.Popen(
        [*before, sys.executable, HOG, *hog, "--ready", str(ready)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        **({} if uid is None else as_user(uid)),
    )
    found = None
    try:
        until(lambda: ready.read_text().endswith("\n") or process.poll() is not None, "the hog is ready")
        found = person(int(ready.read_text() or 0))
        assert found is not None, process.communicate()[1]
        yield Job(process, found[0])
    finally:
        for each in (found[0].pid if found is not None else 0, process.pid):
            with contextlib.suppress(ProcessLookupError):
                if each and (each != process.pid or process.poll() is None):
                    os.kill(each, 9)
        process.wait(30)
        assert process.stderr is not None
        process.stderr.close()


def leak(comm: str = "leak", *, start: str = "10M", grow: str = "600M", rate: str = "30M") -> list[str]:
    """It waits for nothing: at this rate it needs a second or more to its limit."""
    return ["--comm", comm, "--start", start, "--grow", grow, "--rate", rate, "--hold", "600"]


def quiet(comm: str, size: str) -> list[str]:
    """It holds this, and takes no more."""
    return ["--comm", comm, "--start", size, "--hold", "600"]


def scope(slice_name: str, properties: Mapping[str, str] | None = None) -> list[str]:
    """A scope without slicemgr: nobody but a daemon guards what is in it."""
    settings = [f"--property={name}={value}" for name, value in (properties or {}).items()]
    whose = ["--user"] if os.getuid() else []
    return ["systemd-run", *whose, "--scope", "--quiet", "--collect", f"--slice={slice_name}", *settings]


def ask(service: Service, cgroup: str) -> str:
    """What the daemon answers to `slicemgr run`; who has asked before us has its answer too."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(service.socket))
        connection.settimeout(20)
        connection.sendall(f"watch {cgroup}\n".encode())
        return connection.makefile().readline()


def connections(server: Path) -> int:
    """Those that it has taken: each has the server's path as its name, and so has the ear itself."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    return sum(line.endswith(f" {server}") for line in lines) - 1


def until_registered(service: Service, job: Job) -> None:
    """`slicemgr run` has been told that its job is watched."""
    until(lambda: connections(service.socket) > 0, "the job is registered")
    assert ask(service, "/" + str(cgroup_path(job.hog.pid))) == "ok\n"


def cgroup_path(pid: int) -> str:
    """Without its first slash."""
    return Path(f"/proc/{pid}/cgroup").read_text().strip().removeprefix("0::/")


@contextlib.contextmanager
def session_of_tester() -> Iterator[None]:
    """The session in tester's real slices, for a test of root's."""
    here = [f"--working-directory={os.getcwd()}", "--setenv=LC_ALL=C.UTF-8"]
    member = [sys.executable, "-B", "-m", "tests.vm.living"]
    process = subprocess.Popen(
        ["systemd-run", "--user", "--pipe", "--wait", "--collect", "--quiet", *here, *member],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **as_user(TESTER),
    )
    assert process.stdout is not None
    ready = process.stdout.readline()
    try:
        yield
    finally:
        _, complaints = process.communicate()
    assert (ready, process.returncode) == ("ready\n", 0), complaints


def main() -> None:
    """The other half of `session_of_tester`: until stdin ends."""
    with standing_by(Systemd(user=True)):
        print("ready", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
