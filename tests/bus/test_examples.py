# SPDX-License-Identifier: LGPL-2.1-or-later
"""examples/desktop as a desktop's programmer runs it: real processes, a private bus, a daemon that is published."""

from __future__ import annotations

import re
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from slicemgr.bus.errors import InvalidArgumentError
from slicemgr.bus.objects import BUS_NAME, MANAGER, ROOT, job_object, slice_object
from slicemgr.kernel.pidfd import process_behind
from slicemgr.service.record import Record
from slicemgr.service.report import HighReport, KernelKillReport
from slicemgr.service.signals import of_record
from tests.bus.example_process import EXAMPLES, NO_BUS, PYTHON, SHELL, Asked, Started, one_line, run
from tests.bus.fake_daemon import KATE, KATE_UNIT, MIB, FakeDaemon, moment
from tests.unit.samples import process
from tests.unit.test_record import a_kill

if TYPE_CHECKING:
    from pathlib import Path

    from slicemgr.bus.call import Call
    from tests.bus.private_bus import PrivateBus


SHOWN = {
    "job      kate, at most 1024 MiB: make",
    "slice    app.slice, at most what there is",
    "slice    build.slice, at most 2048 MiB",
}
ABSENT = "daemon   is not there, waiting for it; try 'systemctl --user enable --now slicemgr'"


def test_watch(bus: PrivateBus) -> None:
    """Everything that happens is a line; a process can't draw on the terminal with its name."""
    job = job_object(KATE_UNIT)
    killed = a_kill(
        cgroup=KATE,
        victim_cgroup=KATE,
        victim=process(7, name="cc1\x1b[2Jplus"),
        held_bytes=400 * MIB,
        runners_up=((process(8, name="ld"), 3 * MIB),),
    )
    with FakeDaemon(bus) as daemon, Started(bus.address, *PYTHON, "watch") as watch:

        def tell(report: Any) -> str:
            for each in of_record(Record(report, 1.0, "build.slice", KATE_UNIT), moment()):
                daemon.emit(each.name, *each.arguments)
            return watch.line()

        assert watch.line() == "daemon   is there"
        assert [watch.line() for _ in SHOWN] == sorted(SHOWN)
        assert tell(killed) == (
            f"killed   in kate: 'cc1?[2Jplus' (pid 7), which held 400 MiB; {killed.shortage.evidence.value}; "
            "next would be 'ld' (pid 8)"
        )
        assert tell(KernelKillReport(1.0, KATE, 1, ((9, "as"),))) == "killed   in kate: 'as' (pid 9), by the kernel"
        assert tell(HighReport(1.0, 3 * MIB, 2 * MIB, KATE)) == (
            "warning  kate has 3 MiB, above 2 MiB: it is slowed down, next is a kill"
        )
        daemon.emit("PressureLevelChanged", slice_object("build.slice"), "medium")
        assert watch.line() == "pressure build.slice: medium"
        daemon.emit("JobPaused", job, {"control-group": KATE})
        daemon.emit("JobResumed", job, {"control-group": KATE})
        daemon.emit("LimitsChanged", job, {"MemoryMax": 5})  # Not shown, and no reason to stop.
        assert [watch.line(), watch.line()] == ["paused   kate", "resumed  kate"]
        daemon.show(slices=tuple(replace(each, jobs=()) for each in moment().slices))
        assert watch.line() == "job      kate has ended"
        daemon.emit("NobodyToEnd", job, {"control-group": KATE})
        assert watch.line() == "stuck    what has ended since is out of memory, and nobody in it can be ended"
        watch.process.send_signal(signal.SIGINT)
        assert watch.end() == (-signal.SIGINT, "", "")


def test_watch_waits_for_a_daemon_and_for_the_next(bus: PrivateBus) -> None:
    with Started(bus.address, *PYTHON, "watch") as watch:
        assert watch.line() == ABSENT
        for _ in range(2):
            with FakeDaemon(bus):
                assert watch.lines(4) == {"daemon   is there", *SHOWN}
            assert watch.line() == ABSENT
        bus.kill()
        status, said, wrong = watch.end()
        assert (status, said) == (1, "")
        assert one_line(wrong) == "desktop.py: the bus is gone; try again when it is back"


def test_play_holds_builds_back(bus: PrivateBus) -> None:
    """By each daemon that comes, until it ends; its status is the command's."""
    with Started(bus.address, *PYTHON, "play", "sh", "-c", "echo here; read it; exit 3") as play:
        assert play.line() == "here"
        assert play.process.stderr is not None
        said = one_line(play.process.stderr.readline())
        assert said.startswith("desktop.py: builds do not yield: no slicemgr daemon; try ")
        for is_last in (False, True):
            daemon = FakeDaemon(bus)
            asked = Asked(daemon, Hold=(7,), Release=())
            with daemon:
                what, reason, application, options = asked.next().arguments
                assert (what, reason, application, options) == (
                    "builds-yield", "sh is running", "org.slicemgr1.ExampleDesktop", {}
                )  # fmt: skip
                # The daemon answers on one connection, one after the other: when this is refused, that was answered.
                run(bus.address, "busctl", "--user", "call", BUS_NAME, ROOT, MANAGER, "Reload", "a{sv}", "0")
                if is_last:
                    assert play.end("\n") == (3, "", "")  # Not a word of the restart.
                    # It may have ended before it knew the cookie; then its leaving the bus is all there is.
                    assert asked.calls.empty() or asked.next().method == "Release"


