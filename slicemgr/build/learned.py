# SPDX-License-Identifier: LGPL-2.1-or-later
"""What was learnt of the steps of builds: how much each held at most, and for how long it ran.

A build that has run before is planned from its start. Several builds read and write at once, and what one has learnt
is added to what others have: see learned_file.py for the file. What is bounded: names (signature.py), rows and age.
The figures are of tests/bench/learned.py.
"""

import math
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

from slicemgr.build.learned_file import LearnedError, LearnedFile
from slicemgr.model.step import Profile, StepSignature

__all__ = ["FILE_NAME", "LearnedError", "LearnedStep", "LearnedSteps", "merged"]

FILE_NAME: Final = "steps.sqlite"
"""In the directory where the history is."""

MOST_STEPS: Final = 20_000
"""Large projects have some thousand steps; so many rows are 1 to 4 MB. Above that go those that were not seen for
longest, and of one day the smallest: a build of more steps than that keeps the big ones, which matter."""

LONGEST_UNSEEN_SECONDS: Final = 180 * 86400.0

PEAK_FALL: Final = 4
"""A step is as big as it has been once, and becomes smaller by a quarter of the difference at each run: a compiler that
stops at the first error, or an incremental link, tells nothing about the next whole one. Too big a number makes others
wait, too small a one makes the build stop and start, or loses a process."""

TIMES_OVER: Final = 5
"""Runs that a time is the mean of."""

KIN: Final = 30
"""Profiles that stand for a step which has never been seen: enough for an average and its spread."""

ENOUGH_KIN: Final = 5
LEAST_DEPTH: Final = 3
"""Directories above /home/somebody/project are nobody's project."""

READ_WAIT_SECONDS: Final = 0.05
"""The pacer reads, and has a build to look after; another's transaction of 1,000 steps takes 20 ms."""

WRITE_WAIT_SECONDS: Final = 5.0

_LARGEST: Final = (1 << 63) - 1

_THIS: Final = "SELECT * FROM step WHERE program = ? AND directory = ? AND what = ?"
_KIN: Final = (
    "SELECT * FROM step WHERE program = ? AND directory >= ? AND directory < ? AND (directory = ? OR directory >= ?) "
    "ORDER BY last_seen_seconds DESC LIMIT ?"
)
_FATTEST: Final = (
    "SELECT * FROM step WHERE directory >= ? AND directory < ? AND (directory = ? OR directory >= ?) "
    "ORDER BY peak_bytes DESC, program, directory, what LIMIT ?"
)
_COUNT: Final = "SELECT count(*) FROM step WHERE directory >= ? AND directory < ? AND (directory = ? OR directory >= ?)"
_FORGET: Final = "DELETE FROM step WHERE directory >= ? AND directory < ? AND (directory = ? OR directory >= ?)"
_WRITE: Final = "INSERT OR REPLACE INTO step VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_AGE_OUT: Final = "DELETE FROM step WHERE last_seen_seconds < ?"
_CROWD_OUT: Final = (
    "DELETE FROM step WHERE (program, directory, what) IN (SELECT program, directory, what FROM step "
    "ORDER BY CAST(last_seen_seconds / 86400 AS INTEGER), peak_bytes LIMIT ?)"
)


@dataclass(frozen=True, slots=True)
class LearnedStep:
    """What is known of one step."""

    signature: StepSignature
    profile: Profile
    runs: int
    """How often it has been seen."""
    last_seen_seconds: float
    """Wall clock."""


@dataclass(slots=True)
class _News:
    """What is not written yet of one step, the newest last."""

    profiles: list[Profile] = field(default_factory=list)
    runs: int = 0
    last_seen_seconds: float = 0.0

    def add(self, profiles: Iterable[Profile], runs: int, seen_seconds: float) -> None:
        for profile in profiles:
            if len(self.profiles) >= 2 * TIMES_OVER:  # A script that calls the same a million times.
                self.profiles[:2] = [merged(self.profiles[0], 1, self.profiles[1])]
            self.profiles.append(profile)
        self.runs += runs
        self.last_seen_seconds = seen_seconds


