# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr steps` as a person calls it, and its table and JSON."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

import pytest

from slicemgr.build.learned import FILE_NAME, LearnedSteps
from slicemgr.cli import steps
from slicemgr.model.step import Profile, StepSignature
from tests.cli.slicemgr_command import slicemgr

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MIB = 1 << 20
NOTHING = "no step has been learnt yet; try 'slicemgr run -- make -j20'\n"


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `--user` keeps it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state/slicemgr" / FILE_NAME


def learn(path: Path, rows: Sequence[tuple[str, str, str, int, float]], now: float | None = None) -> None:
    """(program, what, directory, MiB, seconds) of each."""
    with LearnedSteps(str(path)) as learned:
        for program, what, directory, size, seconds in rows:
            profile = Profile(size * MIB, seconds / 2, seconds)
            learned.learn(StepSignature(program, what, directory), profile, time.time() if now is None else now)
        learned.flush()


ROWS = [
    ("cc1plus", "obj/kate.cc", "/home/a/kate", 812, 12.34),
    ("ld", "bin/kate", "/home/a/kate/build", 1536, 3.0),
    ("python3", "gen.py \x1b[2J", "/home/a/other", 20, 0.5),
    ("build-script-build", "", "/home/a/crate", 5, 0.1),
]


def test_the_fattest_first(own_state: Path) -> None:
    """Names can't draw on the terminal."""
    learn(own_state, ROWS, time.time() - 7300)
    ended = slicemgr("steps", "--user")
    assert (ended.status, ended.stderr) == (0, "")
    heading, *lines = (line.split() for line in ended.stdout.splitlines())
    assert heading == ["PEAK", "TIME", "RUNS", "SEEN", "PROGRAM", "WHAT", "DIRECTORY"]
    assert lines == [
        ["1.5G", "3.00", "s", "1", "2", "h", "ago", "ld", "bin/kate", "/home/a/kate/build"],
        ["812.0M", "12.3", "s", "1", "2", "h", "ago", "cc1plus", "obj/kate.cc", "/home/a/kate"],
        ["20.0M", "0.50", "s", "1", "2", "h", "ago", "python3", "gen.py", "\\x1b[2J", "/home/a/other"],
        ["5.0M", "0.10", "s", "1", "2", "h", "ago", "build-script-build", "-", "/home/a/crate"],
    ]  # fmt: skip


