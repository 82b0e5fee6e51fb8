# SPDX-License-Identifier: LGPL-2.1-or-later
"""The words for what pacing has done, and the same as JSON; the whole of each line, and of the summary line around it."""

import json
import signal
from typing import Any

import pytest

from slicemgr.cli.pacing_lines import fattest_in_words, pacing_as_data, pacing_in_words
from slicemgr.cli.run_lines import as_data
from slicemgr.cli.run_report import RunReport
from slicemgr.model.decision import Resource, Shortage
from slicemgr.model.spec import JobSpec
from slicemgr.model.step import StepSignature
from slicemgr.placement.backend import JobHandle
from slicemgr.service.job_report import JobReport
from slicemgr.service.pacing_tally import FatStep, PacingSummary
from slicemgr.service.report import HighReport, KernelKillReport, KillOutcome, PacingFailedReport
from tests.unit.samples import MIB
from tests.unit.test_record import a_kill

BIG = FatStep("cc1plus", StepSignature("cc1plus", "big.cc", "/src"), 198 * MIB + 200 * 1024)
LONG = FatStep("ld", StepSignature("ld", f"{'deep/' * 20}kate", "/src"), 50 * MIB)
UNKNOWN = FatStep("my tool", None, 20 * MIB)


def summary(**fields: Any) -> PacingSummary:
    rest: dict[str, Any] = {
        "steps": 30, "waited": 0, "waited_seconds": 0.0, "most_running": 6, "stops": 2, "peak_bytes": 900 * MIB,
        "budget_bytes": 960 * MIB, "fattest": (BIG, LONG, UNKNOWN),
    }  # fmt: skip
    return PacingSummary(**{**rest, **fields})


@pytest.mark.parametrize(
    ("waited", "seconds", "text"),
    [
        (0, 0.0, ""),
        (1, 0.25, "1 step waited, 0.25 s in all"),
        (1, 12.34, "1 step waited, 12.3 s in all"),
        (14, 92.0, "14 steps waited, 1 min 32 s in all"),
        (20, 253.0, "20 steps waited, 4 min 13 s in all"),
    ],
)
def test_who_waited(waited: int, seconds: float, text: str) -> None:
    """How many, and how long; nothing where nobody did."""
    assert pacing_in_words(summary(waited=waited, waited_seconds=seconds)) == text


@pytest.mark.parametrize(
    ("waited", "fattest", "text"),
    [
        (0, (BIG,), ""),
        (1, (), ""),
        (1, (BIG,), "fattest steps: 198.2M cc1plus big.cc"),
        (2, (BIG, UNKNOWN), "fattest steps: 198.2M cc1plus big.cc, 20.0M my tool"),
        # The end of a path tells more than its beginning.
        (2, (LONG,), "fattest steps: 50.0M ld …deep/deep/deep/deep/deep/deep/deep/kate"),
        (1, (FatStep("a\nb", StepSignature("a", "\x1b[2J\udcff", "/"), MIB),),
         "fattest steps: 1.0M a\\nb \\x1b[2J\\xff"),
    ],
)  # fmt: skip
def test_who_was_fattest(waited: int, fattest: tuple[FatStep, ...], text: str) -> None:
    """By program and by what it makes; on one line, whatever they are called, and only if somebody waited for them."""
    assert fattest_in_words(summary(waited=waited, fattest=fattest)) == text


def test_what_is_shown_of_a_path_is_bounded() -> None:
    """40 characters of each, the dots included."""
    (shown,) = (line.rpartition(" ")[2] for line in [fattest_in_words(summary(waited=1, fattest=(LONG,)))])
    assert len(shown) == 40


def test_pacing_as_json() -> None:
    """All figures, sizes in bytes; a step without a signature has null; a name that is no UTF-8 is escaped."""
    hostile = FatStep("\udcff", StepSignature("x", "\udcff", "/\udcff"), 3)
    data = pacing_as_data(
        summary(waited=3, waited_seconds=1.23456, fattest=(BIG, UNKNOWN, hostile), cpu_seconds=0.12345)
    )
    fattest: Any = data.pop("fattest")
    assert data == {
        "steps": 30, "waited": 3, "waited_seconds": 1.235, "stops": 2, "most_running": 6, "peak_bytes": 900 * MIB,
        "budget_bytes": 960 * MIB, "cpu_seconds": 0.123,
    }  # fmt: skip
    assert fattest[:2] == [
        {"comm": "cc1plus", "what": "big.cc", "directory": "/src", "peak_bytes": BIG.peak_bytes},
        {"comm": "my tool", "what": None, "directory": None, "peak_bytes": 20 * MIB},
    ]
    assert fattest[2] == {"comm": "\\xff", "what": "\\xff", "directory": "/\\xff", "peak_bytes": 3}
    json.dumps(data).encode("ascii")


def ended(status: int = 0, *, pacing: PacingSummary | None = None, peak: int = 859 * MIB + 300 * 1024) -> JobReport:
    """A job that has ended after 47.0 s."""
    job = JobReport(JobHandle("embedded", None), (None, 1024 * MIB, None), status)
    job.elapsed_seconds = 47.0
    job.peak_bytes = peak
    job.pacing = pacing
    return job


def report(*events: Any) -> RunReport:
    told = RunReport(JobSpec(("make",), "make", max=1024 * MIB))
    told.events.extend(events)
    return told


PACED = summary(waited=20, waited_seconds=253.0, fattest=(BIG, UNKNOWN))
KILLED = a_kill(outcome=KillOutcome.EXITED, shortage=Shortage(Resource.MEMORY, 1100 * MIB, 1024 * MIB), cgroup="")


