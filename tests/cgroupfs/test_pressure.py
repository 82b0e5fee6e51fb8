# SPDX-License-Identifier: LGPL-2.1-or-later
"""Triggers with the kernel's answers put in its mouth, and their thread with sockets in their place."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slicemgr.kernel.cgroupfs import CgroupDir
from slicemgr.kernel.errors import CgroupGoneError, NotSupportedError
from slicemgr.kernel.pressure import PressureThread, PressureTrigger, StallKind, open_trigger
from tests.cgroupfs.tree import grow

if TYPE_CHECKING:
    from collections.abc import Callable

SOON = 30
"""Seconds for what is certain to come."""


class Kernel:
    """Takes what is written to a trigger's file, and refuses it by a rule."""

    def __init__(self, refusal: Callable[[int, int], int]) -> None:
        self.refusal = refusal
        self.written: list[bytes] = []

    def write(self, _descriptor: int, text: bytes) -> int:
        self.written.append(text)
        _, stall, window = text.rstrip(b"\0").split()
        if number := self.refusal(int(stall), int(window)):
            raise OSError(number, os.strerror(number))
        return len(text)


def unprivileged(stall: int, window: int) -> int:
    return errno.EINVAL if window % 2_000_000 or window > 10_000_000 or stall > window else 0


def privileged(stall: int, window: int) -> int:
    return errno.EINVAL if not 500_000 <= window <= 10_000_000 or stall > window else 0


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "memory.pressure"
    path.touch()
    return str(path)


def test_what_is_written(file: str) -> None:
    """It ends in NUL: /proc/pressure/memory cuts off the last byte."""
    with closing(PressureTrigger(file, StallKind.FULL, 50_000, 500_000)):
        assert Path(file).read_bytes() == b"full 50000 500000\0"


@pytest.mark.parametrize(
    ("rule", "wished", "granted"),
    [
        (privileged, (50_000, 500_000), (50_000, 500_000)),
        (unprivileged, (50_000, 500_000), (200_000, 2_000_000)),
        (unprivileged, (100_000, 1_000_000), (200_000, 2_000_000)),
        (unprivileged, (300_000, 3_000_000), (400_000, 4_000_000)),
        (unprivileged, (300_000, 2_000_000), (300_000, 2_000_000)),
        (unprivileged, (900_000, 9_000_000), (1_000_000, 10_000_000)),
        (privileged, (40_000, 400_000), (200_000, 2_000_000)),
    ],
)
def test_the_window_that_is_granted(
    file: str,
    monkeypatch: pytest.MonkeyPatch,
    rule: Callable[[int, int], int],
    wished: tuple[int, int],
    granted: tuple[int, int],
) -> None:
    """As wished, or the next multiple of 2 s with the same share."""
    kernel = Kernel(rule)
    monkeypatch.setattr(os, "write", kernel.write)
    with closing(open_trigger(file, StallKind.SOME, *wished)) as trigger:
        assert (trigger.stall_usec, trigger.window_usec) == granted
    assert kernel.written[-1] == b"some %d %d\0" % granted


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (
            errno.EINVAL,
            "the kernel refused a trigger on {} (Invalid argument); try reading memory.pressure every second",
        ),
        (
            errno.EOPNOTSUPP,
            "the kernel has no pressure file {}; try `psi=1` on its command line, or reading memory.pressure every second",
        ),
        (errno.EPERM, "not permitted to set a trigger on {}; try reading memory.pressure every second"),
        (
            errno.EBUSY,
            "the kernel refused a trigger on {} (Device or resource busy); try reading memory.pressure every second",
        ),
    ],
)
def test_a_refusal(file: str, monkeypatch: pytest.MonkeyPatch, number: int, text: str) -> None:
    """One line that says what to do instead, and no descriptor is left."""
    monkeypatch.setattr(os, "write", Kernel(lambda stall, window: number).write)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(NotSupportedError) as refused:
        open_trigger(file, StallKind.SOME, 50_000, 500_000)
    assert str(refused.value) == text.format(file)
    assert os.listdir("/proc/self/fd") == before


