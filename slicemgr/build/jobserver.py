# SPDX-License-Identifier: LGPL-2.1-or-later
"""A GNU make jobserver whose number of tokens changes while the build runs: two pipes, and we between them.

A make takes a byte from one descriptor for each job beyond its first, and writes one to another when that job has
ended ("POSIX Jobserver" in make's manual). With make's own both are ends of one pipe: a client takes back what it has
just returned before anybody else can, so that withdrawn tokens stay out (2 ms of polling got none of 8 from ninja).
Here they are ends of two: clients take from A and bring back to B, and only we carry from B to A. So we know how many
are out, and what is not handed out again is withdrawn when the job ends; make 4.3 and 4.4 see no difference.

Our end must not be theirs. Both descriptors of the clients are opened for reading and writing, by way of
/proc/self/fd, so that each client holds both pipes up by itself. Without us nobody carries: what is out is used once
more at most, and each make ends with the one job that needs no token. That is wanted, as nobody paces it any more.
Measured with 24 recipes of 0.2 s at -j4 whose server was SIGKILLed after 0.5 s: with plain ends make 4.3 died of
SIGPIPE and 4.4.1 ended with 2 ("write jobserver: Broken pipe"), at once; with these both built all, in 2.6 s more.

A `fifo:` would reach programs behind others that close descriptors, but make 4.3 dies of it ("invalid
--jobserver-auth string"). A make before 4.2 knows --jobserver-fds alone, and by its source runs the
-jN of MAKEFLAGS unpaced; none was tried.

Light, see model/quantity.py.
"""

from __future__ import annotations

import _thread
import fcntl
import os
import sys

from slicemgr.build.make_command import with_jobserver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

LARGEST_CEILING: Final = 4096
"""One token for each byte of a page: a pipe holds no more where its user has many (pipe(7), pipe-user-pages-soft), and
make would wait for ever to bring one back. make 4.3 with -j99999 stood still at its start, for that reason it seems."""

LOWEST_CLIENT_DESCRIPTOR: Final = 64
"""configure scripts open 3 to 9, bash saves from 10 on, flock(1) is shown with 9, 100 and 200; and make's pselect(2)
takes none from 1024 on."""

_TOKEN: Final = b"+"
"""As make's own. Whatever byte comes back is a token."""


class Jobserver:
    """The tokens of one build. Any thread may call, also after `close`; then nothing happens.

    Of the jobs that are allowed the first has no token: the command's own, as each make's first is its parent's.
    """

    def __init__(self, ceiling: int) -> None:
        """Two pipes, and nothing handed out yet. `ceiling`: the N of -jN; LARGEST_CEILING at most.

        Raises OSError where there are no descriptors or no /proc.
        """
        self._turn = _thread.allocate_lock()
        self.ceiling: Final = max(1, min(ceiling, LARGEST_CEILING))
        """How many jobs there will ever be at once."""
        self._allowed = 1
        self._out = 0
        self._descriptors: list[int] = []
        try:
            # Ours do not block; theirs are other open files, and make sets O_NONBLOCK on those as it likes.
            self._unread, self._hand_out = self._kept(*os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK))
            self._returned, writing = self._kept(*os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK))
            self.client_descriptors: Final = self._opened(self._unread), self._opened(writing)
            """Where clients take tokens, and where they bring them back."""
        except BaseException:
            self._close_all()
            raise
        # Theirs, which we keep, holds B up, so that at the last client's end we read no end of file, again and again.
        self._descriptors.remove(writing)
        os.close(writing)

    def _kept(self, *descriptors: int) -> tuple[int, ...]:
        self._descriptors += descriptors
        return descriptors

    def _opened(self, end: int) -> int:
        """The same pipe opened again for both directions; pipe(7): that never blocks."""
        low = os.open(f"/proc/self/fd/{end}", os.O_RDWR | os.O_CLOEXEC)
        try:
            high = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, LOWEST_CLIENT_DESCRIPTOR)
        finally:
            os.close(low)
        self._descriptors.append(high)
        return high

    def be_inherited(self) -> None:
        """In the child before its exec: what it executes has the clients' descriptors, by the same numbers.

        make hands them on to recipes with $(MAKE) or `+`, and to no other.
        """
        for descriptor in self.client_descriptors:
            os.set_inheritable(descriptor, True)

    def makeflags(self, before: str) -> str:
        """MAKEFLAGS for the command; `before` is what its caller has in it, "" for nothing."""
        return with_jobserver(before, self.ceiling, *self.client_descriptors)

    def fileno(self) -> int:
        """Readable when clients have brought tokens back: then `relay`."""
        return self._returned

    @property
    def allowed(self) -> int:
        """How many jobs may run now."""
        return self._allowed

    @property
    def outstanding(self) -> int:
        """Tokens in clients' hands: neither ours, nor on their way in a pipe. Of the jobs one has none."""
        # Returned ones first: what a client takes or brings in between counts as held, which it was a moment ago.
        with self._turn:
            if not self._descriptors:
                return 0
            returned = _bytes_in(self._returned)
            return max(0, self._out - returned - _bytes_in(self._unread))

    def allow(self, running: int) -> None:
        """From now on at most so many jobs, within 1 and the ceiling.

        More get their tokens at once; for fewer those are taken back that nobody has taken yet, and others when their
        jobs end.
        """
        with self._turn:
            self._allowed = max(1, min(running, self.ceiling))
            excess = self._out - (self._allowed - 1)
            if excess > 0 and self._descriptors:
                self._out -= len(_read(self._unread, excess))
            self._hand_out_allowed()

    def relay(self) -> None:
        """Take what has come back, and hand out what is allowed. Never waits."""
        with self._turn:
            self._relay()

    def _relay(self) -> None:
        if self._descriptors:
            # Who brings back more than he took (`echo` adds a newline) makes no tokens.
            self._out = max(0, self._out - len(_read(self._returned, 65536)))
            self._hand_out_allowed()

    def give_back(self, lost: int) -> None:
        """Tokens of clients that were killed: they are handed out again, as far as allowed.

        One that comes back after all is not counted twice for ever: when all have come back, the number is right again.
        """
        with self._turn:
            self._out -= max(0, min(lost, self._out))
            self._hand_out_allowed()

    def close(self) -> None:
        """Nobody relays from now on. Also twice.

        Who still builds goes on with what has been handed out, once for each token, and then with one job for each
        make. Not with the whole ceiling: whoever closes no longer holds steps at birth, and twenty at once would be too
        many for a limit that just had room for two.
        """
        with self._turn:
            self._relay()
            self._close_all()

    def _hand_out_allowed(self) -> None:
        lacking = self._allowed - 1 - self._out
        # Not after the end: the numbers of ours may be others' by then.
        if lacking > 0 and self._descriptors:
            try:
                self._out += os.write(self._hand_out, _TOKEN * lacking)
            except BlockingIOError:  # Somebody else has filled the pipe.
                return

    def _close_all(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())


def _read(descriptor: int, most: int) -> bytes:
    try:
        return os.read(descriptor, most)
    except BlockingIOError:
        return b""


def _bytes_in(descriptor: int) -> int:
    """FIONREAD of pipe(7)."""
    import termios  # 1 ms, and not needed before the command runs.

    return int.from_bytes(fcntl.ioctl(descriptor, termios.FIONREAD, b"\0\0\0\0"), sys.byteorder)
