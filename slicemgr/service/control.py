# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon's ear for `slicemgr run`: a Unix socket, one connection for each job; the other end is daemon_link.py.

    run:    watch /user.slice/.../slicemgr-make-4711.scope
    daemon: ok                      or  error TEXT
    daemon: one JSON line for each report of that job (record.py)
    run:    need HELD WANTED WAITING      as often as four times a second, while its steps are paced
    daemon: {"kind": "budget", "allowance_bytes": BYTES}    what it may hold now beside others (budget_shares.py)
    run:    (shuts down its side)   the command has ended
    daemon: what it still has to tell, then closes

A client that does not read loses its lines, and delays nobody: what it has not taken is bounded. One that writes
without end is read twenty times a second, and what else it says than that is dropped.
"""

import asyncio
import contextlib
import os
import socket
import struct
from asyncio import sleep
from collections.abc import Awaitable, Callable
from typing import Final

from slicemgr.model.cgroup import is_below
from slicemgr.service.budget_shares import BudgetShares, NeedLines
from slicemgr.service.record import report_to_line
from slicemgr.service.report import HighReport, KernelKillReport, KillReport, NoVictimReport, Report

LONGEST_REQUEST: Final = 8192
"""Bytes: a path of the kernel's is at most 4096."""

REQUEST_SECONDS: Final = 2.0
MOST_CLIENTS: Final = 1024
"""For each user: the system's socket is everybody's, and its descriptors are not."""

MOST_UNREAD_BYTES: Final = 1 << 16
"""Some forty kills that a stopped client has not read; then it is let go, and guards its job itself."""

LAST_WORDS_SECONDS: Final = 5.5
"""A kill that is under way when the command ends takes as long as its victim's exit, at most 5 s (guard.py)."""

MOST_PIECES: Final = 20
"""That are read of one client in a second; each is LONGEST_REQUEST at most. `run` sends four."""

SHARE_SECONDS: Final = 0.1
"""Between two rounds of telling shares."""

SHARE_AGAIN_SECONDS: Final = 1.0
"""Then they are counted again though nobody has said anything: others in the slice may have grown, or its limit."""

LEAST_REST: Final = 20
"""A round of a thousand slices that somebody has made takes its time, and then the loop has twenty times that for all
else: the guards."""


