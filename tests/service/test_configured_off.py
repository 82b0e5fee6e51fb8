# SPDX-License-Identifier: LGPL-2.1-or-later
"""A job whose configuration says `[pacing] enabled = false`: what was prepared before that was read."""

import subprocess
import time
from pathlib import Path

import pytest

from slicemgr.kernel.proctree import ProcessTree
from slicemgr.model.pacing import PacingSettings
from slicemgr.model.spec import PacingRequest
from slicemgr.placement.backend import JobHandle
from slicemgr.policy.tokens import FIRST_TOKENS
from slicemgr.service import pacing_settings
from slicemgr.service.job_pacing import JobPacing

OFF = PacingSettings(enabled=False, never_hold=(), borrow_bytes=0, reserve_bytes=0)


def test_make_has_all_its_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody counts them, so nobody would hand out more than the first few, and -j8 was -j3 to its end."""
    monkeypatch.setattr(pacing_settings, "settings_for", lambda environment, never_hold: OFF)
    told: list[object] = []
    environment = {"XDG_STATE_HOME": str(tmp_path)}
    pacing = JobPacing(PacingRequest(relaunches=False), ["make", "-j8"], environment, report=told.append)
    jobserver = pacing._jobserver
    assert jobserver is not None
    assert jobserver.allowed == FIRST_TOKENS
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as command:
        handle = JobHandle("embedded", ProcessTree(command.pid))
        pacer = pacing._made(handle, command.pid, None, 1 << 30, lambda: None)
        try:
            pacer.pacer.look(time.monotonic())
        finally:
            pacer.finish(time.monotonic())
    assert jobserver.allowed == jobserver.ceiling == 8
    assert told == []
    pacing.finish()
