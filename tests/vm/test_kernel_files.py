# SPDX-License-Identifier: LGPL-2.1-or-later
"""The readers, writers, watches and probes of slicemgr/kernel on a real kernel."""

from __future__ import annotations

import asyncio
import io
import os
import select
import signal
import subprocess
import sys
import tarfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slicemgr.kernel.cgroup_formats import parse_pids
from slicemgr.kernel.cgroupfs import CgroupDir, cgroup_of
from slicemgr.kernel.errors import (
    CgroupGoneError,
    CgroupNotPermittedError,
    CgroupRefusedError,
    NotSupportedError,
    ProcessGoneError,
)
from slicemgr.kernel.features import Feature, probe
from slicemgr.kernel.machine import MachineReader
from slicemgr.kernel.pressure import MACHINE, PressureThread, StallKind, open_trigger
from slicemgr.kernel.watch import CgroupWatch
from tests.conftest import HOG
from tests.vm.systemd import CGROUPS, memory_stat, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slicemgr.model.cgroup import MemoryEvents
    from tests.vm.systemd import Systemd

MIB = 1 << 20

SOON = 30_000
"""Milliseconds for what is certain to come."""

IDLE = 500
"""Milliseconds in which nothing may come: fifty times the kernel's shortest gap between two notifications."""

RECORDED = (
    *(
        f"memory.{name}"
        for name in ("current", "high", "max", "low", "min", "peak", "oom.group", "events", "events.local")
    ),
    *(f"memory.{name}" for name in ("stat", "pressure", "swap.current", "swap.high", "swap.max", "swap.events")),
    *(f"cgroup.{name}" for name in ("events", "procs", "controllers", "subtree_control", "stat", "type", "freeze")),
    *("pids.current", "pids.events", "pids.max", "cpu.stat"),
)