def merged(known: Profile, runs: int, seen: Profile) -> Profile:
    """What is known after `runs`, and one more."""
    peak = seen.peak_bytes
    if peak < known.peak_bytes:
        peak = known.peak_bytes - (known.peak_bytes - peak) // PEAK_FALL
    share = 1 / min(runs + 1, TIMES_OVER)
    rise = known.rise_seconds + (seen.rise_seconds - known.rise_seconds) * share
    run = known.run_seconds + (seen.run_seconds - known.run_seconds) * share
    return Profile(peak, rise, max(rise, run))


class LearnedSteps:
    """What was learnt, in one file; a context manager.

    Nothing is opened before it is asked for, and no file is made before there is something to write. All that opens it
    raises LearnedError; what is not written is kept then. Called from one thread, `flush` from any.
    """

    def __init__(self, path: str) -> None:
        """`path`: FILE_NAME in the state directory."""
        self.path = path
        self._reading: LearnedFile | None = None
        self._lock = threading.Lock()
        """For the two below; held for no longer than a dictionary takes."""
        self._news: dict[StepSignature, _News] = {}
        self._leaving: dict[StepSignature, _News] = {}
        """What is just being written."""
        self._flushing = threading.Lock()

    def profile(self, signature: StepSignature) -> Profile | None:
        """What is known of this step, what was learnt just now included; None: it has never been seen. 45 us."""
        with self._lock:  # Before the file is read: what a worker has written meanwhile counts twice, not never.
            news = [each for each in (self._leaving.get(signature), self._news.get(signature)) if each is not None]
            unwritten = [profile for each in news for profile in each.profiles]
        return _with_news(next(_steps(self._read(_THIS, _key(signature))), None), unwritten)

    def ended(self, program: str, directory: str | None = None) -> tuple[Profile, ...]:
        """Profiles of this program's steps, the latest first: for one that has never been seen.

        Where a project has some of its own, only those: of all that is compiled by cc1plus the files of one project are
        most alike, since they include the same headers. So they are looked for in `directory`, then in the directories
        above it, then everywhere, until there are ENOUGH_KIN. 0.6 ms in a full file, 9 ms if there are none.
        """
        rows: list[tuple[Any, ...]] = []
        for place in (*_above(directory), ""):
            rows = self._read(_KIN, (_bytes(program), *_within(place), KIN))
            if len(rows) >= ENOUGH_KIN:
                break
        return tuple(each.profile for each in _steps(rows))

    def fattest(self, limit: int, directory: str | None = None) -> list[LearnedStep]:
        """The steps with the highest peaks, in a directory and below it, or everywhere; of what has been written."""
        rows = self._read(_FATTEST, (*_within(directory or ""), min(limit, _LARGEST)))
        return list(_steps(rows))

    def learn(self, signature: StepSignature, profile: Profile, now_seconds: float) -> None:
        """Remember the end of a step until `flush`. `now_seconds`: wall clock. What can't be true is not."""
        times = (profile.rise_seconds, profile.run_seconds, now_seconds)
        if not (0 < profile.peak_bytes <= _LARGEST and all(0 <= each < math.inf for each in times)):
            return
        with self._lock:
            if signature in self._news or len(self._news) < MOST_STEPS:
                self._news.setdefault(signature, _News()).add((profile,), 1, now_seconds)

    def flush(self) -> None:
        """Write all that was learnt since, in one transaction: 17 ms for 1,000 steps, in a full file 30."""
        with self._flushing:
            with self._lock:
                self._leaving, self._news = self._news, {}
            if not self._leaving:
                return
            try:
                self._write(self._leaving)
            except BaseException:
                with self._lock:
                    newer, self._news = self._news, self._leaving
                    for signature, more in newer.items():
                        news = self._news.setdefault(signature, _News())
                        news.add(more.profiles, more.runs, more.last_seen_seconds)
                raise
            finally:
                with self._lock:
                    self._leaving = {}

    def forget(self, directory: str | None = None) -> int:
        """Forget the steps in a directory and below it, or all; returns how many those were."""
        file = LearnedFile.open(self.path, wait_seconds=WRITE_WAIT_SECONDS)
        if file is None:
            return 0
        with file, file.transaction():
            place = _within(directory or "")
            ((count,),) = file.run(_COUNT, place)
            file.run(_FORGET, place)
        return int(count)

    def close(self) -> None:
        """Close the file. What has not been flushed is not written."""
        if self._reading is not None:
            self._reading.close()
            self._reading = None

    def _read(self, statement: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        if self._reading is None:
            self._reading = LearnedFile.open(self.path, wait_seconds=READ_WAIT_SECONDS)
        if self._reading is None:
            return []
        try:
            return self._reading.run(statement, values)
        except BaseException:
            self.close()
            raise

    def _write(self, news: dict[StepSignature, _News]) -> None:
        file = LearnedFile.open(self.path, make=True, wait_seconds=WRITE_WAIT_SECONDS)
        if file is None:  # Removed in this very moment.
            raise LearnedError(f"'{self.path}' is gone; try again")
        with file, file.transaction():
            rows = []
            for signature, more in news.items():
                known = next(_steps(file.run(_THIS, _key(signature))), None)
                if (profile := _with_news(known, more.profiles)) is not None:
                    times = (profile.rise_seconds, profile.run_seconds)
                    runs = more.runs + (0 if known is None else known.runs)
                    rows.append((*_key(signature), profile.peak_bytes, *times, runs, more.last_seen_seconds))
            file.run_each(_WRITE, rows)
            _prune(file, max(more.last_seen_seconds for more in news.values()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _prune(file: LearnedFile, now_seconds: float) -> None:
    file.run(_AGE_OUT, (now_seconds - LONGEST_UNSEEN_SECONDS,))
    ((count,),) = file.run(_COUNT, _within(""))
    if count > MOST_STEPS:
        file.run(_CROWD_OUT, (count - MOST_STEPS,))


def _with_news(known: LearnedStep | None, news: Iterable[Profile]) -> Profile | None:
    profile, runs = (None, 0) if known is None else (known.profile, known.runs)
    for each in news:
        profile = each if profile is None else merged(profile, runs, each)
        runs += 1
    return profile


def _above(directory: str | None) -> Iterator[str]:
    """It, and those above it that may be of the same project."""
    while directory:
        yield directory
        directory = directory.rpartition("/")[0]
        if directory.count("/") < LEAST_DEPTH:
            return


def _within(directory: str) -> tuple[bytes, ...]:
    """A directory and all below it: between `/a/` and `/a0`, 0 being what follows the slash. Empty: everywhere.

    As one range of the index, and a condition in it: `/a-b` is in the range, too.
    """
    place = _bytes(directory.rstrip("/"))
    return (place, place + b"0", place, place + b"/") if place else (b"", b"\xff", b"", b"")


def _bytes(text: str) -> bytes:
    # Not os.fsencode: whatever a string can hold.
    return text.encode("utf-8", "surrogatepass")


def _key(signature: StepSignature) -> tuple[bytes, bytes, bytes]:
    return _bytes(signature.program), _bytes(signature.directory), _bytes(signature.what)


def _steps(rows: Iterable[tuple[Any, ...]]) -> Iterator[LearnedStep]:
    """Those of the rows that can be true: SQLite puts anything into any column."""
    for *names, peak, rise, run, runs, seen in rows:
        if not all(isinstance(each, int) and each > 0 for each in (peak, runs)):
            continue
        if not all(isinstance(each, float) and 0 <= each < math.inf for each in (rise, run, seen)):
            continue
        try:
            program, directory, what = (each.decode("utf-8", "surrogatepass") for each in names)
        except (AttributeError, UnicodeDecodeError):
            continue
        yield LearnedStep(StepSignature(program, what, directory), Profile(peak, rise, max(rise, run)), runs, seen)
