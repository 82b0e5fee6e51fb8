# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guarded jobs in the guest: the daemon as a service of this user's manager, `slicemgr run`, and what both told."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tests.conftest import HOG
from tests.vm.bystanders import until, whole_lines
from tests.vm.systemd import Systemd

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20

UNIT = "slicemgr.service"
SLICES = ("build.slice", "app.slice", "session.slice")


def build_slice() -> str:
    """Path of this user's build.slice, as /proc/PID/cgroup tells it."""
    uid = os.getuid()
    return f"/user.slice/user-{uid}.slice/user@{uid}.service/build.slice" if uid else "/build.slice"


# Jobs.


def hog(*options: str) -> str:
    """A memory hog, for a shell."""
    return f"{sys.executable} {HOG} {' '.join(options)}"


def leak(size: str = "200M", rate: str = "60M", *, comm: str = "leak", hold: float = 0.0) -> str:
    """One that grows."""
    return hog("--grow", size, "--rate", rate, "--comm", comm, "--hold", str(hold))


@dataclass(frozen=True, slots=True)
class Told:
    """What `slicemgr run` has told at its end."""

    status: int
    stdout: str
    stderr: str
    report: Any
    """Its --json."""

    @property
    def kills(self) -> list[Any]:
        kills: list[Any] = self.report["kills"]
        return kills

    @property
    def victims(self) -> list[str]:
        """Names of those that we killed, in order."""
        return [each["comm"] for each in self.kills]

    def nothing_failed(self) -> None:
        """AssertionError for what may not be in any report."""
        assert self.report["guard_failures"] == []
        assert self.report["failed_kills"] == []
        assert "Traceback" not in self.stderr


class Job:
    """`slicemgr run` in the background: without pacing, which would leave a guard nothing to do, unless it is wanted."""

    begun: ClassVar[list[Job]] = []
    """Those that nobody has waited for: a test that fails on the way leaves one."""

    def __init__(self, folder: Path, *arguments: str, pacing: bool = False) -> None:
        self._json = folder / f"report-{time.monotonic_ns()}.json"
        options = ["--json", str(self._json), *([] if pacing else ["--no-pacing"])]
        self.process = subprocess.Popen(
            ["slicemgr", "run", *options, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.begun.append(self)

    def end(self, seconds: float = 90.0) -> Told:
        """Close its stdin, and wait for its end."""
        stdout, stderr = self.process.communicate(timeout=seconds)
        self.begun.remove(self)
        sys.stderr.write(stderr)
        assert self._json.exists(), stderr
        told = Told(self.process.returncode, stdout, stderr, json.loads(self._json.read_text()))
        told.nothing_failed()
        return told


def end_begun_jobs() -> None:
    """So that a test that has failed does not fail the next ones."""
    while Job.begun:
        process = Job.begun.pop().process
        process.terminate()
        _, stderr = process.communicate(timeout=30)
        sys.stderr.write(stderr)


def run_job(folder: Path, *arguments: str) -> Told:
    """`slicemgr run` to its end."""
    return Job(folder, *arguments).end()


def shell(script: str) -> tuple[str, ...]:
    """A command for run_job."""
    return ("--", "sh", "-c", script)


# Guards.


class RunItself:
    """No daemon: `slicemgr run` guards its job."""

    name = "run"

    def records(self) -> list[Any]:
        return []


class DaemonService:
    """`slicemgr daemon` as a service of the manager, type notify, and what it has told."""

    name = "daemon"

    def __init__(self, folder: Path) -> None:
        """`folder`: of its log, and a user's configuration and state; root's are where they always are."""
        self.systemd = Systemd(user=os.getuid() != 0)
        self.log = folder / "daemon.log"
        self._config = folder / "config" if self.systemd.user else Path("/etc")
        self._state = folder / "state" if self.systemd.user else Path("/var/lib")
        self._history = self._state / "slicemgr/history.jsonl"
        self._seen = 0

    @property
    def environment(self) -> dict[str, str]:
        """What makes slicemgr find its files."""
        if not self.systemd.user:
            return {}
        return {"XDG_CONFIG_HOME": str(self._config), "XDG_STATE_HOME": str(self._state)}

    @contextlib.contextmanager
    def running(self, *options: str) -> Iterator[None]:
        """Ready in the block, ended in order after it; the slices are then as before."""
        self._history.unlink(missing_ok=True)
        settings = [f"--setenv={name}={value}" for name, value in self.environment.items()]
        settings += ["--property=Type=notify", "--property=OOMPolicy=continue"]
        settings += [f"--property=StandardError=append:{self.log}"]
        whose = ["--user"] if self.systemd.user else []
        command = ["systemd-run", *whose, f"--unit={UNIT}", "--collect", "--quiet", *settings, "--"]
        # Returns when it has said READY.
        subprocess.run([*command, "slicemgr", "daemon", *options], check=True, stdin=subprocess.DEVNULL)
        try:
            yield
        finally:
            result = self.systemd.systemctl("show", "--property=ActiveState,ExecMainStatus", UNIT)
            self.systemd.systemctl("stop", UNIT)
            self.systemd.systemctl("revert", *SLICES)
            sys.stderr.write(self.log.read_text())
        assert "ActiveState=active" in result
        assert "Traceback" not in self.log.read_text()

    def pid(self) -> int:
        return int(self.systemd.systemctl("show", "--value", "--property=MainPID", UNIT))

    def all_records(self) -> list[Any]:
        """The whole history."""
        if not self._history.exists():
            return []
        return [json.loads(line) for line in whole_lines(self._history.read_text())]

    def records(self) -> list[Any]:
        """What is new in the history since `forget`."""
        return self.all_records()[self._seen :]

    def reports(self, kind: str) -> list[Any]:
        """The new ones of a kind: `kill`, `no-victim`, `kernel-kill`, `high`."""
        return [each["report"] for each in self.records() if each["report"]["kind"] == kind]

    def forget(self) -> None:
        """What is in the history now is old."""
        self._seen = len(self.all_records())

    @contextlib.contextmanager
    def configured(self, text: str) -> Iterator[None]:
        """With this drop-in, read again on SIGHUP; and without it after the block."""
        drop_in = self._config / "slicemgr/slicemgr.toml.d/70-test.toml"
        drop_in.parent.mkdir(parents=True, exist_ok=True)
        drop_in.write_text(text)
        self._reload()
        try:
            yield
        finally:
            drop_in.unlink()
            self._reload()

    def _reload(self) -> None:
        def times() -> int:
            text = self.log.read_text()
            assert "kept the old configuration" not in text, text
            return text.count("read the configuration again")

        before = times()
        os.kill(self.pid(), signal.SIGHUP)
        until(lambda: times() > before, "the configuration read again")
