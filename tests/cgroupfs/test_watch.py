# SPDX-License-Identifier: LGPL-2.1-or-later
"""CgroupWatch with a real epoll: pidfds, and a file of /proc that notifies as cgroup files do.

What cgroup files do themselves is in tests/vm/test_kernel_files.py.
"""

from __future__ import annotations

import functools
import os
import select
import subprocess
from typing import TYPE_CHECKING

import pytest

from slicemgr.kernel.watch import CgroupWatch

if TYPE_CHECKING:
    from collections.abc import Iterator

SOON = 30_000
"""Milliseconds for what is certain to come."""


@pytest.fixture
def watch() -> Iterator[CgroupWatch]:
    with CgroupWatch() as opened:
        yield opened


@pytest.fixture
def mounts() -> Iterator[int]:
    """Always readable, and EPOLLPRI with EPOLLERR when a mount has changed: never, while we look."""
    descriptor = os.open("/proc/self/mounts", os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


class Child:
    """A process that ends when it is told to."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        self.pidfd = os.pidfd_open(self.process.pid)

    def end(self) -> None:
        self.process.communicate()

    def close(self) -> None:
        self.end()
        os.close(self.pidfd)


@pytest.fixture
def children() -> Iterator[list[Child]]:
    started = [Child(), Child(), Child()]
    yield started
    for each in started:
        each.close()


def wakes(watch: CgroupWatch, milliseconds: int = 0) -> bool:
    poll = select.poll()
    poll.register(watch.fileno(), select.POLLIN)
    return bool(poll.poll(milliseconds))


def test_a_file_that_is_always_readable_does_not_wake(watch: CgroupWatch, mounts: int) -> None:
    """The reason for this room: asyncio would call back thousands of times."""
    assert select.select([mounts], [], [], 0)[0]
    watch.add_file(mounts, lambda: pytest.fail("nothing has changed"))
    assert not wakes(watch)
    watch.dispatch()
    watch.remove(mounts)


def test_an_exit_calls_once(watch: CgroupWatch, children: list[Child]) -> None:
    """Its pidfd stays readable, and is out of the set."""
    told: list[Child] = []
    for child in children:
        watch.add_pidfd(child.pidfd, functools.partial(told.append, child))
    assert not wakes(watch)
    children[1].end()
    assert wakes(watch, SOON)
    watch.dispatch()
    assert told == [children[1]]
    assert not wakes(watch)


def test_a_callback_may_take_others_out(watch: CgroupWatch, children: list[Child]) -> None:
    """What was pending for them is dropped, in the same round."""
    told: list[Child] = []

    def end(child: Child) -> None:
        told.append(child)
        for each in children:
            watch.remove(each.pidfd)

    for child in children:
        watch.add_pidfd(child.pidfd, functools.partial(end, child))
    for child in children:
        child.end()
    assert wakes(watch, SOON)
    watch.dispatch()
    assert len(told) == 1
    assert not wakes(watch)


def test_an_error_in_a_callback_loses_nobody(watch: CgroupWatch, children: list[Child]) -> None:
    """The others are told in the next round, and the same one is not told again."""
    told: list[Child] = []

    def fail(child: Child) -> None:
        told.append(child)
        raise RuntimeError

    for child in children:
        watch.add_pidfd(child.pidfd, functools.partial(fail, child))
        child.end()
    for _ in children:
        assert wakes(watch, SOON)
        with pytest.raises(RuntimeError):
            watch.dispatch()
    assert {id(child) for child in told} == {id(child) for child in children}
    assert not wakes(watch)


def test_removing_what_is_not_in_is_no_failure(watch: CgroupWatch, mounts: int) -> None:
    """Nor twice, nor after the descriptor has been closed."""
    watch.remove(mounts)
    copy = os.dup(mounts)
    watch.add_file(copy, lambda: None)
    os.close(copy)
    watch.remove(copy)
    watch.add_file(mounts, lambda: None)
    with pytest.raises(FileExistsError):
        watch.add_file(mounts, lambda: None)
    watch.remove(mounts)
    watch.remove(mounts)


def test_a_file_that_can_not_be_watched_is_refused(
    watch: CgroupWatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A plain file never notifies: a mistake of ours, and not a watch that sleeps for ever."""
    path = tmp_path_factory.mktemp("plain") / "memory.events"
    path.touch()
    descriptor = os.open(path, os.O_RDONLY)
    with pytest.raises(PermissionError):
        watch.add_file(descriptor, lambda: None)
    os.close(descriptor)


def test_the_descriptors_stay_the_callers(children: list[Child], mounts: int) -> None:
    """close ends the set, and nothing in it."""
    watch = CgroupWatch()
    watch.add_file(mounts, lambda: None)
    watch.add_pidfd(children[0].pidfd, lambda: None)
    watch.close()
    os.fstat(mounts)
    os.fstat(children[0].pidfd)
