# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real processes: what the snapshot sees of them, who belongs to a tree, and who can be killed."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from slicemgr.kernel import procfs
from slicemgr.kernel.errors import ProcessGoneError
from slicemgr.kernel.kill import ProvenProcess, RefusedError, release_memory
from slicemgr.kernel.procfs import PAGE_BYTES
from slicemgr.kernel.proctree import ProcessTree
from slicemgr.model.cgroup import Measure
from slicemgr.model.process import ProcessIdentity
from slicemgr.policy.badness import BadnessScale, Unkillable, memory_pages, why_unkillable
from tests.conftest import Hog

MIB = 1 << 20
HOSTILE_NAMES = ["foo) Z", "a\nb", "\\xff\\xfe", ") R 1 1 1", "", "\\x1b[2J", "(((((((((((((((", "0123456789abcde"]

Hogs = Callable[..., Hog]


def pages(size_bytes: int) -> int:
    return size_bytes // PAGE_BYTES


def test_what_a_process_holds(hog: Hogs) -> None:
    """100 MiB touched are 100 MiB resident, and some for the interpreter; their page tables are seen too."""
    found = procfs.sample_process(hog("--start", "100M").pid)
    assert pages(100 * MIB) <= found.rss_pages <= pages(130 * MIB)
    assert found.page_table_pages >= 100 // 2  # a page table maps 2 MiB
    assert found.has_memory
    assert found.ppid == os.getpid()


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_names(hog: Hogs, name: str) -> None:
    """A name changes nothing but the name."""
    found = procfs.sample_process(hog("--comm", name).pid)
    assert os.fsencode(found.name) == name.encode().decode("unicode_escape").encode("latin-1")
    assert found.ppid == os.getpid()
    assert found.identity.start_ticks > 0


def test_a_dead_leader_does_not_hide_what_its_threads_hold(hog: Hogs) -> None:
    """State Z, statm 0, and still 50 MiB that only killing it frees."""
    pid = hog("--start", "50M", "--dead-leader").pid
    assert procfs.read_stat(pid).state == "Z"
    found = procfs.sample_process(pid)
    assert found.rss_pages >= pages(50 * MIB)
    assert why_unkillable(found, BadnessScale(1000)) is None
    assert procfs.read_resident(pid) >= 50 * MIB
    with ProvenProcess(found.identity) as victim:
        victim.kill()
        assert select.select([victim], [], [], 20)[0]


def test_a_vforked_child_is_known_by_its_address_space(hog: Hogs, tmp_path: Path) -> None:
    """All its numbers are its parent's; kcmp tells it from a twin."""
    parent = hog("--start", "20M", "--vfork", str(tmp_path / "fifo"))
    child = _wait_for_child(parent.pid)
    table = {each.pid: each for each in procfs.snapshot([parent.pid, child])}
    assert table[child].rss_pages >= pages(20 * MIB)
    assert why_unkillable(table[child], BadnessScale(1000)) is Unkillable.SHARES_MEMORY
    assert why_unkillable(table[parent.pid], BadnessScale(1000)) is None
    with (tmp_path / "fifo").open("wb"):
        pass


def test_a_forked_twin_has_a_memory_of_its_own(hog: Hogs) -> None:
    """Same numbers, other address space: it may be taken."""
    parent = hog("--start", "20M", "--fork-share", "1")
    (child,) = procfs.children_of(parent.pid)
    table = {each.pid: each for each in procfs.snapshot([parent.pid, child])}
    assert not table[child].shares_memory_with_parent


def test_a_zombie_holds_nothing() -> None:
    """It has ended, and waits for its parent to ask."""
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    found = procfs.sample_process(child.pid)
    assert why_unkillable(found, BadnessScale(1000)) is Unkillable.NO_MEMORY
    assert memory_pages(found) == 0
    child.wait()


