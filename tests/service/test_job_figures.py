# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a cgroup tells at its end, on an ordinary directory; tests/vm/test_run_in_scope.py has the real one."""

from pathlib import Path

import pytest

from slicemgr.kernel.errors import FormatError
from slicemgr.kernel.job_figures import JobFigures
from slicemgr.kernel.meminfo import read_total_and_available

EVENTS = "low 0\nhigh {high}\nmax {max}\noom 0\noom_kill {oom_kill}\noom_group_kill 0\n"


def figures(folder: Path, **files: str) -> JobFigures:
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(text)
    return JobFigures(str(folder))


def test_what_is_told(tmp_path: Path) -> None:
    """As it is when it is asked for, and not when it was opened."""
    told = figures(
        tmp_path,
        memory_peak="0\n",
        memory_events=EVENTS.format(high=0, max=0, oom_kill=0),
        cgroup_events="populated 1\nfrozen 0\n",
    )
    assert (told.peak_bytes(), told.oom_kills(), told.has_met_a_limit(), told.is_populated()) == (0, 0, False, True)
    figures(
        tmp_path,
        memory_peak="8192\n",
        memory_events=EVENTS.format(high=1, max=0, oom_kill=3),
        cgroup_events="populated 0\n",
    )
    assert (told.peak_bytes(), told.oom_kills(), told.has_met_a_limit(), told.is_populated()) == (8192, 3, True, False)
    told.close()


def test_what_is_not_there(tmp_path: Path) -> None:
    """A kernel before 5.19, no memory controller, a cgroup that is gone."""
    told = JobFigures(str(tmp_path / "gone"))
    assert (told.peak_bytes(), told.oom_kills(), told.has_met_a_limit(), told.is_populated()) == (
        None,
        None,
        False,
        False,
    )
    told.close()


@pytest.mark.parametrize(
    ("populated", "procs", "others"),
    [
        (1, {"": "7", "keeper": "3"}, True),
        (1, {"": "", "keeper": "3"}, False),
        (1, {"": "3"}, False),
        (1, {"": "3\n7"}, True),
        (1, {"": "", "keeper": "3", "left": ""}, False),
        (1, {"": "", "keeper": "3", "left": "", "left/inner": "7"}, True),
        (1, {"": "", "keeper": "3", "keeper/stowaway": "33"}, True),
        (0, {"": "7"}, False),
    ],
    ids=["the job", "ours alone", "ours in the same", "both in the same", "empty below", "deep", "below ours", "gone"],
)
def test_who_else_lives_there(tmp_path: Path, populated: int, procs: dict[str, str], others: bool) -> None:
    """In the cgroup and below it, whoever divided it."""
    for path, pids in procs.items():
        (tmp_path / path).mkdir(exist_ok=True)
        (tmp_path / path / "cgroup.procs").write_text(f"{pids}\n")
    told = figures(tmp_path, cgroup_events=f"populated {populated}\nfrozen 0\n")
    assert told.has_others_than(3) is others
    told.close()


def test_the_machines_memory() -> None:
    """In bytes, and the one within the other."""
    total, available = read_total_and_available()
    assert 64 << 20 < available <= total


@pytest.mark.parametrize("text", ["", "MemTotal:  16 kB\n", "MemTotal: 16 kB\nMemAvailable: much kB\n", "MemTotal:"])
def test_a_meminfo_that_says_something_else(tmp_path: Path, text: str) -> None:
    """MemAvailable is there since 3.14; no number is made up."""
    (tmp_path / "meminfo").write_text(text)
    with pytest.raises(FormatError, match="meminfo"):
        read_total_and_available(str(tmp_path / "meminfo"))


def test_kilobytes_are_1024(tmp_path: Path) -> None:
    """They always were."""
    (tmp_path / "meminfo").write_text("MemTotal:        3 kB\nMemFree: 1 kB\nMemAvailable:    2 kB\n")
    assert read_total_and_available(str(tmp_path / "meminfo")) == (3072, 2048)