class Job:
    """A command in a scope of its own; systemd-run execs it, so its pid is the one that was started."""

    def __init__(self, systemd: Systemd, *command: str, **properties: str) -> None:
        whose = ["--user"] if systemd.user else []
        settings = [f"--property={name}={value}" for name, value in properties.items()]
        self.process = subprocess.Popen(
            ["systemd-run", *whose, "--scope", "--quiet", "--collect", *settings, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline(), "the command was not started"
        self.pid = self.process.pid
        self.cgroup = CgroupDir.open(cgroup_of(self.pid))

    def close(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()
        self.cgroup.close()


@contextmanager
def job(systemd: Systemd, *command: str, **properties: str) -> Iterator[Job]:
    """A command that writes a line when it is ready."""
    started = Job(systemd, *command, **properties)
    try:
        yield started
    finally:
        started.close()


@contextmanager
def hog_job(systemd: Systemd, *arguments: str, **properties: str) -> Iterator[Job]:
    with job(systemd, sys.executable, HOG, "--until-eof", "--ready", "1", *arguments, **properties) as started:
        yield started


@pytest.fixture
def delegated(systemd: Systemd) -> Iterator[Job]:
    """A scope of our own, with one process in its child `main`, and the memory controller for the children."""
    with job(systemd, "sh", "-c", "echo; exec cat", Delegate="yes") as started:
        with started.cgroup.make_child("main") as main:
            main.add(started.pid)
        started.cgroup.enable({"memory", "pids"})
        yield started


def inside(cgroup: CgroupDir, *command: str) -> subprocess.Popen[bytes]:
    """A command that is in this cgroup from its exec on."""
    enter = 'echo $$ >"$0" && exec "$@"'
    return subprocess.Popen(
        ["sh", "-c", enter, f"{CGROUPS}{cgroup.path}/cgroup.procs", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def events_of(cgroup: CgroupDir) -> MemoryEvents:
    told = cgroup.events()
    assert told is not None
    return told


@pytest.fixture
def watch() -> Iterator[CgroupWatch]:
    with CgroupWatch() as opened:
        yield opened


def wakes(watch: CgroupWatch, milliseconds: int) -> bool:
    """Whether the set becomes readable in this time."""
    poll = select.poll()
    poll.register(watch.fileno(), select.POLLIN)
    return bool(poll.poll(milliseconds))


def wait_for(watch: CgroupWatch, is_so: Callable[[], bool]) -> None:
    """Dispatch until it is so."""
    while not is_so():
        assert wakes(watch, SOON)
        watch.dispatch()


def has_exited(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], SOON / 1000)[0])


# Reading.


def test_every_reader_on_a_scope(systemd: Systemd) -> None:
    """What systemd set is what we read; what the hog took is there."""
    limits = {"MemoryHigh": "150M", "MemoryMax": "200M", "MemorySwapMax": "50M", "MemoryLow": "3M", "MemoryMin": "2M"}
    with hog_job(systemd, "--start", "40M", TasksMax="20", **limits) as hog:
        cgroup = hog.cgroup
        assert f"0::{cgroup.path}" == Path(f"/proc/{hog.pid}/cgroup").read_text().strip()
        assert (cgroup.memory_high(), cgroup.memory_max(), cgroup.swap_max()) == (150 * MIB, 200 * MIB, 50 * MIB)
        assert (cgroup.memory_low(), cgroup.memory_min(), cgroup.swap_high()) == (3 * MIB, 2 * MIB, None)
        assert cgroup.swap_current() == 0
        assert cgroup.oom_group() is False
        assert 40 * MIB <= (cgroup.memory_current() or 0) <= (cgroup.peak() or 0) <= 150 * MIB
        events, local = cgroup.events(), cgroup.local_events()
        assert events is not None
        assert (events.low, events.high, events.max, events.oom, events.oom_kill) == (0, 0, 0, 0, 0)
        assert local == events
        memory_stat(Path(f"{CGROUPS}{cgroup.path}"))
        stat = cgroup.stat()
        assert stat is not None
        assert 40 * MIB <= (stat.anon or 0) < 60 * MIB
        assert None not in {getattr(stat, name) for name in stat.__slots__}
        pressure = cgroup.pressure()
        assert pressure is not None
        assert pressure.full is not None
        assert pressure.full.total_usec <= pressure.some.total_usec
        assert (cgroup.is_populated(), cgroup.is_frozen()) == (True, False)
        assert cgroup.processes() == [hog.pid]
        assert cgroup.members() == {hog.pid}
        assert {"memory", "pids"} <= (cgroup.controllers() or set())
        assert not cgroup.subtree_control()
        assert cgroup.pids_events() == 0
        assert (cgroup.cpu_usage_usec() or 0) > 0
        reading = cgroup.reading(lambda: 5.0)
        assert reading.taken_seconds == 5.0
        assert reading.current_bytes >= 40 * MIB


@pytest.mark.vm(users=("root",))
def test_the_root_has_few_files() -> None:
    """No memory.current and no cgroup.events there: None, and populated."""
    with CgroupDir.open("/") as root:
        assert root.path == "/"
        assert root.memory_current() is None
        assert root.events() is None
        assert root.is_populated()
        assert root.stat() is not None
        assert "memory" in (root.subtree_control() or set())
        with pytest.raises(NotSupportedError):
            root.reading()
        assert os.getpid() in root.members()


def test_a_process_knows_its_cgroup() -> None:
    """As systemd names it."""
    path = cgroup_of(os.getpid())
    assert (CGROUPS / path[1:] / "cgroup.procs").exists()
    gone = subprocess.Popen(["true"])
    gone.wait()
    with pytest.raises(ProcessGoneError):
        cgroup_of(gone.pid)


def test_a_long_list_comes_in_pieces(delegated: Job) -> None:
    """A read gives a page at most. Tasks and not processes: a thousand of those would be most of the guest's memory."""
    script = (
        "import threading, sys\nthreading.stack_size(65536)\nend = threading.Event()\n"
        "for _ in range(1000): threading.Thread(target=end.wait).start()\n"
        "print(flush=True); sys.stdin.read(); end.set()"
    )
    with delegated.cgroup.make_child("many") as many:
        crowd = inside(many, sys.executable, "-c", script)
        assert crowd.stdout is not None
        crowd.stdout.readline()
        piece, whole = many.read("cgroup.threads"), many.read("cgroup.threads", in_pieces=True)
        crowd.communicate()
    assert piece is not None
    assert whole is not None
    assert len(piece) <= os.sysconf("SC_PAGE_SIZE") < len(whole)
    assert len(set(parse_pids(whole))) == 1001


def test_a_controller_that_goes_and_comes_back(delegated: Job) -> None:
    """Its files are removed from a living cgroup: None, and not gone; and anew they are found."""
    with delegated.cgroup.make_child("leaf") as leaf:
        assert leaf.memory_current() == 0
        delegated.cgroup.write("cgroup.subtree_control", b"-memory", "disable memory below")
        assert leaf.memory_current() is None
        with pytest.raises(NotSupportedError, match=r"no memory\.max; try .*Delegate=yes"):
            leaf.set_limit("memory.max", 5 * MIB)
        delegated.cgroup.enable({"memory"})
        assert leaf.memory_current() == 0


def test_a_threaded_cgroup_tells_no_processes(delegated: Job) -> None:
    """EOPNOTSUPP from cgroup.procs: typed, and its processes are counted where the domain is."""
    with delegated.cgroup.make_child("leaf") as leaf, leaf.make_child("threads") as threads:
        threads.write("cgroup.type", b"threaded", "make threaded")
        with pytest.raises(NotSupportedError):
            threads.processes()
        assert delegated.cgroup.members() == {delegated.pid}
        leaf.remove_child("threads")


# A cgroup that goes.


def test_a_removed_cgroup_is_gone(delegated: Job) -> None:
    """Files that were open, files that were not, writers, and the directory itself."""
    with delegated.cgroup.make_child("leaf") as leaf, leaf.make_child("below") as below:
        assert leaf.memory_current() == 0
        assert [found.path for found in leaf.walk()] == [leaf.path, below.path]
        leaf.remove_child("below")
        delegated.cgroup.remove_child("leaf")
        delegated.cgroup.remove_child("leaf")
        for use in (
            leaf.memory_current,
            leaf.memory_high,
            leaf.reading,
            leaf.processes,
            leaf.members,
            leaf.kill_all,
            below.events,
            lambda: leaf.set_limit("memory.max", None),
            lambda: leaf.child("below"),
            lambda: leaf.make_child("below"),
            lambda: delegated.cgroup.child("leaf"),
        ):
            with pytest.raises(CgroupGoneError) as gone:
                use()
            assert gone.value.path.startswith(leaf.path)
        assert leaf.is_gone()
        assert leaf.children() == []
        with delegated.cgroup.make_child("leaf") as namesake:
            assert leaf.is_gone()
            assert namesake.memory_current() == 0
            with pytest.raises(CgroupGoneError):
                leaf.memory_current()


def test_it_goes_under_the_watch(delegated: Job, watch: CgroupWatch) -> None:
    """One last call, and then silence: a dead file would be reported for ever."""
    told: list[str] = []
    leaf = delegated.cgroup.make_child("leaf")
    events = leaf.open_file("cgroup.events")
    watch.add_file(events, lambda: told.append("leaf"))
    leaf.add(delegated.pid)
    wait_for(watch, lambda: bool(told))
    with delegated.cgroup.child("main") as main:
        main.add(delegated.pid)
    assert wakes(watch, SOON)  # populated 0 is pending while the cgroup is removed
    delegated.cgroup.remove_child("leaf")
    watch.dispatch()
    assert told == ["leaf", "leaf"]
    assert not wakes(watch, IDLE)
    with pytest.raises(CgroupGoneError):
        leaf.is_populated()
    os.close(events)
    leaf.close()


# Watching.


def test_one_call_for_a_change_and_none_without(delegated: Job, watch: CgroupWatch) -> None:
    """populated 0 -> 1 -> 0 on asyncio's loop; idle, the loop is never woken."""
    told: list[bool] = []
    dispatched = 0

    async def story(leaf: CgroupDir, main: CgroupDir) -> None:
        def dispatch() -> None:
            nonlocal dispatched
            dispatched += 1
            watch.dispatch()

        def tell() -> None:
            told.append(leaf.is_populated())
            changed.set()

        loop = asyncio.get_running_loop()
        changed = asyncio.Event()
        events = leaf.open_file("cgroup.events")
        watch.add_file(events, tell)
        loop.add_reader(watch.fileno(), dispatch)
        for home in (leaf, main):
            home.add(delegated.pid)
            async with asyncio.timeout(SOON / 1000):
                await changed.wait()
            changed.clear()
            await asyncio.sleep(IDLE / 1000)  # nothing may come in this time: there is no event for that
        loop.remove_reader(watch.fileno())
        watch.remove(events)
        os.close(events)

    with delegated.cgroup.make_child("leaf") as leaf, delegated.cgroup.child("main") as main:
        asyncio.run(story(leaf, main))
    assert told == [True, False]
    assert dispatched == 2


def test_high_wakes(systemd: Systemd, watch: CgroupWatch) -> None:
    """memory.events of a scope whose hog grows through memory.high."""
    with hog_job(systemd, "--start", "4M", "--grow", "60M", "--rate", "30M", MemoryHigh="30M") as hog:
        events = hog.cgroup.open_file("memory.events")
        watch.add_file(events, lambda: None)
        wait_for(watch, lambda: (events_of(hog.cgroup).high or 0) > 0)
        os.close(events)
        assert events_of(hog.cgroup).oom_kill == 0


def test_the_parent_hears_it_and_the_child_is_found(delegated: Job, watch: CgroupWatch) -> None:
    """memory.events of the slice tells; memory.events.local tells who."""
    told: list[int] = []
    file = delegated.cgroup.open_file("memory.events")
    watch.add_file(file, lambda: told.append(1))
    with delegated.cgroup.make_child("leaf") as leaf:
        leaf.set_limit("memory.max", 30 * MIB)
        hog = inside(leaf, sys.executable, HOG, "--grow", "60M")
        hog.communicate()
        assert hog.returncode == -signal.SIGKILL
        wait_for(watch, lambda: bool(told) and events_of(delegated.cgroup).oom_kill == 1)
        local = {found.path: found.local_events() for found in delegated.cgroup.walk()}
        assert [path for path, events in local.items() if events and events.oom_kill] == [leaf.path]
    os.close(file)


def test_an_exit_calls_once(watch: CgroupWatch) -> None:
    """A pidfd stays readable, and is out after the first call."""
    told: list[int] = []
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    pidfd = os.pidfd_open(child.pid)
    watch.add_pidfd(pidfd, lambda: told.append(child.pid))
    assert not wakes(watch, IDLE)
    child.communicate()
    assert wakes(watch, SOON)
    watch.dispatch()
    assert told == [child.pid]
    assert not wakes(watch, IDLE)
    os.close(pidfd)


# Doing.


def test_freeze_and_thaw(delegated: Job, watch: CgroupWatch) -> None:
    """frozen 1 and frozen 0 come as events; SIGKILL works on the frozen."""
    with delegated.cgroup.child("main") as main:
        events = main.open_file("cgroup.events")
        watch.add_file(events, lambda: None)
        main.freeze(True)
        wait_for(watch, main.is_frozen)
        main.freeze(False)
        wait_for(watch, lambda: not main.is_frozen())
        main.freeze(True)
        wait_for(watch, main.is_frozen)
        pidfd = os.pidfd_open(delegated.pid)
        main.kill_all()
        assert has_exited(pidfd)
        os.close(pidfd)
        os.close(events)


def test_kill_all_takes_the_subtree(delegated: Job) -> None:
    """And nobody else: populated 0 of the leaf, while `main` lives."""
    with delegated.cgroup.make_child("leaf") as leaf:
        crowd = [inside(leaf, "sh", "-c", "echo; exec cat") for _ in range(3)]
        assert all(each.stdout is not None and each.stdout.readline() for each in crowd)
        assert leaf.members() == {each.pid for each in crowd}
        leaf.kill_all()
        assert all(each.communicate() for each in crowd)
        assert {each.returncode for each in crowd} == {-signal.SIGKILL}
        assert not leaf.is_populated()
        assert delegated.cgroup.members() == {delegated.pid}


def test_reclaim_says_whether_it_was_enough(delegated: Job) -> None:
    """Page cache goes; anonymous memory without swap does not."""
    with delegated.cgroup.make_child("leaf") as leaf:
        data = Path(f"/var/tmp/slicemgr-cache-{os.getuid()}")
        fill = "import sys,os\nf=open(sys.argv[1],'wb')\nf.write(bytes(40<<20))\nf.flush()\nos.fsync(f.fileno())"
        filler = inside(leaf, sys.executable, "-c", fill, str(data))
        filler.communicate()
        assert filler.returncode == 0
        before = leaf.memory_current() or 0
        assert before > 30 * MIB
        assert leaf.reclaim(20 * MIB)
        assert (leaf.memory_current() or 0) < before - 15 * MIB
        data.unlink()
        assert leaf.reclaim(1 << 40) is False


def test_limits_are_read_back(delegated: Job) -> None:
    """Written as bytes or max, in pages."""
    with delegated.cgroup.make_child("leaf") as leaf:
        leaf.set_limit("memory.high", 10 * MIB + 1)
        assert leaf.memory_high() == 10 * MIB
        leaf.set_limit("memory.high", None)
        assert leaf.memory_high() is None
        leaf.set_limit("pids.max", 7)
        assert leaf.read("pids.max") == b"7\n"


def test_the_kernel_declines(delegated: Job, vm_user: str) -> None:
    """Each answer has its type and its path."""
    cgroup = delegated.cgroup
    with pytest.raises(CgroupRefusedError, match="busy"):
        cgroup.add(delegated.pid)  # an inner node
    with cgroup.child("main") as main, pytest.raises(CgroupRefusedError, match="busy"):
        main.enable({"memory"})  # a process is in it
    with pytest.raises(CgroupRefusedError, match="busy"):
        cgroup.remove_child("main")
    with pytest.raises(CgroupRefusedError, match="exists"):
        cgroup.make_child("main")
    with pytest.raises(CgroupRefusedError, match="Invalid argument"):
        cgroup.enable({"nonsense"})
    dead = subprocess.Popen(["true"])
    dead.wait()
    with cgroup.child("main") as main, pytest.raises(ProcessGoneError):
        main.add(dead.pid)
    with pytest.raises(NotSupportedError, match=r"has no memory\.nonsense"):
        cgroup.set_limit("memory.nonsense", 1)
    if vm_user == "tester":
        with CgroupDir.open("/system.slice") as foreign:
            assert foreign.memory_current()
            for use in (
                lambda: foreign.set_limit("memory.high", None),
                lambda: foreign.make_child("mine"),
                foreign.kill_all,
            ):
                with pytest.raises(CgroupNotPermittedError, match=r"system\.slice"):
                    use()


# Pressure.


def test_a_trigger_fires_and_ends(systemd: Systemd, vm_user: str) -> None:
    """A hog at memory.high without swap stalls; root gets the short window, everybody else 2 s."""

    async def story(hog: Job) -> list[str]:
        told: list[str] = []
        stalled, gone = asyncio.Event(), asyncio.Event()
        thread = PressureThread(asyncio.get_running_loop().call_soon_threadsafe)
        trigger = open_trigger(hog.cgroup, StallKind.SOME, 50_000, 500_000)
        wished = (50_000, 500_000) if vm_user == "root" else (200_000, 2_000_000)
        assert (trigger.stall_usec, trigger.window_usec) == wished
        thread.add(trigger, stalled.set, gone.set)
        silent = open_trigger(MACHINE, StallKind.FULL, 1_900_000, 2_000_000)
        thread.add(silent, lambda: told.append("silent"), lambda: told.append("silent is gone"))
        thread.remove(silent)
        async with asyncio.timeout(SOON / 1000):
            await stalled.wait()
            hog.cgroup.kill_all()
            await gone.wait()
        thread.close()
        assert (trigger.descriptor, silent.descriptor) == (-1, -1)
        return told

    with hog_job(systemd, "--start", "4M", "--grow", "100M", "--rate", "60M", MemoryHigh="24M") as hog:
        assert asyncio.run(story(hog)) == []


@pytest.mark.vm(users=("root",))
def test_a_trigger_that_is_refused() -> None:
    """A share of more than the window."""
    with pytest.raises(NotSupportedError, match="try reading"):
        open_trigger(MACHINE, StallKind.SOME, 3_000_000, 2_000_000)
    with CgroupDir.open("/system.slice") as cgroup:
        cgroup.make_child("leaf").close()
        leaf = cgroup.child("leaf")
        cgroup.remove_child("leaf")
        with leaf, pytest.raises(CgroupGoneError):
            open_trigger(leaf, StallKind.SOME, 100_000, 2_000_000)


# The machine.


def test_the_guest_has_it_all(delegated: Job) -> None:
    """Nothing is missing where we may write."""
    found = probe(delegated.cgroup.path)
    assert found.missing == ()
    assert found.mount == str(CGROUPS)
    assert {"memory", "pids"} <= found.controllers


@pytest.mark.vm(users=("tester",))
def test_no_permission_is_named() -> None:
    """The root of the tree is not tester's, and nothing else is wrong with it."""
    (lack,) = probe("/").missing
    assert lack.feature is Feature.WRITABLE
    assert str(lack) == "no permission to make cgroups in /; try a service manager, or a unit with Delegate=yes"


@pytest.mark.vm(users=("root",))
def test_read_only_is_named() -> None:
    """As in a container: the mount is seen, and the writers say so."""
    script = (
        "from slicemgr.kernel.features import probe; print(*probe('/system.slice').missing, sep='\\n')\n"
        "from slicemgr.kernel.cgroupfs import CgroupDir\n"
        "try: CgroupDir.open('/system.slice').set_limit('memory.high', None)\n"
        "except Exception as error: print(type(error).__name__)"
    )
    told = run(
        "unshare", "--mount", "sh", "-c", 'mount -o remount,bind,ro /sys/fs/cgroup && exec python3 -c "$0"', script
    )
    lack, error = told.splitlines()
    assert lack.startswith("/sys/fs/cgroup is mounted read-only; try `podman run")
    assert error == "CgroupNotPermittedError"


@pytest.mark.vm(swap="zram")
def test_zram_takes_ram(systemd: Systemd) -> None:
    """What the hog pushed out is there, compressed."""
    with MachineReader() as machine:
        before = machine.reading()
        assert before.zram_size_bytes == before.swap_total_bytes > 700 * MIB
        with hog_job(systemd, "--start", "80M", "--swap-out") as hog:
            after = machine.reading()
            assert (hog.cgroup.swap_current() or 0) > 60 * MIB
            assert after.zram_used_bytes - before.zram_used_bytes > 60 * MIB
            assert before.swap_free_bytes - after.swap_free_bytes > 60 * MIB
            assert after.zram_memory_bytes is not None
            assert before.zram_memory_bytes is not None
            assert before.zram_memory_bytes < after.zram_memory_bytes < after.zram_used_bytes
        assert after.available_bytes is not None
        assert after.available_bytes < after.total_bytes
        assert after.pressure is not None


@pytest.mark.vm(users=("root",), swap="zram")
def test_recording(systemd: Systemd, vm_files: Path) -> None:
    """The files of a scope with real use come back; tests/data/README.md says how they get into the checkout."""
    options = ("--start", "20M", "--grow", "60M", "--rate", "40M", "--shmem", "4M")
    with hog_job(systemd, *options, MemoryHigh="40M", MemoryMax="200M", TasksMax="50") as hog, CgroupWatch() as watch:
        events = hog.cgroup.open_file("memory.events")
        watch.add_file(events, lambda: None)
        wait_for(watch, lambda: (hog.cgroup.swap_current() or 0) > 10 * MIB)
        os.close(events)
        files = {name: CGROUPS / hog.cgroup.path[1:] / name for name in RECORDED}
        files |= {"root-memory.stat": CGROUPS / "memory.stat", "proc-PID-cgroup": Path(f"/proc/{hog.pid}/cgroup")}
        files |= {"proc-PID-mountinfo": Path("/proc/self/mountinfo"), "mm_stat": Path("/sys/block/zram0/mm_stat")}
        files |= {f"proc-{name}": Path("/proc") / name for name in ("meminfo", "swaps")}
        files |= {"proc-pressure-memory": Path("/proc/pressure/memory")}
        folder = f"kernel-{'.'.join(os.uname().release.split('.')[:2])}"
        with tarfile.open(vm_files / f"{folder}.tar", "w") as tar:
            for name, path in files.items():
                text = path.read_bytes()
                assert text or name == "cgroup.subtree_control", name
                entry = tarfile.TarInfo(f"{folder}/{name}")
                entry.size = len(text)
                tar.addfile(entry, io.BytesIO(text))
