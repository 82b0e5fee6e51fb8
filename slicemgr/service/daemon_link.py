# SPDX-License-Identifier: LGPL-2.1-or-later
"""The link from `slicemgr run` to a daemon: it guards the job, and this tells what it does. Light, see waiting.py.

run:    watch /user.slice/.../slicemgr-make-4711.scope
daemon: ok                                               or  error TEXT: it does not guard that cgroup
daemon: {"kind": "kill", ...}                            one line for each report, see service/record.py
run:    need HELD WANTED WAITING                         at any time: bytes, bytes, 0 or 1, see policy/sharing.py
daemon: {"kind": "budget", "allowance_bytes": BYTES}     what the job may hold beside others; null: no limit
run:    (shuts down its side)                            the command has ended
daemon: (what it still has to tell, then closes)         at rest

Both ignore lines that they do not know: an older daemon drops every `need`, and an older `run` every budget.
"""

from __future__ import annotations

import _socket
import _thread
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

NEED_SECONDS: Final = 0.25
"""Between two needs that are told: a daemon hears of twenty builds."""

NEED_AGAIN_SECONDS: Final = 2.0
"""The same need is told again, as long as somebody says that it is so: one that stands still (^Z) is not waited for."""

NEWS_SHARE: Final = 50
"""A fiftieth more or less is news."""

_BUDGET: Final = b'{"kind": "budget"'
"""How such a line begins, as service/control.py writes it: no report does."""


class DaemonLink:
    """One connection, for one job. Belongs to the thread that waits, but for `need`."""

    def __init__(
        self,
        waiting: Waiting,
        report: Callable[[Report], None],
        lost: Callable[[], None],
        budget: Callable[[int | None], None] = lambda allowance: None,
    ) -> None:
        """`lost` is called once, if nobody watches the job through this link, or no longer.

        `budget` is told the bytes that the job may hold beside others in its slice: from the first `need` on, whenever
        they change; None: nobody says, and it may be that nobody is there any more.
        """
        self._waiting = waiting
        self._report = report
        self._lost = lost
        self._budget = budget
        self._has_budget = False
        self._turn = _thread.allocate_lock()
        """For whoever uses the socket, so that none is closed while the other one sends."""
        self._needed: tuple[int, int, bool] | None = None
        self._needed_seconds = 0.0
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

    def need(self, held: int, wanted: int, waiting: bool) -> None:
        """Tell the daemon what the job holds, what it will hold at most with what runs now, and whether steps wait.

        From any thread, and as often as one likes: only news is sent, and that seldom. Never waits.
        """
        now = time.monotonic()
        needed = (max(0, held), max(0, wanted), waiting)
        with self._turn:
            if self._socket is None or not self.is_watching or not self._is_worth_telling(needed, now):
                return
            try:
                self._socket.send(b"need %d %d %d\n" % needed, _socket.MSG_NOSIGNAL)
            except OSError:  # It does not read, or it is gone: that is heard where it is read.
                return
            self._needed, self._needed_seconds = needed, now

    def _is_worth_telling(self, needed: tuple[int, int, bool], now: float) -> bool:
        if self._needed is None:
            return True
        passed = now - self._needed_seconds
        if passed < NEED_SECONDS:
            return False
        held, wanted, waiting = self._needed
        return (
            passed >= NEED_AGAIN_SECONDS
            or waiting != needed[2]
            or abs(needed[0] - held) * NEWS_SHARE > held
            or abs(needed[1] - wanted) * NEWS_SHARE > wanted
        )

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
        if line.startswith(_BUDGET):
            self._allow(line)
            return
        from slicemgr.service.record import RecordError, report_from_line

        try:
            report = report_from_line(line)
        except RecordError:  # A newer daemon's news, which this version has no words for.
            return
        self._report(report)

    def _allow(self, line: bytes) -> None:
        import json  # Whoever has told a need has loaded more than this.

        try:
            allowance = json.loads(line)["allowance_bytes"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return  # Nothing that this version knows.
        if allowance is None or (type(allowance) is int and allowance >= 0):
            self._has_budget = allowance is not None
            self._budget(allowance)

    def _expect_answer(self) -> None:
        if not self.is_watching:
            self._lose()

    def _lose(self) -> None:
        if self._socket is not None:
            self._close()
            self._lost()

    def _close(self) -> None:
        with self._turn:
            if self._socket is not None:
                self._waiting.remove_reader(self._socket.fileno())
                self._socket.close()
                self._socket = None
            self.is_watching = False
        if self._has_budget:
            self._has_budget = False
            self._budget(None)
