# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs inside the guest as root: carries out the job, group by group, and sends every event to the host."""

from __future__ import annotations

import base64
import json
import os
import selectors
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

from tests.vm import swap
from tests.vm.protocol import (
    Alive,
    Bye,
    Event,
    Finished,
    Group,
    GroupEnded,
    Job,
    Output,
    Report,
    SavedFile,
    Started,
    decode,
    encode,
)
from tests.vm.recipe import CHECKOUT, USERS

PORT = Path("/dev/virtio-ports/slicemgr.results")
JOB = Path("/srv/job.json")
RUN = Path("/run/slicemgr-vm")
FILES = RUN / "files"
START_SECONDS = 120.0
"""pytest needs 6-9 s from its start to its first test (emulated, hypothesis and asyncio plugins loaded)."""


def main() -> int:
    """One boot, as a table of contents."""
    job = Job.from_json(JOB.read_text())
    if job.interactive:
        return shell()
    with PORT.open("wb") as port:
        agent = Agent(port)
        agent.prepare()
        for group in job.groups:
            agent.run_group(group)
        agent.send(Alive("saving files", 120.0, uptime_seconds()))
        for path in sorted(path for path in FILES.iterdir() if path.is_file()):
            agent.send(SavedFile(path.name, base64.b64encode(path.read_bytes()).decode()))
        subprocess.run(["journalctl", "--sync"])
        agent.send(Bye(uptime_seconds()))
    return 0


def shell() -> int:
    """A root shell on the serial line, for a person."""
    with Path("/dev/ttyS0").open("r+b", buffering=0) as tty:
        environment = {**os.environ, "HOME": "/root", "TERM": "vt220"}
        command = ["setsid", "--ctty", "--wait", "bash", "--login"]
        return subprocess.run(command, stdin=tty, stdout=tty, stderr=tty, env=environment).returncode


def uptime_seconds() -> float:
    return float(Path("/proc/uptime").read_text().split()[0])


