# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pacing as a job sees it, in its first moments: while the pacer is still being imported."""

import os
import subprocess
from pathlib import Path

from slicemgr.model.spec import PacingRequest
from slicemgr.service.job_pacing import JobPacing


def test_who_is_killed_before_there_is_a_pacer_runs_again(tmp_path: Path) -> None:
    """In an emulated guest it takes seconds to import, and a g++ told make of a cc1plus that a guard had killed."""
    environment = {"XDG_STATE_HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "PATH": os.defpath}
    pacing = JobPacing(PacingRequest(), ["make"], environment, report=lambda report: None)
    script = "sh -c 'echo $$; read word; exit'; true"
    with subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as driver:
        assert driver.stdout is not None
        pacing.mark_killed(int(driver.stdout.readline()))
        marks = os.listdir(f"{pacing.changed['SLICEMGR_JOB']}/killed")
    assert marks == [str(driver.pid)]
    pacing.finish()
    # And when it is over there is nothing to mark any more.
    pacing.mark_killed(driver.pid)
