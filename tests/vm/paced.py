# SPDX-License-Identifier: LGPL-2.1-or-later
"""Builds whose steps have chosen sizes, run with pacing in the guest; and what is looked at while they run."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.conftest import HOG
from tests.vm.guarded import MIB, Job, Told

if TYPE_CHECKING:
    from collections.abc import Mapping

PYTHON = f"{sys.executable} -IS"
"""It starts in half the time, which under emulation is much."""


def step(comm: str = "step", *, grow: str = "60M", rate: str = "15M", hold: float = 1.5) -> str:
    """One that grows by wall clock, keeps that, and ends; for a shell. Slowly, and below limits of six such steps: a look
    that takes 1 ms elsewhere takes 50 to 150 ms in an emulated guest on a busy host, and what grows meanwhile, and the
    5 MB that Python takes at its birth, is to be as small a share as in a real build."""
    return f"{PYTHON} {HOG} --start 5M --grow {grow} --rate {rate} --hold {hold} --comm {comm}"


def makefile(folder: Path, recipes: Mapping[str, str]) -> None:
    """One target for each, all independent."""
    rules = "".join(f"{name}:\n\t@{recipe}\n" for name, recipe in recipes.items())
    names = " ".join(recipes)
    (folder / "Makefile").write_text(f"all: {names}\n.PHONY: all {names}\n{rules}")


def once_paced(script: str) -> tuple[str, ...]:
    """`script` as a command that begins when the pacer is there: its imports take a second or more in an emulated guest,
    60 ms elsewhere, and a make that gets its tokens from slicemgr begins with few by itself."""
    return ("--", "sh", "-c", f'while [ ! -e "$SLICEMGR_JOB/near" ]; do sleep 0.1; done; {script}')


def hogs(count: int, **profile: Any) -> dict[str, str]:
    """Recipes of so many alike."""
    return {f"s{at}": step(f"step{at}", **profile) for at in range(count)}


class Paced:
    """`slicemgr run`, with pacing, in the background or to its end."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._began_seconds = time.monotonic()
        self.job = Job(folder, *arguments, pacing=True)

    def end(self, seconds: float = 100.0) -> Ended:
        """Wait for it."""
        told = self.job.end(seconds)
        return Ended(told, time.monotonic() - self._began_seconds)


class Ended:
    """What has come of it."""

    def __init__(self, told: Told, seconds: float) -> None:
        self.told = told
        self.seconds = seconds

    @property
    def pacing(self) -> Any:
        return self.told.report["pacing"]

    def well(self, most_bytes: int | None = None) -> None:
        """AssertionError unless all steps came to their end: status 0, and nobody was killed by anybody."""
        assert self.told.status == 0, self.told.stderr
        assert self.told.kills == []
        assert self.told.report["kernel_kills"] == []
        assert "nothing killed" in self.told.stderr
        assert "not paced" not in self.told.stderr
        if most_bytes is not None:
            assert 0 < self.told.report["peak_bytes"] <= most_bytes

    def note(self, file: Path, what: str) -> None:
        """For who wants the figures: they are on the host after the boot."""
        figures = {"what": what, "seconds": round(self.seconds, 2), "peak_mib": self.told.report["peak_bytes"] // MIB}
        figures |= {name: value for name, value in self.pacing.items() if name != "fattest"}
        with (file / "pacing.jsonl").open("a") as out:
            out.write(json.dumps(figures) + "\n")


def paced(folder: Path, *arguments: str, seconds: float = 100.0) -> Ended:
    """To its end."""
    return Paced(folder, *arguments).end(seconds)


def stopped(cgroup: Path) -> list[int]:
    """Who of it, and of all below it, stands still by a signal at this moment."""
    found = []
    for folder, _, _ in os.walk(cgroup):  # It passes over what is removed meanwhile.
        try:
            pids = Path(folder, "cgroup.procs").read_text().split()
        except OSError:  # Gone, or ENODEV: it is being removed.
            continue
        found += [int(pid) for pid in pids if state_of(int(pid)) == "T"]
    return found


def state_of(pid: int) -> str:
    """Its letter in /proc; X for who is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="surrogateescape").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"
