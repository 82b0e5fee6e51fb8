# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a job may hold now, on cgroup trees of plain files: its own limit, its neighbours', the daemon's word, the machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.kernel.cgroup_formats import parse_memory_stat
from slicemgr.kernel.cgroupfs import CgroupDir
from slicemgr.kernel.errors import CgroupGoneError, FormatError
from slicemgr.kernel.unreclaimable import parse_unreclaimable, read_unreclaimable
from slicemgr.policy.evidence import unreclaimable_bytes
from slicemgr.service.job_budget import LOOK_SECONDS, NEWCOMER_SECONDS, Budget, JobBudget
from slicemgr.service.slice_room import Room, SliceRoom, is_job
from tests.cgroupfs.fake_tree import MIB, FakeTree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DATA = Path(__file__).parent.parent / "data"
STATS = sorted(DATA.glob("kernel-*/*memory.stat"))

USER, BUILD = "/user.slice", "/user.slice/build.slice"
OWN, OTHER, THIRD = (f"{BUILD}/slicemgr-{name}-7.scope" for name in ("own", "other", "third"))
SERVICE = f"{BUILD}/ccache.service"
OLD = NEWCOMER_SECONDS + 1


@pytest.mark.parametrize("path", STATS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_the_rows_of_every_kernel_say_what_the_whole_file_says(path: Path) -> None:
    """Before 5.18 too, where the kernel's memory is told in parts."""
    text = path.read_bytes()
    told = unreclaimable_bytes(parse_unreclaimable(text))
    assert told == unreclaimable_bytes(parse_memory_stat(text))
    assert told > 0


NAMES = ["anon", "shmem", "sock", "kernel", "kernel_stack", "pagetables", "percpu", "slab_reclaimable", "slab_unreclaimable",
         "file", "inactive_anon", "active_anon", "anon_thp", "kernel_x", "x_shmem"]  # fmt: skip


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 1 << 64)), min_size=1, unique_by=lambda row: row[0]),
    st.booleans(),
)
def test_rows_in_any_order(rows: list[tuple[str, int]], ends_in_newline: bool) -> None:
    """A row is known by its whole name, wherever it stands."""
    text = "\n".join(f"{name} {value}" for name, value in rows).encode() + b"\n" * ends_in_newline
    assert unreclaimable_bytes(parse_unreclaimable(text)) == unreclaimable_bytes(parse_memory_stat(text))


@pytest.mark.parametrize("word", [b"", b"-1", b"1_0", b"x", b" 1", b"1" * 21])
def test_a_number_that_is_none(word: bytes) -> None:
    with pytest.raises(FormatError):
        parse_unreclaimable(b"file 1\nshmem " + word + b"\n")


class Desk:
    """A user's build.slice of 1000 MiB, in which the job of 300 MiB has 100."""

    def __init__(self, tree: FakeTree, folder: Path) -> None:
        self.tree = tree
        self.meminfo = folder / "meminfo"
        self.machine(1 << 20)
        self.allowance: int | None = None
        tree.add(USER)
        tree.add(BUILD, max=1000 * MIB)
        tree.add(OWN, anon=100 * MIB)
        self._open: list[JobBudget] = []

    def machine(self, available_mib: int) -> None:
        self.meminfo.write_text(f"MemTotal:  {1 << 30} kB\nMemFree: 1 kB\nMemAvailable:  {available_mib << 10} kB\n")

    def budget(self, cgroup: str | None = OWN, **options: Any) -> JobBudget:
        self._open.append(
            JobBudget(
                cgroup,
                **{
                    "reserve_bytes": 50 * MIB,
                    "allowance": lambda: self.allowance,
                    "mount": self.tree.mount,
                    "meminfo": str(self.meminfo),
                    **options,
                },
            )
        )
        return self._open[-1]

    def told(self, budget: JobBudget, now: float = OLD) -> tuple[int, int, bool]:
        """In MiB, as one that has been there for long."""
        budget.read(0.0)
        return in_mib(budget.read(now))

    def set(self, path: str, **fields: int | None) -> None:
        for name, value in fields.items():
            setattr(self.tree.groups[path], name, value)
        self.tree.sync()

    def beside_the_slice(self) -> None:
        self.set(USER, max=600 * MIB)
        self.tree.add(f"{USER}/s.scope", anon=200 * MIB)

    def close(self) -> None:
        for each in self._open:
            each.close()


