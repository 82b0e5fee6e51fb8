# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line as a table: arguments, exit status, what stands on stdout and on stderr."""

import os
import re
import subprocess
from importlib import import_module
from pathlib import Path

import pytest

from slicemgr import __version__
from slicemgr.cli import VERBS
from slicemgr.service.history import History
from slicemgr.service.record import Record
from tests.cli.slicemgr_command import EMBEDDED, SLICEMGR, slicemgr
from tests.unit.samples import process
from tests.unit.test_record import a_kill

OK, USAGE = 0, 2

# (arguments, status, stdout contains, stderr is exactly, or a pattern of the whole)
TABLE: list[tuple[list[str], int, str, str]] = [
    (["--version"], OK, f"slicemgr {__version__}\n", ""),
    (["--help"], OK, "run         run a command under memory limits", ""),
    (["run", "--help"], OK, "example: slicemgr run --max 2G -- make -j20", ""),
    ([], USAGE, "", r"slicemgr: no verb given; try 'slicemgr --help'\n"),
    (["walk"], USAGE, "", r"slicemgr: argument VERB: invalid choice: 'walk' .*; try 'slicemgr --help'\n"),
    (["wa\x1blk\\"], USAGE, "", r"slicemgr: argument VERB: invalid choice: 'wa\\x1blk\\\\' .*; try 'slicemgr --help'\n"),
    (["--"], USAGE, "", r"slicemgr: no VERB given; try 'slicemgr --help'\n"),
    (["--frob"], USAGE, "", r"slicemgr: unrecognized arguments: --frob; try 'slicemgr --help'\n"),
    (["explain"], USAGE, "", r"slicemgr explain: no SLICE\|JOB\|PID given; try .*\n"),
    (["explain", "--frob"], USAGE, "", r"slicemgr explain: unrecognized arguments: --frob; try .*\n"),
    (["status", "--\x1b[31mred\nline2"], USAGE, "", r"slicemgr status: unrecognized arguments: --\\x1b\[31mred\\nline2; try .*\n"),
    (["status", "--user=\x1b\n"], USAGE, "", r"slicemgr status: argument --user: ignored explicit argument '\\x1b\\n'; try .*\n"),
    (["run", "--backend", "\x1b\n", "true"], USAGE, "", r"slicemgr run: argument --backend: invalid choice: '\\x1b\\n' .*; try .*\n"),
    (["run", "--max", "2G\x1b[2J\nx", "--", "true"], USAGE, "", r"slicemgr run: --max: '2G\\x1b\[2J\\nx' is no size; try .*\n"),
    (["run", "--slice", "a\x1b[2J", "--", "true"], USAGE, "", r"slicemgr run: 'a\\x1b\[2J' is no slice name; try .*\n"),
    (["run"], USAGE, "", r"slicemgr run: no command given; try 'slicemgr run --max 2G -- make -j20'\n"),
    (["run", "--"], USAGE, "", r"slicemgr run: no command given; try .*\n"),
    (["run", "--", ""], USAGE, "", r"slicemgr run: no command given; try .*\n"),
    (["run", "--backend", "magic", "true"], USAGE, "", r"slicemgr run: argument --backend: invalid choice: 'magic' .*; try .*\n"),
    (["run", "--maxi", "1G", "true"], USAGE, "", r"slicemgr run: unrecognized arguments: --maxi; try .*--help'\n"),
    (["run", "--max"], USAGE, "", r"slicemgr run: argument --max: expected one argument; try .*\n"),
    (["run", "--max", "12Q", "--", "true"], USAGE, "", r"slicemgr run: --max: '12Q' is no size; try bytes, .*\n"),
    (["run", "--high", "x", "--", "true"], USAGE, "", r"slicemgr run: --high: 'x' is no size; try .*\n"),
    (["run", "--swap-max", "", "--", "true"], USAGE, "", r"slicemgr run: --swap-max: '' is no size; try .*\n"),
    (["run", "--max", "50M", "--high", "60M", "--", "true"], USAGE, "", r"slicemgr run: --max 50\.0M is below --high .*; try .*\n"),
    (["run", "--max", "900T", "--", "true"], USAGE, "", r"slicemgr run: --max .* is more than this machine's memory .*; try .*\n"),
    (["run", "--max", "101%", "--", "true"], USAGE, "", r"slicemgr run: --max .* is more than this machine's memory .*; try .*\n"),
    (["run", "--max", "4K", "--", "true"], USAGE, "", r"slicemgr run: --max 4\.0K is less than any command needs .*; try .*\n"),
    (["run", "--retry", "x", "--", "true"], USAGE, "", r"slicemgr run: --retry 'x' is no number of times; try --retry 2\n"),
    (["run", "--retry=", "--", "true"], USAGE, "", r"slicemgr run: --retry '' is no number of times; try --retry 2\n"),
    (["run", "--retry=-1", "--", "true"], USAGE, "", r"slicemgr run: --retry '-1' is no number of times; try --retry 2\n"),
    (["run", "--retry", "101", "--", "true"], USAGE, "", r"slicemgr run: --retry '101' is no number of times; try --retry 2\n"),
    (["run", "--retry", "٣", "--", "true"], USAGE, "", r"slicemgr run: --retry '.*' is no number of times; try --retry 2\n"),
    (["run", "--retry"], USAGE, "", r"slicemgr run: argument --retry: expected one argument; try .*\n"),
    (["run", "--retry", "1", "--no-pacing", "--", "true"], USAGE, "", r"slicemgr run: --retry runs fewer steps .*; try without --no-pacing\n"),
    (["run", "--never-hold", "", "--", "true"], USAGE, "", r"slicemgr run: --never-hold '' is no name of a process; try one as ps .*\n"),
    (["run", "--never-hold", "a/b", "--", "true"], USAGE, "", r"slicemgr run: --never-hold 'a/b' is no name of a process; try one .*\n"),
    (["run", "--never-hold", "ok", "--never-hold=\x1b/", "--", "true"], USAGE, "", r"slicemgr run: --never-hold '\\x1b/' is no name .*; try one .*\n"),
    (["run", "--profile", "foo", "true"], USAGE, "", r"slicemgr run: argument --profile: invalid choice: 'foo' .*; try .*\n"),
    (["run", "--profile=", "true"], USAGE, "", r"slicemgr run: argument --profile: invalid choice: '' .*; try .*\n"),
    (["run", "--no-pacing=no", "true"], USAGE, "", r"slicemgr run: argument --no-pacing: ignored explicit argument 'no'; try .*\n"),
    (["run", "--slice", "a b", "--", "true"], USAGE, "", r"slicemgr run: 'a b' is no slice name; try .*\n"),
    (["run", "--json", "/nowhere/x", "--", "true"], USAGE, "", r"slicemgr run: can't write --json '/nowhere/x': .*; try .*\n"),
    (["run", "--json", "/", "--", "true"], USAGE, "", r"slicemgr run: can't write --json '/': Is a directory; try .*\n"),
    (["run", "--json", "", "--", "true"], USAGE, "", r"slicemgr run: can't write --json '': .*; try .*\n"),
    (["run", *EMBEDDED, "--", "no-such-command"], 127, "", r"slicemgr run: command 'no-such-command' not found; try .*\n"),
    (["run", *EMBEDDED, "--", "./no/such"], 127, "", r"slicemgr run: command './no/such' not found; try .*\n"),
    (["run", *EMBEDDED, "--", "/etc/passwd"], 126, "", r"slicemgr run: can't execute '/etc/passwd': Permission denied; try .*\n"),
    (["run", *EMBEDDED, "--", "/etc"], 126, "", r"slicemgr run: can't execute '/etc': Permission denied; try .*\n"),
    (["run", *EMBEDDED, "true"], OK, "", r"slicemgr: 'true' exited with 0 after .*; nothing killed; (too short to measure|peak .*)\n"),
    (["run", *EMBEDDED, "--profile=agent", "--retry", "0", "--no-pacing", "--", "true"], OK, "", r"slicemgr: 'true' exited with 0 .*\n"),
    (["run", *EMBEDDED, "--never-hold", "*_test", "--no-tokens", "--no-relaunch", "true"], OK, "", r"slicemgr: 'true' exited with 0 .*\n"),
    (["run", *EMBEDDED, "sh", "-c", "exit 7"], 7, "", r"slicemgr: 'sh' exited with 7 after .*; nothing killed; (too short to measure|peak .*)\n"),
    (["run", *EMBEDDED, "--", "echo", "--max", "--"], OK, "--max --\n", r"slicemgr: 'echo' exited with 0 .*\n"),
    (["run", *EMBEDDED, "--name", "my\nbuild", "true"], OK, "", r"slicemgr: 'my\\nbuild' exited with 0 .*\n"),
    (["run", *EMBEDDED, "--max", "max", "--", "true"], OK, "", r"slicemgr: 'true' exited with 0 after [^(]*; nothing killed; [^(;]*\n"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "status", "stdout", "stderr"), TABLE, ids=[" ".join(row[0]) or "-" for row in TABLE]
)
def test_row(arguments: list[str], status: int, stdout: str, stderr: str) -> None:
    """One row; every failure is one line."""
    ended = slicemgr(*arguments)
    assert ended.status == status, ended
    assert stdout in ended.stdout
    assert (ended.stdout == "") == (stdout == "")
    assert re.fullmatch(stderr, ended.stderr), ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["w" * 3000],
        ["--" + "w" * 3000],
        ["run", "--slice", "a " * 1500, "--", "true"],
        ["run", "--max", "9" * 3000, "--", "true"],
        ["run", "--json", "/" + "w" * 3000, "--", "true"],
        ["status", "--user=" + "w" * 3000],
    ],
    ids=lambda arguments: " ".join(arguments)[:20],
)
def test_a_long_argument_is_not_told_whole(arguments: list[str]) -> None:
    """Its beginning is enough; what to try still stands at the end."""
    ended = slicemgr(*arguments)
    assert ended.status == USAGE
    assert len(ended.stderr) < 420
    assert "…" in ended.stderr
    assert "; try " in ended.stderr[-160:]


