# SPDX-License-Identifier: LGPL-2.1-or-later
"""Jobs are put where they belong, by real managers and in real cgroups."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from slicemgr.placement import systemd as backend
from slicemgr.placement import turn
from slicemgr.placement.bus_connection import Connection, ManagerError, NoManagerError
from slicemgr.placement.choose import choose
from slicemgr.placement.systemd1 import NO_SUCH_UNIT, JobFailedError, Manager, connect
from tests.bench import launch
from tests.conftest import HOG
from tests.vm.bystanders import until
from tests.vm.systemd import CGROUPS, cgroup_of, memory_stat, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slicemgr.placement.backend import JobHandle
    from tests.vm.systemd import Systemd

MIB = 1 << 20
LIMITS = {"memory_high": 96 * MIB, "memory_max": 128 * MIB + 5, "memory_swap_max": 0}
INSIDE = "tests.vm.placed_inside"


class Held:
    """A shell that becomes its command when it is let go."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(
            ["sh", "-c", 'read go && exec "$@"', "sh", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def place(self, **limits: Any) -> JobHandle:
        choice = choose(uid=os.getuid())
        assert choice.passed_over == ()
        return choice.open_job(self.process.pid, name="step", slice_name="build.slice", command=["a step"], **limits)

    def let_go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")
        self.process.stdin.flush()


@pytest.fixture
def held() -> Iterator[Any]:
    """Start held commands; all are gone after the test."""
    with ExitStack() as stack:

        def start(*command: str) -> Held:
            made = Held(*command)
            stack.enter_context(made.process)
            stack.callback(made.process.kill)
            return made

        yield start


@pytest.fixture
def manager() -> Iterator[Manager]:
    """The manager of the user who runs the test."""
    connected = connect(os.getuid())
    yield connected
    connected.close()


def show(systemd: Systemd, unit: str, *names: str) -> dict[str, str]:
    lines = systemd.systemctl("show", f"--property={','.join(names)}", unit).splitlines()
    return dict(line.split("=", 1) for line in lines)


def test_a_scope_before_the_exec(systemd: Systemd, held: Any) -> None:
    """In build.slice, with all its properties and limits, while the command has not begun."""
    command = held("sleep", "1000")
    handle = command.place(**LIMITS)
    pid = command.process.pid
    assert Path(f"/proc/{pid}/comm").read_text() == "sh\n"
    assert handle.unit == f"slicemgr-step-{pid}.scope"
    home = "/user.slice/user-1000.slice/user@1000.service" if systemd.user else ""
    assert handle.cgroup == f"{home}/build.slice/{handle.unit}"
    assert str(cgroup_of(pid)) == f"{CGROUPS}{handle.cgroup}"
    assert handle.limits_in_force, handle.why_not
    assert handle.left_out == ()
    told = show(
        systemd,
        handle.unit,
        *("Slice", "Delegate", "OOMPolicy", "CollectMode", "ManagedOOMPreference", "Description", "ActiveState"),
        *("MemoryHigh", "MemoryMax", "MemorySwapMax"),
    )
    assert told == {
        "Slice": "build.slice",
        "Delegate": "yes",
        "OOMPolicy": "continue",
        "CollectMode": "inactive-or-failed",
        "ManagedOOMPreference": "avoid",
        "Description": "a step",
        "ActiveState": "active",
        "MemoryHigh": str(96 * MIB),
        "MemoryMax": str(128 * MIB + 5),
        "MemorySwapMax": "0",
    }
    files = {
        name: (cgroup_of(pid) / name).read_text().strip() for name in ("memory.high", "memory.max", "memory.swap.max")
    }
    assert files == {"memory.high": str(96 * MIB), "memory.max": str(128 * MIB), "memory.swap.max": "0"}
    # What systemd-oomd goes by.
    assert os.getxattr(cgroup_of(pid), "user.oomd_avoid") == b"1"
    handle.release()


def test_what_the_command_touches_is_charged_to_its_scope(held: Any) -> None:
    """Charges follow the first touch, so the scope has all of the hog's memory and we have none of it."""
    command = held(sys.executable, HOG, "--until-eof", "--ready", "1", "--start", "60M")
    handle = command.place(memory_max=200 * MIB)
    command.let_go()
    assert int(command.process.stdout.readline()) == command.process.pid
    assert 60 * MIB <= memory_stat(Path(f"{CGROUPS}{handle.cgroup}"))["anon"] < 90 * MIB
    command.process.stdin.close()
    assert command.process.wait() == 0


def test_a_scope_is_gone_with_its_job(systemd: Systemd, held: Any, manager: Manager) -> None:
    """Nothing is left to be reset, not even after a failure."""
    command = held("false")
    handle = command.place()
    command.let_go()
    assert command.process.wait() == 1
    unit = handle.unit
    assert unit is not None
    until(lambda: not Path(f"{CGROUPS}{handle.cgroup}").exists(), "the cgroup is gone")
    until(lambda: not is_loaded(manager, unit), "the unit is gone")
    assert unit not in systemd.systemctl("list-units", "--all", "--plain", "--no-legend")


def is_loaded(manager: Manager, unit: str) -> bool:
    try:
        manager.get_unit(unit)
    except ManagerError as error:
        assert error.name == NO_SUCH_UNIT  # noqa: PT017
        return False
    return True


@pytest.mark.vm(users=("tester",), timeout=600)
def test_200_jobs_at_once(
    systemd: Systemd, held: Any, manager: Manager, vm_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in a scope of its own, none forgotten, none twice."""
    # 20 s on an idle host; whose patience ends asks out of turn, and 200 that do cost 133.
    monkeypatch.setattr(turn, "PATIENCE_SECONDS", 500.0)
    commands = [held("sleep", "1000") for _ in range(200)]
    handles: dict[int, JobHandle] = {}
    took: list[float] = []

    def place(command: Held) -> None:
        started = time.monotonic()
        handles[command.process.pid] = command.place(memory_max=50 * MIB)
        took.append(time.monotonic() - started)

    threads = [threading.Thread(target=place, args=(command,)) for command in commands]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - started
    (vm_files / f"200-{systemd.user}.txt").write_text(
        f"all {seconds:.1f} s, each {min(took):.2f} - {max(took):.2f} s\n"
    )
    assert len(handles) == 200
    assert {handle.backend for handle in handles.values()} == {"systemd"}
    assert all(handle.limits_in_force for handle in handles.values())
    assert len({handle.cgroup for handle in handles.values()}) == 200
    for pid, handle in handles.items():
        assert Path(f"{CGROUPS}{handle.cgroup}/cgroup.procs").read_text().split() == [str(pid)]
    assert len(manager.list_units(["slicemgr-step-*.scope"], ["active"])) == 200


# One step of two is killed by the kernel; the other one ends in peace if it may.
OOM = f"{sys.executable} {HOG} --start 200M & wait $!; echo killed $?; %s; echo the sibling lives"


def test_a_kill_of_the_kernel_does_not_end_the_job(systemd: Systemd, held: Any, vm_files: Path) -> None:
    """OOMPolicy=continue, measured in both managers; without it systemd ends the scope."""
    command = held("sh", "-c", OOM % "read go; sleep 3")
    handle = command.place(memory_max=64 * MIB, memory_swap_max=0)
    command.let_go()
    said = command.process.stdout.readline().decode()
    assert said == "killed 137\n"
    rows = Path(f"{CGROUPS}{handle.cgroup}/memory.events").read_text().splitlines()
    assert int(dict(map(str.split, rows))["oom_kill"]) == 1
    command.let_go()
    said = command.process.stdout.read().decode()
    assert (said, command.process.wait()) == ("the sibling lives\n", 0)
    whose = ["--user"] if systemd.user else []
    default = subprocess.run(
        [
            "systemd-run",
            *whose,
            "--scope",
            "--quiet",
            "-p",
            "MemoryMax=64M",
            "-p",
            "MemorySwapMax=0",
            "sh",
            "-c",
            OOM % "sleep 60",
        ],
        capture_output=True,
        text=True,
    )
    (vm_files / f"oom-policy-{systemd.user}.txt").write_text(
        f"default: rc {default.returncode}, said {default.stdout!r}\n"
    )
    assert "the sibling lives" not in default.stdout


@pytest.mark.parametrize("over", ["bus", "private"])
def test_both_ways_to_the_manager(systemd: Systemd, held: Any, over: str, tmp_path: Path) -> None:
    """Where the private socket is refused, the bus does the same."""
    runtime = f"/run/user/{os.getuid()}"
    if over == "bus":
        bus = f"{runtime}/bus" if systemd.user else "/run/dbus/system_bus_socket"
        manager = Manager(Connection(bus, is_bus=True))
        if systemd.user:
            manager.close()
            manager = connect(os.getuid(), runtime_dir=str(tmp_path), session_bus=f"unix:path={bus}")
    else:
        manager = Manager(
            Connection(f"{runtime}/systemd/private" if systemd.user else "/run/systemd/private", is_bus=False)
        )
    command = held("sleep", "1000")
    handle = backend.open_job(
        manager,
        command.process.pid,
        name=over,
        slice_name="build.slice",
        command=["x"],
        memory_max=MIB,
        is_user=systemd.user,
    )
    manager.close()
    assert handle.limits_in_force
    assert str(cgroup_of(command.process.pid)) == f"{CGROUPS}{handle.cgroup}"


@pytest.mark.vm(users=("tester",))
def test_another_ones_manager(held: Any) -> None:
    """The system's private socket is root's alone."""
    with pytest.raises(NoManagerError) as refused:
        Manager(Connection("/run/systemd/private", is_bus=False))
    assert refused.value.errno == 13


def test_a_process_that_is_gone(held: Any) -> None:
    """A held child that was killed meanwhile: no scope, and a reason."""
    command = held("true")
    command.process.kill()
    command.process.wait()
    manager = connect(os.getuid())
    with pytest.raises((ManagerError, JobFailedError, OSError)):
        backend.open_job(manager, command.process.pid, name="x", slice_name="build.slice", command=["x"], is_user=True)
    manager.close()


def test_slices_change_while_they_live(systemd: Systemd, manager: Manager) -> None:
    """Started, limited, read back, and changed again through the manager."""
    unit = "slicemgr-placing.slice"
    first = {
        "MemoryHigh": 300 * MIB,
        "MemoryMax": 400 * MIB,
        "MemoryLow": MIB,
        "TasksMax": 500,
        "CPUWeight": 50,
        "IOWeight": 60,
    }
    try:
        place = backend.set_slice(manager, unit, first, is_user=systemd.user)
        assert place.cgroup.endswith("/slicemgr.slice/slicemgr-placing.slice")
        # Debian gives user managers cpu, memory and pids, but no io; systemd takes the property all the same.
        assert place.missing == (("io.weight",) if systemd.user else ())
        assert ("the user manager has no io controller delegated; try " in place.why_not) == systemd.user
        told = show(systemd, unit, "ActiveState", *first)
        assert told == {"ActiveState": "active", **{name: str(value) for name, value in first.items()}}
        assert (CGROUPS / place.cgroup[1:] / "pids.max").read_text() == "500\n"
        again = backend.set_slice(manager, unit, {"MemoryHigh": None, "MemoryMax": 200 * MIB}, is_user=systemd.user)
        assert again.missing == ()
        files = {
            name: (CGROUPS / place.cgroup[1:] / name).read_text().strip() for name in ("memory.high", "memory.max")
        }
        assert files == {"memory.high": "max", "memory.max": str(200 * MIB)}
        assert manager.get_property(unit, "Slice", "MemoryMax") == 200 * MIB
        assert [each.name for each in manager.list_units(["slicemgr-pl*"])] == [unit]
    finally:
        manager.stop_unit(unit)
    assert show(systemd, unit, "ActiveState") == {"ActiveState": "inactive"}


@pytest.mark.vm(users=("root",))
def test_the_template_of_all_user_slices_is_refused(manager: Manager) -> None:
    """`user-.slice` is no unit: per-user limits need a drop-in file."""
    with pytest.raises((ManagerError, JobFailedError)):
        backend.set_slice(manager, "user-.slice", {"MemoryMax": 1 << 40}, is_user=False)


def inside(systemd: Systemd, asked: dict[str, Any], *command: str, **properties: str) -> Any:
    told = systemd.run_scope(*(command or (sys.executable, "-m", INSIDE, json.dumps(asked))), **properties)
    return json.loads(told.splitlines()[-1])


def test_a_cgroup_of_ones_own_below_a_delegated_one(systemd: Systemd) -> None:
    """Held by files alone: we step into a leaf, the job gets its limit, and afterwards all is as it was."""
    asked = {"preference": "cgroup", "memory_max": 64 * MIB + 7}
    # One process alone in the unit: systemd-run becomes its command; of those beside us one is the job, one the keeper.
    told = inside(systemd, asked, Delegate="yes")
    assert told["backend"] == "cgroup"
    assert told["place"].startswith(f"{told['before']}/slicemgr-ca_t-")
    assert told["place"] == f"{CGROUPS}{told['cgroup']}"
    assert told["memory.max"] == str(64 * MIB)
    assert told["limits_in_force"], told
    assert told["ourselves"].startswith(f"{told['before']}/slicemgr-self-")
    assert told["keeper"] == told["ourselves"]
    assert (told["after"], told["left"]) == (told["before"], [])


def test_a_cgroup_with_others_in_it(systemd: Systemd) -> None:
    """A shell that waits for us stands in the same cgroup, and we may not move it."""
    script = f"{sys.executable} -m {INSIDE} '{json.dumps({'preference': 'cgroup', 'memory_max': MIB})}'; true"
    told = inside(systemd, {}, "sh", "-c", script, Delegate="yes")
    assert "1 other process (pid " in told["error"]
    assert "; try " in told["error"]


def test_a_unit_of_systemds_is_not_ours(systemd: Systemd) -> None:
    """The files of tester's own units are writable by tester, root's are by root: both stay as they are."""
    told = inside(systemd, {"preference": "cgroup", "memory_max": MIB})
    assert "delegated" in told["error"]
    assert "Delegate=yes" in told["error"]


@pytest.mark.vm(users=("root",))
def test_a_manager_that_counts_processes_otherwise() -> None:
    """In a PID namespace of our own our pid 2 is kthreadd to the manager: nothing is asked of it."""
    asked = json.dumps({"preference": "systemd", "memory_max": MIB})
    told = json.loads(run("unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-m", INSIDE, asked))
    assert "/run/systemd/private: it is in another PID namespace" in told["error"]


UNDELEGATED = "[Service]\nDelegate=\nDelegate=pids\nMemoryAccounting=no\n"


@pytest.mark.vm(users=("root",), timeout=240)
def test_a_user_manager_without_the_memory_controller() -> None:
    """User other's manager gets no memory controller: known before placing, and read back after it."""
    drop_ins = [
        (Path("/run/systemd/system/user@1001.service.d"), UNDELEGATED),
        (Path("/run/systemd/system/user-runtime-dir@1001.service.d"), "[Service]\nMemoryAccounting=no\n"),
        (Path("/run/systemd/system/user-1001.slice.d"), "[Slice]\nMemoryAccounting=no\n"),
    ]
    for folder, text in drop_ins:
        folder.mkdir(parents=True)
        (folder / "slicemgr-test.conf").write_text(text)
    run("systemctl", "daemon-reload")
    try:
        run("systemctl", "start", "user@1001.service")
        home = CGROUPS / "user.slice/user-1001.slice/user@1001.service"
        assert "memory" not in (home / "cgroup.controllers").read_text().split()
        auto = as_other({"preference": "auto", "memory_max": 64 * MIB})
        assert "no memory controller delegated" in auto["passed_over"]["systemd"]
        assert "Delegate=cpu memory pids" in auto["passed_over"]["systemd"]
        assert auto["backend"] == "embedded"
        told = as_other({"preference": "systemd", "needs_memory": False, "memory_max": 64 * MIB})
        assert told["backend"] == "systemd"
        assert told["memory.max"] is None
        assert not told["limits_in_force"]
        assert "no memory controller delegated" in told["why_not"]
    finally:
        run("systemctl", "stop", "user@1001.service")
        for folder, _ in drop_ins:
            (folder / "slicemgr-test.conf").unlink()
            folder.rmdir()
        run("systemctl", "daemon-reload")


def as_other(asked: dict[str, Any]) -> Any:
    command = [
        "setpriv",
        "--reuid=1001",
        "--regid=1001",
        "--clear-groups",
        sys.executable,
        "-m",
        INSIDE,
        json.dumps(asked),
    ]
    return json.loads(run(*command))


@pytest.mark.vm(users=("tester",), timeout=400)
def test_launch_ratio(vm_files: Path, vm_user: str) -> None:
    """The figures for docs/benchmarks.md; only a mistake could make it 4: with GLib it was 5 to 8, with asyncio 5."""
    times = launch.measure()
    (vm_files / f"launch-{vm_user}.md").write_text(launch.table(times) + "\n")
    medians = {name: sorted(took)[len(took) // 2] for name, took in times.items()}
    assert medians[launch.RUN] <= 4 * medians["systemd-run --scope true"]
