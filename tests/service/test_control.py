# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon's control socket, with real sockets and clients of every kind."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import stat
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from slicemgr.model.decision import Resource, Shortage
from slicemgr.service import control
from slicemgr.service.control import LONGEST_REQUEST, AddressInUseError, ControlServer, somebody_answers
from slicemgr.service.record import report_from_line
from slicemgr.service.report import (
    GuardFailedReport,
    HighReport,
    KernelKillReport,
    KillOutcome,
    KillReport,
    NoVictimReport,
    Report,
)
from tests.unit.samples import process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

SLICE, JOB, OTHER = "/build.slice", "/build.slice/a.scope", "/build.slice/b.scope"
SHORTAGE = Shortage(Resource.HIGH, 110, 100)


def kill(cgroup: str, victim_cgroup: str = "") -> KillReport:
    """A kill in this cgroup."""
    victim = process(7, 5, name="cc1plus")
    return KillReport(
        1.0, victim, ("cc1plus",), 20, 5, None, SHORTAGE, (), KillOutcome.EXITED, 0.1, 90, False, cgroup, victim_cgroup
    )


class Daemon:
    """A server, what it was asked, and how to talk to it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.asked: list[tuple[str, int]] = []
        self.refusal: str | None = None
        self.rest = asyncio.Event()
        self.rest.set()
        self.server = ControlServer(path, refusal=self._refuse, at_rest=self.at_rest)

    def _refuse(self, cgroup: str, uid: int) -> str | None:
        self.asked.append((cgroup, uid))
        return self.refusal

    async def at_rest(self) -> None:
        await self.rest.wait()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(self.path)

    async def ask(self, request: bytes) -> tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]:
        """The first line of the answer."""
        reader, writer = await self.connect()
        writer.write(request)
        return await reader.readline(), reader, writer

    async def watch(self, cgroup: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        answer, reader, writer = await self.ask(f"watch {cgroup}\n".encode())
        assert answer == b"ok\n"
        return reader, writer

    async def forgotten(self) -> None:
        """Nobody is connected any more."""
        await until(lambda: not self.server._clients and not self.server._connected)


async def until(condition: Callable[[], bool]) -> None:
    """The loop has done what is pending."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what the server has done sets no event of ours
            await asyncio.sleep(0)


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Daemon]:
    daemon = Daemon(str(folder / "s" / "control"))
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(context))
    await daemon.server.start(for_everybody=False)
    try:
        yield daemon
    finally:
        await daemon.server.close()
        await daemon.forgotten()
    gc.collect()  # An exception that nobody has asked for is told when its task goes.
    assert failures == []


@pytest.mark.asyncio
async def test_watch(tmp_path: Path) -> None:
    """Who asks is known by the socket, not by what it says."""
    async with serving(tmp_path) as daemon:
        reader, writer = await daemon.watch(JOB)
        assert daemon.asked == [(JOB, os.getuid())]
        daemon.server.publish(kill(JOB))
        assert report_from_line(await reader.readline()) == kill(JOB)
        writer.close()
        await daemon.forgotten()


@pytest.mark.asyncio
async def test_refused(tmp_path: Path) -> None:
    """With the reason; and nothing is told."""
    async with serving(tmp_path) as daemon:
        daemon.refusal = "it is another user's"
        answer, reader, writer = await daemon.ask(f"watch {JOB}\n".encode())
        assert answer == b"error it is another user's\n"
        daemon.server.publish(kill(JOB))
        assert await reader.read() == b""
        writer.close()