def in_mib(budget: Budget) -> tuple[int, int, bool]:
    return budget.budget_bytes // MIB, budget.used_bytes // MIB, budget.is_shared


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    (tmp_path / "mount").mkdir()
    made = Desk(FakeTree(tmp_path / "mount", monkeypatch), tmp_path)
    yield made
    made.close()


ALONE: list[tuple[str, Callable[[Desk], object], int, bool]] = [
    ("slice", lambda desk: None, 1000, False),
    ("slice's high", lambda desk: desk.set(BUILD, high=800 * MIB), 800, False),
    ("own high", lambda desk: desk.set(OWN, high=300 * MIB, max=400 * MIB), 300, False),
    ("own max", lambda desk: desk.set(OWN, max=400 * MIB), 400, False),
    ("above the slice", lambda desk: desk.set(USER, max=600 * MIB), 600, False),
    # A session beside the slice holds 200 of the user's 600.
    ("above, shared", lambda desk: desk.beside_the_slice(), 400, False),
    ("no job beside it", lambda desk: desk.tree.add(SERVICE, anon=150 * MIB), 850, False),
    ("page cache is no use", lambda desk: desk.tree.add(SERVICE, file=900 * MIB), 1000, False),
    ("machine", lambda desk: desk.machine(500), 550, False),
    ("machine is short", lambda desk: desk.machine(0), 50, False),
    ("nobody limits", lambda desk: desk.set(BUILD, max=None), (1 << 20) + 50, False),
]  # fmt: skip


@pytest.mark.parametrize(("arrange", "budget", "is_shared"), [row[1:] for row in ALONE], ids=[row[0] for row in ALONE])
def test_the_tightest_of_all(desk: Desk, arrange: Callable[[Desk], object], budget: int, is_shared: bool) -> None:
    arrange(desk)
    assert desk.told(desk.budget()) == (budget, 100, is_shared)


