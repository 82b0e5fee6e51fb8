# SPDX-License-Identifier: LGPL-2.1-or-later
"""The file of what was learnt of steps: SQLite, of our version, private, and set aside when it is broken.

SQLite, because several builds write at once, and each has to add to what the others have written: read, merge and
write of a thousand steps is one transaction here. In a file that is written anew as a whole the last one to end would
win, and lines that are appended would have to be merged at each start. It is in Python's standard library.

The journal is a rollback journal, and nothing is synced. A SIGKILL in the middle of a transaction loses that one; only
a power cut may break the file, and then a build is as slow as a first one. A sync takes 2 ms on an idle disk, but after
a build seconds, and `slicemgr run` would wait for it at its end. And a write-ahead log is none for an NFS home.
"""

import contextlib
import errno
import fcntl
import os
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from typing import Any, Final, Self

SCHEMA_VERSION: Final = 1
"""PRAGMA user_version. A change that an older slicemgr would misread makes it the next number."""

_TABLE: Final = """\
CREATE TABLE step (
  program BLOB NOT NULL, directory BLOB NOT NULL, what BLOB NOT NULL,
  peak_bytes INTEGER NOT NULL, rise_seconds REAL NOT NULL, run_seconds REAL NOT NULL,
  runs INTEGER NOT NULL, last_seen_seconds REAL NOT NULL,
  PRIMARY KEY (program, directory, what)
) WITHOUT ROWID"""
"""Names are bytes: those that are no UTF-8 are none for SQLite's text."""

_CONTENT: Final = "SELECT user_version, (SELECT count(*) FROM sqlite_master) FROM pragma_user_version"

_MOST_BROKEN: Final = 9

_BROKEN: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


class LearnedError(Exception):
    """What was learnt can't be read or written now; one line that ends in what to try. Builds go on without it."""


class LearnedFile:
    """An open file. What fails raises LearnedError; of a broken file that it is set aside, and the next open is new."""

    __slots__ = ("_connection", "_identity", "path")

    def __init__(self, path: str, connection: sqlite3.Connection, identity: tuple[int, int]) -> None:
        self.path = path
        self._connection = connection
        self._identity = identity

    @classmethod
    def open(cls, path: str, *, make: bool = False, wait_seconds: float) -> Self | None:
        """The file, or None if there is none (yet). `make`: make it, 0600, and its directory, 0700.

        `wait_seconds`: how long it is waited for another who writes. Raises LearnedError.
        """
        try:
            identity = _identity(path) or (_made(path) if make else None)
        except OSError as error:
            raise LearnedError(f"can't open '{path}': {error.strerror}; try 'ls -ld' on it") from error
        if identity is None:
            return None
        try:
            # Each statement is a transaction, but where we say otherwise.
            connection = sqlite3.connect(path, timeout=wait_seconds, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise _typed(error, path, identity) from error
        file = cls(path, connection, identity)
        try:
            if file._has_table(make):
                return file
        except BaseException:
            file.close()
            raise
        file.close()
        return None

    def _has_table(self, make: bool) -> bool:
        self.run("PRAGMA synchronous = OFF")
        if self._is_ours():
            return True
        if make:
            with self.transaction():
                if not self._is_ours():  # Nobody was faster.
                    self.run(_TABLE)
                    self.run(f"PRAGMA user_version = {SCHEMA_VERSION}")
        return make

    def _is_ours(self) -> bool:
        # In one statement: another may just be making it.
        ((version, things),) = self.run(_CONTENT)
        if version > SCHEMA_VERSION:
            raise LearnedError(f"'{self.path}' was written by a newer slicemgr; try that one, or remove the file")
        if version == 0 and things:
            raise LearnedError(f"'{self.path}' is a database of something else; try to move it away")
        return bool(version)

    def run(self, statement: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """All that a statement gives."""
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise _typed(error, self.path, self._identity) from error

    def run_each(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        """One statement for each of these."""
        try:
            self._connection.executemany(statement, rows)
        except sqlite3.Error as error:
            raise _typed(error, self.path, self._identity) from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it or nothing; nobody else writes meanwhile."""
        self.run("BEGIN IMMEDIATE")
        try:
            yield
            self.run("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # Some failures roll back by themselves.
                self._connection.rollback()
            raise

    def close(self) -> None:
        """A second time does nothing."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _identity(path: str) -> tuple[int, int] | None:
    """Which file has the name; None if there is none. Raises OSError, also for what is no file: SQLite would wait."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "Not a regular file", path)
    return found.st_dev, found.st_ino


def _made(path: str) -> tuple[int, int] | None:
    """An empty file, private before there is something in it; SQLite's journal has its mode."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    # One that is there is not opened: to close it would give up the locks that SQLite has on it in this process.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    return _identity(path)


def _typed(error: sqlite3.Error, path: str, identity: tuple[int, int]) -> LearnedError:
    # The extended codes have the plain one in their last byte. No code: a mistake of ours in calling it.
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        raise error
    if code & 0xFF in _BROKEN:
        return LearnedError(_set_aside(path, identity, str(error)))
    if code & 0xFF in _BUSY:
        return LearnedError(f"'{path}' is in use by another slicemgr; try again")
    return LearnedError(f"can't use '{path}': {error}; try 'df' and 'ls -l' on it")


def _set_aside(path: str, identity: tuple[int, int], why: str) -> str:
    """Rename a broken file, and its journal with it: beside a new file it would be applied to that. Returns the news.

    Of several who find it broken one does it: a new file of the same name is not that one.
    """
    broken = f"'{path}' is broken ({why})"
    try:
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            if _identity(path) != identity:
                return f"{broken}, and was set aside by another; try again"
            names = [f"{path}.broken", *(f"{path}.broken{at}" for at in range(2, _MOST_BROKEN + 1))]
            free = next((name for name in names if not os.path.lexists(name)), None)
            if free is None:
                return f"{broken}, and so are {_MOST_BROKEN} earlier ones beside it; try to remove them"
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{path}-journal", f"{free}-journal")
            os.rename(path, free)
        finally:
            os.close(directory)
    except OSError as error:
        return f"{broken}, and can't be set aside: {error.strerror}; try to remove it"
    return f"{broken}, and now called '{free}'; to learn anew, try 'slicemgr run -- make -j20'"
