# SPDX-License-Identifier: LGPL-2.1-or-later
"""Command lines, learnt ahead: by a thread that outlives whatever it can't read."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, TypeVar

import pytest

from slicemgr.kernel import procfs
from slicemgr.kernel.errors import FormatError
from slicemgr.service.naming import CommandLines
from slicemgr.service.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable

_Answer = TypeVar("_Answer")


def learn(lines: CommandLines, now: float) -> None:
    """And wait for it: the thread makes its calls in their order."""
    lines.learn(now)
    lines._worker.finish()
    lines._worker = Worker("next")


def fails(failure: Exception, original: Callable[[int], _Answer]) -> Callable[[int], _Answer]:
    """Once."""
    left = iter([failure])

    def read(pid: int) -> _Answer:
        for each in left:
            raise each
        return original(pid)

    return read


@pytest.mark.parametrize("where", ["members", "stat"])
@pytest.mark.parametrize("failure", [OSError(errno.EMFILE, "none"), MemoryError(), FormatError("stat", b"?")])
def test_a_failure_is_no_end(monkeypatch: pytest.MonkeyPatch, where: str, failure: Exception) -> None:
    """A fork bomb takes the descriptors for a moment: in the next round it reads again."""
    ourselves = procfs.sample_process(os.getpid())
    members = fails(failure, lambda pid: [pid])
    if where == "stat":
        monkeypatch.setattr(procfs, "read_stat", fails(failure, procfs.read_stat))
    lines = CommandLines(lambda: members(ourselves.pid) if where == "members" else [ourselves.pid])
    learn(lines, 0.0)
    assert lines.of(ourselves) == ()
    learn(lines, 1.0)
    assert lines.of(ourselves) == procfs.command_line(ourselves.pid) != ()


def test_what_was_known_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptor is to be had just before the kill: the report has its line all the same."""
    ourselves = procfs.sample_process(os.getpid())
    lines = CommandLines(lambda: [ourselves.pid])
    learn(lines, 0.0)
    monkeypatch.setattr(procfs, "read_stat", fails(OSError(errno.ENFILE, "none"), procfs.read_stat))
    learn(lines, 1.0)
    assert lines.of(ourselves) == procfs.command_line(ourselves.pid)


def test_one_that_can_t_be_read_keeps_us_from_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    ourselves, parent = procfs.sample_process(os.getpid()), os.getppid()
    monkeypatch.setattr(procfs, "read_stat", fails(FormatError("stat", b"?"), procfs.read_stat))
    lines = CommandLines(lambda: [parent, ourselves.pid])
    learn(lines, 0.0)
    assert lines.of(ourselves) != ()