NEIGHBOURS = [
    # One that builds as well: the half of all.
    ([(OTHER, 300)], 500, True),
    # It holds most: what is left.
    ([(OTHER, 800)], 200, True),
    # More is held than there is: a part of what it holds.
    ([(OTHER, 990)], 100 - (90 + 62) // 2, True),
    # It holds next to nothing: it does not build.
    ([(OTHER, 4)], 1000 - 4 - 62, True),
    ([(OTHER, 300), (THIRD, 300)], 1000 // 3, True),
    ([(OTHER, 300), (SERVICE, 300)], 350, True),
]


@pytest.mark.parametrize(("others", "budget", "is_shared"), NEIGHBOURS)
def test_without_a_daemon(desk: Desk, others: list[tuple[str, int]], budget: int, is_shared: bool) -> None:
    """By what the other jobs in the slice hold."""
    for path, mib in others:
        desk.tree.add(path, anon=mib * MIB, file=mib * MIB)
    told = desk.told(desk.budget())
    assert told[0] in {budget, budget - 1, budget + 1}
    assert told[1:] == (100, is_shared)


def test_a_neighbour_that_has_just_come_counts(desk: Desk) -> None:
    """For ten seconds: it holds nothing because it begins, not because it is idle."""
    budget = desk.budget()
    budget.read(0.0)
    desk.tree.add(OTHER, anon=0)
    assert in_mib(budget.read(OLD))[0] == 518
    assert in_mib(budget.read(OLD + NEWCOMER_SECONDS - 1))[0] == 518
    assert in_mib(budget.read(OLD + NEWCOMER_SECONDS + 1))[0] == 937
    desk.tree.remove(OTHER)
    assert in_mib(budget.read(OLD + NEWCOMER_SECONDS + 2))[0] == 1000


def test_who_is_new_counts_all_that_are_there(desk: Desk) -> None:
    desk.tree.add(OTHER, anon=0)
    budget = desk.budget()
    assert in_mib(budget.read(0.0))[0] == 518
    assert in_mib(budget.read(OLD))[0] == 937


def test_the_daemons_word(desk: Desk) -> None:
    """Holds in place of what the neighbours say, and not against one's own limit or the machine."""
    desk.tree.add(OTHER, anon=800 * MIB)
    budget = desk.budget()
    desk.allowance = 700 * MIB
    assert in_mib(budget.read(0.0)) == (700, 100, True)
    desk.allowance = 250 * MIB
    assert in_mib(budget.read(0.01)) == (250, 100, True)
    desk.set(OWN, max=200 * MIB)
    assert in_mib(budget.read(LOOK_SECONDS + 0.1)) == (200, 100, False)
    desk.machine(30)
    assert in_mib(budget.read(2 * LOOK_SECONDS + 0.2)) == (80, 100, False)


def test_a_daemon_that_was_killed(desk: Desk) -> None:
    """At once the neighbours count again: between two looks nobody may think that there are none."""
    desk.tree.add(OTHER, anon=800 * MIB)
    budget = desk.budget()
    desk.allowance = 700 * MIB
    assert in_mib(budget.read(0.0))[0] == 700
    desk.allowance = None
    assert in_mib(budget.read(0.01)) == (200, 100, True)
    desk.allowance = 0
    assert in_mib(budget.read(0.02)) == (0, 100, True)


def test_after_a_daemon_all_neighbours_count(desk: Desk) -> None:
    """For ten seconds, as if all had just begun: what they were told to wait for they may take now."""
    desk.tree.add(OTHER, anon=0)
    budget = desk.budget()
    budget.read(0.0)
    desk.allowance = 500 * MIB
    budget.read(100.0)
    desk.allowance = None
    assert in_mib(budget.read(100.1))[0] == 518
    assert in_mib(budget.read(100.0 + NEWCOMER_SECONDS))[0] == 518
    assert in_mib(budget.read(100.5 + NEWCOMER_SECONDS))[0] == 937


def test_what_is_expensive_is_seldom(desk: Desk) -> None:
    """Between two looks one file is read: its own memory.stat."""
    desk.tree.add(OTHER, anon=300 * MIB)
    budget = desk.budget()
    budget.read(0.0)
    desk.tree.reads.clear()
    desk.set(OWN, anon=120 * MIB)
    assert budget.read(LOOK_SECONDS * 0.9).used_bytes == 120 * MIB
    assert desk.tree.reads == [(OWN, "memory.stat")]
    budget.read(LOOK_SECONDS)
    assert (OTHER, "memory.stat") in desk.tree.reads
    desk.tree.reads.clear()
    desk.allowance = MIB
    budget.read(2 * LOOK_SECONDS)
    assert not [path for path, _ in desk.tree.reads if path != OWN]


def test_what_it_holds_now_counts_between_two_looks(desk: Desk) -> None:
    """Above the fair share it has half of the room, and of what it takes of that the half again."""
    desk.tree.add(OTHER, anon=300 * MIB)
    desk.set(OWN, anon=550 * MIB)
    budget = desk.budget()
    budget.read(0.0)
    assert in_mib(budget.read(OLD))[0] == 550 + (1000 - 850 - 62) // 2 - 1
    desk.set(OWN, anon=590 * MIB)
    assert in_mib(budget.read(OLD + 0.1))[0] == 590 + (1000 - 890 - 62) // 2 - 1


def test_a_time_that_runs_backwards_looks_again(desk: Desk) -> None:
    budget = desk.budget()
    budget.read(100.0)
    desk.set(BUILD, max=500 * MIB)
    assert in_mib(budget.read(99.0))[0] == 500


def test_the_job_has_ended(desk: Desk) -> None:
    budget = desk.budget()
    budget.read(0.0)
    desk.tree.remove(OWN)
    with pytest.raises(CgroupGoneError):
        budget.read(0.01)
    with pytest.raises(CgroupGoneError):
        desk.budget()


def test_a_neighbour_goes_while_it_is_looked_at(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds nothing any more, and that is all."""
    desk.tree.add(OTHER, anon=300 * MIB)
    with SliceRoom(BUILD, desk.tree.mount) as room:
        assert room.look([OWN.rpartition("/")[2], OTHER.rpartition("/")[2]]).held.keys() == {
            OWN.rpartition("/")[2], OTHER.rpartition("/")[2],
        }  # fmt: skip
        desk.tree.remove(OTHER)
        told = room.look([OWN.rpartition("/")[2], OTHER.rpartition("/")[2], "..", "a/b", ""])
        assert told == Room(1000 * MIB, {OWN.rpartition("/")[2]: 100 * MIB})


def test_another_slice_of_the_same_name(desk: Desk) -> None:
    """systemd removes a slice with its last job, and makes it anew: what was read of the old one is not its."""
    with SliceRoom(BUILD, desk.tree.mount) as room:
        room.look([])
        desk.tree.remove(BUILD)
        with pytest.raises(CgroupGoneError):
            room.look([])
        desk.tree.add(BUILD, max=300 * MIB)
        desk.tree.add(OWN, anon=MIB)
        assert room.look(room.jobs()) == Room(300 * MIB, {OWN.rpartition("/")[2]: MIB})


def test_without_any_limit_nothing_else_is_read(desk: Desk) -> None:
    desk.set(BUILD, max=None)
    with SliceRoom(BUILD, desk.tree.mount) as room:
        desk.tree.reads.clear()
        assert room.look([OWN.rpartition("/")[2]]) == Room(None, {})
        assert "memory.stat" not in {name for _, name in desk.tree.reads}


def test_a_process_tree(desk: Desk) -> None:
    """Its limit is what was asked for; the machine's memory is what several of them have in common."""
    held = [30 * MIB]
    tree = desk.budget(None, limit_bytes=400 * MIB, held=lambda: held[0])
    assert in_mib(tree.read(0.0)) == (400, 30, False)
    desk.machine(100)
    held[0] = 40 * MIB
    assert in_mib(tree.read(1.0)) == (90, 40, False)
    unlimited = desk.budget(None, held=lambda: held[0])
    assert in_mib(unlimited.read(0.0)) == (90, 40, False)
    desk.meminfo.write_text("MemTotal: 5 kB\n")
    assert in_mib(tree.read(2.0)) == (400, 40, False)


def test_a_cgroup_without_the_memory_controller(desk: Desk) -> None:
    """Holds nothing that anybody could tell."""
    directory = Path(desk.tree.mount) / "bare"
    directory.mkdir()
    with CgroupDir.open("/bare", desk.tree.mount) as cgroup:
        assert read_unreclaimable(cgroup) is None
    assert desk.budget("/bare").read(0.0).used_bytes == 0


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("slicemgr-make-7.scope", True),
        ("slicemgr-make-7", True),
        ("slicemgr-self-7", False),
        ("slicemgr.service", False),
        ("run-u7.scope", False),
    ],
)
def test_whose_cgroup_is_a_job(name: str, told: bool) -> None:
    assert is_job(name) is told


def test_a_borrowed_limit_counts_at_once(tmp_path: Path) -> None:
    """A process tree that was let have more: the next read says so, also within LOOK_SECONDS."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 16777216 kB\nMemAvailable: 16777216 kB\n")
    with JobBudget(None, reserve_bytes=0, limit_bytes=100 << 20, held=lambda: 1 << 20, meminfo=str(meminfo)) as budget:
        assert budget.read(0.0).budget_bytes == 100 << 20
        budget.raise_limit(28 << 20)
        assert budget.read(0.01).budget_bytes == 128 << 20
