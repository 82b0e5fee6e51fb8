# SPDX-License-Identifier: LGPL-2.1-or-later
"""Our jobserver and the real make: recipes say when they begin and end, and wait at a gate until they are let go.

Their lines come through one FIFO, each written whole, so their order is the order of what happened: an end is written
before make can know of it.
"""

from __future__ import annotations

import errno
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slicemgr.build.jobserver import LARGEST_CEILING, LOWEST_CLIENT_DESCRIPTOR, Jobserver
from slicemgr.policy.tokens import LOST_AFTER_SECONDS, Holder, lost_tokens, most_held

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parent.parent.parent
SECONDS = 60.0
"""For what must happen; nothing waits so long unless it fails."""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")

GATED = "@echo begin $@ $$PPID >events; head -c1 gate >/dev/null; echo end $@ >events"
QUICK = "@echo begin $@ >events; echo end $@ >events"


class Build:
    """A directory with a Makefile, the FIFO of what happens and the gate; a make in it whose jobs come from `server`."""

    def __init__(self, directory: Path, server: Jobserver) -> None:
        self._directory = directory
        self.server = server
        self.lines: list[str] = []
        self.running: set[str] = set()
        self.most_at_once = 0
        self._torn = b""
        self.make: subprocess.Popen[str] | None = None
        for name in ("events", "gate", "other-gate"):
            os.mkfifo(directory / name)
        self._events = os.open(directory / "events", os.O_RDWR | os.O_NONBLOCK)
        self._gates = {name: os.open(directory / name, os.O_RDWR) for name in ("gate", "other-gate")}

    def end(self) -> None:
        """Whatever still runs, and all that is open."""
        if self.make is not None:
            if self.make.poll() is None:
                self.make.kill()
            for gate in self._gates:  # Whoever still waits there.
                self.open_gate(1000, gate)
            self.make.communicate(timeout=SECONDS)
        self.server.close()
        os.close(self._events)
        for descriptor in self._gates.values():
            os.close(descriptor)

    def write(self, text: str, name: str = "Makefile") -> None:
        (self._directory / name).write_text(text.replace("GATED", GATED).replace("QUICK", QUICK))

    def start(self, *arguments: str, makeflags: str = "") -> None:
        environment = {"PATH": os.environ["PATH"], "MAKEFLAGS": self.server.makeflags(makeflags)}
        self.make = subprocess.Popen(
            ["make", *arguments],
            cwd=self._directory,
            env=environment,
            close_fds=False,
            preexec_fn=self.server.be_inherited,  # noqa: PLW1509 - no thread is here
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def until(self, reached: Callable[[], bool], *, relays: bool = True) -> None:
        """Serve and listen until then."""
        deadline = time.monotonic() + SECONDS
        while not reached():
            serving = [self.server.fileno()] if relays else []
            ready, _, _ = select.select([self._events, *serving], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"nothing happens: {self.running} run, {self.server.outstanding} tokens are out"
            if self.server.fileno() in ready:
                self.server.relay()
            if self._events in ready:
                self._listen()

    def _listen(self) -> None:
        *lines, self._torn = (self._torn + os.read(self._events, 65536)).split(b"\n")
        for line in lines:
            self.lines.append(line.decode())
            what, name, *_ = self.lines[-1].split()
            if what == "begin":
                self.running.add(name)
                self.most_at_once = max(self.most_at_once, len(self.running))
            else:
                self.running.discard(name)

    def runs(self, jobs: int) -> Callable[[], bool]:
        return lambda: len(self.running) == jobs

    def ended(self, jobs: int) -> Callable[[], bool]:
        return lambda: sum(line.startswith("end") for line in self.lines) == jobs

    def open_gate(self, times: int = 1, gate: str = "gate") -> None:
        """Let so many jobs through, also ones that come later."""
        os.write(self._gates[gate], b"x" * times)

    def status(self, *, relays: bool = True) -> int:
        """Serve until make ends; its status. Its output is short enough for its pipe."""
        assert self.make is not None
        end = os.pidfd_open(self.make.pid)
        try:
            deadline = time.monotonic() + SECONDS
            ready: list[int] = []
            while end not in ready:
                serving = [self.server.fileno()] if relays else []
                ready, _, _ = select.select(
                    [end, self._events, *serving], [], [], max(0.0, deadline - time.monotonic())
                )
                assert ready, f"make does not end: {self.running} run"
                if self._events in ready:
                    self._listen()
                if self.server.fileno() in ready:
                    self.server.relay()
        finally:
            os.close(end)
        self.output, _ = self.make.communicate()
        if select.select([self._events], [], [], 0)[0]:
            self._listen()
        if relays:
            self.server.relay()
        assert "jobserver" not in self.output
        return self.make.returncode


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Callable[[int], Build]]:
    """A build by its ceiling, in a directory of its own."""
    made: list[Build] = []

    def begin(ceiling: int) -> Build:
        made.append(Build(tmp_path, Jobserver(ceiling)))
        return made[-1]

    yield begin
    for each in made:
        each.end()


def goals(count: int, recipe: str, before: str = "") -> str:
    """A Makefile of so many independent goals."""
    names = " ".join(f"job{number}" for number in range(count))
    return f"all: {names}\n{before}{names}:\n\t{recipe}\n"


@pytest.mark.parametrize("ceiling", [1, 2, 5])
def test_as_many_run_as_are_allowed_and_no_more(build: Callable[[int], Build], ceiling: int) -> None:
    """The ceiling is reached and never passed, over many jobs; at the end no token is out."""
    some = build(ceiling)
    some.server.allow(100)
    some.write(goals(4 * ceiling, "GATED"))
    some.start()
    some.until(some.runs(ceiling))
    assert some.server.outstanding == ceiling - 1
    some.open_gate(4 * ceiling)
    assert some.status() == 0
    assert some.ended(4 * ceiling)()
    assert some.most_at_once == ceiling
    assert some.server.outstanding == 0


def test_no_token_is_lost_over_many_jobs(build: Callable[[int], Build]) -> None:
    """200 recipes that end at once; then as many tokens are there as before: four run together."""
    some = build(4)
    some.server.allow(4)
    some.write(goals(200, "QUICK") + "gated: job200 job201 job202 job203\njob200 job201 job202 job203:\n\tGATED\n")
    some.start("all")
    assert some.status() == 0
    assert some.ended(200)()
    assert some.most_at_once <= 4
    assert some.server.outstanding == 0
    some.start("gated")
    some.until(some.runs(4))
    some.open_gate(4)
    assert some.status() == 0


def test_more_are_given_at_once_and_fewer_when_jobs_end(build: Callable[[int], Build]) -> None:
    """Nothing has to end for more to begin; and what is withdrawn is not handed out again, up to the last of them."""
    some = build(6)
    some.write(goals(12, "GATED"))
    some.start()
    some.until(some.runs(1))
    assert some.server.outstanding == 0
    some.server.allow(4)
    some.until(some.runs(4))
    assert some.server.allowed == 4
    some.server.allow(2)
    assert some.server.outstanding == 3  # Who has one keeps it until its job ends.
    for jobs in (3, 2):
        some.open_gate()
        some.until(some.runs(jobs))
    some.most_at_once = 0
    some.open_gate(4)
    some.until(some.ended(6))
    some.until(some.runs(2))
    assert some.most_at_once == 2
    some.server.allow(6)
    some.until(some.runs(6))
    some.open_gate(100)
    assert some.status() == 0
    assert some.server.outstanding == 0


def test_sub_makes_share_the_tokens(build: Callable[[int], Build]) -> None:
    """Three sub-makes by $(MAKE) and `+`, some with a shell between: together they run what is allowed."""
    some = build(4)
    some.server.allow(4)
    some.write(goals(6, "GATED"), "sub.mk")
    some.write(
        "all: one two three\none:; @$(MAKE) -f sub.mk --no-print-directory all\n"
        "two:; +@make -f sub.mk --no-print-directory all\nthree:; @cd . && $(MAKE) -f sub.mk -s --no-print-directory\n"
    )
    some.start()
    # Each sub-make has jobs of the same names: told apart by their make.
    some.until(lambda: sum(line.startswith("begin") for line in some.lines) == 4)
    assert some.server.outstanding == 3
    some.open_gate(18)
    assert some.status() == 0
    assert some.ended(18)()
    running = most = 0
    for line in some.lines:
        running += 1 if line.startswith("begin") else -1
        most = max(most, running)
    assert most == 4
    assert some.server.outstanding == 0


@pytest.mark.parametrize(
    ("makeflags", "arguments", "status", "ended"),
    [("", (), 2, None), ("k", (), 2, 6), ("", ("-k",), 2, 6), ("i", (), 0, 6)],
)
def test_a_build_that_fails_ends_as_makes_own(
    build: Callable[[int], Build], makeflags: str, arguments: tuple[str, ...], status: int, ended: int | None
) -> None:
    """Its status is make's, -k goes on, and the tokens come back from what had failed as well."""
    some = build(3)
    some.server.allow(3)
    some.write(goals(6, "QUICK", "all: bad\nbad:\n\t@false\n"))
    some.start(*arguments, makeflags=makeflags)
    assert some.status() == status
    assert ended is None or some.ended(ended)()
    assert some.server.outstanding == 0


def test_other_recipes_do_not_get_the_descriptors(build: Callable[[int], Build]) -> None:
    """make hands them on to sub-makes alone, as its own; and they are where nobody else opens any."""
    some = build(2)
    low, high = sorted(some.server.client_descriptors)
    assert low >= LOWEST_CLIENT_DESCRIPTOR
    some.write(
        f"all: plain make\nplain:; @test ! -e /proc/self/fd/{low} -a ! -e /proc/self/fd/{high}\n"
        f"make:; +@test -e /proc/self/fd/{low} -a -e /proc/self/fd/{high}\n"
    )
    some.start()
    assert some.status() == 0
    assert not os.get_inheritable(low)
    assert not os.get_inheritable(high)


def test_a_server_that_closes_leaves_a_build_that_ends(build: Callable[[int], Build]) -> None:
    """Midway, with all its tokens out: everything is built, by one job at least."""
    some = build(4)
    some.server.allow(4)
    some.write(goals(20, "GATED"))
    some.start()
    some.until(some.runs(4))
    some.open_gate(3)
    some.until(some.ended(3))
    some.server.close()
    some.server.close()
    some.open_gate(17)
    assert some.status(relays=False) == 0
    assert some.ended(20)()
    assert some.most_at_once <= 4


# A server in a process of its own; what becomes of its make, the make's shell tells.
SERVER = """
import os, select, subprocess, sys
from slicemgr.build.jobserver import Jobserver
server = Jobserver(5)
server.allow(5)
os.environ["MAKEFLAGS"] = server.makeflags("")
subprocess.Popen(
    ["sh", "-c", "make >output 2>&1; echo status $? >events"], close_fds=False, preexec_fn=server.be_inherited
)
while True:
    select.select([server], [], [])
    server.relay()
"""


@pytest.mark.parametrize("after", [1, 2, 3, 5, 8, 13, 21, 34, 55])
def test_a_server_that_is_killed_leaves_a_build_that_ends(tmp_path: Path, after: int) -> None:
    """SIGKILL after so many jobs have begun, in the midst of tokens that come and go: status 0, nothing said."""
    for name in ("events", "gate"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "sub.mk").write_text(goals(20, QUICK))
    (tmp_path / "Makefile").write_text(goals(40, QUICK, "all: sub\nsub:\n\t@$(MAKE) -f sub.mk --no-print-directory\n"))
    events = os.open(tmp_path / "events", os.O_RDWR)
    lines: list[str] = []
    torn = ""
    try:
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
        )
        while not lines or not lines[-1].startswith("status"):
            assert select.select([events], [], [], SECONDS)[0], "the build stands still"
            *more, torn = (torn + os.read(events, 65536).decode()).split("\n")
            lines += more
            if sum(line.startswith("begin") for line in lines) >= after and server.returncode is None:
                server.kill()
                server.wait()
    finally:
        os.close(events)
    assert lines[-1] == "status 0"
    assert (tmp_path / "output").read_text() == ""
    assert sum(line.startswith("end") for line in lines) == 60
    assert server.returncode == -signal.SIGKILL


