# SPDX-License-Identifier: LGPL-2.1-or-later
"""The history file: real files, real concurrent writers."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from slicemgr.service.history import LONGEST_COMMAND_LINE, History
from slicemgr.service.record import Record, record_to_line
from slicemgr.service.report import GuardFailedReport, KillReport
from tests.unit.test_record import a_kill


def record(at: int, text: str = "") -> Record:
    return Record(GuardFailedReport(text or f"no {at}"), float(at), "build.slice", "make")


def test_what_was_written_is_read_newest_last(tmp_path: Path) -> None:
    """Through two instances, as two processes would."""
    for at in range(5):
        History(str(tmp_path)).append(record(at))
    past = History(str(tmp_path)).read()
    assert past.records == tuple(record(at) for at in range(5))
    assert past.skipped == 0


def test_no_history_is_no_error(tmp_path: Path) -> None:
    """Nothing has happened yet, and reading makes no directory."""
    past = History(str(tmp_path / "state")).read()
    assert past.records == ()
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("name", ["history.jsonl", "history.jsonl.1"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    """At a named pipe a reader would wait for ever."""
    make(tmp_path / name)
    with pytest.raises(OSError, match=r"Not a regular file|Is a directory"):
        History(str(tmp_path)).read()


def test_nothing_is_written_into_a_pipe(tmp_path: Path) -> None:
    """When that is full, the writer would wait."""
    os.mkfifo(tmp_path / "history.jsonl")
    with pytest.raises(OSError, match="Not a regular file"):
        History(str(tmp_path)).append(record(1))


def test_limit_and_since(tmp_path: Path) -> None:
    """The last ones, also after a clock that was set back."""
    history = History(str(tmp_path))
    for at in (1, 9, 3, 8, 4):
        history.append(record(at))
    assert [each.wall_seconds for each in history.read(limit=2).records] == [8, 4]
    assert [each.wall_seconds for each in history.read(since_wall_seconds=8).records] == [9, 8]
    assert [each.wall_seconds for each in history.read(limit=1, since_wall_seconds=8).records] == [8]
    assert history.read(limit=0).records == ()


def test_the_directory_is_private(tmp_path: Path) -> None:
    """Command lines can hold secrets: nobody else reads them."""
    old = os.umask(0)
    try:
        History(str(tmp_path / "state" / "slicemgr")).append(record(1))
    finally:
        os.umask(old)
    assert (tmp_path / "state" / "slicemgr").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "state" / "slicemgr" / "history.jsonl").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("torn", [b'{"schema":"slicemgr.record/1","wall_se', b"\x00\x00\x00", b"{}\n", b"\n\nhello\n"])
def test_a_torn_line_costs_only_itself(tmp_path: Path, torn: bytes) -> None:
    """What comes after it stands on a line of its own."""
    history = History(str(tmp_path))
    history.append(record(1))
    with (tmp_path / "history.jsonl").open("ab") as file:
        file.write(torn)
    history.append(record(2))
    past = history.read()
    assert [each.wall_seconds for each in past.records] == [1, 2]
    assert past.skipped == 1


def test_it_never_grows_beyond_two_generations(tmp_path: Path) -> None:
    """A full file becomes the older one, and its predecessor goes."""
    one = len(record_to_line(record(10)))
    history = History(str(tmp_path), bound_bytes=10 * one)
    for at in range(10, 45):
        history.append(record(at))
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes == {"history.jsonl": 5 * one, "history.jsonl.1": 10 * one}
    assert [each.wall_seconds for each in history.read().records] == list(range(30, 45))


def test_a_record_larger_than_the_bound_is_kept(tmp_path: Path) -> None:
    """In a generation of its own."""
    history = History(str(tmp_path), bound_bytes=10)
    for at in (1, 2, 3):
        history.append(record(at))
    assert [each.wall_seconds for each in history.read().records] == [2, 3]


_WRITER = """
import sys
from slicemgr.service.history import History
from slicemgr.service.record import Record
from slicemgr.service.report import GuardFailedReport
history = History(sys.argv[1], bound_bytes=int(sys.argv[3]))
print(flush=True)
sys.stdin.readline()
for at in range(300):
    history.append(Record(GuardFailedReport(sys.argv[2] * (at % 97)), float(at)))
"""


def write_at_once(directory: Path, bound_bytes: int) -> None:
    """Four processes, 300 records each, begun together."""
    writers = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(directory), letter, str(bound_bytes)],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for letter in "abcd"
    ]  # fmt: skip
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.readline()
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write(b"\n")
        writer.stdin.flush()
    for writer in writers:
        assert writer.communicate()[0] == b""
        assert writer.returncode == 0


def test_writers_at_once_never_mix_lines(tmp_path: Path) -> None:
    """Every record of every writer is there, whole and in its own order."""
    write_at_once(tmp_path, 1 << 20)
    past = History(str(tmp_path)).read()
    assert past.skipped == 0
    for letter in "abcd":
        own = [
            each.report for each in past.records if each.report in {GuardFailedReport(letter * n) for n in range(1, 97)}
        ]
        assert own == [GuardFailedReport(letter * (at % 97)) for at in range(300) if at % 97]


def test_writers_at_once_never_throw_a_full_generation_away(tmp_path: Path) -> None:
    """Two that find the file full rename it once: the older generation is a full one."""
    bound = 16_000
    write_at_once(tmp_path, bound)
    assert History(str(tmp_path)).read().skipped == 0
    # A writer may still add to a file that was just renamed: a few records above the bound.
    assert bound - 1000 < (tmp_path / "history.jsonl.1").stat().st_size < bound + 4 * 1000
    assert (tmp_path / "history.jsonl").stat().st_size <= bound


def test_a_full_disk_is_an_error_and_the_next_record_is_whole(tmp_path: Path) -> None:
    """The file size limit stands for the disk: the write is short, as ENOSPC makes it."""
    history = History(str(tmp_path))
    history.append(record(1))
    size = (tmp_path / "history.jsonl").stat().st_size
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, before[1]))
        with pytest.raises(OSError, match="No space left"):
            history.append(record(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    history.append(record(3))
    past = history.read()
    assert [each.wall_seconds for each in past.records] == [1, 3]
    assert past.skipped == 1


def test_where_nothing_can_be_written_it_says_so(tmp_path: Path) -> None:
    """A file where the directory should be; a link where the file should be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        History(str(tmp_path / "file")).append(record(1))
    (tmp_path / "history.jsonl").symlink_to(tmp_path / "file")
    with pytest.raises(OSError, match=r"history\.jsonl"):
        History(str(tmp_path)).append(record(1))
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize(
    ("command_line", "kept"),
    [
        (("ld", *(f"{at:04}.o" for at in range(10_000)), "-lfoo"), ("ld", "0000.o", "…", "9999.o", "-lfoo")),
        (("x" * 5000,), ("…",)),
        (("sh", "-c", "x" * 5000, "end"), ("sh", "-c", "…", "end")),
    ],
)
def test_a_long_command_line_is_kept_by_its_ends(
    tmp_path: Path, command_line: tuple[str, ...], kept: tuple[str, ...]
) -> None:
    """Ten linkers would fill the file otherwise."""
    history = History(str(tmp_path))
    history.append(Record(a_kill(command_line=command_line), 1.0))
    (read,) = history.read().records
    assert isinstance(read.report, KillReport)
    shortened = read.report.command_line
    assert set(kept) <= set(shortened)
    assert shortened.count("…") == 1
    assert sum(len(each) for each in shortened) <= LONGEST_COMMAND_LINE + 1
    assert [each for each in command_line if each in set(shortened)] == [each for each in shortened if each != "…"]
