# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr run` in the guest: the embedded backend where systemd and cgroup v2 are real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import HOG

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Hog
    from tests.vm.systemd import Systemd

pytestmark = pytest.mark.vm(users=("tester",))

MIB = 1 << 20
DATA = f"/var/tmp/slicemgr-data-{os.getuid()}"


def growing(size: str, *options: str) -> list[str]:
    return [sys.executable, HOG, "--grow", size, "--rate", "60M", "--hold", "2", *options]


def slicemgr_run(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], Any]:
    """Run it by the name that a person types, without pacing: these are about the guard. What it told, and its JSON."""
    file = folder / "report.json"
    done = subprocess.run(
        ["slicemgr", "run", "--backend", "embedded", "--no-pacing", "--json", str(file), *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    return done, json.loads(file.read_text())


def test_a_build_loses_steps_and_nobody_else_dies(hog: Callable[..., Hog], tmp_path: Path) -> None:
    """The case of 2010: make at -j6 under a limit that it does not fit; a session twice as big stands by."""
    session = hog("--start", "150M", "--comm", "ksmserver")
    steps = "\n".join(f"s{at}:\n\t@{' '.join(growing('80M', '--comm', 'meinproc'))}\n" for at in range(6))
    (tmp_path / "Makefile").write_text(f"all: s0 s1 s2 s3 s4 s5\n{steps}")
    done, report = slicemgr_run(tmp_path, "--max", "250M", "--", "make", "-k", "-j6", "-C", str(tmp_path))
    assert done.returncode == 2, done.stderr
    kills = report["kills"]
    assert kills
    assert {each["comm"] for each in kills} == {"meinproc"}
    assert all(each["outcome"] == "exited" for each in kills)
    assert all(each["usage_bytes"] > 250 * MIB for each in kills)
    # After an earlier one the others may have grown by more than it held: under emulation a kill takes 25 ms.
    assert kills[-1]["usage_after_bytes"] <= 250 * MIB
    assert len(kills) < 6  # It looks again after each, and stops as soon as it is enough.
    assert f"pid {session.pid}" not in done.stderr
    assert session.let_go() == 0


def test_the_kernel_was_not_needed(systemd: Systemd, tmp_path: Path) -> None:
    """slicemgr is there before the kernel's own limit a little above: no oom_kill in the cgroup's memory.events."""
    inside = f"slicemgr run --backend embedded --no-pacing --max 80M -- {' '.join(growing('140M'))}; echo $?; cat /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/memory.events"
    told = systemd.run_scope("sh", "-c", inside, MemoryMax="200M").split()
    assert told[0] == str(128 + signal.SIGKILL)
    assert told[told.index("oom_kill") + 1] == "0"


@pytest.mark.parametrize(
    ("arguments", "close"),
    [
        (("--start", "120M"), ("unreclaimable", "proportional")),
        (("--start", "60M", "--fork-share", "8"), ("proportional",)),
        (("--shmem", "60M", "--fork-share", "4"), ("proportional",)),
        (("--start", "20M", "--file", "60M", DATA), ("unreclaimable", "proportional")),
    ],
    ids=["one process", "shared by fork", "shared memory", "page cache"],
)
def test_what_counts_is_what_the_cgroup_counts(
    systemd: Systemd, arguments: tuple[str, ...], close: tuple[str, ...]
) -> None:
    """The measures beside memory.stat of the same processes: anon + shmem + pagetables."""
    told = json.loads(systemd.run_scope(sys.executable, "-m", "tests.vm.accounting_inside", *arguments))
    truth = told["cgroup"] - told["ourselves"]
    assert told["resident"] >= told["unreclaimable"] >= told["proportional"] - MIB
    for measure in close:
        assert told[measure] == pytest.approx(truth, abs=12 * MIB), told
    Path(DATA).unlink(missing_ok=True)


@pytest.mark.vm(users=("root",))
def test_minus_1000_saves_the_biggest(tmp_path: Path) -> None:
    """The next one goes."""
    script = f"{' '.join(growing('100M', '--oom-score-adj', '-1000', '--comm', 'vital'))} & {' '.join(growing('60M', '--comm', 'step'))} & wait"
    _, report = slicemgr_run(tmp_path, "--max", "110M", "--", "sh", "-c", script)
    assert [each["comm"] for each in report["kills"]] == ["step"]


@pytest.mark.vm(swap="disk")
def test_a_limit_on_swap(systemd: Systemd, tmp_path: Path) -> None:
    """Memory is held down by the scope, so the hog flows over into swap: until --swap-max."""
    file = tmp_path / "report.json"
    systemd.run_scope(
        "sh",
        "-c",
        f"slicemgr run --backend embedded --no-pacing --max max --swap-max 40M --json {file} -- {' '.join(growing('200M'))}; true",
        MemoryMax="60M",
    )
    (kill,) = json.loads(file.read_text())["kills"]
    assert kill["reason"] == "memory.swap.max"
    assert kill["usage_bytes"] > 40 * MIB


def test_it_runs_where_it_was_started(tmp_path: Path) -> None:
    """The embedded backend moves nobody: the command is in the cgroup of its caller."""
    done, _ = slicemgr_run(tmp_path, "--", "cat", "/proc/self/cgroup")
    assert done.stdout == Path("/proc/self/cgroup").read_text()


def test_the_watcher_runs_before_the_watched(tmp_path: Path, vm_user: str) -> None:
    """root's slicemgr raises itself and leaves the command alone; the tester's makes the command nicer."""
    done, _ = slicemgr_run(tmp_path, "--", "sh", "-c", "nice; ps -o nice= -p $PPID")
    assert done.stdout.split() == {"root": ["0", "-10"], "tester": ["5", "0"]}[vm_user]


def test_no_bus_and_no_terminal_are_needed() -> None:
    """A bare environment is enough."""
    done = subprocess.run(
        ["/usr/bin/env", "-i", "PATH=/usr/local/bin:/usr/bin:/bin", "slicemgr", "run", "--", "true"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