class Agent:
    """The guest's end of the line, and the pytest processes behind it."""

    def __init__(self, port: BinaryIO) -> None:
        self.port = port
        self.running: str | None = None
        self.done: set[str] = set()
        self.tail = ""

    def send(self, event: Event) -> None:
        self.send_line(encode(event))

    def send_line(self, line: bytes) -> None:
        """Buffered and flushed: the port takes 32 KiB of one write and says so, a buffer writes the rest."""
        self.port.write(line)
        self.port.flush()

    def prepare(self) -> None:
        """Make the places where tests of either user leave their events and files."""
        RUN.mkdir()
        FILES.mkdir()
        FILES.chmod(0o1777)
        os.mkfifo(RUN / "events")
        (RUN / "stacks").touch()
        for name in ("events", "stacks"):
            (RUN / name).chmod(0o666)
        # As an installation does it. Without, tester's every slicemgr compiles what root has not run yet: a login hook
        # took 3 s on Debian 13 instead of 1, emulated.
        self.send(Alive("compiling", START_SECONDS, uptime_seconds()))
        subprocess.run([sys.executable, "-m", "compileall", "-q", f"{CHECKOUT}/slicemgr"], check=True)

    def run_group(self, group: Group) -> None:
        """Run the group's tests; after a pytest that died, go on with the tests behind the one it died of."""
        doing = f"starting pytest as {group.user}" + (f" with {group.swap} swap" if group.swap else "")
        left, code = list(group.nodeids), 0
        with swap.active(group.swap):
            while left:
                self.send(Alive(doing, START_SECONDS, uptime_seconds()))
                before = len(self.done)
                code = self.run_pytest(group.user, left)
                left = [nodeid for nodeid in left if nodeid not in self.done]
                if len(self.done) == before:
                    break
        self.send(GroupEnded(group.user, group.swap, code))

    def run_pytest(self, user: str, nodeids: list[str]) -> int:
        """One pytest process in a service of the user's own manager; its events and output pass through."""
        (RUN / "selection.json").write_text(json.dumps(nodeids))
        events = os.open(RUN / "events", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        files = sorted({nodeid.partition("::")[0] for nodeid in nodeids})
        process = spawn(user, files)
        self.tail = ""
        assert process.stdout is not None
        output = process.stdout.fileno()
        os.set_blocking(output, False)
        ended = os.pidfd_open(process.pid)
        with selectors.DefaultSelector() as selector:
            for fd in (events, output, ended):
                selector.register(fd, selectors.EVENT_READ)
            pending = b""
            while True:
                ready = {key.fd for key, _ in selector.select()}
                pending = self.pass_events(pending + _drain(events))
                if text := _drain(output).decode(errors="replace"):
                    self.tail = (self.tail + text)[-4000:]
                    self.send(Output(text))
                elif output in ready:
                    selector.unregister(output)  # closed, the process itself lives on
                if ended in ready:
                    break
        code = process.wait()
        process.stdout.close()
        os.close(events)
        os.close(ended)
        self.bury(code)
        return code

    def pass_events(self, data: bytes) -> bytes:
        """Send whole lines on; the torn rest comes back."""
        *lines, rest = data.split(b"\n")
        for line in lines:
            event = decode(line)
            if isinstance(event, Started):
                self.running = event.nodeid
                # Level 4 is on the console too: the kernel's last words then follow the name of a test.
                Path("/dev/kmsg").write_text(f"<4>slicemgr-vm: {event.nodeid}\n")
            elif isinstance(event, Finished):
                self.running = None
                self.done.add(event.nodeid)
            self.send_line(line + b"\n")
        return rest

    def bury(self, code: int) -> None:
        """Give the test in whose middle pytest ended a report of its own."""
        stacks = (RUN / "stacks").read_text(errors="replace")
        (RUN / "stacks").write_text("")
        if self.running is None:
            return
        text = f"pytest ended with exit code {code} in the middle of this test\n{stacks or self.tail}"
        self.send(Report(self.running, "call", "failed", text))
        self.send(Finished(self.running))
        self.done.add(self.running)
        self.running = None


def spawn(user: str, files: list[str]) -> subprocess.Popen[bytes]:
    """Start pytest as a service of the system's or of the user's own systemd, so both may manage units."""
    uid = 0 if user == "root" else USERS[user]
    command = ["systemd-run", "--wait", "--collect", "--pipe", "--quiet", "--service-type=exec"]
    if uid:
        command.append("--user")
    # A test's own out-of-memory kill must not make systemd end the pytest that provoked it.
    command += ["--property=OOMPolicy=continue", f"--working-directory={CHECKOUT}"]
    settings = {"SLICEMGR_VM_GUEST": str(RUN), "SLICEMGR_VM_USER": user, "LC_ALL": "C.UTF-8"}
    settings |= {"HOME": "/root"} if not uid else {}
    command += [f"--setenv={name}={value}" for name, value in settings.items()]
    command += [sys.executable, "-B", "-m", "pytest", "-c", "tests/vm/guest.ini", f"--rootdir={CHECKOUT}"]
    # The settings stand in tests/vm, and pytest would look for conftest.py no further up.
    command += [f"--confcutdir={CHECKOUT}", "--continue-on-collection-errors", *files]
    environment = {**os.environ, "XDG_RUNTIME_DIR": f"/run/user/{uid}"}
    environment["DBUS_SESSION_BUS_ADDRESS"] = f"unix:path=/run/user/{uid}/bus"
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment if uid else None,
        user=uid,
        group=uid,
        extra_groups=[],
    )


def _drain(fd: int) -> bytes:
    """All that can be read from a non-blocking descriptor now."""
    data = b""
    try:
        while piece := os.read(fd, 65536):
            data += piece
    except BlockingIOError:
        pass
    return data


if __name__ == "__main__":
    sys.exit(main())
