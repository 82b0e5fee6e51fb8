# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr run` between the user's daemon and the system's: who writes the history, and who has refused the job."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slicemgr.service.record import report_to_line
from slicemgr.service.report import HighReport, KernelKillReport, Report
from tests.cli.in_a_cgroup import CGROUP
from tests.cli.placed_run import MIB, WHILE_READING, Daemon, Place

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

HIGH = HighReport(1.0, 5 * MIB, 4 * MIB, CGROUP)
KILLED = KernelKillReport(2.0, CGROUP, 1, ((7, "late"),))
NO_SLICE = f"{CGROUP} is in no managed slice; try --slice build"
DRY_RUN = "this daemon is a dry run, and ends nobody"
BY_RUN = "no daemon guards this job, so 'slicemgr run' does: "


@pytest.mark.parametrize(
    ("listens", "reports", "oom_kills", "remembered"),
    [
        ("socket", [HIGH, KILLED], 1, []),
        ("system_socket", [HIGH, KILLED], 1, [HIGH, KILLED]),
        # What the kernel did, and the daemon did not tell.
        ("socket", [], 2, []),
        ("system_socket", [], 2, [KernelKillReport]),
    ],
)
def test_who_writes_the_history_of_the_user(
    place: Place,
    daemon: Callable[..., Daemon],
    listens: str,
    reports: list[Report],
    oom_kills: int,
    remembered: list[object],
) -> None:
    """The user's own daemon does, into the same file; the system's has a file that only root can read."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(b"ok\n" + b"".join(map(report_to_line, reports)))
        place.fifo.write_text("seen by the daemon\n")
        assert connection.recv(1) == b""  # The command has ended.

    daemon(serve, getattr(place, listens))
    place.write(peak=7 * MIB, oom_kill=oom_kills, populated=0)
    done, report = place.run(*WHILE_READING, str(place.fifo))
    assert (done.returncode, report["watched_by"]) == (0, "daemon")
    assert sum(each["count"] for each in report["kernel_kills"]) == oom_kills
    kept = place.remembered()
    assert kept == remembered or [type(each) for each in kept] == remembered


def test_the_history_knows_the_job(place: Place, daemon: Callable[..., Daemon]) -> None:
    """By the words that the user gave it, whatever the system's daemon calls it in its own."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(b"ok\n" + report_to_line(KILLED))
        place.fifo.write_text("seen\n")

    daemon(serve, place.system_socket)
    place.run("--slice", "ci", *WHILE_READING, str(place.fifo))
    (record,) = (each for each in place.history().read().records if each.report == KILLED)
    assert (record.slice, record.job) == ("ci.slice", CGROUP.rpartition("/")[2])


@pytest.mark.parametrize(
    ("own", "system", "said"),
    [
        (NO_SLICE, None, BY_RUN + NO_SLICE),
        (None, NO_SLICE, BY_RUN + NO_SLICE),
        (NO_SLICE, "no other words", BY_RUN + NO_SLICE),
        (DRY_RUN, None, f"{BY_RUN}{DRY_RUN}; try 'slicemgr status'"),
        ("\x1b[2J\udcff; try it", None, BY_RUN + "\\x1b[2J\\xff; try it"),
        (None, None, None),
    ],
)
def test_why_no_daemon_guards_the_job(
    place: Place, daemon: Callable[..., Daemon], own: str | None, system: str | None, said: str | None
) -> None:
    """Once, in the words of the first that was asked; the job goes on, guarded by `run`."""
    for path, why in ((place.socket, own), (place.system_socket, system)):
        if why is not None:
            answer = f"error {why}\n".encode(errors="surrogateescape")
            daemon(lambda connection, answer=answer: connection.sendall(answer), path)
    done, report = place.run(*WHILE_READING, str(place.fifo))
    assert (done.returncode, done.stdout, report["watched_by"]) == (0, "seen by run\n", "run")
    assert [line for line in place.said(done) if "daemon" in line] == ([] if said is None else [said])
    assert bool(report["daemon_refusal"]) == (said is not None)
    assert HIGH not in place.remembered()


def test_the_next_daemon_takes_the_job(place: Place, daemon: Callable[..., Daemon]) -> None:
    """Then nobody has to hear what the first one had against it."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(b"ok\n")
        place.fifo.write_text("seen by the daemon\n")
        assert connection.recv(1) == b""

    first = daemon(lambda connection: connection.sendall(f"error {NO_SLICE}\n".encode()))
    daemon(serve, place.system_socket)
    done, report = place.run(*WHILE_READING, str(place.fifo))
    assert first.heard == [f"watch {CGROUP}\n".encode()]
    assert (report["watched_by"], report["daemon_refusal"]) == ("daemon", None)
    (line,) = place.said(done)
    assert line.startswith("'sh' exited with 0 after ")


@pytest.mark.parametrize("answer", [b"", b"nonsense\n", b"ok\n"], ids=["hangs up", "nonsense", "dies"])
def test_a_daemon_that_says_no_reason(place: Place, daemon: Callable[..., Daemon], answer: bytes) -> None:
    """There is nothing to hand on."""
    daemon(lambda connection: connection.sendall(answer))
    done, report = place.run(*WHILE_READING, str(place.fifo))
    assert (report["watched_by"], report["daemon_refusal"]) == ("run", None)
    assert not [line for line in place.said(done) if "daemon" in line]