def test_on_a_terminal_lines_fit(
    own_state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A long command line leaves room for the directory."""
    learn(own_state, [("python3", "x" * 190, "/home/a/kate", 5, 1.0)])
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "110")
    assert steps.main(["--user"]) == 0
    _, line = capsys.readouterr().out.splitlines()
    assert len(line) <= 110
    assert "xxx…  /home/a/kate" in line
    monkeypatch.setenv("COLUMNS", "40")
    assert steps.main(["--user"]) == 0
    assert all(len(each) <= 40 for each in capsys.readouterr().out.splitlines())


def test_as_many_as_are_asked_for(own_state: Path) -> None:
    """Twenty, if nobody asks."""
    learn(own_state, [("cc1", f"{at}.c", "/a", 1 + at, 1.0) for at in range(30)])
    assert len(slicemgr("steps", "--user").stdout.splitlines()) == 21
    assert len(slicemgr("steps", "--user", "--limit", "3").stdout.splitlines()) == 4
    assert len(slicemgr("steps", "--user", "--limit", "999999999").stdout.splitlines()) == 31
    assert slicemgr("steps", "--user", "--limit", "0").stdout == NOTHING


def test_of_a_directory(own_state: Path, tmp_path: Path) -> None:
    """As the steps saw it: without links, and with what is below it."""
    real, link = tmp_path / "real", tmp_path / "link"
    (real / "sub").mkdir(parents=True)
    link.symlink_to(real)
    learn(own_state, [("cc1", "x.c", str(real), 9, 1.0), ("cc1", "y.c", str(real / "sub"), 8, 1.0), *ROWS])
    for directory, cwd in ((str(link), None), (".", real), ("sub/..", link)):
        told = slicemgr("steps", "--user", "--json", directory, cwd=cwd)
        assert [step["what"] for step in json.loads(told.stdout)["steps"]] == ["x.c", "y.c"]
    ended = slicemgr("steps", "--user", "/home/a/k\x1b")
    assert ended.stdout == "no step has been learnt in '/home/a/k\\x1b' yet; try 'slicemgr run -- make -j20'\n"


def test_json(own_state: Path) -> None:
    """In bytes and seconds; names that are no UTF-8 are escaped."""
    learn(own_state, [("cc1", os.fsdecode(b"caf\xe9.c"), "/a\nb", 3, 2.0)], 1000.5)
    data = json.loads(slicemgr("steps", "--user", "--json").stdout)
    assert data == {
        "schema": "slicemgr.steps/1",
        "steps": [
            {
                "peak": 3 * MIB,
                "rise_seconds": 1.0,
                "run_seconds": 2.0,
                "program": "cc1",
                "what": "caf\\xe9.c",
                "directory": "/a\nb",
                "runs": 1,
                "last_seen": 1000.5,
            }
        ],
    }
    assert all(f'"{key}"' in steps._EPILOG for key in (*data, *data["steps"][0]))


def test_nothing(own_state: Path) -> None:
    """One line that says how to fill it; no file is made."""
    ended = slicemgr("steps", "--user")
    assert (ended.status, ended.stdout, ended.stderr) == (0, NOTHING, "")
    assert json.loads(slicemgr("steps", "--user", "--json").stdout)["steps"] == []
    assert slicemgr("steps", "--user", "--forget").stdout == "forgot 0 steps\n"
    assert not own_state.parent.exists()


def test_forgetting(own_state: Path) -> None:
    """Those of a directory, or all."""
    learn(own_state, ROWS)
    assert slicemgr("steps", "--user", "--forget", "/home/a/kate/build").stdout == "forgot 1 step\n"
    assert len(json.loads(slicemgr("steps", "--user", "--json").stdout)["steps"]) == 3
    told = json.loads(slicemgr("steps", "--user", "--forget", "--json").stdout)
    assert told == {"schema": "slicemgr.steps/1", "forgotten": 3}
    assert slicemgr("steps", "--user").stdout == NOTHING


def test_the_systems_are_its_own(own_state: Path) -> None:
    """Of root's builds: entry_point.py puts them where the tests' other state is."""
    learn(own_state, ROWS)
    assert slicemgr("steps", "--system").stdout.count("\n") == 5


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--limit", "x\x1b"], "'x\\x1b' is no number of steps; try 'slicemgr steps --help'"),
        (["--limit", "-1"], "'-1' is no number of steps; try 'slicemgr steps --help'"),
        (["--limit", "1" * 20], "'11111111111111111111' is no number of steps; try 'slicemgr steps --help'"),
        ([""], "'' is no directory; try 'slicemgr steps --help'"),
        (["a", "b"], "unrecognized arguments: b; try 'slicemgr steps --help'"),
        (["--frob"], "unrecognized arguments: --frob; try 'slicemgr steps --help'"),
    ],
)
def test_what_cant_be_meant(arguments: list[str], line: str) -> None:
    """Exit status 2, and one line that ends in what to try."""
    ended = slicemgr("steps", "--user", *arguments)
    assert (ended.status, ended.stdout, ended.stderr) == (2, "", f"slicemgr steps: {line}\n")


def test_a_broken_store(own_state: Path) -> None:
    """Is said once, in one line; the next call is as if nothing had been learnt."""
    own_state.parent.mkdir(parents=True)
    own_state.write_text("of another program\n" * 100)
    ended = slicemgr("steps", "--user")
    assert (ended.status, ended.stdout, len(ended.lines)) == (125, "", 1)
    assert ended.stderr.startswith(f"slicemgr steps: '{own_state}' is broken (")
    assert "; to learn anew, try 'slicemgr run -- make -j20'" in ended.stderr
    assert slicemgr("steps", "--user").stdout == NOTHING