NOBODY_READS = [
    (["--help"], 1, OK),
    (["--version"], 1, OK),
    (["run", "--help"], 1, OK),
    (["nosuch"], 2, USAGE),
    (["run", "--frob"], 2, USAGE),
    (["run", "--max", "12Q", "--", "true"], 2, USAGE),
    (["kills", "--since", "x"], 2, USAGE),
    (["run", *EMBEDDED, "--", "true"], 2, OK),
    (["run", *EMBEDDED, "--", "sh", "-c", "exit 7"], 2, 7),
]


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("place", ["full", "pipe"])
@pytest.mark.parametrize(
    ("arguments", "number", "status"), NOBODY_READS, ids=[" ".join(row[0]) for row in NOBODY_READS]
)
def test_whether_somebody_reads_it_is_no_matter(
    arguments: list[str], number: int, status: int, place: str, unbuffered: str
) -> None:
    """A full disk, and a reader who has gone: the exit status is what it was, and there is no word of Python's."""
    reader, pipe = os.pipe()
    os.close(reader)
    with open(pipe, "wb", buffering=0) as gone, open("/dev/full", "wb", buffering=0) as full:
        nowhere = gone if place == "pipe" else full
        done = subprocess.run(
            [*SLICEMGR, *arguments],
            stdout=nowhere if number == 1 else subprocess.PIPE,
            stderr=nowhere if number == 2 else subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            text=True,
            timeout=60,
        )
    assert done.returncode == status, done
    if number == 1:
        assert re.fullmatch("" if place == "pipe" else r"slicemgr[a-z ]*: can't write: .*; try .*\n", done.stderr)


