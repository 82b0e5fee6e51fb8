# SPDX-License-Identifier: LGPL-2.1-or-later
"""The words of `slicemgr run` for what happens, in a cgroup and without one; the whole of each line."""

from typing import Any

import pytest

from slicemgr.cli.run_lines import kills_in_words, line
from slicemgr.cli.run_report import RunReport
from slicemgr.model.decision import Evidence, Resource, Shortage
from slicemgr.model.slice import VictimRule
from slicemgr.model.spec import JobSpec
from slicemgr.policy.badness import Unkillable
from slicemgr.service.report import (
    GuardFailedReport,
    HighReport,
    KernelKillReport,
    KillOutcome,
    KillReport,
    NoVictimReport,
    PacingFailedReport,
    Report,
)
from tests.unit.samples import MIB, process

JOB = "/of.slice/build.slice/slicemgr-make-1.scope"
GIB = 1024 * MIB
STALLED = Shortage(Resource.HIGH, 950 * MIB, 960 * MIB, Evidence.UNRECLAIMABLE, 0.5)
CC1PLUS, MAKE, LD = process(7, name="cc1plus"), process(5, name="make"), process(9, name="ld")


def run(cgroup: str = JOB, **spec: Any) -> RunReport:
    told = RunReport(JobSpec(("make",), "make", **spec))
    told.cgroup = cgroup
    return told


def kill(shortage: Shortage, **fields: Any) -> KillReport:
    rest = {
        "command_line": (), "held_bytes": 400 * MIB, "points": 1, "for_parent": None, "runners_up": ((LD, 200 * MIB),),
        "outcome": KillOutcome.EXITED, "seconds_to_exit": 0.1, "usage_after_bytes": 0, "was_alone": False, "cgroup": JOB,
    }  # fmt: skip
    return KillReport(0.0, CC1PLUS, shortage=shortage, **{**rest, **fields})


def test_a_process_dies_once(capsys: pytest.CaptureFixture[str]) -> None:
    """The pacer and the guard came to the same one; who could not be killed at first, and then was, is told twice."""
    told = run()
    told.tell(kill(STALLED, outcome=KillOutcome.STILL_THERE))
    told.tell(kill(STALLED))
    told.tell(kill(STALLED, held_bytes=401 * MIB))
    assert len(told.events) == capsys.readouterr().err.count("'cc1plus' (pid 7)") == 2


PASSED = Shortage(Resource.MEMORY, GIB + 10 * MIB, GIB)
NEXT = "; if that is not enough, next is 'ld' (pid 9) with 200.0M"
WHY = "and nearly all of it can't be reclaimed, at a stand for 0.50 s"
VICTIM = "'cc1plus' (pid 7), which held 400.0M"