def test_a_server_that_stands_still_holds_nobody_up(build: Callable[[int], Build]) -> None:
    """^Z, or a machine that thrashes: nobody relays, and each make goes on with its own job."""
    some = build(3)
    some.server.allow(3)
    some.write(goals(12, "QUICK"))
    some.start()
    some.until(some.ended(12), relays=False)
    assert some.status() == 0
    assert some.server.outstanding == 0


def family(root: int) -> list[Holder]:
    """The command and all below it, as they are."""
    found = [Holder(root, 0, is_make=True)]
    for parent in found:
        for pid in map(int, Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()):
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            found.append(Holder(pid, parent.pid, is_make=name == "make", is_driver=name == "sh"))
    return found


def test_tokens_of_a_killed_make_come_back(build: Callable[[int], Build]) -> None:
    """A sub-make is SIGKILLed with three tokens in its hands; when nobody can have them they are handed out again."""
    some = build(4)
    some.server.allow(4)
    some.write(goals(4, GATED.replace("gate", "other-gate")), "sub.mk")
    some.write("all: one two three four\none two three four: | sub\n\tGATED\nsub:\n\t-@$(MAKE) -f sub.mk\n")
    some.start()
    some.until(some.runs(4))
    assert some.make is not None
    top = some.make.pid
    (sub,) = {int(line.split()[2]) for line in some.lines}
    assert [each.pid for each in family(top)][:2] == [top, sub]
    assert most_held(family(top), top) == some.server.outstanding == 3
    os.kill(sub, signal.SIGKILL)
    some.open_gate(4, "other-gate")
    some.until(lambda: some.ended(4)() and some.runs(1)())  # One has the top make's own place, and no token is left.
    missing = None
    for now in (0.0, LOST_AFTER_SECONDS + 0.1):
        bound = most_held(family(top), top)
        missing, lost = lost_tokens(missing, some.server.outstanding, bound, now)
    assert lost == 3
    some.server.give_back(lost)
    some.until(some.runs(4))
    assert some.server.outstanding == 3
    some.open_gate(4)
    assert some.status() == 0
    assert some.server.outstanding == 0


