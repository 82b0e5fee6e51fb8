# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests of the command line share: the machine's state is left alone, and a job in a cgroup of nobody's."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from slicemgr.build import learned
from slicemgr.service import history
from slicemgr.service.places import SYSTEM_STATE
from tests.cli.placed_run import Daemon, Place

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module", autouse=True)
def the_state_of_the_machine_is_left_alone() -> Iterator[None]:
    """A test that is run as root would write into it, and `slicemgr status` would tell of jobs that never were."""
    before = _state_of_the_machine()
    yield
    assert _state_of_the_machine() == before, f"a test, or somebody else just now, has written into {SYSTEM_STATE}"


def _state_of_the_machine() -> list[tuple[int, ...] | None]:
    return [_seen(os.path.join(SYSTEM_STATE, name)) for name in (history.FILE_NAME, learned.FILE_NAME, "launcher")]


def _seen(path: str) -> tuple[int, ...] | None:
    try:
        seen = os.stat(path)
    except OSError:  # There is none, or it is hidden from us, and then we can't write there either.
        return None
    return seen.st_ino, seen.st_size, seen.st_mtime_ns


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A directory with what one run needs."""
    return Place(tmp_path)


@pytest.fixture
def daemon(place: Place) -> Iterator[Callable[..., Daemon]]:
    """Start one, the user's own unless another socket is given; it has ended after the test."""
    with ExitStack() as stack:

        def start(serve: Callable[[socket.socket], None], path: Path = place.socket) -> Daemon:
            started = Daemon(path, serve)
            stack.callback(started.close)
            return started

        yield start