LINES: list[tuple[Report, RunReport, str]] = [
    (
        kill(PASSED, cgroup="", for_parent=MAKE),
        run(""),
        f"killed {VICTIM}, in place of its parent 'make' (pid 5): the job held 1.0G, 10.0M above --max 1.0G{NEXT}",
    ),
    (
        kill(STALLED),
        run(),
        f"killed {VICTIM}: the job held 950.0M of memory.high 960.0M, {WHY}{NEXT}",
    ),
    (
        kill(STALLED, was_alone=True),
        run(high=960 * MIB),
        f"killed {VICTIM}: the job held 950.0M of --high 960.0M, {WHY}; it was the whole job: try --high 1.4G or more",
    ),
    (
        kill(STALLED, was_alone=True, command_line=("cc1plus", "x.cc")),
        run(),
        f"killed {VICTIM}: the job held 950.0M of memory.high 960.0M, {WHY}; it was the whole job: try --max 1.4G or more; it ran: cc1plus x.cc",
    ),
    (
        kill(PASSED, cgroup="/of.slice/build.slice", was_alone=True),
        run(),
        f"killed {VICTIM}: build.slice held 1.0G, 10.0M above memory.max 1.0G; it was alone",
    ),
    (
        kill(Shortage(Resource.MACHINE, 300 * MIB, 800 * MIB, Evidence.MACHINE), cgroup="/", asked_to_end=True),
        run(),
        f"ended (SIGTERM first) {VICTIM}: the machine had 300.0M available, of at least 800.0M{NEXT}",
    ),
    (
        kill(PASSED, rule=VictimRule.WHOLE_JOB, runners_up=()),
        run(),
        f"killed the whole job of {VICTIM}: the job held 1.0G, 10.0M above --max 1.0G; nothing else in it can be killed",
    ),
    (
        kill(Shortage(Resource.MEMORY, 900 * MIB, GIB, Evidence.NO_STEP_FITS), cgroup=""),
        run("", max=GIB),
        f"killed {VICTIM}: the job held 900.0M of --max 1.0G, and not even one step fits beside what those that wait hold{NEXT}",
    ),
    (
        kill(Shortage(Resource.MEMORY, 900 * MIB, 960 * MIB, Evidence.NO_STEP_FITS)),
        run(max=GIB),
        f"killed {VICTIM}: the job held 900.0M of the 960.0M that it may hold, and not even one step fits beside what those that wait hold{NEXT}",
    ),
    (
        kill(Shortage(Resource.MEMORY, GIB, GIB, Evidence.ALONE), cgroup="", was_alone=True),
        run("", max=GIB),
        f"killed {VICTIM}: the job held 1.0G of --max 1.0G, and it does not fit even alone; try --max 1.5G or more",
    ),
    (
        kill(Shortage(Resource.MEMORY, 600 * MIB, 960 * MIB, Evidence.ALONE), was_alone=True, command_line=("ld", "x")),
        run(max=GIB),
        (
            f"killed {VICTIM}: the job held 600.0M of the 960.0M that it may hold, and it does not fit even alone; "
            "try --max 1.4G or more; it ran: ld x"
        ),
    ),
    (
        kill(Shortage(Resource.MEMORY, 610 * MIB, 600 * MIB, Evidence.ALONE), was_alone=True),
        run(max=GIB),
        (
            f"killed {VICTIM}: the job held 610.0M of the 600.0M that it may hold, and it does not fit even alone; "
            "there is less for the job than its --max: try again with less else running"
        ),
    ),
    (
        kill(Shortage(Resource.MEMORY, 610 * MIB, 600 * MIB, Evidence.ALONE), was_alone=True),
        run(),
        (
            f"killed {VICTIM}: the job held 610.0M of the 600.0M that it may hold, and it does not fit even alone; "
            "try --max 920.0M or more"
        ),
    ),
    (
        PacingFailedReport("can't write '/x\x1b': No space left on device; try df"),
        run(),
        "pacing: can't write '/x\\x1b': No space left on device; try df",
    ),
    (
        kill(PASSED, outcome=KillOutcome.NOT_PERMITTED),
        run(),
        f"did not kill {VICTIM}: not permitted; the job held 1.0G, 10.0M above --max 1.0G",
    ),
    (
        NoVictimReport(0.0, PASSED, ((LD, Unkillable.ADJUSTED),), JOB),
        run(),
        "the job holds 1.0G, 10.0M above --max 1.0G, and nothing in it can be killed: 'ld' (pid 9) is protected by oom_score_adj -1000",
    ),
    (
        HighReport(0.0, 70 * MIB, 64 * MIB, JOB),
        run(high=64 * MIB),
        "the job holds 70.0M, 6.0M above --high 64.0M; the kernel slows it down",
    ),
    (
        HighReport(0.0, 70 * MIB, 64 * MIB),
        run("", high=64 * MIB),
        "the job holds 70.0M, 6.0M above --high 64.0M; without a cgroup it can't be slowed down, only watched",
    ),
    (
        KernelKillReport(0.0, JOB, 1, ((7, "cc1plus\n"),)),
        run(),
        "the kernel was first: its OOM killer ended 'cc1plus\\n' (pid 7); try a higher --max, or fewer steps at once",
    ),
    (
        GuardFailedReport("OSError: \x1b"),
        run(""),
        "the guard failed (OSError: \\x1b): the command goes on unguarded; please report this",
    ),
]


@pytest.mark.parametrize(("report", "told", "text"), LINES, ids=[str(at) for at in range(len(LINES))])
def test_lines(report: Report, told: RunReport, text: str) -> None:
    """One line for one thing."""
    assert line(report, told) == text


def test_the_summary_counts_by_name() -> None:
    """The most frequent first; what the kernel did is not what we did, and who was spared is nobody."""
    kills = [kill(PASSED), kill(PASSED), kill(PASSED, outcome=KillOutcome.REFUSED)]
    assert kills_in_words([*kills, KernelKillReport(0.0, JOB, 2, ())]) == (
        "killed 2 'cc1plus', the kernel killed 2; to keep all, try fewer steps at once or a higher limit"
    )
    assert kills_in_words([HighReport(0.0, 2, 1)]) == "nothing killed"