def test_no_file(tmp_path: Path) -> None:
    """No PSI, for the machine and for a cgroup; and a cgroup that is gone."""
    with pytest.raises(NotSupportedError, match="try `psi=1`"):
        open_trigger(str(tmp_path / "memory"), StallKind.SOME, 50_000, 500_000)
    grow(tmp_path, {"a.scope": {}})
    with CgroupDir.open("/a.scope", str(tmp_path)) as cgroup:
        with pytest.raises(NotSupportedError, match=r"no pressure file /a\.scope/memory\.pressure; try `psi=1`"):
            open_trigger(cgroup, StallKind.SOME, 50_000, 500_000)
        (tmp_path / "a.scope").rmdir()
        with pytest.raises(CgroupGoneError):
            open_trigger(cgroup, StallKind.SOME, 50_000, 500_000)


class FakeTrigger(PressureTrigger):
    """A TCP connection: urgent data is POLLPRI, and a reset is POLLERR."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.kernel = socket.create_connection(server.getsockname())
            accepted, _ = server.accept()
        self.descriptor = accepted.detach()

    def stall(self) -> None:
        self.kernel.send(b"!", socket.MSG_OOB)

    def consume(self) -> None:
        """The kernel's own triggers are taken by the poll itself."""
        with socket.socket(fileno=os.dup(self.descriptor)) as copy:
            copy.recv(1, socket.MSG_OOB)

    def end(self) -> None:
        self.kernel.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.kernel.close()


def test_calls_come_on_the_loop() -> None:
    """Stalls and the end, in the thread of the loop; who was removed is silent."""
    callers: set[int] = set()

    async def story() -> None:
        loop = asyncio.get_running_loop()
        stalled, gone = asyncio.Event(), asyncio.Event()
        thread = PressureThread(loop.call_soon_threadsafe)
        trigger, silent = FakeTrigger(), FakeTrigger()

        def tell() -> None:
            callers.add(threading.get_ident())
            if not stalled.is_set():
                trigger.consume()
                stalled.set()

        thread.add(silent, lambda: pytest.fail("was removed"), lambda: pytest.fail("was removed"))
        thread.add(trigger, tell, gone.set)
        thread.remove(silent)
        thread.remove(silent)
        silent.kernel.close()
        async with asyncio.timeout(SOON):
            trigger.stall()
            await stalled.wait()
            trigger.end()
            await gone.wait()
        assert (trigger.descriptor, silent.descriptor) == (-1, -1)
        thread.remove(trigger)
        thread.close()
        thread.close()

    asyncio.run(story())
    assert callers == {threading.get_ident()}
    assert "psi" not in {each.name for each in threading.enumerate()}


def test_close_disarms_all() -> None:
    """Before the thread has seen them, and after; no descriptor is left."""
    before = len(os.listdir("/proc/self/fd"))
    thread = PressureThread(lambda call: pytest.fail("nothing has happened"))
    triggers = [FakeTrigger() for _ in range(20)]
    for each in triggers:
        thread.add(each, lambda: None, lambda: None)
    thread.close()
    assert {each.descriptor for each in triggers} == {-1}
    for each in triggers:
        each.kernel.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_closed_loop_ends_the_thread() -> None:
    """Nobody is left to be told."""
    loop = asyncio.new_event_loop()
    thread = PressureThread(loop.call_soon_threadsafe)
    trigger = FakeTrigger()
    thread.add(trigger, lambda: None, lambda: None)
    (psi,) = (each for each in threading.enumerate() if each.name == "psi")
    loop.close()
    trigger.stall()
    psi.join(SOON)
    assert not psi.is_alive()
    assert trigger.descriptor == -1
    thread.close()
    trigger.kernel.close()