@pytest.mark.asyncio
async def test_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel says of the other end reaches the refusal."""
    monkeypatch.setattr(control, "_uid_of", lambda writer: 4711)
    async with serving(tmp_path) as daemon:
        daemon.refusal = "no"
        _, _, writer = await daemon.ask(f"watch {JOB}\n".encode())
        assert daemon.asked == [(JOB, 4711)]
        writer.close()


HOSTILE = [
    b"\n",
    b"watch\n",
    b"watch \n",
    b"watch relative\n",
    b"watch /build.slice/../session.slice\n",
    b"watch /..\n",
    b"WATCH /build.slice\n",
    b"unwatch /build.slice\n",
    b"watch  /build.slice\n",
    b"\xff\xfe\x00\x01\n",
    b"GET / HTTP/1.1\r\n",
]


@pytest.mark.asyncio
@pytest.mark.parametrize("request_line", HOSTILE)
async def test_garbage(tmp_path: Path, request_line: bytes) -> None:
    """One line that says what would be right, and the end."""
    async with serving(tmp_path) as daemon:
        answer, reader, writer = await daemon.ask(request_line)
        assert answer.startswith(b"error ")
        assert b"; try " in answer
        assert await reader.read() == b""
        assert daemon.asked == []
        writer.close()


@pytest.mark.asyncio
async def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    """A cgroup's name is bytes to the kernel: it is found again, and can be said back."""
    async with serving(tmp_path) as daemon:
        daemon.refusal = "no"
        _, _, writer = await daemon.ask(b"watch /build.slice/\xff.scope\n")
        assert daemon.asked == [("/build.slice/\udcff.scope", os.getuid())]
        writer.close()
        daemon.refusal = "not \udcff"
        answer, _, writer = await daemon.ask(b"watch /x\n")
        assert answer == b"error not \xff\n"
        writer.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("length", [LONGEST_REQUEST + 1, 1 << 20])
async def test_a_line_without_end(tmp_path: Path, length: int) -> None:
    """Is not collected for ever: the connection is closed."""
    async with serving(tmp_path) as daemon:
        reader, writer = await daemon.connect()
        writer.write(b"w" * length)
        with suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        await daemon.forgotten()


@pytest.mark.asyncio
async def test_who_says_nothing_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "REQUEST_SECONDS", 0.01)
    async with serving(tmp_path) as daemon:
        reader, writer = await daemon.connect()
        writer.write(b"watch /build")
        assert await reader.read() == b""
        writer.close()


@pytest.mark.asyncio
async def test_the_bound_of_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One user can't take all descriptors; the others, and the same one later, are heard."""
    monkeypatch.setattr(control, "MOST_CLIENTS", 2)
    uids = iter([1000, 1000, 1000, 1001, 1000])
    monkeypatch.setattr(control, "_uid_of", lambda writer: next(uids))
    async with serving(tmp_path) as daemon:
        kept = [await daemon.watch(JOB), await daemon.watch(JOB)]
        reader, writer = await daemon.connect()
        assert await reader.read() == b""
        writer.close()
        kept.append(await daemon.watch(JOB))
        kept.pop(0)[1].close()
        await until(lambda: daemon.server._connected == {1000: 1, 1001: 1})
        kept.append(await daemon.watch(JOB))
        for _, writer in kept:
            writer.close()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "sent", [b"", b"wat", b"watch /build.slice", b"watch /build.slice\n", b"watch /build.slice\nmore"]
)
async def test_hanging_up_at_every_step(tmp_path: Path, sent: bytes) -> None:
    """Nothing of it is kept, and the next one is served."""
    async with serving(tmp_path) as daemon:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(daemon.path)
            client.sendall(sent)
        await daemon.forgotten()
        daemon.server.publish(kill(SLICE))
        _, writer = await daemon.watch(JOB)
        writer.close()


@pytest.mark.asyncio
async def test_hanging_up_with_lines_unread(tmp_path: Path) -> None:
    async with serving(tmp_path) as daemon:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(daemon.path)
            client.sendall(b"watch /build.slice\n")
            await until(lambda: bool(daemon.server._clients))
            for _ in range(3):
                daemon.server.publish(kill(SLICE))
        for _ in range(3):
            daemon.server.publish(kill(SLICE))
        await daemon.forgotten()


