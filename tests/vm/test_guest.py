# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guest is what it claims to be: what every other VM test takes for granted."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.vm.swap import SWAP_MIB
from tests.vm.systemd import CGROUPS, cgroup_of, run

if TYPE_CHECKING:
    from tests.vm.systemd import Systemd

PSI_LINE = re.compile(r"(some|full) avg10=\d+\.\d\d avg60=\d+\.\d\d avg300=\d+\.\d\d total=\d+")


@pytest.mark.vm(users=("root",))
def test_cgroup_file_system_is_version_2() -> None:
    """/sys/fs/cgroup is cgroup2fs by its magic number, and no version 1 hierarchy is mounted beside it."""
    assert run("stat", "--file-system", "--format=%t", str(CGROUPS)) == "63677270"
    types = [line.split()[2] for line in Path("/proc/mounts").read_text().splitlines()]
    assert "cgroup" not in types
    assert types.count("cgroup2") == 1


@pytest.mark.vm(users=("root",))
def test_root_has_the_controllers() -> None:
    """memory, pids, cpu and io are there at the root of the tree."""
    assert {"memory", "pids", "cpu", "io"} <= set((CGROUPS / "cgroup.controllers").read_text().split())


def test_user_manager_has_the_memory_controller() -> None:
    """user@1000.service lingers, and hands the memory controller down to its units."""
    home = CGROUPS / "user.slice/user-1000.slice/user@1000.service"
    assert {"memory", "pids"} <= set((home / "cgroup.controllers").read_text().split())
    assert "memory" in (home / "cgroup.subtree_control").read_text().split()


@pytest.mark.parametrize("resource", ["cpu", "io", "memory"])
def test_psi_is_there_and_parses(resource: str) -> None:
    """Pressure files exist for the machine and for a cgroup, with lines of the documented form."""
    for path in (Path("/proc/pressure") / resource, cgroup_of() / f"{resource}.pressure"):
        lines = path.read_text().splitlines()
        assert lines
        assert all(PSI_LINE.fullmatch(line) for line in lines), lines


@pytest.mark.vm(users=("root",))
def test_systemd_is_process_1() -> None:
    """systemd 252 or later runs the guest."""
    assert Path("/proc/1/comm").read_text().strip() == "systemd"
    found = re.match(r"systemd (\d+)", run("systemctl", "--version"))
    assert found is not None
    assert int(found[1]) >= 252


def test_buses_answer(systemd: Systemd) -> None:
    """The system bus answers everybody, and tester's session bus answers tester."""
    ask = ["call", "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "GetId"]
    assert run("busctl", "--system", *ask).startswith("s ")
    if systemd.user:
        assert run("busctl", "--user", *ask).startswith("s ")


def test_user_is_who_the_test_asked_for(vm_user: str) -> None:
    """Root is root; tester is uid 1000 without groups, capabilities or a way to become root."""
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    if vm_user == "root":
        assert os.getuid() == 0
        return
    assert (os.getuid(), os.getgid()) == (1000, 1000)
    assert set(status["Groups"].split()) <= {"1000"}
    assert int(status["CapEff"], 16) == 0
    with pytest.raises(PermissionError):
        Path("/etc/shadow").read_text()
    with pytest.raises(PermissionError):
        (CGROUPS / "system.slice/memory.high").write_text("max")


def test_pytest_runs_below_the_manager_it_may_ask(systemd: Systemd) -> None:
    """Tester's tests are inside user@1000.service, root's are in system.slice."""
    home = "user.slice/user-1000.slice/user@1000.service" if systemd.user else "system.slice"
    assert CGROUPS / home in cgroup_of().parents


def test_scope_gets_its_limit(systemd: Systemd) -> None:
    """A scope made without privileges of its own reads back the MemoryMax it was given."""
    script = 'cat "/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/memory.max"'
    assert systemd.run_scope("sh", "-c", script, MemoryMax="64M") == str(64 << 20)


@pytest.mark.vm(users=("root",))
def test_no_swap_unless_asked_for() -> None:
    """A test that does not ask for swap has none."""
    assert swap_devices() == {}


@pytest.mark.vm(users=("root",), swap="disk")
def test_swap_on_a_disk() -> None:
    """swap="disk" is a partition-like swap of the promised size."""
    ((name, kib),) = swap_devices().items()
    assert name.startswith("/dev/vd")
    assert kib == pytest.approx(SWAP_MIB * 1024, abs=64)


@pytest.mark.vm(swap="zram")
def test_swap_in_zram() -> None:
    """swap="zram" is a compressed RAM disk of the promised size, and the only swap."""
    ((name, kib),) = swap_devices().items()
    assert name.startswith("/dev/zram")
    assert kib == pytest.approx(SWAP_MIB * 1024, abs=64)


@pytest.mark.vm(users=("root",))
def test_stranger_exists_and_does_not_linger() -> None:
    """User other is uid 1001 and has no manager, so no test of tester's leans on it."""
    assert run("id", "--user", "other") == "1001"
    assert not Path("/run/user/1001").exists()


def test_checkout_is_importable_without_a_path() -> None:
    """Any python of the guest finds slicemgr, with nothing in the environment that a child could inherit."""
    assert "PYTHONPATH" not in os.environ
    assert run("python3", "-c", "import slicemgr; print(slicemgr.__file__)").startswith("/srv/slicemgr/")


def swap_devices() -> dict[str, int]:
    """Name -> KiB. A line: `/dev/vdc  partition  786428  0  -2`."""
    lines = Path("/proc/swaps").read_text().splitlines()[1:]
    return {fields[0]: int(fields[2]) for fields in map(str.split, lines)}


@pytest.mark.parametrize("program", ["make", "ninja", "ccache", "g++"])
def test_builds_have_their_tools(program: str) -> None:
    """Whatever a real build is driven by, and its compiler."""
    assert re.search(r"\d+\.\d+", run(program, "--version"))


def test_a_manual_goes_through_meinproc5(tmp_path: Path) -> None:
    """The step of the 2010 report, with all the style sheets and entities that it reads; a dozen manuals at least."""
    manuals = sorted(Path("/usr/share/doc/HTML").glob("*/*/index.docbook"), key=lambda each: each.stat().st_size)
    assert len(manuals) >= 12
    run("meinproc5", "--check", "--cache", str(tmp_path / "index.cache.bz2"), str(manuals[0]))
    assert (tmp_path / "index.cache.bz2").stat().st_size > 0


@pytest.mark.vm(users=("root",))
def test_systemd_oomd_waits_to_be_asked() -> None:
    """It is there for the test that starts it, and kills in no other."""
    assert "ExecStart=" in run("systemctl", "cat", "systemd-oomd.service")
    for unit in ("systemd-oomd.service", "systemd-oomd.socket"):
        properties = run("systemctl", "show", unit, "--property=ActiveState,UnitFileState")
        assert sorted(properties.splitlines()) == ["ActiveState=inactive", "UnitFileState=disabled"]
