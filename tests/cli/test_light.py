# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `slicemgr run` imports before its command runs: the bare interpreter takes 9 ms, and each of these some more."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

HEAVY = {
    "argparse", "asyncio", "concurrent", "contextlib", "ctypes", "dataclasses", "enum", "functools", "gi", "inspect",
    "json", "logging", "psutil", "pydbus", "re", "shlex", "shutil", "signal", "socket", "ssl", "subprocess", "threading",
    "tomli", "types", "typing",
}  # fmt: skip
"""`dataclasses` alone takes longer than all that is imported now."""

# A job in a cgroup of nobody's, on any machine: placing is only told, and the guard would come after a minute.
SCRIPT = """
import sys
before = set(sys.modules)
import slicemgr.cli, slicemgr.cli.run
from slicemgr.kernel.spawn import HeldCommand
from slicemgr.placement.backend import JobHandle
from slicemgr.service import job

class Choice:
    backend = "cgroup"

    def open_job(self, pid, **limits):
        return JobHandle("cgroup", None, cgroup="/nowhere")

slicemgr.cli.run.choose = lambda *_, **__: Choice()
job.GUARD_AFTER_SECONDS = 60
let_go = HeldCommand.let_go

def note(held):
    global at_exec
    at_exec = set(sys.modules) - before
    let_go(held)

HeldCommand.let_go = note
status = slicemgr.cli.main(["run", "--max", "64M", "--", "true"])
at_end = set(sys.modules) - before
import json
print(json.dumps({"status": status, "exec": sorted(at_exec), "end": sorted(at_end)}))
"""


def test_a_short_command_in_a_cgroup_pays_for_nothing_else() -> None:
    """Neither up to the exec, nor up to the end: no asyncio, no argparse, no dataclasses."""
    # -S: the site of a developer's interpreter may import half of the library by itself.
    done = subprocess.run(
        [sys.executable, "-S", "-c", SCRIPT],
        capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["status"] == 0
    for moment in ("exec", "end"):
        loaded = {name.partition(".")[0] for name in told[moment]}
        assert "slicemgr" in loaded
        assert not loaded & HEAVY, moment
    # Ours are 0.13 ms each.
    assert len(told["end"]) < 60
