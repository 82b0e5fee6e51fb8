# SPDX-License-Identifier: LGPL-2.1-or-later
"""New and removed folders, by the kernel's real inotify."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

import pytest

from slicemgr.kernel.directories import DirectoryWatch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def watch() -> Iterator[DirectoryWatch]:
    made = DirectoryWatch()
    yield made
    made.close()


def is_told(watch: DirectoryWatch) -> bool:
    readable = bool(select.select([watch.fileno()], [], [], 0)[0])
    assert watch.drain() == readable
    return readable


def test_what_comes_and_goes(watch: DirectoryWatch, tmp_path: Path) -> None:
    """In a folder that is watched, and not below it; once for any number of changes."""
    assert watch.want([str(tmp_path)])
    assert not is_told(watch)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert is_told(watch)
    assert not is_told(watch)
    (tmp_path / "a/below").mkdir()
    assert not is_told(watch)
    (tmp_path / "b").rmdir()
    assert is_told(watch)


def test_only_what_is_new_is_told_as_new(watch: DirectoryWatch, tmp_path: Path) -> None:
    """Then one has to look again: what came between a look and the watch has told nobody."""
    (tmp_path / "a").mkdir()
    assert watch.want([str(tmp_path)])
    assert not watch.want([str(tmp_path)])
    assert watch.want([str(tmp_path), str(tmp_path / "a")])
    assert not watch.want([str(tmp_path / "a")])
    (tmp_path / "b").mkdir()
    watch.drain()
    assert not is_told(watch)  # The one above is watched no more.
    (tmp_path / "a/below").mkdir()
    assert is_told(watch)


def test_made_anew_under_its_name(watch: DirectoryWatch, tmp_path: Path) -> None:
    """Another folder, whose changes are told again."""
    (tmp_path / "a").mkdir()
    watch.want([str(tmp_path / "a")])
    (tmp_path / "a").rmdir()
    (tmp_path / "a").mkdir()
    watch.drain()
    assert watch.want([str(tmp_path / "a")])
    (tmp_path / "a/below").mkdir()
    assert is_told(watch)


def test_not_there(watch: DirectoryWatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert not watch.want([str(tmp_path / "gone"), str(tmp_path / "file"), ""])
    assert watch.want([str(tmp_path / "gone"), str(tmp_path)])
