# SPDX-License-Identifier: LGPL-2.1-or-later
"""What we tell the service manager: ready, alive, reloading, stopping, and one line for `systemctl status`.

The protocol is one datagram of lines (sd_notify(3)). Not a library: python3-systemd wants libsystemd and a compiler,
and sdnotify reads the environment itself and blocks when the manager does not read: neither may happen here.
"""

import os
import socket
import time
from typing import Final, Self

_SOCKET_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class Readiness:
    """The manager's ear, or nobody's: then every call does nothing.

    No call waits or raises; each says whether the manager's socket took the message.
    """

    def __init__(self, address: str | None) -> None:
        """`address` is what NOTIFY_SOCKET says: a path, or a name in the abstract namespace (`@name`)."""
        self._address = _as_socket_address(address)
        self._socket = None
        if self._address is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def heard(self) -> bool:
        """Is there a manager that wants to know?"""
        return self._socket is not None

    def ready(self, status: str) -> bool:
        """Started, or done with reloading."""
        return self._tell("READY=1", _status(status), f"MAINPID={os.getpid()}")

    def status(self, status: str) -> bool:
        """What `systemctl status` shows: what we wait for, or what is wrong."""
        return self._tell(_status(status))

    def alive(self) -> bool:
        """Due every `watchdog_seconds`, or the manager ends us."""
        return self._tell("WATCHDOG=1")

    def reloading(self, status: str) -> bool:
        """Reading the configuration again; `ready` ends it. The time is for Type=notify-reload (systemd 253)."""
        return self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", _status(status))

    def stopping(self, status: str) -> bool:
        """About to end."""
        return self._tell("STOPPING=1", _status(status))

    def close(self) -> None:
        """From now on nobody hears us."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _tell(self, *lines: str) -> bool:
        if self._socket is None or self._address is None:
            return False
        try:
            self._socket.sendto("\n".join(lines).encode(errors="replace"), _SOCKET_FLAGS, self._address)
        except OSError:
            # Nobody listens, or the manager is behind with its reading (EAGAIN). There is nobody else to tell.
            return False
        return True


def watchdog_seconds(usec: str | None, pid: str | None, own_pid: int) -> float | None:
    """How often to be `alive`: half of WATCHDOG_USEC, as sd_watchdog_enabled(3) advises.

    None: the manager does not look, or it looks at another process (WATCHDOG_PID).
    """
    if usec is None or not usec.isascii() or not usec.isdecimal() or int(usec) == 0:
        return None
    if pid is not None and pid != str(own_pid):
        return None
    return int(usec) / 2_000_000


def _as_socket_address(address: str | None) -> str | None:
    if not address or address[0] not in "/@" or len(address) < 2:
        return None  # vsock: is for a manager outside of a virtual machine.
    return "\0" + address[1:] if address[0] == "@" else address


def _status(text: str) -> str:
    """A newline would begin the next assignment: `READY=1` in the name of a process is none of ours."""
    return "STATUS=" + " ".join(text.split("\n"))
