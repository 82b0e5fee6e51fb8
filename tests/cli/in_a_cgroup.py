# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr run` as if a cgroup held its job, on any machine: `python -m tests.cli.in_a_cgroup SETTINGS OPTIONS COMMAND`.

Placing is only told, the cgroup's files are an ordinary directory, and the guard of a cgroup is one that looks once.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from slicemgr import cli
from slicemgr.cli import run
from slicemgr.placement import choose
from slicemgr.placement.backend import JobHandle
from slicemgr.service import daemon_link, job

if TYPE_CHECKING:
    from collections.abc import Callable

    from slicemgr.service.report import Report

CGROUP = "/of.slice/slicemgr-nobody-1.scope"
SETTINGS: dict[str, Any] = {}


class OneLook:
    """A guard that sees the job above memory.high, and says so through a FIFO."""

    def __init__(self, report: Callable[[Report], None]) -> None:
        if SETTINGS.get("guard_fails"):
            raise OSError("no such guard")
        self.looks = 0
        self._report = report

    async def watch(self) -> None:
        from slicemgr.service.report import HighReport

        self.looks += 1
        self._report(HighReport(time.monotonic(), 3 << 20, 2 << 20, CGROUP))
        with open(SETTINGS["fifo"], "w") as fifo:  # noqa: ASYNC230 - whoever reads it is there
            fifo.write("seen by run\n")
        if SETTINGS.get("guard_ends"):
            return
        await asyncio.Event().wait()

    async def at_rest(self) -> None:
        """No kill is ever under way."""


class Choice:
    """A backend that moves nobody."""

    passed_over = ()

    def __init__(self, name: str) -> None:
        self.backend = name

    def open_job(self, pid: int, **asked: Any) -> JobHandle:
        with open(SETTINGS["asked"], "w") as file:
            json.dump({"pid": pid, **asked}, file)
        unit = CGROUP.rpartition("/")[2]
        return JobHandle(self.backend, None, cgroup=CGROUP, unit=unit, why_not=SETTINGS.get("why_not", ""))


def chosen(preference: str, **environment: Any) -> Any:
    """Embedded if that is meant, and else the one above."""
    if preference == "embedded":
        return choose.choose(preference, **environment)
    return Choice("systemd" if preference == "auto" else preference)


def _guard(
    cgroup: str, report: Callable[[Report], None], about_to_kill: Callable[[int], None], *, is_new: bool
) -> OneLook:
    if cgroup != CGROUP:
        raise ValueError(cgroup)
    with open(f"{SETTINGS['asked']}-of-guard", "w") as file:
        json.dump({"is_new": is_new}, file)
    return OneLook(report)


def main() -> int:
    """Settings as JSON, then what follows `slicemgr run`."""
    SETTINGS.update(json.loads(sys.argv[1]))
    make = job.Job._make_guard

    def make_guard(of: job.Job) -> Any:
        """Only now, in the guard's thread: the real ones are heavy."""
        from slicemgr.service import job_guard

        with patch.object(job_guard, "cgroup_guard", _guard):
            return make(of)

    with (
        patch.object(job, "CGROUPS", SETTINGS["cgroups"]),
        patch.object(job, "GUARD_AFTER_SECONDS", SETTINGS.get("guard_after", 0.1)),
        patch.object(daemon_link, "ANSWER_SECONDS", SETTINGS.get("answer", 60)),
        patch.object(run, "choose", chosen),
        patch.object(run, "_daemons", lambda: SETTINGS["daemons"]),
        patch.object(run, "state_directory", lambda uid, environment: SETTINGS["state"]),
        patch.object(job.Job, "_make_guard", make_guard),
    ):
        return cli.main(["run", *sys.argv[2:]])


if __name__ == "__main__":
    raise SystemExit(main())
