# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr run --retry`: what is run again, how often, and with how many steps at once; and where a profile puts a job."""

import json
import shlex
import signal
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from slicemgr.cli import run as run_verb
from slicemgr.model.spec import PacingRequest
from slicemgr.placement.backend import JobHandle
from slicemgr.service.job_report import JobReport
from slicemgr.service.pacing_tally import PacingSummary
from slicemgr.service.report import KillOutcome
from tests.cli.placed_run import Place
from tests.cli.slicemgr_command import EMBEDDED, SLICEMGR, hog, report, slicemgr
from tests.cli.test_terminal import CTRL_C, PROMPT, Terminal
from tests.unit.test_record import a_kill

TOO_BIG = shlex.join(hog("--grow", "60M", "--rate", "300M", "--hold", "5"))
LIMIT = ["--max", "30M"]
AGAIN = "; again, with at most "


def runs(folder: Path) -> int:
    """How often the command has begun: each time it adds a line."""
    return len((folder / "runs").read_text().splitlines())


class TestTheCommand:
    """Real ones, of which a step is killed because it fits nowhere."""

    def test_a_failure_after_a_kill(self, tmp_path: Path) -> None:
        """It is run again, and what counts is how that ends."""
        script = f"echo >>runs; [ $(wc -l <runs) = 2 ] && exit 0; {TOO_BIG}; exit 3"
        file = tmp_path / "report.json"
        ended = slicemgr(
            "run", *EMBEDDED, *LIMIT, "--retry", "5", "--json", str(file), "--", "sh", "-c", script, cwd=tmp_path
        )
        assert (ended.status, runs(tmp_path)) == (0, 2), ended.stderr
        assert [line for line in ended.lines if AGAIN in line] == [
            "slicemgr: 'sh' exited with 3; again, with at most 1 at once"
        ]
        assert ended.lines[-1].startswith("slicemgr: 'sh' exited with 0 after ")
        assert (report(file)["exit"], len(report(file)["kills"])) == ({"status": 0}, 1)

    def test_it_is_bounded(self, tmp_path: Path) -> None:
        """Once and N times more; the status is the last one's."""
        script = f"echo >>runs; {TOO_BIG}; exit $((2 + $(wc -l <runs)))"
        ended = slicemgr("run", *EMBEDDED, *LIMIT, "--retry", "2", "--", "sh", "-c", script, cwd=tmp_path)
        assert (ended.status, runs(tmp_path), ended.stderr.count(AGAIN)) == (5, 3, 2), ended.stderr

    @pytest.mark.parametrize("options", [[], ["--retry", "0"]])
    def test_not_by_itself(self, options: list[str], tmp_path: Path) -> None:
        """Nobody knows whether a command may be run twice, but who gives it."""
        script = f"echo >>runs; {TOO_BIG}; exit 3"
        ended = slicemgr("run", *EMBEDDED, *LIMIT, *options, "--", "sh", "-c", script, cwd=tmp_path)
        assert (ended.status, runs(tmp_path)) == (3, 1)

    def test_a_failure_of_its_own(self, tmp_path: Path) -> None:
        """Nothing was killed: it would fail again."""
        ended = slicemgr("run", *EMBEDDED, "--retry", "3", "--", "sh", "-c", "echo >>runs; exit 3", cwd=tmp_path)
        assert (ended.status, runs(tmp_path), len(ended.lines)) == (3, 1, 1)

    def test_success_in_spite_of_a_kill(self, tmp_path: Path) -> None:
        """As a configure script that tries something out."""
        script = f"echo >>runs; {TOO_BIG}; exit 0"
        ended = slicemgr("run", *EMBEDDED, *LIMIT, "--retry", "3", "--", "sh", "-c", script, cwd=tmp_path)
        assert (ended.status, runs(tmp_path)) == (0, 1)
        assert "killed '" in ended.stderr

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_who_was_told_to_end(self, number: signal.Signals, tmp_path: Path) -> None:
        """By kill, or by a shell that goes: also with a status that tells nothing of it."""
        word = number.name.removeprefix("SIG")
        script = f"echo >>runs; {TOO_BIG}; sleep 60 & trap 'kill $!; exit 5' {word}; echo ready; wait"
        process = subprocess.Popen(
            [*SLICEMGR, "run", *EMBEDDED, *LIMIT, "--retry", "3", "--", "sh", "-c", script],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
        assert (process.returncode, runs(tmp_path)) == (5, 1), told
        assert "killed '" in told

    def test_control_c(self, tmp_path: Path) -> None:
        """From the keyboard, to a build that makes a status of its own of it, as ninja does."""
        script = tmp_path / "build"
        script.write_text(f"echo >>{tmp_path}/runs\n{TOO_BIG}\ntrap 'exit 2' INT\necho u''p\nsleep 1000 & wait\n")
        line = shlex.join([*SLICEMGR, "run", *EMBEDDED, *LIMIT, "--retry", "3", "--", "sh", str(script)])
        with closing(Terminal()) as terminal:
            terminal.enter(line)
            terminal.expect("^up")
            terminal.type(CTRL_C)
            terminal.expect("slicemgr: 'sh' exited with 2 after")
            terminal.expect(PROMPT)
            assert AGAIN not in terminal.screen
        assert runs(tmp_path) == 1


def test_fewer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what ran at once, then half of that, and at last one; never more often than was said."""
    ceilings: list[int | None] = []

    def fail(spec: Any, pacing: Any, limits: Any, total: int, backend: str, told: Any) -> JobReport:
        ceilings.append(pacing.ceiling)
        told.events.append(a_kill(outcome=KillOutcome.EXITED))
        job = JobReport(JobHandle("embedded", None), (None, None, None), 2 << 8)
        job.pacing = PacingSummary(9, 0, 0.0, 9, 0, 0, 0, ())
        return job

    monkeypatch.setattr(run_verb, "_run", fail)
    assert run_verb.main(["--retry", "5", "--", "make"]) == 2
    assert ceilings == [None, 4, 2, 1, 1, 1]


def test_a_request_with_a_ceiling_is_else_the_same() -> None:
    """Nothing that a person has said gets lost on the way to the second run."""
    asked = PacingRequest(
        is_on=False, never_hold=("a",), has_tokens=False, relaunches=False, is_agent=True, may_run_again=True
    )
    limited = asked.with_ceiling(3)
    changed = {name for name in asked.__slots__ if getattr(asked, name) != getattr(limited, name)}
    assert (changed, limited.ceiling) == ({"ceiling"}, 3)
    default = PacingRequest()
    assert all(getattr(asked, name) != getattr(default, name) for name in {*asked.__slots__} - {"ceiling"})


@pytest.mark.parametrize(
    ("options", "slice_name"),
    [
        ([], "build.slice"),
        (["--profile", "build"], "build.slice"),
        (["--profile", "agent"], "build-agent.slice"),
        (["--profile", "agent", "--slice", "ci"], "ci.slice"),
    ],
)
def test_where_a_profile_puts_it(place: Place, options: list[str], slice_name: str) -> None:
    """An agent's builds are builds, in a slice of their own below the others'; unless somebody says where."""
    _, told = place.run(*options, "--", "true", guard_after=60)
    assert json.loads(place.asked.read_text())["slice_name"] == told["slice"] == slice_name