@pytest.mark.parametrize(
    ("job", "events", "line"),
    [
        (ended(pacing=PACED), (), ("'make' exited with 0 after 47.0 s; nothing killed; 20 steps waited, 4 min 13 s in all; "
                                  "peak 859.3M of 1.0G; fattest steps: 198.2M cc1plus big.cc, 20.0M my tool")),
        (ended(pacing=summary()), (), "'make' exited with 0 after 47.0 s; nothing killed; peak 859.3M of 1.0G"),
        (ended(), (), "'make' exited with 0 after 47.0 s; nothing killed; peak 859.3M of 1.0G"),
        (ended(peak=0), (), "'make' exited with 0 after 47.0 s; nothing killed; too short to measure"),
        (ended(2 << 8, pacing=summary(waited=1, waited_seconds=2.0, fattest=())), (KILLED,),
         ("'make' exited with 2 after 47.0 s; killed 'cc1plus'; to keep all, try fewer steps at once or a higher limit; "
         "1 step waited, 2.00 s in all; peak 859.3M of 1.0G")),
    ],
    ids=["paced", "none waited", "not paced", "short", "killed"],
)  # fmt: skip
def test_the_summary_line(
    job: JobReport, events: tuple[Any, ...], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """How it ended, who was killed, who waited, how much it held, and who was fattest: in this order."""
    report(*events).end(job)
    assert capsys.readouterr().err == f"slicemgr: {line}\n"


def test_pacing_in_the_json_of_a_run() -> None:
    """null without a pacer; what failed of it is told as well."""
    told = report(PacingFailedReport("no room; try df"))
    assert as_data(told, ended())["pacing"] is None
    data: Any = as_data(told, ended(pacing=PACED))
    assert (data["pacing"]["waited"], data["pacing_failures"]) == (20, ["no room; try df"])


KERNEL_KILL = KernelKillReport(1.0, "/x", 1, ())
AGAIN = "slicemgr: 'make' exited with {}; again, with at most {} at once\n"


@pytest.mark.parametrize(
    ("job", "events", "ceiling", "fewer"),
    [
        (ended(2 << 8, pacing=summary(most_running=8)), (KILLED,), None, 4),
        (ended(2 << 8, pacing=summary(most_running=8)), (HighReport(1.0, 2, 1), KERNEL_KILL), None, 4),
        (ended(2 << 8, pacing=summary(most_running=8)), (KILLED,), 4, 2),
        (ended(2 << 8, pacing=summary(most_running=8)), (KILLED,), 3, 1),
        (ended(2 << 8, pacing=summary(most_running=8)), (KILLED,), 1, 1),
        (ended(2 << 8), (KILLED,), None, 1),
        # It has failed by itself, or was not killed; or it has not failed, as after `make -k || true`.
        (ended(2 << 8, pacing=summary(most_running=8)), (), None, None),
        (ended(2 << 8, pacing=summary(most_running=8)), (HighReport(1.0, 2, 1),), None, None),
        (ended(2 << 8), (a_kill(outcome=KillOutcome.NOT_PERMITTED),), None, None),
        (ended(2 << 8), (a_kill(outcome=KillOutcome.REFUSED),), None, None),
        (ended(0), (KILLED,), None, None),
        # A person's signal: it ended the command, or a shell has said that it ended what the shell waited for.
        (ended(signal.SIGINT), (KILLED,), None, None),
        (ended(signal.SIGKILL), (KILLED,), None, None),
        (ended((128 + signal.SIGINT) << 8), (KILLED,), None, None),
        (ended((128 + signal.SIGTERM) << 8), (KILLED,), None, None),
        (ended((128 + signal.SIGHUP) << 8), (KILLED,), None, None),
    ],
)
def test_whether_it_is_run_again(
    job: JobReport, events: tuple[Any, ...], ceiling: int | None, fewer: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only what has failed after a kill; with half as many at once, and that is said."""
    assert report(*events).to_run_again(job, ceiling) == fewer
    assert capsys.readouterr().err == ("" if fewer is None else AGAIN.format(2, fewer))


def test_without_pacing_it_would_fail_again(capsys: pytest.CaptureFixture[str]) -> None:
    """The configuration has it off: nobody would keep to a lower number."""
    job = ended(2 << 8, pacing=summary(most_running=8, may_hold=False))
    assert report(KILLED).to_run_again(job, None) is None
    assert "'make' exited with 2; not again, as none of its steps would wait; try " in capsys.readouterr().err


def test_a_status_that_tells_of_our_own_kill(capsys: pytest.CaptureFixture[str]) -> None:
    """137 is what a shell says of a compiler that was killed: that is the reason, and nobody's wish."""
    assert report(KILLED).to_run_again(ended((128 + signal.SIGKILL) << 8), 4) == 2
    assert capsys.readouterr().err == AGAIN.format(137, 2)


def test_a_build_that_was_told_to_end_is_not_run_again() -> None:
    """Whatever status it makes of that."""
    job = ended(2 << 8)
    job.was_told_to_end = True
    assert report(KILLED).to_run_again(job, 4) is None


def test_a_kill_counts_for_the_run_it_was_in() -> None:
    """The second run fails without one: then it is the build's own fault."""
    told = report(KILLED)
    assert told.to_run_again(ended(2 << 8), 4) == 2
    assert told.to_run_again(ended(2 << 8), 2) is None