def test_letters_that_the_encoding_lacks(tmp_path: Path) -> None:
    """Are escaped: a dash or a dot of ours ends nothing."""
    History(str(tmp_path / "slicemgr")).append(Record(a_kill(victim=process(7, name="a…b")), 1.0))
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run([*SLICEMGR, "kills", "--user"], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "'a\\u2026b'" in done.stdout


def test_nothing_is_started_by_a_request_that_cant_be_meant(tmp_path: Path) -> None:
    """The command leaves a trace, if it runs at all."""
    trace = tmp_path / "trace"
    for bad in (["--max", "1Q"], ["--max", "1G", "--high", "2G"], ["--json", "/nowhere/x"], ["--max", "900T"]):
        assert slicemgr("run", *bad, "--", "touch", str(trace)).status == USAGE
    assert not trace.exists()


def test_a_report_file_is_not_touched_before_there_is_a_report(tmp_path: Path) -> None:
    """What it had stays when the command can't be started."""
    file = tmp_path / "report.json"
    file.write_text("of yesterday")
    assert slicemgr("run", *EMBEDDED, "--json", str(file), "--", "no-such-command").status == 127
    assert file.read_text() == "of yesterday"


def test_help_is_light() -> None:
    """No GLib, no pydbus, no event loop: tests/cli/test_light.py has the same for `run`."""
    done = subprocess.run(
        [SLICEMGR[0], "-X", "importtime", *SLICEMGR[1:], "--help"], capture_output=True, text=True, timeout=60
    )
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "slicemgr.cli" in loaded
    assert not loaded & {"gi", "pydbus", "asyncio", "slicemgr.cli.run"}


def test_every_verb_that_is_listed_is_there() -> None:
    """And each has a main of its own."""
    for verb in VERBS:
        assert callable(import_module(f"slicemgr.cli.{verb}").main)
        assert f"\n  {verb} " in slicemgr("--help").stdout