def test_play_that_is_refused(bus: PrivateBus) -> None:
    """The game runs, and why builds do not yield is the daemon's word."""

    def refuse(_call: Call) -> tuple[Any, ...]:
        raise InvalidArgumentError("not today; try tomorrow")

    daemon = FakeDaemon(bus)
    daemon.answers["Hold"] = refuse
    with daemon, Started(bus.address, *PYTHON, "play", "sh", "-c", "read it; kill -9 $$") as play:
        assert play.process.stderr is not None
        assert play.process.stderr.readline() == "desktop.py: builds do not yield: not today; try tomorrow\n"
        assert play.end("\n") == (128 + signal.SIGKILL, "", "")


def test_launch_places_itself_and_is_the_command(bus: PrivateBus) -> None:
    """By a pidfd, before the exec; the command has the pid, no descriptor of ours, and SIGPIPE as C programs have it."""
    script = "echo $$; grep SigIgn /proc/self/status; ls /proc/self/fd | wc -l; exit 5"
    with FakeDaemon(bus) as daemon:
        placed: list[tuple[Any, ...]] = []

        def place(call: Call) -> tuple[Any, ...]:
            index, *rest = call.arguments
            placed.append((process_behind(call.descriptor(index)).identity.pid, *rest))
            return "slicemgr-sh-1.scope", {}

        daemon.answers["PlaceProcess"] = place
        with Started(bus.address, *PYTHON, "launch", "sh", "-c", script) as app:
            status, said, wrong = app.end()
            assert (status, wrong) == (5, "")
            pid, ignored, descriptors = said.splitlines()
            assert int(pid) == app.process.pid
            assert int(ignored.split()[1], 16) == 0
            assert int(descriptors) == 4  # With the directory that `ls` reads.
            assert placed == [(app.process.pid, "app.slice", {"name": "sh", "tree": False})]


@pytest.mark.parametrize("verb", ["launch", "play"])
@pytest.mark.parametrize("is_there", [True, False])
def test_the_desktop_works_without_slicemgr(bus: PrivateBus, verb: str, is_there: bool) -> None:
    """No daemon, no bus: the command runs, and one line says what is missing."""
    command = ("sh", "-c", "sleep 0.3; exit 4")  # As long as it takes the bus to say so.
    status, said, wrong = run(bus.address if is_there else NO_BUS, *PYTHON, verb, *command)
    assert (status, said) == (4, "")
    assert ("no slicemgr daemon; try 'systemctl --user enable" if is_there else "no session bus") in one_line(wrong)


def test_a_command_that_is_not_there(bus: PrivateBus, tmp_path: Path) -> None:
    missing = str(tmp_path / "nothing")
    for verb in ("launch", "play"):
        status, _, wrong = run(bus.address, *PYTHON, verb, missing)
        assert status == 127
        assert wrong.splitlines()[-1].endswith(f"; try 'command -v {missing}'")


@pytest.mark.parametrize(
    "command",
    [
        *((*PYTHON, *words) for words in ((), ("play",), ("launch",), ("watch", "x"), ("--system", "play", "x"))),
        *((*SHELL, *words) for words in ((), ("list", "x"), ("pause",), ("limits", "x"), ("--system", "hold", "x"))),
    ],
)
def test_usage(command: tuple[str, ...]) -> None:
    """One line, status 2."""
    status, said, wrong = run(NO_BUS, *command)
    assert (status, said) == (2, "")
    one_line(wrong)


@pytest.mark.parametrize("example", [PYTHON, SHELL])
def test_help(example: tuple[str, ...]) -> None:
    """On standard output, without the licence."""
    status, said, wrong = run(NO_BUS, *example, "--help")
    assert (status, wrong) == (0, "")
    assert said.startswith(("What a desktop does", "slicemgr by D-Bus"))
    assert "SPDX" not in said


@pytest.mark.parametrize("example", [(*PYTHON, "watch"), (*SHELL, "list")])
def test_no_bus(example: tuple[str, ...]) -> None:
    status, said, wrong = run(NO_BUS, *example)
    assert (status, said) == (1, "")
    assert "try from within a desktop session" in one_line(wrong)


def test_it_imports_nothing_of_slicemgr() -> None:
    """It is to be copied."""
    assert not re.search(r"(import|from) slicemgr", (EXAMPLES / "desktop.py").read_text())
