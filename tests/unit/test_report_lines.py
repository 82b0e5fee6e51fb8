# SPDX-License-Identifier: LGPL-2.1-or-later
"""The line for each thing in the history."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.cli.report_lines import ago, calendar, history_line, short_story
from slicemgr.model.decision import Evidence, Resource, Shortage
from slicemgr.model.slice import VictimRule
from slicemgr.policy.badness import Unkillable
from slicemgr.service.record import Record
from slicemgr.service.report import (
    GuardFailedReport,
    HighReport,
    KernelKillReport,
    KillOutcome,
    NoVictimReport,
    PacingFailedReport,
    SignalRefusedReport,
)
from tests.unit.samples import MIB, process
from tests.unit.test_record import RECORDS, a_kill

KILL = Record(a_kill(), 0.0, "build.slice", "slicemgr-kate-4700.scope")


@pytest.mark.parametrize(
    ("record", "story"),
    [
        (dataclasses.replace(KILL, report=a_kill(outcome=KillOutcome.EXITED)),
         ("killed 'cc1plus' (pid 4711), which held 400.0M, in place of its parent 'make' (pid 4700), in job 'kate' of build: "
         "1.1G used of memory.max 1.0G; freed 400.0M in 0.04 s; next was 'p4712' (pid 4712) with 200.0M; "
         "it ran: cc1plus kate.cpp")),
        (Record(a_kill(outcome=KillOutcome.EXITED, for_parent=None, was_alone=True, runners_up=(), command_line=(),
                       usage_after_bytes=2 << 30, rule=VictimRule.WHOLE_JOB,
                       shortage=Shortage(Resource.HIGH, 1 << 30, 1 << 30, Evidence.SWAP_FULL, 0.75)), 0.0, "app.slice"),
         ("killed the whole job of 'cc1plus' (pid 4711), which held 400.0M, in app: 1.0G used of memory.high 1.0G, and there "
         "is no swap left to take it, at a stand for 0.75 s; gone in 0.04 s, and nothing was freed; it was alone")),
        (Record(a_kill(outcome=KillOutcome.EXITED, for_parent=None, runners_up=(), command_line=(), asked_to_end=True,
                       shortage=Shortage(Resource.MACHINE, 300 * MIB, 800 * MIB, Evidence.MACHINE)), 0.0),
         ("ended (SIGTERM first) 'cc1plus' (pid 4711), which held 400.0M: the machine had 300.0M available of at least "
         "800.0M; freed 400.0M in 0.04 s; nobody else could have been killed")),
        (Record(a_kill(outcome=KillOutcome.NOT_PERMITTED, for_parent=None, command_line=()), 0.0, "", "kate"),
         ("did not kill 'cc1plus' (pid 4711), which held 400.0M, in job 'kate': 1.1G used of memory.max 1.0G; that was not "
         "permitted; next was 'p4712' (pid 4712) with 200.0M")),
        (Record(KernelKillReport(1.0, "/x", 2, ((7, "ld\n"),)), 0.0, "build.slice", "kate"),
         "the kernel was first, in job 'kate' of build: its OOM killer ended 'ld\\n' (pid 7) and 1 more"),
        (Record(KernelKillReport(1.0, "/x", 1, ()), 0.0), "the kernel was first: its OOM killer ended 1 process"),
        (Record(NoVictimReport(1.0, Shortage(Resource.SWAP, 3 * MIB, MIB), ((process(1, name="systemd"), Unkillable.INIT),)),
                0.0, "app.slice"),
         ("killed nobody, in app: 3.0M used of memory.swap.max 1.0M, and nothing in it could be killed: 'systemd' (pid 1) "
         "is pid 1")),
        (Record(GuardFailedReport("OSError: \x1b"), 0.0, "", "kate"),
         "the guard failed, in job 'kate': OSError: \\x1b"),
        (Record(PacingFailedReport("can't write '/x\n': No space left on device; try df"), 0.0, "build.slice", "kate"),
         "steps were not paced, or not as well, in job 'kate' of build: can't write '/x\\n': No space left on device; try df"),
        (Record(a_kill(outcome=KillOutcome.EXITED, for_parent=None, command_line=(),
                       shortage=Shortage(Resource.MEMORY, 900 * MIB, 1 << 30, Evidence.NO_STEP_FITS)), 0.0, "", "kate"),
         ("killed 'cc1plus' (pid 4711), which held 400.0M, in job 'kate': 900.0M used of memory.max 1.0G, and not even one step "
          "fits beside what those that wait hold; freed 200.0M in 0.04 s; next was 'p4712' (pid 4712) with 200.0M")),
        (Record(a_kill(outcome=KillOutcome.EXITED, for_parent=None, command_line=(), was_alone=True,
                       shortage=Shortage(Resource.MEMORY, 1020 * MIB, 1 << 30, Evidence.ALONE)), 0.0, "", "kate"),
         ("killed 'cc1plus' (pid 4711), which held 400.0M, in job 'kate': 1020.0M used of memory.max 1.0G, and it does not fit "
          "even alone; freed 320.0M in 0.04 s")),
        (Record(HighReport(1.0, 3 * MIB, 2 * MIB), 0.0, "build.slice"), "slowed down, in build: 1.0M above memory.high 2.0M"),
        (Record(SignalRefusedReport(15), 0.0), "signal 15 was not passed on: the command is another user's"),
    ],
)  # fmt: skip
def test_a_line_of_the_history(record: Record, story: str) -> None:
    """Who, how much, in whose place, where, why, what it brought, who was next."""
    assert history_line(record).partition("  ")[2] == story


@given(RECORDS)
def test_any_record_is_one_visible_line(record: Record) -> None:
    """Whatever a process called itself."""
    assert history_line(record).isprintable()
    assert short_story(record).isprintable()
    history_line(record).encode()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s ago"),
        (59.9, "60 s ago"),
        (60, "1 min ago"),
        (7199, "1 h ago"),
        (90_000, "1 d ago"),
        (-1, "in the future"),
    ],
)
def test_how_long_ago(seconds: float, text: str) -> None:
    """One figure."""
    assert ago(seconds) == text


@given(st.floats())
def test_any_time_is_told(seconds: float) -> None:
    """A torn record may hold any number."""
    assert calendar(seconds)
