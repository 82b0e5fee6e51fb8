# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the service manager is told, on real sockets."""

from __future__ import annotations

import os
import re
import socket
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.service.readiness import Readiness, watchdog_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A manager's socket, and what NOTIFY_SOCKET would say."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@slicemgr-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(name.replace("@", "\0", 1))
        ear.settimeout(10)
        yield ear, name


def test_one_datagram_for_each_call(manager: tuple[socket.socket, str]) -> None:
    """The assignments of sd_notify(3), in the order of a service's life."""
    ear, name = manager
    with Readiness(name) as readiness:
        assert readiness.heard
        assert readiness.ready("guarding 3 slices")
        assert readiness.status("waiting for the bus")
        assert readiness.alive()
        assert readiness.reloading("reading the configuration")
        assert readiness.stopping("SIGTERM")
    told = [ear.recv(4096).decode() for _ in range(5)]
    assert told[0] == f"READY=1\nSTATUS=guarding 3 slices\nMAINPID={os.getpid()}"
    assert told[1:3] == ["STATUS=waiting for the bus", "WATCHDOG=1"]
    assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d{6,}\nSTATUS=reading the configuration", told[3])
    assert told[4] == "STOPPING=1\nSTATUS=SIGTERM"


@given(st.text(st.characters(codec="utf-8") | st.sampled_from("\n=\udcff"), max_size=200))
def test_a_status_is_one_assignment(text: str) -> None:
    """Whatever a process or a file is called: no line of its own, and no exception."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with here, there:
        readiness = Readiness(None)
        readiness._socket, readiness._address = _Connected(here), "/"  # type: ignore[assignment]
        assert readiness.status(text)
        (line,) = there.recv(4096).split(b"\n")
    assert line.startswith(b"STATUS=")


class _Connected:
    """A datagram socket that knows where it sends to."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end

    def sendto(self, data: bytes, flags: int, _: str) -> int:
        return self.end.send(data, flags)


@pytest.mark.parametrize("address", [None, "", "@", "/", "relative", "vsock:2:1234"])
def test_no_manager(address: str | None) -> None:
    """Nothing to tell and nothing that fails."""
    with Readiness(address) as readiness:
        assert not readiness.heard or address == "/"
        assert not readiness.ready("x")
        assert not readiness.alive()


def test_nobody_listens(tmp_path: Path) -> None:
    """The socket is gone, or was never there, or is not to be opened: no message, no exception."""
    for name in ("gone", "x" * 200):
        with Readiness(str(tmp_path / name)) as readiness:
            assert not readiness.ready("x")
    closed = Readiness(str(tmp_path / "gone"))
    closed.close()
    closed.close()
    assert not closed.status("x")


def test_a_manager_that_does_not_read(manager: tuple[socket.socket, str]) -> None:
    """Its queue is full (net.unix.max_dgram_qlen, 10 or 512): messages are dropped, and we do not wait."""
    ear, name = manager
    with Readiness(name) as readiness:
        sent = 0
        while readiness.status("x" * 1000):
            sent += 1
            assert sent < 100_000
        assert ear.recv(4096)
        assert readiness.alive()


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("60000000", "7", 30.0),
        ("60000000", None, 30.0),
        ("1", "7", 0.0000005),
        ("60000000", "8", None),
        ("60000000", "", None),
        ("60000000", "07", None),
        ("0", "7", None),
        ("", "7", None),
        ("-5", "7", None),
        ("1e6", "7", None),
        ("٣", "7", None),
        (None, None, None),
    ],
)
def test_how_often_to_be_alive(usec: str | None, pid: str | None, seconds: float | None) -> None:
    """Half of what the manager waits; not at all if it waits for somebody else."""
    assert watchdog_seconds(usec, pid, 7) == seconds