def client(server: Jobserver) -> tuple[int, int]:
    """Its descriptors, with the first one not blocking, as make sets it."""
    reading, writing = server.client_descriptors
    os.set_blocking(reading, False)
    return reading, writing


@pytest.fixture
def server() -> Iterator[Jobserver]:
    """One of eight jobs, of which five are allowed."""
    made = Jobserver(8)
    made.allow(5)
    yield made
    made.close()


def test_whatever_byte_comes_back_is_a_token(server: Jobserver) -> None:
    """A client that returns something else has returned it all the same."""
    reading, writing = client(server)
    for odd in (b"\0\xff\n+", b"\x80abc"):
        assert len(os.read(reading, 100)) == 4
        assert server.outstanding == 4
        os.write(writing, odd)
        server.relay()
        assert server.outstanding == 0
    assert len(os.read(reading, 100)) == 4


def test_who_brings_back_too_many_makes_none(server: Jobserver) -> None:
    """Also if nobody has taken one."""
    reading, writing = client(server)
    os.write(writing, b"+\n" * 500)
    server.relay()
    assert server.outstanding == 0
    held = len(os.read(reading, 100))
    os.write(writing, b"x" * held)
    server.relay()
    assert len(os.read(reading, 100)) == 4


def test_unread_tokens_are_taken_back_at_once(server: Jobserver) -> None:
    """What no client has taken is not there for one who comes a moment later."""
    reading, writing = client(server)
    assert len(os.read(reading, 1)) == 1
    server.allow(2)
    with pytest.raises(BlockingIOError):
        os.read(reading, 1)
    server.allow(0)
    assert server.allowed == 1
    os.write(writing, b"+")
    server.relay()
    with pytest.raises(BlockingIOError):
        os.read(reading, 1)
    server.allow(1000)
    assert server.allowed == 8
    assert len(os.read(reading, 100)) == 7