class ControlServer:
    """Listens on one socket. It belongs to the loop's thread."""

    def __init__(
        self,
        path: str,
        *,
        refusal: Callable[[str, int], str | None],
        at_rest: Callable[[], Awaitable[None]],
        shares: BudgetShares[asyncio.StreamWriter] | None = None,
    ) -> None:
        """`refusal` says why a cgroup is not watched for this uid, or None; `at_rest` waits for the end of a kill.

        `shares`: of those who pace their steps; this server's own from here on.
        """
        self._path = path
        self._refusal = refusal
        self._at_rest = at_rest
        self._clients: dict[asyncio.StreamWriter, str] = {}
        self._connected: dict[int, int] = {}
        self._server: asyncio.Server | None = None
        self._shares: BudgetShares[asyncio.StreamWriter] = BudgetShares() if shares is None else shares
        self._sharing: asyncio.TimerHandle | None = None
        self._rested_seconds = 0.0
        """When the next round may be."""

    async def start(self, *, for_everybody: bool) -> None:
        """Listen. Raises OSError; AddressInUseError if another daemon answers there."""
        with contextlib.suppress(FileNotFoundError):
            if somebody_answers(self._path):
                raise AddressInUseError(self._path)
            os.unlink(self._path)  # Left by a daemon that was killed.
        os.makedirs(os.path.dirname(self._path), mode=0o755 if for_everybody else 0o700, exist_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, self._path, limit=LONGEST_REQUEST)
        os.chmod(self._path, 0o666 if for_everybody else 0o600)

    async def close(self) -> None:
        """Hang up on all, and take the socket away."""
        if self._sharing is not None:
            self._sharing.cancel()
            self._sharing = None
        self._shares.close()
        if self._server is not None:
            self._server.close()
            for writer in list(self._clients):
                writer.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)

    def hang_up(self, which: Callable[[str], bool]) -> None:
        """On those whose cgroup it says: they look for another guard. Never waits."""
        for writer, cgroup in list(self._clients.items()):
            if which(cgroup):
                writer.close()

    def publish(self, report: Report) -> None:
        """Tell it to those whose job it is about. Never waits."""
        concerned = _cgroups_of(report)
        if not concerned:
            return
        line = report_to_line(report)
        for writer, cgroup in list(self._clients.items()):
            if any(is_below(each, cgroup) for each in concerned):
                if writer.transport.get_write_buffer_size() > MOST_UNREAD_BYTES:
                    writer.transport.abort()
                else:
                    writer.write(line)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        uid = _uid_of(writer)
        self._connected[uid] = self._connected.get(uid, 0) + 1
        try:
            if self._connected[uid] > MOST_CLIENTS:
                return
            async with asyncio.timeout(REQUEST_SECONDS):
                answer = await self._answer(reader, writer, uid)
            writer.write(answer)
            if answer == b"ok\n":
                await self._hear(reader, writer)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LAST_WORDS_SECONDS):
                        await self._at_rest()
        except (ConnectionError, ValueError, TimeoutError):  # ValueError: a line beyond LONGEST_REQUEST.
            pass
        finally:
            self._connected[uid] -= 1
            if not self._connected[uid]:
                del self._connected[uid]
            self._clients.pop(writer, None)
            if self._shares.forget(writer):
                self._share_soon()
            writer.close()

    async def _hear(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What it needs, until it has no more to say."""
        loop, lines = asyncio.get_running_loop(), NeedLines()
        pieces, since = 0, loop.time()
        while piece := await reader.read(LONGEST_REQUEST):
            need = lines.last_in(piece)
            if need is not None and self._shares.need(writer, self._clients.get(writer, ""), need):
                self._share_soon()
            pieces += 1
            passed = loop.time() - since
            if pieces >= MOST_PIECES and passed < 1.0:
                await sleep(1.0 - passed)  # Meanwhile what it sends fills its own end.
            if pieces >= MOST_PIECES or passed >= 1.0:
                pieces, since = 0, loop.time()

    def _share_soon(self, seconds: float = 0.0) -> None:
        """Tell the shares, but not before the last round is some time ago."""
        if self._server is None or not self._server.is_serving():
            return
        loop = asyncio.get_running_loop()
        due = max(loop.time() + seconds, self._rested_seconds)
        if self._sharing is not None:
            if self._sharing.when() <= due:
                return
            self._sharing.cancel()
        self._sharing = loop.call_at(due, self._share)

    def _share(self) -> None:
        self._sharing = None
        loop = asyncio.get_running_loop()
        began = loop.time()
        for writer, allowance in self._shares.news():
            # Who has not read the last one yet gets a newer one when he has.
            if not writer.transport.get_write_buffer_size() and not writer.is_closing():
                writer.write(_budget_line(allowance))
                self._shares.told(writer, allowance)
        ended = loop.time()
        self._rested_seconds = ended + max(SHARE_SECONDS, (ended - began) * LEAST_REST)
        if self._shares.are_there_any:
            self._share_soon(SHARE_AGAIN_SECONDS)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, uid: int) -> bytes:
        verb, _, cgroup = (await reader.readline()).decode(errors="surrogateescape").rstrip("\n").partition(" ")
        if verb != "watch" or not cgroup.startswith("/") or ".." in cgroup.split("/"):
            return b"error unknown request; try 'watch /PATH/OF/A/CGROUP'\n"
        why = self._refusal(cgroup, uid)
        if why is not None:
            return f"error {why}\n".encode(errors="surrogateescape")
        self._clients[writer] = cgroup
        return b"ok\n"


def _budget_line(allowance_bytes: int | None) -> bytes:
    """`kind` comes first: by that the other end knows it (daemon_link.py)."""
    return (
        b'{"kind": "budget", "allowance_bytes": %s}\n'
        % str("null" if allowance_bytes is None else allowance_bytes).encode()
    )


class AddressInUseError(OSError):
    """Another daemon listens there."""


def somebody_answers(path: str) -> bool:
    """Raises FileNotFoundError if there is no socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except BlockingIOError:  # Its queue is full: it lives.
            return True
    return True


def _uid_of(writer: asyncio.StreamWriter) -> int:
    """The user at the other end, by SO_PEERCRED (unix(7)): pid, uid, gid."""
    connection: socket.socket = writer.get_extra_info("socket")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


def _cgroups_of(report: Report) -> tuple[str, ...]:
    """Where it happened: a victim of the slice's own shortage is its job's news too."""
    match report:
        case KillReport():
            return (report.victim_cgroup or report.cgroup,)
        case HighReport() | NoVictimReport() | KernelKillReport():
            return (report.cgroup,)
        case _:
            return ()
