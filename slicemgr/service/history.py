# SPDX-License-Identifier: LGPL-2.1-or-later
"""What was done in the past: one JSON line per record, in a file that never grows beyond its bound.

Several processes write at once, the daemon and each `slicemgr run` that guards its own job. So a record is one
write(2) to a descriptor opened with O_APPEND, which Linux does under the inode's lock: lines never mix, and nobody
waits for another. A full file becomes the one older generation (`history.jsonl.1`) and a new one begins.

Called from the delivery thread only: a disk may be slow, and the kill path waits for none.
"""

import contextlib
import dataclasses
import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from slicemgr.service.record import Record, RecordError, record_from_line, record_to_line
from slicemgr.service.report import KillReport, Report

FILE_NAME: Final = "history.jsonl"

BOUND_BYTES: Final = 1 << 20
"""A generation. A kill takes 1.5 to 2 kB, so the two hold the last 500 to 1400 of them: a year of bad weeks."""

LONGEST_COMMAND_LINE: Final = 4096
"""Bytes. A linker of a browser is started with 100 kB of object files, and ten of those would be the whole history."""


@dataclass(frozen=True, slots=True)
class Past:
    """What was read of a history."""

    records: tuple[Record, ...]
    """The newest last."""
    skipped: int
    """Lines that are no records: torn by a full disk, or of a version that we do not know."""


class History:
    """The history in one directory."""

    def __init__(self, directory: str, *, bound_bytes: int = BOUND_BYTES) -> None:
        """Touches nothing yet."""
        self.directory = directory
        self._bound_bytes = bound_bytes
        self._path = os.path.join(directory, FILE_NAME)
        self._older_path = f"{self._path}.1"

    def append(self, record: Record) -> None:
        """Add a record, and make the directory if there is none (0700). Raises OSError: no space, read-only."""
        line = record_to_line(_shortened(record))
        retired = False
        while True:
            descriptor = self._open()
            try:
                size = os.fstat(descriptor).st_size
                full = size > 0 and size + len(line) > self._bound_bytes
                if full and not retired and self._retire(descriptor):
                    retired = True
                    continue
                _append_line(descriptor, line)
                return
            finally:
                os.close(descriptor)

    def read(
        self,
        *,
        limit: int | None = None,
        since_wall_seconds: float | None = None,
        wanted: Callable[[Record], bool] = lambda record: True,
    ) -> Past:
        """The last `limit` wanted records not older than `since_wall_seconds`. Raises OSError, but for no history."""
        records: list[Record] = []
        skipped = 0
        for line in self._lines_backwards():
            if limit is not None and len(records) >= limit:
                break
            try:
                record = record_from_line(line)
            except RecordError:
                skipped += 1
                continue
            # No break at the first that is older: clocks are set back.
            if (since_wall_seconds is None or record.wall_seconds >= since_wall_seconds) and wanted(record):
                records.append(record)
        return Past(tuple(reversed(records)), skipped)

    def _lines_backwards(self) -> Iterator[bytes]:
        for path in (self._path, self._older_path):
            try:
                with open(path, "rb", opener=_open_regular) as file:
                    text = file.read()
            except FileNotFoundError:
                continue
            yield from (line for line in reversed(text.split(b"\n")) if line)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        try:
            return _open_regular(self._path, flags)
        except FileNotFoundError:
            os.makedirs(self.directory, mode=0o700, exist_ok=True)
            return _open_regular(self._path, flags)

    def _retire(self, descriptor: int) -> bool:
        """Make this file the older generation; False if another process is just doing so.

        The lock is on the file, not on its name: who gets it after another has renamed the file finds a younger one
        under the name, and must not push that over the full one. Without waiting: the lock's holder may be stopped,
        and a file that is a record too long hurts nobody.
        """
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(self._path)):
                os.rename(self._path, self._older_path)
        return True


def remember(directory: str, report: Report, *, slice_name: str, job: str) -> None:
    """Append what a guard beside one job did. Without a place to write to it is told on the terminal alone."""
    with contextlib.suppress(OSError):
        History(directory).append(Record(report, time.time(), slice_name, job))


class Chronicler:
    """Appends for who goes on when a disk is full: the first failure is said, and the next after one that was none."""

    def __init__(self, history: History, say: Callable[[str], None]) -> None:
        self._history = history
        self._say = say
        self._works = True

    def add(self, record: Record) -> None:
        """If it can be written."""
        try:
            self._history.append(record)
        except OSError as error:
            if self._works:
                self._say(f"can't write the history in {self._history.directory}: {error.strerror}; try 'df' on it")
            self._works = False
        else:
            self._works = True


def _open_regular(path: str, flags: int) -> int:
    """Raises OSError, also for what is no file: at a named pipe reader and writer would wait for ever."""
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, 0o600)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        what = os.strerror(errno.EISDIR) if stat.S_ISDIR(mode) else "Not a regular file"
        raise OSError(errno.EINVAL, what, path)
    return descriptor


def _append_line(descriptor: int, line: bytes) -> None:
    """In one write; after what a full disk has torn, on a line of its own. Raises OSError."""
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        line = b"\n" + line
    if os.write(descriptor, line) < len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _shortened(record: Record) -> Record:
    """The program and what stands at the end stay: compilers and linkers are told there what they are at."""
    report = record.report
    if not isinstance(report, KillReport):
        return record
    length = sum(len(argument) for argument in report.command_line)
    if length <= LONGEST_COMMAND_LINE:
        return record
    head = _within(report.command_line, LONGEST_COMMAND_LINE // 2)
    tail = _within(report.command_line[: len(head) - len(report.command_line) - 1 : -1], LONGEST_COMMAND_LINE // 2)
    command_line = (*head, "…", *reversed(tail))
    return dataclasses.replace(record, report=dataclasses.replace(report, command_line=command_line))


def _within(arguments: tuple[str, ...], longest: int) -> tuple[str, ...]:
    """The first arguments that are no longer than this together."""
    taken = 0
    for count, argument in enumerate(arguments):
        taken += len(argument)
        if taken > longest:
            return arguments[:count]
    return arguments