def test_a_token_that_was_not_lost_is_counted_once(server: Jobserver) -> None:
    """Given back by mistake, and then returned by its client: when all have come back the number is right."""
    reading, writing = client(server)
    held = len(os.read(reading, 100))
    server.give_back(2)
    held += len(os.read(reading, 100))
    assert held == 6
    server.give_back(-5)
    server.give_back(0)
    os.write(writing, b"+" * held)
    server.relay()
    assert server.outstanding == 0
    assert len(os.read(reading, 100)) == 4


def test_more_may_be_called_lost_than_are_out(server: Jobserver) -> None:
    """Then all are there again, and no more than all."""
    reading, _ = client(server)
    os.read(reading, 3)
    server.give_back(50)
    assert len(os.read(reading, 100)) <= 5
    assert server.outstanding <= 4


def test_the_largest_ceiling_fits_into_the_pipes() -> None:
    """All of them at once, handed out and brought back, without waiting."""
    made = Jobserver(10**9)
    try:
        assert made.ceiling == LARGEST_CEILING
        made.allow(10**9)
        reading, writing = client(made)
        os.set_blocking(writing, False)
        assert os.write(writing, os.read(reading, 10**6)) == LARGEST_CEILING - 1
        made.relay()
        assert made.outstanding == 0
    finally:
        made.close()


