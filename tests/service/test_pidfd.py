# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who is behind a pidfd, of real processes."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from slicemgr.kernel import pidfd, procfs
from slicemgr.kernel.errors import FormatError, NotSupportedError, ProcessGoneError
from slicemgr.kernel.formats import fdinfo_is_of_a_thread, parse_fdinfo_pid, parse_status_uids

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "inf"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture(autouse=True)
def a_cgroup(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine that runs the tests may have none of v2."""
    monkeypatch.setattr(pidfd, "cgroup_of", lambda pid: f"/of/{pid}")


def test_a_living_process(sleeper: subprocess.Popen[bytes]) -> None:
    descriptor = os.pidfd_open(sleeper.pid)
    try:
        found = pidfd.process_behind(descriptor)
    finally:
        os.close(descriptor)
    assert found.identity == procfs.identity_of(sleeper.pid)
    assert found.cgroup == f"/of/{sleeper.pid}"
    assert found.uids == {os.getuid()}
    assert found.belongs_to(os.getuid())
    assert not found.belongs_to(os.getuid() + 1)


def test_one_that_has_ended(sleeper: subprocess.Popen[bytes]) -> None:
    """Also as long as nobody has collected it."""
    descriptor = os.pidfd_open(sleeper.pid)
    try:
        sleeper.kill()
        os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ProcessGoneError):
            pidfd.process_behind(descriptor)
        sleeper.wait()
        with pytest.raises(ProcessGoneError):
            pidfd.process_behind(descriptor)
    finally:
        os.close(descriptor)


def test_no_pidfd() -> None:
    reading, writing = os.pipe()
    try:
        with pytest.raises(NotSupportedError, match="this descriptor is no pidfd; try pidfd_open"):
            pidfd.process_behind(reading)
    finally:
        os.close(reading)
        os.close(writing)
    with pytest.raises(NotSupportedError, match="no pidfd"):
        pidfd.process_behind(writing)


@pytest.mark.parametrize(
    ("text", "uids"),
    [
        (b"Name:\tx\nUid:\t1000\t1000\t1000\t1000\nGid:\t5\t5\t5\t5\n", {1000}),
        (b"Uid:\t1000\t0\t0\t0\n", {0, 1000}),
        (b"Uid:\t0\t0\t0\t0\n", {0}),
    ],
)
def test_the_owners(text: bytes, uids: set[int]) -> None:
    assert parse_status_uids(text) == uids


@pytest.mark.parametrize("text", [b"", b"Uid:\n", b"Uid:\t1\t2\t3\n", b"Uid:\t1\t2\t3\tx\n", b"Gid:\t1\t1\t1\t1\n"])
def test_no_owners(text: bytes) -> None:
    with pytest.raises(FormatError):
        parse_status_uids(text)


@pytest.mark.parametrize(
    ("text", "pid"),
    [
        (b"pos:\t0\nflags:\t02000002\nmnt_id:\t15\nPid:\t4711\nNSpid:\t4711\n", 4711),
        (b"Pid:\t-1\n", -1),
        (b"Pid:\t0\n", 0),
    ],
)
def test_the_pid_of_a_descriptor(text: bytes, pid: int) -> None:
    assert parse_fdinfo_pid(text) == pid


@pytest.mark.parametrize(
    ("text", "is_thread"),
    [
        (b"pos:\t0\nflags:\t02000002\nPid:\t4711\n", False),
        (b"pos:\t0\nflags:\t02000202\nPid:\t4711\n", True),
        (b"Pid:\t4711\n", False),
        (b"flags:\tx\n", False),
    ],
)
def test_a_threads_descriptor(text: bytes, is_thread: bool) -> None:
    """Its Pid is the thread's, which is no process."""
    assert fdinfo_is_of_a_thread(text) == is_thread


@pytest.mark.parametrize("text", [b"", b"pos:\t0\n", b"Pid:\n", b"Pid:\t--1\n", b"Pid:\tx\n"])
def test_another_kind_of_descriptor(text: bytes) -> None:
    with pytest.raises(FormatError):
        parse_fdinfo_pid(text)
