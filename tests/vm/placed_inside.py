# SPDX-License-Identifier: LGPL-2.1-or-later
"""Run in a unit of its own: place a job by one backend from in here, and tell as JSON where it came to be.

python3 -m tests.vm.placed_inside '{"preference": "cgroup", "memory_max": 67108864}'
"""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

from slicemgr.placement.choose import NoBackendError, choose
from tests.vm.systemd import cgroup_of


def main() -> None:
    """The argument: `preference`, `needs_memory`, `memory_max`."""
    asked = json.loads(sys.argv[1])
    before = cgroup_of()
    cat = partial(subprocess.Popen[bytes], ["cat"], stdin=subprocess.PIPE)
    # The second one is what a keeper is to `slicemgr run`: it stands beside us, and has ended before the release.
    with cat() as command, cat() as keeper:
        try:
            choice = choose(asked["preference"], uid=os.getuid(), needs_memory=asked.get("needs_memory", True))
            handle = choice.open_job(
                command.pid,
                name="ca t",
                slice_name="build.slice",
                command=["cat"],
                memory_max=asked["memory_max"],
                beside=[keeper.pid],
            )
        except NoBackendError as error:
            print(json.dumps({"error": str(error)}))
            return
        place = cgroup_of(command.pid)
        file = place / "memory.max"
        told: dict[str, object] = {
            "backend": handle.backend,
            "cgroup": handle.cgroup,
            "place": str(place),
            "limits_in_force": handle.limits_in_force,
            "why_not": handle.why_not,
            "passed_over": dict(handle.passed_over),
            "memory.max": file.read_text().strip() if file.exists() else None,
            "ourselves": str(cgroup_of()),
            "keeper": str(cgroup_of(keeper.pid)),
            "before": str(before),
        }
    handle.release()
    told["left"] = [str(path) for path in Path(before).glob("slicemgr-*")]
    told["after"] = str(cgroup_of())
    print(json.dumps(told))


if __name__ == "__main__":
    main()
