# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where slicemgr's own files are, whose they are, and what a variable that can't be meant changes: nothing."""

import os
from pathlib import Path

import pytest

from slicemgr.service import places
from slicemgr.service.places import SYSTEM_STATE, job_directory, state_directory, steps_directory


@pytest.mark.parametrize(
    ("uid", "environment", "directory"),
    [
        (1000, {"HOME": "/home/a"}, "/home/a/.local/state/slicemgr"),
        (1000, {"HOME": "/home/a", "XDG_STATE_HOME": "/s"}, "/s/slicemgr"),
        (1000, {"HOME": "/home/a", "XDG_STATE_HOME": "s"}, "/home/a/.local/state/slicemgr"),
        (1000, {"HOME": "/home/a", "XDG_STATE_HOME": ""}, "/home/a/.local/state/slicemgr"),
        (0, {"HOME": "/root"}, SYSTEM_STATE),
        (0, {"HOME": "/root", "XDG_STATE_HOME": ""}, SYSTEM_STATE),
        (0, {"HOME": "/root", "XDG_STATE_HOME": "s"}, SYSTEM_STATE),
        (0, {"HOME": "/root", "XDG_STATE_HOME": "/s"}, "/s/slicemgr"),
    ],
)
def test_what_was_learnt(uid: int, environment: dict[str, str], directory: str) -> None:
    """A user's own; root's beside the system's history, unless root has said where. A relative path says nothing."""
    assert steps_directory(uid, environment) == directory
    if uid:
        assert steps_directory(uid, environment) == state_directory(uid, environment)


@pytest.mark.parametrize(
    ("uid", "runtime", "writable", "directory"),
    [
        (1000, "/run/user/1000", {"/run/user/1000"}, "/run/user/1000/slicemgr/jobs/NAME"),
        # After `sudo -u` it is another user's; and there may be none at all.
        (1000, "/run/user/7", set(), "/tmp/slicemgr-1000-NAME/job"),
        (1000, "user", {"user"}, "/tmp/slicemgr-1000-NAME/job"),
        (1000, None, {"/run"}, "/tmp/slicemgr-1000-NAME/job"),
        (0, None, {"/run"}, "/run/slicemgr-jobs/NAME"),
        # A sudo that keeps the variable would give root's files to the user.
        (0, "/run/user/1000", {"/run", "/run/user/1000"}, "/run/slicemgr-jobs/NAME"),
        (0, None, set(), "/tmp/slicemgr-0-NAME/job"),
        (0, "/run/user/0", {"/run/user/0"}, "/run/user/0/slicemgr/jobs/NAME"),
    ],
)
def test_the_marks_of_a_job(
    monkeypatch: pytest.MonkeyPatch, uid: int, runtime: str | None, writable: set[str], directory: str
) -> None:
    """Where it goes away with the session; in /tmp where nothing else can be written to."""
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.W_OK and path in writable)
    environment = {} if runtime is None else {"XDG_RUNTIME_DIR": runtime}
    assert places.job_directory(uid, environment, "NAME") == directory


def test_jobs_have_directories_of_their_own(tmp_path: Path) -> None:
    """By the name that is given."""
    environment = {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert job_directory(1000, environment, "7-1") != job_directory(1000, environment, "7-2")
