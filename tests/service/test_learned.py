# SPDX-License-Identifier: LGPL-2.1-or-later
"""What was learnt of steps: real files, real processes that write at once, and all that a file can have become."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.build import learned as learned_module
from slicemgr.build import learned_file
from slicemgr.build.learned import FILE_NAME, LearnedError, LearnedSteps, merged
from slicemgr.model.step import Profile, StepSignature
from tests.service.learned_child import big

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHILD = [sys.executable, str(Path(__file__).parent / "learned_child.py")]
DAY = 86400.0
NOW = 20_000 * DAY


def step(what: str = "x.cc", directory: str = "/home/a/foo", program: str = "cc1plus") -> StepSignature:
    return StepSignature(program, what, directory)


def profile(peak: int = 1000, rise: float = 1.0, run: float = 2.0) -> Profile:
    return Profile(peak, rise, run)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "state" / "slicemgr" / FILE_NAME)


@pytest.fixture
def learned(path: str) -> Iterator[LearnedSteps]:
    with LearnedSteps(path) as made:
        yield made


def learn(path: str, *steps: StepSignature, peak: int = 1000, now: float = NOW) -> None:
    """In one build, which has ended."""
    with LearnedSteps(path) as build:
        for each in steps:
            build.learn(each, profile(peak), now)
        build.flush()


def seen(path: str) -> dict[str, int]:
    """What there is: peaks by `what`."""
    with LearnedSteps(path) as reader:
        return {each.signature.what: each.profile.peak_bytes for each in reader.fattest(1 << 20)}


class TestLearning:
    def test_nothing_is_made_before_there_is_something_to_write(self, learned: LearnedSteps, tmp_path: Path) -> None:
        """Neither by a build that only asks, nor by one that has nothing to tell."""
        assert learned.profile(step()) is None
        assert learned.ended("cc1plus", "/a/b/c/d") == ()
        assert learned.fattest(9) == []
        assert learned.forget() == 0
        learned.flush()
        assert list(tmp_path.iterdir()) == []

    def test_what_one_build_has_learnt_the_next_one_knows(self, path: str, learned: LearnedSteps) -> None:
        """At once in the same build, and in others when it is written."""
        learned.learn(step(), profile(7), NOW)
        assert learned.profile(step()) == profile(7)
        with LearnedSteps(path) as other:
            assert other.profile(step()) is None
            learned.flush()
            assert other.profile(step()) == profile(7)
        assert learned.profile(step()) == profile(7)
        assert learned.profile(step("y.cc")) is None
        assert learned.profile(step(directory="/home/a")) is None
        assert learned.profile(step(program="cc1")) is None

    def test_it_is_nobody_elses_to_read(self, path: str, learned: LearnedSteps) -> None:
        """Command lines may hold secrets: 0600 in 0700, whatever the umask is."""
        before = os.umask(0)
        try:
            learned.learn(step(), profile(), NOW)
            learned.flush()
        finally:
            os.umask(before)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
        assert os.listdir(os.path.dirname(path)) == [FILE_NAME]

    @pytest.mark.parametrize(
        "name", ["", "a\nb", "\x1b[2J", "ü", os.fsdecode(b"\xff\xfe"), "\ud800", "a'b\"c;--%_*", "x" * 5000]
    )
    def test_any_name(self, path: str, name: str) -> None:
        """Comes back as it was."""
        signature = StepSignature(name, name, f"/a/{name}")
        learn(path, signature)
        with LearnedSteps(path) as reader:
            assert reader.profile(signature) == profile()
            assert [each.signature for each in reader.fattest(9, f"/a/{name}")] == [signature]
            assert reader.ended(name) == (profile(),)

    def test_what_cant_be_true_is_not_learnt(self, learned: LearnedSteps, tmp_path: Path) -> None:
        """It would be the plan of the next build."""
        for bad in (profile(0), profile(-1), profile(1 << 63), profile(1, -1.0), profile(1, 1.0, float("nan"))):
            learned.learn(step(), bad, NOW)
        learned.learn(step(), profile(), float("inf"))
        learned.flush()
        assert list(tmp_path.iterdir()) == []

    def test_runs_and_the_last_time_are_counted(self, path: str, learned: LearnedSteps) -> None:
        """In each build and over all."""
        for at in range(3):
            learned.learn(step(), profile(), NOW + at)
        learned.flush()
        learn(path, step(), now=NOW + DAY)
        (known,) = learned.fattest(9)
        assert (known.runs, known.last_seen_seconds) == (4, NOW + DAY)


class TestMerging:
    @pytest.mark.parametrize(
        ("known", "runs", "new", "peak"),
        [(1000, 1, 1000, 1000), (1000, 1, 5000, 5000), (1000, 9, 1001, 1001), (1000, 1, 200, 800), (1000, 9, 200, 800), (1, 1, 1, 1), (3, 1, 1, 3)],
    )  # fmt: skip
    def test_peaks_rise_at_once_and_fall_slowly(self, known: int, runs: int, new: int, peak: int) -> None:
        """A compiler that stopped at an error tells nothing about the next whole run."""
        assert merged(profile(known), runs, profile(new)).peak_bytes == peak

    def test_a_step_that_has_shrunk_is_found_to_have(self) -> None:
        """After five runs three quarters of the difference are gone."""
        known = profile(1000)
        for runs in range(1, 6):
            known = merged(known, runs, profile(200))
        assert 200 < known.peak_bytes < 400

    def test_times_are_means_of_the_last_runs(self) -> None:
        """Of all while there are few, then the newest counts for a fifth."""
        assert merged(profile(1, 1.0, 2.0), 1, profile(1, 2.0, 4.0)) == profile(1, 1.5, 3.0)
        assert merged(profile(1, 0.0, 0.0), 100, profile(1, 5.0, 10.0)) == profile(1, 1.0, 2.0)

    @given(st.lists(st.tuples(st.integers(1, 1 << 60), st.floats(0, 1e6), st.floats(0, 1e6)), min_size=1, max_size=30))
    def test_what_is_known_is_within_what_was_seen(self, runs: list[tuple[int, float, float]]) -> None:
        """And never below the last; a rise is no longer than the run."""
        seen = [Profile(peak, min(times), max(times)) for peak, *times in runs]
        known = seen[0]
        for count, each in enumerate(seen[1:], 1):
            known = merged(known, count, each)
        assert seen[-1].peak_bytes <= known.peak_bytes <= max(each.peak_bytes for each in seen)
        assert 0 <= known.rise_seconds <= known.run_seconds
        assert known.run_seconds <= max(each.run_seconds for each in seen) * 1.000001

    def test_the_same_in_memory_and_in_the_file(self, learned: LearnedSteps) -> None:
        """Whether it is written after each run or once."""
        for at, peak in enumerate((1000, 400, 2000, 100, 100)):
            for which in ("often", "once"):
                learned.learn(step(which), profile(peak, at, at + 1.0), NOW)
            kept, learned._news = learned._news, {step("often"): learned._news[step("often")]}
            learned.flush()
            learned._news = {step("once"): kept[step("once")]}
            assert learned.profile(step("often")) == learned.profile(step("once"))
        learned.flush()
        assert learned.profile(step("often")) == learned.profile(step("once"))

    def test_a_step_without_end_does_not_fill_memory(self, learned: LearnedSteps) -> None:
        """A script that calls the same a thousand times."""
        for at in range(1000):
            learned.learn(step(), profile(1000 + at), NOW)
        assert len(learned._news[step()].profiles) < 20
        learned.flush()
        (known,) = learned.fattest(9)
        assert (known.runs, known.profile.peak_bytes) == (1000, 1999)


class TestKin:
    def test_the_latest_come_first_and_there_are_not_too_many(self, learned: LearnedSteps) -> None:
        """Of this program only."""
        for at in range(50):
            learned.learn(step(f"{at}.cc"), profile(1000 + at), NOW + at)
        learned.learn(step(program="ld"), profile(5), NOW + 99)
        learned.flush()
        assert [each.peak_bytes for each in learned.ended("cc1plus")] == list(range(1049, 1019, -1))
        assert learned.ended("rustc") == ()

    def test_a_project_has_its_own(self, path: str, learned: LearnedSteps) -> None:
        """As soon as some are known in the directory, or above it; else any is better than none."""
        foo = [step(f"{at}.cc", "/home/a/foo/build") for at in range(5)]
        learn(path, *foo, peak=100, now=NOW)
        learn(path, *(step(f"{at}.cc", "/home/a/bar") for at in range(5)), peak=900, now=NOW + DAY)
        for directory in ("/home/a/foo/build", "/home/a/foo/build/sub/dir", "/home/a/foo", "/home/a/foo/other"):
            assert {each.peak_bytes for each in learned.ended("cc1plus", directory)} == {100}
        assert {each.peak_bytes for each in learned.ended("cc1plus", "/home/a/bar")} == {900}
        for other in ("/home/a/new", "/home/a", "/", "", None, "relative", "/home/a/fo", "/home/a/foo0"):
            assert [each.peak_bytes for each in learned.ended("cc1plus", other)] == [900] * 5 + [100] * 5

    def test_a_few_of_its_own_are_not_enough(self, path: str, learned: LearnedSteps) -> None:
        """An average of one is none."""
        learn(path, step("1.cc", "/home/a/foo"), peak=100, now=NOW)
        learn(path, *(step(f"{at}.cc", "/home/a/bar") for at in range(5)), peak=900, now=NOW + DAY)
        assert [each.peak_bytes for each in learned.ended("cc1plus", "/home/a/foo")] == [900] * 5 + [100]


class TestList:
    @pytest.mark.parametrize(
        ("directory", "found"),
        [(None, "abcdef"), ("/", "abcdef"), ("/p", "abc"), ("/p/", "abc"), ("/p/q", "b"), ("/p0", "d"), ("/p-", "f"), ("/P", ""), ("/%", ""), ("/p%", "")],
    )  # fmt: skip
    def test_a_directory_and_all_below_it(
        self, path: str, learned: LearnedSteps, directory: str | None, found: str
    ) -> None:
        """Not those whose names begin alike."""
        where = {"a": "/p", "b": "/p/q", "c": "/p/q0/r", "d": "/p0", "e": "/pq/r", "f": "/p-"}
        learn(path, *(step(what, place) for what, place in where.items()))
        assert "".join(sorted(each.signature.what for each in learned.fattest(99, directory))) == found
        assert learned.forget(directory) == len(found)
        assert "".join(sorted(seen(path))) == "".join(sorted(set(where) - set(found)))

    def test_the_fattest_first(self, learned: LearnedSteps) -> None:
        """As many as are asked for."""
        for at in (3, 1, 4, 2):
            learned.learn(step(f"{at}"), profile(at), NOW)
        learned.flush()
        assert [each.signature.what for each in learned.fattest(3)] == ["4", "3", "2"]
        assert len(learned.fattest(10**30)) == 4
        assert learned.fattest(0) == []


class TestBounds:
    def test_who_was_not_seen_for_half_a_year_goes(self, path: str) -> None:
        """A project that is gone."""
        learn(path, step("old"), now=NOW - 181 * DAY)
        learn(path, step("older than yesterday"), now=NOW - 179 * DAY)
        learn(path, step("new"))
        assert set(seen(path)) == {"older than yesterday", "new"}

    def test_the_oldest_go_first_and_of_one_day_the_smallest(self, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A build of more steps than there is room for keeps those that matter."""
        monkeypatch.setattr(learned_module, "MOST_STEPS", 4)
        learn(path, step("old and big"), peak=9000, now=NOW - DAY)
        with LearnedSteps(path) as build:
            for at in range(4):
                build.learn(step(str(at)), profile(1000 + at), NOW + at)
            build.flush()
            assert set(seen(path)) == {"0", "1", "2", "3"}
            build.learn(step("9"), profile(9000), NOW + 5)
            build.flush()
        assert set(seen(path)) == {"1", "2", "3", "9"}

    def test_what_is_not_written_is_bounded_too(
        self, path: str, learned: LearnedSteps, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A test suite of a million different commands."""
        monkeypatch.setattr(learned_module, "MOST_STEPS", 3)
        for at in range(10):
            learned.learn(step(str(at)), profile(), NOW)
        learned.learn(step("0"), profile(5000), NOW)
        learned.flush()
        assert seen(path) == {"0": 5000, "1": 1000, "2": 1000}


class TestManyProcesses:
    def test_nothing_is_lost_where_several_builds_end_at_once(self, path: str) -> None:
        """Six of them, each with forty transactions."""
        builds = [subprocess.Popen([*CHILD, path, "builds", name, "40"]) for name in "abcdef"]
        assert [build.wait() for build in builds] == [0] * 6
        with LearnedSteps(path) as reader:
            known = {each.signature: each for each in reader.fattest(1000)}
        assert len(known) == 241
        assert known[StepSignature("ld", "shared", "/a")].runs == 240
        assert all(known[StepSignature("cc1", f"{name}-{at}", "/a")].runs == 1 for name in "abcdef" for at in range(40))

    def test_a_kill_in_the_middle_of_a_transaction(self, path: str) -> None:
        """Pages of it are in the file already: whoever reads next takes them back."""
        learn(path, *(signature for signature, _ in big(1000)))
        with subprocess.Popen([*CHILD, path, "halfway"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"halfway\n"
            child.kill()
        assert os.path.getsize(f"{path}-journal") > 0
        assert set(seen(path).values()) == {1000}
        assert len(seen(path)) == len(big(1000))
        learn(path, *(signature for signature, _ in big(1000)), peak=3000)
        assert set(seen(path).values()) == {3000}
        assert _is_sound(path)

    def test_kills_at_any_moment(self, path: str) -> None:
        """Each transaction is there as a whole or not at all."""
        learn(path, step("first"), now=1e9)
        for count in range(12):
            with subprocess.Popen([*CHILD, path, "endless"], stdout=subprocess.PIPE) as child:
                assert child.stdout is not None
                for _ in range(1 + count % 4):
                    begun = int(child.stdout.readline())
                child.kill()
            peaks = seen(path)
            assert peaks.pop("first") == 1000
            assert len(set(peaks.values())) <= 1
            assert len(peaks) in {0, 300}
            assert all(peak >= begun - 1 for peak in peaks.values())
            assert _is_sound(path)

    def test_a_worker_writes_while_the_build_asks(self, learned: LearnedSteps) -> None:
        """What is just being written is known all the while."""
        for at in range(500):
            learned.learn(step(str(at)), profile(), NOW)
        worker = threading.Thread(target=learned.flush)
        worker.start()
        try:
            while worker.is_alive():
                assert learned.profile(step("7")) == profile()
        finally:
            worker.join()
        assert learned.profile(step("7")) == profile()


def _is_sound(path: str) -> bool:
    connection = sqlite3.connect(path)
    try:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        connection.close()


def _garbage_in_the_middle(path: str) -> None:
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (os.path.getsize(path) - 4096))


def _cut(path: str) -> None:
    os.truncate(path, os.path.getsize(path) - 4096 - 100)


def _text(path: str) -> None:
    Path(path).write_text("of another program\n" * 100)


class TestFaults:
    @pytest.mark.parametrize("spoil", [_text, _garbage_in_the_middle, _cut])
    @pytest.mark.parametrize("way", ["read", "write"])
    def test_a_broken_file_is_set_aside(self, path: str, spoil: Callable[[str], None], way: str) -> None:
        """It is told once; nothing of it is lost, and builds learn anew."""
        learn(path, *(step(f"{at}" * 50) for at in range(500)))
        spoil(path)
        before = Path(path).read_bytes()
        with LearnedSteps(path) as build:
            build.learn(step("new"), profile(), NOW)
            ask: Callable[[], object] = build.flush if way == "write" else lambda: build.fattest(999)
            with pytest.raises(
                LearnedError, match=r"' is broken \(.*\), and now called '.*\.broken'; to learn anew, try '.*'$"
            ):
                ask()
            assert Path(f"{path}.broken").read_bytes() == before
            assert not os.path.exists(path)
            build.flush()
        assert seen(path) == {"new": 1000}

    def test_a_journal_goes_with_its_file(self, path: str) -> None:
        """If there is one that SQLite could not apply: it would be applied to the new file."""
        learn(path, step())
        _text(path)
        Path(f"{path}-journal").write_bytes(b"journal")
        found = os.stat(path)
        assert "now called" in learned_file._set_aside(path, (found.st_dev, found.st_ino), "x")
        assert sorted(os.listdir(os.path.dirname(path))) == [f"{FILE_NAME}.broken", f"{FILE_NAME}.broken-journal"]

    def test_no_broken_one_is_written_over(self, path: str) -> None:
        """Nine are kept; who has more has another trouble, and is told."""
        os.makedirs(os.path.dirname(path))
        for at in range(9):
            Path(path).write_text(f"broken {at} " * 100)
            with LearnedSteps(path) as build, pytest.raises(LearnedError, match="now called"):
                build.profile(step())
        Path(path).write_text("broken 9 " * 100)
        with (
            LearnedSteps(path) as build,
            pytest.raises(LearnedError, match=r"9 earlier ones beside it; try to remove them$"),
        ):
            build.profile(step())
        texts = {Path(os.path.dirname(path), name).read_text()[:8] for name in os.listdir(os.path.dirname(path))}
        assert texts == {f"broken {at}" for at in range(10)}

    def test_of_two_who_find_it_broken_one_sets_it_aside(self, path: str) -> None:
        """The new file of the other stays."""
        learn(path, *(step(f"{at}" * 50) for at in range(500)))
        with LearnedSteps(path) as one, LearnedSteps(path) as other:
            assert one.profile(step()) is None
            assert other.profile(step()) is None
            _garbage_in_the_middle(path)
            for reader in (one, other):  # What they have of it in memory.
                assert reader._reading is not None
                reader._reading.run("PRAGMA shrink_memory")
            with pytest.raises(LearnedError, match="now called"):
                one.fattest(999)
            learn(path, step("new"))
            with pytest.raises(LearnedError, match=r"set aside by another; try again$"):
                other.fattest(999)
            assert other.profile(step("new")) == profile()
        assert seen(path) == {"new": 1000}

    def test_a_newer_file_is_left_alone(self, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Of a slicemgr that knows more."""
        with monkeypatch.context() as newer:
            newer.setattr(learned_file, "SCHEMA_VERSION", 2)
            learn(path, step())
        before = Path(path).read_bytes()
        with LearnedSteps(path) as build:
            build.learn(step("new"), profile(), NOW)
            for ask in (build.flush, build.forget, lambda: build.profile(step()), lambda: build.fattest(1)):
                with pytest.raises(
                    LearnedError, match=r"written by a newer slicemgr; try that one, or remove the file$"
                ):
                    ask()
        assert Path(path).read_bytes() == before

    def test_a_database_of_something_else_is_left_alone(self, path: str) -> None:
        """Whoever has put it there."""
        os.makedirs(os.path.dirname(path))
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE step (a)")
        connection.close()
        before = Path(path).read_bytes()
        with LearnedSteps(path) as build:
            build.learn(step(), profile(), NOW)
            with pytest.raises(LearnedError, match=r"of something else; try to move it away$"):
                build.flush()
            with pytest.raises(LearnedError, match=r"of something else; try to move it away$"):
                build.profile(step())
        assert Path(path).read_bytes() == before

    def test_an_empty_file_is_a_new_one(self, path: str) -> None:
        """Another has just made it, or a power cut has left it so."""
        os.makedirs(os.path.dirname(path))
        Path(path).touch()
        assert seen(path) == {}
        learn(path, step("new"))
        assert seen(path) == {"new": 1000}

    def test_another_holds_it(self, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """It is not waited for without end, and what was learnt is kept until it lets go."""
        monkeypatch.setattr(learned_module, "READ_WAIT_SECONDS", 0.0)
        monkeypatch.setattr(learned_module, "WRITE_WAIT_SECONDS", 0.0)
        learn(path, step("before"))
        holder = sqlite3.connect(path, isolation_level=None)
        with LearnedSteps(path) as build:
            build.learn(step("new"), profile(2000), NOW)
            holder.execute("BEGIN EXCLUSIVE")
            for ask in (build.flush, build.forget, lambda: build.fattest(1)):
                with pytest.raises(LearnedError, match=r"in use by another slicemgr; try again$"):
                    ask()
            build.learn(step("new"), profile(3000), NOW)
            build.learn(step("newer"), profile(4000), NOW)
            holder.execute("ROLLBACK")
            holder.close()
            assert build.profile(step("new")) == profile(3000)
            build.flush()
            assert [each.runs for each in build.fattest(9)] == [1, 2, 1]
        assert seen(path) == {"before": 1000, "new": 3000, "newer": 4000}

    def test_a_full_disk(self, path: str) -> None:
        """The transaction is not there, what was there is, and it is written when there is room."""
        learn(path, step("before"))
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            with LearnedSteps(path) as build:
                for at in range(300):
                    build.learn(step(f"{at}" * 50), profile(), NOW)
                resource.setrlimit(resource.RLIMIT_FSIZE, (os.path.getsize(path), hard))
                try:
                    with pytest.raises(LearnedError, match=r"; try 'df' and 'ls -l' on it$"):
                        build.flush()
                finally:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
                assert seen(path) == {"before": 1000}
                build.flush()
        finally:
            signal.signal(signal.SIGXFSZ, before)
        assert len(seen(path)) == 301

    @pytest.mark.parametrize("kind", ["directory", "fifo", "dangling link"])
    def test_what_is_no_file(self, path: str, kind: str) -> None:
        """Is neither waited for nor replaced."""
        os.makedirs(os.path.dirname(path))
        if kind == "directory":
            os.mkdir(path)
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            os.symlink("nowhere", path)
        with LearnedSteps(path) as build:
            build.learn(step(), profile(), NOW)
            with pytest.raises(LearnedError, match=r"; try .*$"):
                build.flush()
        assert os.path.lexists(path)
        assert not os.path.isfile(path)

    @pytest.mark.parametrize("above", ["/proc/slicemgr", "/dev/null/slicemgr"])
    def test_where_nothing_can_be_made(self, above: str) -> None:
        """It is said, with the path; a build goes on."""
        with LearnedSteps(f"{above}/{FILE_NAME}") as build:
            build.learn(step(), profile(), NOW)
            with pytest.raises(LearnedError, match=rf"can't open '{above}/.*; try 'ls -ld' on it$"):
                build.flush()

    def test_a_file_that_may_only_be_read(self, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Tells what it knows. Root may write anything, so SQLite says it here."""
        learn(path, step())
        plain = sqlite3.connect

        def connect(name: str, **options: object) -> sqlite3.Connection:
            return plain(f"file:{name}?mode=ro", uri=True, **options)  # type: ignore[call-overload, no-any-return]

        monkeypatch.setattr(sqlite3, "connect", connect)
        with LearnedSteps(path) as build:
            assert build.profile(step()) == profile()
            build.learn(step("new"), profile(), NOW)
            with pytest.raises(LearnedError, match=r"readonly database; try 'df' and 'ls -l' on it$"):
                build.flush()

    def test_rows_that_cant_be_true_are_passed_over(self, path: str, learned: LearnedSteps) -> None:
        """SQLite puts anything into any column, and whoever owns the file may, too."""
        learn(path, step("good"))
        connection = sqlite3.connect(path)
        good = [b"cc1plus", b"/home/a/foo", b"bad", 5, 1.0, 2.0, 1, NOW]
        bad: dict[int, list[object]] = {
            0: ["text", 7],
            1: [b"\xff"],
            3: [-1, 0, "x", b"x", 1.5],
            4: [-1.0, "x", 9e999],
            5: [b""],
            6: [0, "y"],
            7: ["z", -1.0],
        }
        for column, values in bad.items():
            for at, value in enumerate(values):
                row: list[object] = list(good)
                row[2] = b"%d %d" % (column, at)
                row[column] = value
                connection.execute("INSERT INTO step VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        connection.commit()
        connection.close()
        assert [each.signature.what for each in learned.fattest(99)] == ["good"]
        assert learned.ended("cc1plus") == (profile(),)
        learn(path, step("3 0"), peak=7)
        assert learned.profile(step("3 0")) == profile(7)

    def test_a_mistake_of_ours_is_none_of_the_file(self, path: str, learned: LearnedSteps) -> None:
        """A file is not set aside for it."""
        learn(path, step())
        assert learned.profile(step()) is not None
        assert learned._reading is not None
        with pytest.raises((sqlite3.ProgrammingError, LearnedError)):
            learned._reading.run("SELECT * FROM step WHERE program = ?", ())
        assert os.path.exists(path)

    def test_descriptors_are_closed(self, path: str) -> None:
        """Whatever came of it: a pacer asks for as long as a build runs."""
        learn(path, *(step(f"{at}" * 50) for at in range(500)))
        _garbage_in_the_middle(path)
        before = len(os.listdir("/proc/self/fd"))
        with LearnedSteps(path) as build:
            with pytest.raises(LearnedError):
                build.fattest(999)
            assert build.fattest(999) == []
        os.mkfifo(path)
        with LearnedSteps(path) as build, pytest.raises(LearnedError):
            build.fattest(999)
        assert len(os.listdir("/proc/self/fd")) == before
