# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests of the command line share: a history of their own, and a job in a cgroup of nobody's."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from slicemgr.service.history import FILE_NAME
from slicemgr.service.places import SYSTEM_STATE
from tests.cli.placed_run import Daemon, Place

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="session", autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Children keep their history there: an ordinary user's by this variable, root's as entry_point.py says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="module", autouse=True)
def the_history_of_the_machine_is_left_alone() -> Iterator[None]:
    """A test that is run as root would write into it, and `slicemgr status` would tell of jobs that never were."""
    before = _history_of_the_machine()
    yield
    assert _history_of_the_machine() == before, f"a test, or somebody else just now, has written into {SYSTEM_STATE}"


def _history_of_the_machine() -> tuple[int, ...] | None:
    try:
        seen = os.stat(os.path.join(SYSTEM_STATE, FILE_NAME))
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
