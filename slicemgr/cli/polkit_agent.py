# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who asks for a password when polkit wants one: on a text terminal nobody does by himself, so pkttyagent(1) is started
as systemctl does it."""

import contextlib
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Final

START_SECONDS: Final = 5.0
"""It is ready in 30 ms, and says so; if it never is, polkit says no without having asked."""

_END_SECONDS: Final = 5.0


def can_ask() -> bool:
    """Whether a person sits there whom polkit could ask; root it never does."""
    return os.geteuid() != 0 and sys.stdin is not None and sys.stdin.isatty()


@contextlib.contextmanager
def asking_on_terminal() -> Iterator[None]:
    """Meanwhile polkit may ask here, unless there is another one that it can ask (a desktop has its own)."""
    program = shutil.which("pkttyagent")
    if program is None:
        yield
        return
    ready, told = os.pipe()
    try:
        # It is an agent for its parent, and ends with us: it reads the same terminal.
        agent = subprocess.Popen([program, "--notify-fd", str(told), "--fallback"], pass_fds=[told])  # noqa: S603
    except OSError:
        agent = None
    finally:
        os.close(told)
    try:
        if agent is not None:
            select.select([ready], [], [], START_SECONDS)
        yield
    finally:
        os.close(ready)
        if agent is not None:
            agent.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                agent.wait(_END_SECONDS)
