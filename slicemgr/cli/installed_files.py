# SPDX-License-Identifier: LGPL-2.1-or-later
"""Files that `slicemgr install` puts into place, and the record by which `--uninstall` knows them again."""

import contextlib
import enum
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from slicemgr.cli.printable import printable


class RecordError(Exception):
    """The record can't be read; says what to try."""


class Fate(enum.Enum):
    """What becomes of a file."""

    NEW = "write"
    UPDATE = "update"
    """Ours, of an older slicemgr."""
    SAME = "keep"
    CHANGED = "leave"
    """Ours once, and changed since: now the person's."""
    FOREIGN = "refuse"
    """Not ours, and not what we would write."""
    UNSURE = "update or refuse"
    """The one or the other: the record could not be read."""
    REMOVE = "remove"


_PAST: Final = {
    Fate.NEW: "wrote",
    Fate.UPDATE: "updated",
    Fate.SAME: "kept",
    Fate.REMOVE: "removed",
    Fate.CHANGED: "left",
}
_WHY: Final = {
    Fate.SAME: ": up to date",
    Fate.CHANGED: ": changed since it was installed, now yours to edit or remove",
    Fate.UNSURE: ": the record would tell whose it is",
}


@dataclass(frozen=True, slots=True)
class Step:
    """One file, and what is to become of it."""

    path: Path
    """As systemd or the shell will see it, without the root of a staging tree."""
    fate: Fate
    content: bytes = b""
    """Nothing for a file that there should not be."""


@dataclass(slots=True)
class Record:
    """Every file that install has written, with the checksums of all its contents, and every folder it has made.

    It is written before the files are: what a crash leaves behind is known to be ours.
    """

    path: Path
    root: Path
    """In front of every path: `/`, or a staging tree."""
    folder_mode: int
    files: dict[str, list[str]] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    is_read: bool = True
    """False: it is there, and may not be read; so it may be planned with it, and no more."""

    @classmethod
    def load(cls, path: Path, root: Path, folder_mode: int) -> Self:
        """The record at `path`; an empty one where there is none. Raises RecordError and OSError."""
        record = cls(path, root, folder_mode)
        try:
            data = json.loads(record.real(path).read_bytes())
            record.files = {_absolute(name): [str(each) for each in sums] for name, sums in data["files"].items()}
            record.folders = [_absolute(each) for each in data["folders"]]
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError, AttributeError):
            raise RecordError(f"'{path}' is no record of installed files; try moving it away") from None
        return record

    def real(self, path: Path) -> Path:
        """Where the path is on this machine now."""
        return self.root / path.relative_to("/")

    def plan(self, wanted: Mapping[Path, bytes]) -> list[Step]:
        """What it takes to have these files, and none that an older slicemgr has left. Raises OSError."""
        steps = [Step(path, self._fate(path, content), content) for path, content in wanted.items()]
        return steps + self._removals(path for path in self.files if Path(path) not in wanted)

    def plan_removal(self) -> list[Step]:
        """What it takes to have none of them. Raises OSError."""
        return self._removals(self.files)

    def install(self, steps: Iterable[Step]) -> None:
        """Carry out a plan without FOREIGN in it. Raises OSError with the path in it."""
        steps = list(steps)
        writes = [step for step in steps if step.fate in {Fate.NEW, Fate.UPDATE}]
        for step in writes:
            known = self.files.setdefault(str(step.path), [])
            known.extend({_checksum(step.content)} - set(known))
        self._save(step.path for step in writes)
        for step in writes:
            self._make_folders(step.path)
            _replace(self.real(step.path), step.content)
        if obsolete := [step for step in steps if not step.content]:
            self._remove(obsolete)
            for step in obsolete:
                del self.files[str(step.path)]
            self._save(())

    def uninstall(self, steps: Iterable[Step]) -> None:
        """Carry out a plan of removal; the record and the folders that it leaves empty go too. Raises OSError."""
        self._remove(steps)
        self.real(self.path).unlink(missing_ok=True)
        for folder in sorted(self.folders, key=len, reverse=True):
            # Not empty, or gone: either way no longer ours.
            with contextlib.suppress(OSError):
                self.real(Path(folder)).rmdir()

    def lines(self, steps: Iterable[Step], *, dry_run: bool) -> Iterator[str]:
        """What has become of each file, or would."""
        for step in steps:
            did = f"would {step.fate.value}" if dry_run else _PAST[step.fate]
            yield f"{did} {printable(str(self.real(step.path)))}{_WHY.get(step.fate, '')}"

    def _fate(self, path: Path, content: bytes) -> Fate:
        now = self._present(path)
        if now is None:
            return Fate.NEW
        if now == content:
            return Fate.SAME
        known = self.files.get(str(path))
        if known is None:
            return Fate.FOREIGN if self.is_read else Fate.UNSURE
        return Fate.UPDATE if _checksum(now) in known else Fate.CHANGED

    def _removals(self, paths: Iterable[str]) -> list[Step]:
        steps = []
        for path in paths:
            now = self._present(Path(path))
            if now is not None:
                ours = _checksum(now) in self.files[path]
                steps.append(Step(Path(path), Fate.REMOVE if ours else Fate.CHANGED))
        return steps

    def _present(self, path: Path) -> bytes | None:
        """What is there; b"" for what is no regular file, which is never ours: a mask is a link to /dev/null."""
        real = self.real(path)
        try:
            if not stat.S_ISREG(real.lstat().st_mode):
                return b""
            return real.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _remove(self, steps: Iterable[Step]) -> None:
        for step in steps:
            if step.fate is Fate.REMOVE:
                self.real(step.path).unlink(missing_ok=True)

    def _save(self, about_to_write: Iterable[Path]) -> None:
        missing: list[str] = []
        for path in (self.path, *about_to_write):
            missing += [str(each) for each in path.parents if not self.real(each).exists()]
        self.folders = list(dict.fromkeys([*self.folders, *missing]))
        self._make_folders(self.path)
        text = json.dumps({"files": self.files, "folders": self.folders}, indent=1)
        _replace(self.real(self.path), text.encode() + b"\n")

    def _make_folders(self, path: Path) -> None:
        for folder in reversed(path.parents):
            real = self.real(folder)
            if not real.is_dir():
                real.mkdir()
                real.chmod(self.folder_mode)  # Not by umask: root's may be 077, and the shell of a user has to read.


def _absolute(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError(path)
    return path


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _replace(path: Path, content: bytes) -> None:
    """Whole or not at all: systemd may read it at any time."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        with open(file, "wb") as stream:
            os.fchmod(file, 0o644)
            stream.write(content)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