def test_after_its_end_nobody_elses_descriptors_are_touched() -> None:
    """Another thread may still ask then: the numbers can be somebody else's already."""
    made = Jobserver(8)
    made.allow(3)
    os.read(made.client_descriptors[0], 1)
    made.close()
    # The kernel gives the lowest free numbers, so these are the ones that were just closed.
    pipes = [os.pipe2(os.O_NONBLOCK) for _ in range(5)]
    try:
        for _, writing in pipes:
            os.write(writing, b"not a token")
        made.allow(8)
        made.allow(1)
        made.give_back(1)
        made.relay()
        assert made.outstanding == 0
        assert [os.read(reading, 100) for reading, _ in pipes] == [b"not a token"] * 5
    finally:
        for descriptor in (each for pipe in pipes for each in pipe):
            os.close(descriptor)


def test_nothing_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither after its end nor after a beginning that failed; and none of it goes through an exec by itself."""
    before = os.listdir("/proc/self/fd")
    one = Jobserver(3)
    assert len(os.listdir("/proc/self/fd")) == len(before) + 5
    assert not any(os.get_inheritable(number) for number in (one.fileno(), *one.client_descriptors))
    one.close()
    assert os.listdir("/proc/self/fd") == before

    opened = os.open
    for works in range(2):
        left = [True] * works

        def open_some(path: str, flags: int, left: list[bool] = left) -> int:
            if not left:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            left.pop()
            return opened(path, flags)

        monkeypatch.setattr(os, "open", open_some)
        with pytest.raises(OSError, match="Too many"):
            Jobserver(3)
        monkeypatch.undo()
        assert os.listdir("/proc/self/fd") == before
