# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr jobs` as a shell calls it: a bare number on stdout."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from slicemgr.build.learned import FILE_NAME
from slicemgr.cli import jobs
from slicemgr.policy.safe_jobs import Headroom
from tests.cli.slicemgr_command import slicemgr
from tests.cli.test_steps import learn

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GIB = 1 << 30
KATE = [("ld", "bin/kate", "/home/a/kate", 1000, 1.0), *(("cc1plus", f"{at}.cc", "/home/a/kate", 100, 1.0) for at in range(30))]  # fmt: skip


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state/slicemgr" / FILE_NAME


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine of 20 GiB with so much available, so many cores, and limits above us."""

    def of(available: int, cores: int = 20, rooms: tuple[Headroom, ...] = ()) -> None:
        monkeypatch.setattr(jobs, "read_total_and_available", lambda: (20 * GIB, available))
        monkeypatch.setattr(jobs, "cgroup_rooms", lambda pid: list(rooms))
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))

    return of


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert jobs.main(["--user", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_bare_number(tmp_path: Path) -> None:
    """For `make -j$(slicemgr jobs)`: nothing else where no person looks."""
    ended = slicemgr("jobs", "--user", cwd=tmp_path)
    assert (ended.status, ended.stderr) == (0, "")
    assert ended.stdout == f"{int(ended.stdout)}\n"
    assert 1 <= int(ended.stdout) <= len(os.sched_getaffinity(0))


def test_why(machine: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path, own_state: Path) -> None:
    """On a terminal, or where it is asked for; on stderr."""
    machine(6 * GIB)
    assert jobs.main(["--user", "--explain", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert told.out == "8\n"
    assert told.err == (
        f"slicemgr jobs: 8 of 20 cores: 4.0G to take (this machine, less a tenth); nothing is known of steps in "
        f"'{tmp_path}': 512.0M each\n"
    )
    learn(own_state, [("cc1", f"{at}.c", str(tmp_path), 1000, 1.0) for at in range(9)])
    assert jobs.main(["--user", "--explain", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert told.out == "4\n"
    assert told.err.endswith(f"; the 4 fattest steps in '{tmp_path}' hold 3.9G\n")
    machine(2 * GIB + 1)
    assert jobs.main(["--user", "--explain", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert told.out == "1\n"
    assert told.err.endswith(
        f"1 of 20 cores: 1B to take (this machine, less a tenth); the fattest step in '{tmp_path}' holds 1000.0M\n"
    )
    machine(19 * GIB, cores=2)
    assert jobs.main(["--user", "--explain", str(tmp_path)]) == 0
    assert capsys.readouterr().err.startswith("slicemgr jobs: all 2 cores: 17.0G to take ")
    assert jobs.main(["--user", str(tmp_path)]) == 0
    assert capsys.readouterr().err == ""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr.isatty", lambda: True)
        assert jobs.main(["--user", str(tmp_path)]) == 0
    assert capsys.readouterr().err != ""


def test_the_tightest_limit(machine: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Of the machine, what is above us, and what is asked for: a job is slowed down from its memory.high on."""
    above = Headroom(3 * GIB, "memory.high of build.slice")
    machine(12 * GIB, rooms=(above, Headroom(5 * GIB, "memory.max of user.slice")))
    told = answer(capsys, str(tmp_path))
    assert (told["jobs"], told["bound_by"], told["room"]) == (6, "memory.high of build.slice", 3 * GIB)
    assert [each["room"] for each in told["limits"]] == [10 * GIB, 3 * GIB, 5 * GIB]
    told = answer(capsys, "--max", "2G", str(tmp_path))
    assert (told["jobs"], told["bound_by"], told["room"]) == (3, "--max 2.0G", 2 * GIB * 15 // 16)
    assert answer(capsys, "--max", "10%", str(tmp_path))["jobs"] == 3
    assert answer(capsys, "--max", "max", str(tmp_path))["bound_by"] == "memory.high of build.slice"
    assert answer(capsys, "--max", "15G", str(tmp_path))["jobs"] == 6


def test_what_was_learnt_counts(
    machine: Callable[..., None], capsys: pytest.CaptureFixture[str], tmp_path: Path, own_state: Path
) -> None:
    """Of the directory and below it; of other projects only if they are bigger than what is supposed of any."""
    work = tmp_path / "work"
    work.mkdir()
    machine(4 * GIB)
    learn(own_state, [(program, what, f"{work}/sub", size, seconds) for program, what, _, size, seconds in KATE])
    told = answer(capsys, str(work))
    assert (told["jobs"], told["known_steps"]) == (11, 31)
    assert told["held"] == 2000 << 20
    other = tmp_path / "other"
    other.mkdir()
    assert answer(capsys, str(other))["each_unknown"] == 512 << 20
    learn(own_state, [("ld", f"{at}", "/home/a/chromium", 4096, 1.0) for at in range(100)])
    told = answer(capsys, str(other))
    assert told["known_steps"] == 0
    assert told["each_unknown"] > 3 * GIB
    assert answer(capsys, str(work))["jobs"] == 11


def test_json_is_documented(capsys: pytest.CaptureFixture[str]) -> None:
    """Each key."""
    told = answer(capsys)
    assert told["schema"] == "slicemgr.jobs/1"
    assert told["directory"] == os.path.realpath(".")
    assert all(f'"{key}"' in jobs._EPILOG for key in told)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--max", "1Q"], r"--max: '1Q' is no size; try bytes, a suffix of 1024s (600M, 1.5G), or a percentage (60%)"),
        (["--max", ""], r"--max: '' is no size; try bytes, a suffix of 1024s (600M, 1.5G), or a percentage (60%)"),
        (["--max", "x\x1b[2J"], r"--max: 'x\x1b[2J' is no size; try bytes, a suffix of 1024s (600M, 1.5G), or a percentage (60%)"),
        (["--max", "600"], "--max 600B is less than any command needs to start; try --max 600M"),
        (["--max", "0"], "--max 0 leaves nothing to run in; try --max 60%"),
        (["/nowhere"], "'/nowhere' is no directory; try the one in which the build runs"),
        (["/etc/passwd"], "'/etc/passwd' is no directory; try the one in which the build runs"),
        ([""], "'' is no directory; try the one in which the build runs"),
        (["--limit", "3"], "unrecognized arguments: --limit; try 'slicemgr jobs --help'"),
        (["--max"], "argument --max: expected one argument; try 'slicemgr jobs --help'"),
    ],
)  # fmt: skip
def test_what_cant_be_meant(arguments: list[str], line: str) -> None:
    """Exit status 2, one line, and no number that a shell would take."""
    ended = slicemgr("jobs", "--user", *arguments)
    assert (ended.status, ended.stdout, ended.stderr) == (2, "", f"slicemgr jobs: {line}\n")


def test_a_broken_store_is_no_reason_to_give_no_number(own_state: Path) -> None:
    """It is said, and then nothing is known."""
    own_state.parent.mkdir(parents=True)
    own_state.write_text("of another program\n" * 100)
    ended = slicemgr("jobs", "--user")
    assert ended.status == 0
    assert int(ended.stdout) >= 1
    assert ended.stderr.startswith(f"slicemgr jobs: '{own_state}' is broken (")
    assert len(ended.lines) == 1
