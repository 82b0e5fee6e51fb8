# SPDX-License-Identifier: LGPL-2.1-or-later
"""The link from `slicemgr run` to a daemon: it guards the job, and this tells what it does. Light, see waiting.py.

run:    watch /user.slice/.../slicemgr-make-4711.scope
daemon: ok                                               or  error TEXT: it does not guard that cgroup
daemon: {"kind": "kill", ...}                            one line for each report, see service/record.py
run:    (shuts down its side)                            the command has ended
daemon: (what it still has to tell, then closes)         at rest
"""

from __future__ import annotations

import _socket
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

    from slicemgr.service.report import Report
    from slicemgr.service.waiting import Waiting

ANSWER_SECONDS: Final = 1.0
"""A daemon that has not answered by then is stuck; meanwhile the kernel holds the job at its limit."""

LAST_WORDS_SECONDS: Final = 6.0
"""At the end a kill may be under way, which takes as long as its victim's exit: at most 5 s (service/guard.py)."""


class DaemonLink:
    """One connection, for one job."""

    def __init__(self, waiting: Waiting, report: Callable[[Report], None], lost: Callable[[], None]) -> None:
        """`lost` is called once, if nobody watches the job through this link, or no longer."""
        self._waiting = waiting
        self._report = report
        self._lost = lost
        self._socket: _socket.socket | None = None
        self._received = b""
        self.is_watching = False
        """The daemon has said `ok`."""
        self.has_watched = False
        self.refusal = ""
        """The daemon's own words for why it does not guard the job; empty if it has said nothing against it."""

    def open(self, path: str, cgroup: str) -> bool:
        """Connect, and ask for the job to be watched; False if nobody is there."""
        # Non-blocking: a daemon whose queue is full must not hold up a command.
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
        try:
            connection.connect(path)
            connection.send(f"watch {cgroup}\n".encode(errors="surrogateescape"), _socket.MSG_NOSIGNAL)
        except (OSError, ValueError):  # ValueError: a path that is no path.
            connection.close()
            return False
        self._socket = connection
        self._waiting.add_reader(connection.fileno(), self._read)
        self._waiting.call_later(ANSWER_SECONDS, self._expect_answer)
        return True

    def finish(self, *, linger: bool) -> None:
        """The command has ended: hear what the daemon still has to tell if it may have something, and close."""
        if self._socket is None:
            return
        self._lost = lambda: None
        self._read()
        if linger and self.is_watching:
            deadline = time.monotonic() + LAST_WORDS_SECONDS
            poll = select.poll()
            poll.register(self._socket.fileno(), select.POLLIN)
            self._shut_down()
            while self._socket is not None and poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                self._read()
        self._close()

    def _shut_down(self) -> None:
        try:
            if self._socket is not None:
                self._socket.shutdown(_socket.SHUT_WR)
        except OSError:  # It is gone already; what it has sent can still be read.
            return

    def _read(self) -> None:
        if self._socket is None:
            return
        try:
            piece = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        *lines, self._received = (self._received + piece).split(b"\n")
        for line in lines:
            self._hear(line)
        if not piece:
            self._lose()

    def _hear(self, line: bytes) -> None:
        if self.is_watching:
            self._tell(line)
        elif line == b"ok":
            self.is_watching = self.has_watched = True
        else:
            if line.startswith(b"error "):
                self.refusal = line.removeprefix(b"error ").decode(errors="surrogateescape")
            self._lose()

    def _tell(self, line: bytes) -> None:
        from slicemgr.service.record import RecordError, report_from_line

        try:
            report = report_from_line(line)
        except RecordError:  # A newer daemon's news, which this version has no words for.
            return
        self._report(report)

    def _expect_answer(self) -> None:
        if not self.is_watching:
            self._lose()

    def _lose(self) -> None:
        if self._socket is not None:
            self._close()
            self._lost()

    def _close(self) -> None:
        if self._socket is not None:
            self._waiting.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
        self.is_watching = False