def test_kernel_threads_are_seen_as_such() -> None:
    """pid 2 where the pid namespace has one; a container has none."""
    table = procfs.snapshot(procfs.processes())
    threads = [each for each in table if each.is_kernel_thread]
    assert all(why_unkillable(each, BadnessScale(1000)) is Unkillable.KERNEL_THREAD for each in threads)
    assert not any(each.has_memory for each in threads)


def test_who_is_gone_is_left_out(hog: Hogs) -> None:
    """A process that ends during the snapshot is no error."""
    staying, ending = hog(), hog()
    ending.let_go()
    assert [each.pid for each in procfs.snapshot([ending.pid, staying.pid])] == [staying.pid]
    with pytest.raises(ProcessGoneError):
        procfs.sample_process(ending.pid)


def test_ancestors_end_at_the_top() -> None:
    """Ourselves and everybody above, pid 1 as the last."""
    ancestors = procfs.ancestors_of(os.getpid())
    assert {os.getpid(), os.getppid()} <= ancestors
    assert 1 in ancestors or 0 not in ancestors


def test_children_of_threads_are_members(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child stands at the thread that made it; the walk asks all threads and comes to the whole tree."""
    script = (
        "import subprocess,sys,threading\n"
        "def start():\n"
        "    child = subprocess.Popen(['sh', '-c', 'sleep 100 & echo $!; read x'], stdin=0, stdout=1)\n"
        "    child.wait()\n"
        "threading.Thread(target=start).start()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as runner:
        assert runner.stdout is not None
        grandchild = int(runner.stdout.readline())
        tree = ProcessTree(runner.pid)
        assert grandchild in tree.members()
        assert ProcessTree(runner.pid, among_strangers=True).members() == set()
        by_files = tree.members()
        monkeypatch.setattr(procfs, "has_children_files", lambda: False)
        assert ProcessTree(runner.pid).members() == by_files
        os.kill(grandchild, signal.SIGKILL)
        assert runner.stdin is not None
        runner.stdin.close()


def test_measures_are_upper_bounds_of_each_other(hog: Hogs) -> None:
    """A parent with ten children that share its 40 MiB: 450 MiB by RSS, 45 in truth."""
    parent = hog("--start", "40M", "--fork-share", "10")
    tree = ProcessTree(parent.pid)
    resident, unreclaimable, proportional = (tree.read(measure) for measure in Measure)
    assert resident.members == unreclaimable.members == proportional.members == 10
    assert resident.memory_bytes > unreclaimable.memory_bytes > 10 * 40 * MIB
    # The parent holds its share, and is outside its own tree.
    assert 30 * MIB < proportional.memory_bytes < 60 * MIB
    assert resident.resident_bytes == resident.memory_bytes


def test_a_vforked_child_counts_once(hog: Hogs, tmp_path: Path) -> None:
    """It shows all of its parent's memory once more: g++ does this for each of its compilers."""
    parent = hog("--start", "50M", "--vfork", str(tmp_path / "fifo"))
    _wait_for_child(parent.pid)
    tree = ProcessTree(os.getpid())
    assert tree.read(Measure.UNRECLAIMABLE).memory_bytes > 2 * 50 * MIB
    assert 50 * MIB < tree.read(Measure.PROPORTIONAL).memory_bytes < 80 * MIB
    with (tmp_path / "fifo").open("wb"):
        pass


def test_page_tables_are_walked_only_where_pages_can_be_shared(hog: Hogs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two programs share nothing: what status tells of them is exact, and smaps_rollup is not read."""
    for _ in range(2):
        hog("--start", "20M")
    read = procfs.read_process_file

    def without_rollup(pid: int, name: str) -> bytes:
        assert name != "smaps_rollup"
        return read(pid, name)

    monkeypatch.setattr(procfs, "read_process_file", without_rollup)
    tree = ProcessTree(os.getpid())
    assert tree.read(Measure.PROPORTIONAL).memory_bytes == tree.read(Measure.UNRECLAIMABLE).memory_bytes > 40 * MIB


def test_shared_memory_counts_once(hog: Hogs) -> None:
    """shmem is not reclaimable without swap: it counts, but only once in all."""
    parent = hog("--shmem", "40M", "--fork-share", "4")
    tree = ProcessTree(parent.pid)
    assert tree.read(Measure.UNRECLAIMABLE).memory_bytes > 4 * 40 * MIB
    assert 20 * MIB < tree.read(Measure.PROPORTIONAL).memory_bytes < 60 * MIB


def test_page_cache_does_not_count(hog: Hogs, tmp_path: Path) -> None:
    """Mapped file pages can be dropped: they are RSS, and no reason to kill."""
    mapped = hog("--file", "60M", str(tmp_path / "data"))
    found = procfs.read_status_memory(mapped.pid)
    assert found.rss >= 60 * MIB
    assert found.unreclaimable < 30 * MIB


def test_proven_and_killed(hog: Hogs) -> None:
    """Its exit is seen on the pidfd."""
    victim = hog("--ignore", "SIGTERM")
    with ProvenProcess(procfs.identity_of(victim.pid)) as proven:
        assert not select.select([proven], [], [], 0)[0]
        proven.kill()
        release_memory(os.dup(proven.fileno()))
        assert select.select([proven], [], [], 20)[0]
    assert victim.process.wait() == -signal.SIGKILL


def test_a_reused_pid_is_not_killed(hog: Hogs) -> None:
    """The same number with another start time is another process."""
    bystander = hog()
    stale = ProcessIdentity(bystander.pid, procfs.identity_of(bystander.pid).start_ticks - 1)
    with pytest.raises(ProcessGoneError):
        ProvenProcess(stale)
    assert bystander.let_go() == 0


def test_who_has_been_collected_is_gone(hog: Hogs) -> None:
    """And so is a zombie's successor: no pid is signalled by its number."""
    ended = hog()
    identity = procfs.identity_of(ended.pid)
    ended.let_go()
    with pytest.raises(ProcessGoneError):
        ProvenProcess(identity)


@pytest.mark.parametrize("pid", [0, 1, -1])
def test_init_and_groups_are_refused(pid: int) -> None:
    """Whatever was decided above: no pid 1, and no number that means many."""
    with pytest.raises(RefusedError):
        ProvenProcess(ProcessIdentity(pid, 0))


def test_ourselves_are_refused() -> None:
    """The guard never shoots itself."""
    with pytest.raises(RefusedError):
        ProvenProcess(procfs.identity_of(os.getpid()))


def test_who_protected_itself_meanwhile_is_refused(hog: Hogs, monkeypatch: pytest.MonkeyPatch) -> None:
    """oom_score_adj is read once more at the last moment (lowering it for real needs privileges, see tests/vm)."""
    bystander = hog()
    monkeypatch.setattr(procfs, "read_oom_score_adj", lambda _: -1000)
    with pytest.raises(RefusedError, match="oom_score_adj -1000"):
        ProvenProcess(procfs.identity_of(bystander.pid))
    assert bystander.let_go() == 0


def test_no_descriptor_is_left_open(hog: Hogs) -> None:
    """Neither after a proof nor after a refusal."""
    bystander = hog()
    identity = procfs.identity_of(bystander.pid)
    before = set(os.listdir("/proc/self/fd"))
    ProvenProcess(identity).close()
    with pytest.raises(ProcessGoneError):
        ProvenProcess(ProcessIdentity(identity.pid, identity.start_ticks + 1))
    assert set(os.listdir("/proc/self/fd")) == before


def test_command_lines_of_the_living_and_the_gone(hog: Hogs) -> None:
    """Told apart: nothing is known of who is gone."""
    running = hog("--exit", "3")
    assert procfs.command_line(running.pid)[-2:] == ("--exit", "3")
    running.let_go()
    with pytest.raises(ProcessGoneError):
        procfs.command_line(running.pid)


def _wait_for_child(pid: int) -> int:
    """The child of a process that is about to vfork: the kernel tells of no such thing, so it is asked until then."""
    while not (children := procfs.children_of(pid)):
        os.sched_yield()
    return children[0]