@pytest.mark.asyncio
async def test_who_never_reads_delays_nobody(tmp_path: Path) -> None:
    """It is let go when it is too far behind; the other has every line."""
    async with serving(tmp_path) as daemon:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(daemon.path)
            client.sendall(f"watch {JOB}\n".encode())
            await until(lambda: bool(daemon.server._clients))
            reader, writer = await daemon.watch(JOB)
            report = HighReport(1.0, 2, 3, JOB + "/" + "x" * 4000)
            lines = 0
            while len(daemon.server._clients) == 2:
                lines += 1
                daemon.server.publish(report)
                assert json.loads(await reader.readline())["cgroup"] == report.cgroup
                assert lines < 1000
            assert lines > 10
            writer.close()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("report", "heard"),
    [
        (kill(JOB), {SLICE, JOB}),
        # The slice's own shortage: it is news of the job whose process went, and of no other.
        (kill(SLICE, JOB), {SLICE, JOB}),
        (kill(SLICE, f"{JOB}/container/payload"), {SLICE, JOB}),
        (kill(SLICE), {SLICE}),
        (HighReport(1.0, 2, 3, JOB), {SLICE, JOB}),
        (HighReport(1.0, 2, 3, f"{JOB}x"), {SLICE}),
        (KernelKillReport(1.0, OTHER, 1, ((7, "ld"),)), {SLICE, OTHER}),
        (NoVictimReport(1.0, SHORTAGE, (), OTHER), {SLICE, OTHER}),
        (NoVictimReport(1.0, SHORTAGE, ()), set()),
        (GuardFailedReport("odd"), set()),
    ],
)
async def test_who_hears_what(tmp_path: Path, report: Report, heard: set[str]) -> None:
    async with serving(tmp_path) as daemon:
        clients = {cgroup: await daemon.watch(cgroup) for cgroup in (SLICE, JOB, OTHER)}
        daemon.server.publish(report)
        for _, writer in clients.values():
            writer.write_eof()
        lines = {cgroup: await reader.read() for cgroup, (reader, _) in clients.items()}
        assert {cgroup for cgroup, text in lines.items() if text} == heard
        assert all(report_from_line(lines[cgroup]) == report for cgroup in heard)
        for _, writer in clients.values():
            writer.close()


@pytest.mark.asyncio
async def test_last_words(tmp_path: Path) -> None:
    """The command has ended by the very kill that is under way: what is told of it still comes, then the end."""
    async with serving(tmp_path) as daemon:
        daemon.rest.clear()
        reader, writer = await daemon.watch(JOB)
        writer.write_eof()
        await until(lambda: bool(daemon.rest._waiters))
        daemon.server.publish(kill(JOB))
        daemon.rest.set()
        assert report_from_line(await reader.read()) == kill(JOB)
        writer.close()


@pytest.mark.asyncio
async def test_last_words_are_not_waited_for_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "LAST_WORDS_SECONDS", 0.01)
    async with serving(tmp_path) as daemon:
        daemon.rest.clear()
        reader, writer = await daemon.watch(JOB)
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()


@pytest.mark.asyncio
async def test_the_daemon_ends(tmp_path: Path) -> None:
    """EOF is what tells `run` to guard its job itself; and the socket is gone."""
    daemon = Daemon(str(tmp_path / "control"))
    await daemon.server.start(for_everybody=False)
    reader, writer = await daemon.watch(JOB)
    await daemon.server.close()
    assert await reader.read() == b""
    assert not (tmp_path / "control").exists()
    writer.close()
    await daemon.forgotten()


@pytest.mark.asyncio
async def test_a_second_daemon(tmp_path: Path) -> None:
    """Refused, and the first one keeps its socket."""
    async with serving(tmp_path) as daemon:
        second = ControlServer(daemon.path, refusal=lambda cgroup, uid: None, at_rest=daemon.at_rest)
        with pytest.raises(AddressInUseError, match="control"):
            await second.start(for_everybody=False)
        await second.close()
        _, writer = await daemon.watch(JOB)
        writer.close()


@pytest.mark.asyncio
async def test_the_socket_of_a_daemon_that_was_killed(tmp_path: Path) -> None:
    """Nobody listens there: it is taken over."""
    (tmp_path / "s").mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s/control"))
    async with serving(tmp_path) as daemon:
        _, writer = await daemon.watch(JOB)
        writer.close()


@pytest.mark.asyncio
async def test_whose_socket_it_is(tmp_path: Path) -> None:
    """A user's own is nobody else's; the system's is everybody's."""
    for name, for_everybody, mode, folder_mode in (("user", False, 0o600, 0o700), ("system", True, 0o666, 0o755)):
        server = ControlServer(str(tmp_path / name / "c"), refusal=lambda cgroup, uid: None, at_rest=Daemon("").at_rest)
        await server.start(for_everybody=for_everybody)
        assert stat.S_IMODE(os.stat(tmp_path / name / "c").st_mode) == mode
        assert stat.S_IMODE(os.stat(tmp_path / name).st_mode) == folder_mode
        await server.close()


def test_does_somebody_answer(tmp_path: Path) -> None:
    """Also one that is too busy to accept."""
    path = str(tmp_path / "c")
    with pytest.raises(FileNotFoundError):
        somebody_answers(path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        assert not somebody_answers(path)
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.connect(path)
            assert somebody_answers(path)
    assert not somebody_answers(path)
