# SPDX-License-Identifier: LGPL-2.1-or-later
"""What was made for a job is taken away when nobody of ours lives in it any more, and not before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

SCRIPT = """
import os, sys, tempfile
from slicemgr.model.spec import JobSpec, PacingRequest
from slicemgr.placement.backend import JobHandle
from slicemgr.service.job import Job

why_not, command, fails = sys.argv[1:]

class Choice:
    backend = "cgroup"
    passed_over = ()

    def open_job(self, pid, *, beside, **_):
        def release():
            print("released", len(beside), *(os.path.exists(f"/proc/{each}") for each in (pid, *beside)))

        return JobHandle("cgroup", None, cgroup="/no/such", why_not=why_not, release=release)

def placed(handle):
    if fails:
        raise ValueError("nobody listens")

job = Job(
    JobSpec((command,), name="n", slice_name="build.slice", high=None, max=None, swap_max=None),
    (None, None, None),
    environment=dict(os.environ),
    pacing=PacingRequest(),
    machine_total_bytes=1 << 30,
    state=tempfile.gettempdir(),
    tell=print,
)
try:
    job.run(Choice(), placed=placed)
except Exception as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(
    ("why_not", "command", "fails", "ends"),
    [
        ("no memory.max here; try x", "true", "", "LimitsNotHeldError"),
        ("", "/nowhere/at/all", "", "CommandError"),
        ("", "true", "fails", "ValueError"),
        ("", "true", "", ""),
    ],
    ids=["limits are not held", "can't be executed", "can't be told", "runs"],
)
def test_who_is_gone_when_the_cgroup_is_taken_away(why_not: str, command: str, fails: str, ends: str) -> None:
    """The held command and the keeper, both collected: rmdir of a cgroup with somebody in it is EBUSY, and tried once."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, why_not, command, fails], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["released 1 False False", *([ends] if ends else [])]
