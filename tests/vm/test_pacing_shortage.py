# SPDX-License-Identifier: LGPL-2.1-or-later
"""When waiting can't help any more: what was learnt is wrong, all have grown, and not even one step fits.

For that a step takes its profile from a file: to slicemgr it is the same one, as a source that has grown is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conftest import HOG
from tests.vm.bystanders import Bystanders
from tests.vm.guarded import MIB, end_begun_jobs
from tests.vm.paced import PYTHON, hogs, makefile, once_paced, paced

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.vm(users=("tester",), timeout=240)

STEPS = 8
SMALL = "--start 5M --grow 10M --rate 15M --hold 0.5"
BIG = "--start 5M --grow 75M --rate 15M --hold 1"
BUILD = ("--max", "360M")

STEP = """\
import runpy, sys
hog, name = sys.argv[1:]
with open("profile") as file:
    sys.argv = [hog, *file.read().split(), "--comm", name]
runpy.run_path(hog, run_name="__main__")
"""


@pytest.fixture(autouse=True)
def unknown_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has been learnt before a test, and nothing configured."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.fixture(autouse=True)
def bystanders() -> Iterator[Bystanders]:
    """Everybody who lives when a test begins lives when it ends, and the kernel kills nobody."""
    all_of_them = Bystanders()
    yield all_of_them
    end_begun_jobs()
    all_of_them.check()


@pytest.fixture
def grown(tmp_path: Path) -> tuple[str, ...]:
    """A build that was run with small steps, which are big now: all of them are let go at once."""
    (tmp_path / "step.py").write_text(STEP)
    makefile(tmp_path, {f"s{at}": f"{PYTHON} step.py {HOG} step{at}" for at in range(STEPS)})
    command = ("--", "make", f"-j{STEPS}", "-C", str(tmp_path))
    (tmp_path / "profile").write_text(SMALL)
    paced(tmp_path, *BUILD, *command).well(360 * MIB)
    (tmp_path / "profile").write_text(BIG)
    return command


@pytest.mark.parametrize("kind", [pytest.param(each, marks=pytest.mark.vm(swap=each)) for each in ("disk", "zram")])
def test_what_waits_is_pushed_out(kind: str, grown: tuple[str, ...], tmp_path: Path, vm_files: Path) -> None:
    """Where there is swap: it is cold, so the kernel finds it first; and the build ends."""
    ended = paced(tmp_path, *BUILD, *grown)
    ended.note(vm_files, f"pushed out to {kind}")
    ended.well(360 * MIB)
    assert ended.pacing["waited"] > 0


def test_without_swap_the_least_work_is_lost(grown: tuple[str, ...], tmp_path: Path, vm_files: Path) -> None:
    """Some end so that the others can, and --retry runs all of it again, with what has been learnt now."""
    ended = paced(tmp_path, "--retry", "1", *BUILD, *grown)
    ended.note(vm_files, "killed, and again")
    assert ended.told.status == 0, ended.told.stderr
    assert 0 < len(ended.told.kills) < STEPS
    assert "no_step_fits" in {each["evidence"] for each in ended.told.kills}
    assert "exited with 2; again, with at most" in ended.told.stderr
    assert ended.told.report["kernel_kills"] == []


def sources(folder: Path, size: int) -> None:
    """g++ takes six times this for a literal of this size, and a moment of time."""
    for at in range(4):
        (folder / f"text{at}.cc").write_text(f'const char text[] = "{"x" * size}";\n')


def test_a_compiler_that_was_killed_runs_again(tmp_path: Path, vm_files: Path) -> None:
    """g++ does not see it, nor does make: its cc1plus is started anew when the others are done."""
    makefile(tmp_path, {f"text{at}": f"g++ -fsyntax-only text{at}.cc" for at in range(4)})
    build = ("--max", "256M", *once_paced(f"exec make -j4 -C {tmp_path}"))
    sources(tmp_path, 1000)
    paced(tmp_path, *build).well()
    sources(tmp_path, 24 * MIB)
    ended = paced(tmp_path, *build, seconds=200)
    ended.note(vm_files, "g++, killed and again")
    assert ended.told.status == 0, ended.told.stderr
    assert set(ended.told.victims) == {"cc1plus"}
    assert "Error" not in ended.told.stderr


def test_who_is_too_big_alone_is_named_once(tmp_path: Path) -> None:
    """Trying it again would be no use: it is killed, and make fails."""
    makefile(tmp_path, hogs(1, grow="150M", rate="25M"))
    ended = paced(tmp_path, "--max", "128M", *once_paced(f"exec make -C {tmp_path}"))
    assert ended.told.status == 2
    assert ended.told.victims == ["step0"]
    assert ended.told.stderr.count("killed 'step0' (pid ") == 1


def test_what_the_session_lends(tmp_path: Path) -> None:
    """By configuration, once: enough for that step to end."""
    file = tmp_path / "config/slicemgr/slicemgr.toml"
    file.parent.mkdir(parents=True)
    file.write_text('[pacing]\nborrow = "100M"\n')
    makefile(tmp_path, hogs(1, grow="150M", rate="25M"))
    ended = paced(tmp_path, "--max", "128M", *once_paced(f"exec make -C {tmp_path}"))
    ended.well(228 * MIB)
    assert ended.told.report["peak_bytes"] > 150 * MIB
