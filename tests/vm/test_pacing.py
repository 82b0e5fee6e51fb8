# SPDX-License-Identifier: LGPL-2.1-or-later
"""Builds that do not fit, under real limits: their steps wait, all come to their end, and nobody is killed.

Memory grows by wall clock here, so sizes and rates are chosen such that an emulated guest can follow.
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.vm.bystanders import Bystanders
from tests.vm.guarded import MIB, RunItself, Told, end_begun_jobs, shell
from tests.vm.paced import Ended, hogs, makefile, once_paced, paced, step

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.vm.systemd import Systemd

pytestmark = pytest.mark.vm(users=("tester",), timeout=240)

MANUALS = Path("/usr/share/doc/HTML")
DATA = Path("/var/tmp/slicemgr-pacing-data")


@pytest.fixture(autouse=True)
def unknown_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has been learnt before a test."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture(autouse=True)
def bystanders() -> Iterator[Bystanders]:
    """Everybody who lives when a test begins lives when it ends, and the kernel kills nobody."""
    all_of_them = Bystanders()
    yield all_of_them
    end_begun_jobs()
    all_of_them.check()


def test_a_build_that_does_not_fit_ends(tmp_path: Path, vm_files: Path, vm_user: str) -> None:
    """make -j20 of 1.4 GB in all under 520M; and when it runs again it is right from the start.

    With a daemon: test_first_hour.py.
    """
    makefile(tmp_path, hogs(16, grow="80M", rate="20M"))
    build = ("--max", "520M", "--", "make", "-j20", "-C", str(tmp_path))
    first = paced(tmp_path, *build)
    first.note(vm_files, f"make, {vm_user}")
    first.well(520 * MIB)
    assert first.told.report["watched_by"] == RunItself.name
    assert first.pacing["steps"] >= 16
    assert first.pacing["waited"] > 0
    again = paced(tmp_path, *build)
    again.note(vm_files, f"make again, {vm_user}")
    again.well(520 * MIB)
    # Of those that ran already: 4 on a host at load 10, where looks come late.
    assert again.pacing["stops"] <= 8


def test_in_a_cgroup_of_its_own_below_a_delegated_one(systemd: Systemd, tmp_path: Path, vm_files: Path) -> None:
    """The same without a manager's help: limits are files."""
    makefile(tmp_path, hogs(10))
    file = tmp_path / "report.json"
    command = ["slicemgr", "run", "--backend", "cgroup", "--max", "360M", "--json", str(file)]
    began = time.monotonic()
    systemd.run_scope(*command, "--", "make", "-j10", "-C", str(tmp_path), Delegate="yes")
    report = json.loads(file.read_text())
    ended = Ended(Told(0, "", "nothing killed", report), time.monotonic() - began)
    ended.note(vm_files, "make, delegated")
    ended.well(360 * MIB)
    assert report["backend"] == "cgroup"
    assert ended.pacing["waited"] > 0


def ninja_file(folder: Path, recipes: dict[str, str]) -> None:
    rules = "".join(f"rule {name}\n  command = {recipe}\nbuild {name}: {name}\n" for name, recipe in recipes.items())
    (folder / "build.ninja").write_text(rules)


@pytest.mark.parametrize("tool", ["sh", "ninja", "xargs"])
def test_it_does_not_depend_on_the_tool(tool: str, tmp_path: Path, vm_files: Path) -> None:
    """Holding at birth needs nobody's help."""
    steps = hogs(10)
    if tool == "sh":
        command = " & ".join(steps.values()) + " & wait"
    elif tool == "ninja":
        ninja_file(tmp_path, steps)
        command = f"exec ninja -j10 -C {tmp_path}"
    else:
        # The last option of a hog is given from outside.
        each = step().removesuffix(" step")
        command = f"seq 10 | xargs -P10 -n1 {each}"
    ended = paced(tmp_path, "--max", "360M", *once_paced(command))
    ended.note(vm_files, tool)
    ended.well(360 * MIB)
    assert ended.pacing["waited"] > 0


def test_page_cache_makes_nobody_wait(tmp_path: Path, vm_files: Path) -> None:
    """The job reads and writes more than its limit all the time, and memory.current is at it: that can be reclaimed."""
    with DATA.open("wb") as file:
        for _ in range(160):
            file.write(bytes(MIB))
    small = " & ".join(step(f"small{at}", grow="5M", hold=4) for at in range(2))
    copy = f"for at in 1 2 3; do cat {DATA} > {DATA}.copy; done"
    try:
        ended = paced(tmp_path, "--max", "128M", *shell(f"{small} & {copy}; wait"))
    finally:
        for path in (DATA, Path(f"{DATA}.copy")):
            path.unlink(missing_ok=True)
    ended.note(vm_files, "page cache")
    ended.well()
    assert ended.told.report["peak_bytes"] > 110 * MIB
    assert ended.pacing["stops"] == 0
    assert ended.pacing["waited_seconds"] < 3  # Each until the plan after its birth; not until the files are through.


@pytest.mark.vm(timeout=600)
def test_the_manuals_of_2010(tmp_path: Path, vm_files: Path) -> None:
    """meinproc5 takes 76 to 89 MB for each: two fit, three are started."""
    manuals = sorted(MANUALS.glob("*/kate*/index.docbook"), key=lambda each: each.stat().st_size)[:3]
    assert len(manuals) == 3
    recipes = {f"m{at}": f"meinproc5 --check --cache m{at}.cache.bz2 {manual}" for at, manual in enumerate(manuals)}
    makefile(tmp_path, recipes)
    ended = paced(tmp_path, "--max", "240M", "--", "make", "-j3", "-C", str(tmp_path), seconds=500)
    ended.note(vm_files, "manuals")
    ended.well(240 * MIB)
    assert all((tmp_path / f"m{at}.cache.bz2").stat().st_size for at in range(3))
    assert ended.pacing["steps"] >= 3


def test_no_pacing_kills(tmp_path: Path) -> None:
    """What it would be without: so the builds here are big enough."""
    makefile(tmp_path, hogs(10))
    command = ["slicemgr", "run", "--no-pacing", "--max", "360M", "--", "make", "-k", "-j10", "-C", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert "killed 'step" in done.stderr
