# SPDX-License-Identifier: LGPL-2.1-or-later
"""When the machine itself is short, and which slice gives first."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.model.cgroup import Pressure, Stall
from slicemgr.model.decision import Evidence, Resource
from slicemgr.model.machine import MachineReading
from slicemgr.model.slice import SliceKind
from slicemgr.policy import machine
from slicemgr.policy.machine import (
    MachineState,
    SliceStanding,
    Thresholds,
    in_order,
    judge,
    next_reading_seconds,
    swap_room_bytes,
)

GIB = 1 << 30
MIB = 1 << 20
LOW = Thresholds(available_bytes=GIB, swap_free_bytes=100 * MIB)
READING = MachineReading(
    taken_seconds=100.0,
    total_bytes=16 * GIB,
    available_bytes=8 * GIB,
    swap_total_bytes=0,
    swap_free_bytes=0,
    zram_size_bytes=0,
    zram_used_bytes=0,
    zram_memory_bytes=0,
    pressure=None,
)
SHORT = replace(READING, available_bytes=GIB - 1)


def waited(full_usec: int, some_usec: int = 0) -> Pressure:
    """/proc/pressure/memory with these totals."""
    return Pressure(Stall(0.0, 0.0, 0.0, some_usec), Stall(0.0, 0.0, 0.0, full_usec))


@pytest.mark.parametrize(
    ("fields", "room"),
    [
        ({}, 0),
        ({"swap_total_bytes": 4 * GIB, "swap_free_bytes": 3 * GIB}, 3 * GIB),
        # Nothing in zram yet: a third of what goes there is taken of RAM.
        (
            {"swap_total_bytes": 3 * GIB, "swap_free_bytes": 3 * GIB, "zram_size_bytes": 3 * GIB},
            2 * GIB,
        ),
        # Measured: what is in it takes half.
        (
            {
                "swap_total_bytes": 4 * GIB,
                "swap_free_bytes": 3 * GIB,
                "zram_size_bytes": 4 * GIB,
                "zram_used_bytes": GIB,
                "zram_memory_bytes": GIB // 2,
            },
            3 * GIB // 2,
        ),
        # Memory that doesn't compress: swapping there frees nothing.
        (
            {
                "swap_total_bytes": 4 * GIB,
                "swap_free_bytes": 3 * GIB,
                "zram_size_bytes": 4 * GIB,
                "zram_used_bytes": GIB,
                "zram_memory_bytes": GIB + 5,
            },
            0,
        ),
        # A disk beside it: that part is worth all it has.
        (
            {
                "swap_total_bytes": 4 * GIB,
                "swap_free_bytes": 3 * GIB,
                "zram_size_bytes": 2 * GIB,
                "zram_used_bytes": GIB,
                "zram_memory_bytes": GIB // 2,
            },
            2 * GIB + GIB // 2,
        ),
        # A device that keeps to itself what it takes.
        (
            {
                "swap_total_bytes": 3 * GIB,
                "swap_free_bytes": 3 * GIB // 2,
                "zram_size_bytes": 3 * GIB,
                "zram_used_bytes": 3 * GIB // 2,
                "zram_memory_bytes": None,
            },
            GIB,
        ),
        # /proc/swaps and /proc/meminfo are read one after another.
        ({"zram_size_bytes": GIB, "zram_used_bytes": 2 * GIB, "swap_free_bytes": 5}, 5),
    ],
)
def test_what_swapping_could_free(fields: dict[str, int | None], room: int) -> None:
    assert swap_room_bytes(replace(READING, **fields)) == pytest.approx(room, abs=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("available", [None, GIB, GIB + 1])
def test_enough_is_available(available: int | None) -> None:
    """Whatever swap and pressure say; and what was remembered is forgotten."""
    reading = replace(READING, available_bytes=available, pressure=waited(10**9))
    assert judge(MachineState(1.0, 5), reading, LOW) == (MachineState(), None)


def test_short_without_swap() -> None:
    """At once: nothing can be waited for."""
    state, shortage = judge(MachineState(), SHORT, LOW)
    assert state == MachineState(100.0, 0)
    assert shortage is not None
    assert (shortage.resource, shortage.evidence) == (Resource.MACHINE, Evidence.MACHINE)
    assert (shortage.usage_bytes, shortage.limit_bytes) == (GIB - 1, GIB)


@pytest.mark.parametrize(("free", "short"), [(100 * MIB, True), (100 * MIB + 1, False)])
def test_swap_has_to_be_full_too(free: int, short: bool) -> None:
    reading = replace(SHORT, swap_total_bytes=GIB, swap_free_bytes=free)
    assert (judge(MachineState(), reading, LOW)[1] is not None) is short


def test_free_zram_is_not_free_memory() -> None:
    """90 MiB free in zram that doesn't compress are none at all; on a disk they would be room."""
    disk = replace(SHORT, swap_total_bytes=GIB, swap_free_bytes=200 * MIB)
    zram = replace(disk, zram_size_bytes=GIB, zram_used_bytes=GIB - 200 * MIB, zram_memory_bytes=GIB - 200 * MIB)
    assert judge(MachineState(), disk, LOW)[1] is None
    assert judge(MachineState(), zram, LOW)[1] is not None


@pytest.mark.parametrize(
    ("seconds", "full_usec", "short"),
    [
        (0.9, 900_000, False),
        (1.0, 400_000, True),
        (1.0, 399_999, False),
        (10.0, 3_999_999, False),
        (10.0, 4_000_000, True),
    ],
)
def test_waiting_for_swap(seconds: float, full_usec: int, short: bool) -> None:
    """Swap has room, but all wait for it: four tenths of a second or more in which nobody ran."""
    swapping = replace(SHORT, swap_total_bytes=GIB, swap_free_bytes=GIB, pressure=waited(7_000_000))
    state, shortage = judge(MachineState(), swapping, LOW)
    assert shortage is None
    later = replace(swapping, taken_seconds=100.0 + seconds, pressure=waited(7_000_000 + full_usec))
    state, shortage = judge(state, later, LOW)
    assert (shortage is not None) is short
    if shortage is not None:
        assert shortage.stalled_seconds == seconds


@pytest.mark.parametrize("calm_seconds", [0, 60, 600, 3600])
def test_an_hour_of_little_memory_does_not_count(calm_seconds: int) -> None:
    """Little is available, and nobody waits; when they do, that is seen within two seconds, however long it was calm."""
    swapping = replace(SHORT, swap_total_bytes=GIB, swap_free_bytes=GIB, pressure=waited(0))
    state = MachineState()
    for tenth in range(calm_seconds * 10):
        state, shortage = judge(state, replace(swapping, taken_seconds=100 + tenth / 10), LOW)
        assert shortage is None
    for tenth in range(30):
        now = replace(swapping, taken_seconds=100 + calm_seconds + tenth / 10, pressure=waited(tenth * 90_000))
        state, shortage = judge(state, now, LOW)
        if shortage is not None:
            break
    assert shortage is not None
    assert tenth / 10 <= 2 * machine.PATIENCE_SECONDS


def test_a_shortage_that_ends_begins_anew() -> None:
    """Patience is for one shortage."""
    swapping = replace(SHORT, swap_total_bytes=GIB, swap_free_bytes=GIB, pressure=waited(0))
    state, _ = judge(MachineState(), swapping, LOW)
    state, _ = judge(state, replace(swapping, taken_seconds=105.0, available_bytes=2 * GIB), LOW)
    again = replace(swapping, taken_seconds=105.5, pressure=waited(5_000_000))
    assert judge(state, again, LOW)[1] is None


@pytest.mark.parametrize(
    ("available", "seconds"),
    [
        (None, machine.LONGEST_INTERVAL_SECONDS),
        (16 * GIB, 7.5),
        (64 * GIB, machine.LONGEST_INTERVAL_SECONDS),
        (3 * GIB, 1.0),
        (GIB, machine.SHORTEST_INTERVAL_SECONDS),
        (0, machine.SHORTEST_INTERVAL_SECONDS),
    ],
)
def test_the_next_reading_comes_before_the_shortage(available: int | None, seconds: float) -> None:
    assert next_reading_seconds(replace(READING, available_bytes=available), LOW, is_called=False) == seconds


def standing(cgroup: str, kind: SliceKind, held: int, share: int = 0) -> SliceStanding:
    return SliceStanding(cgroup, kind, held * MIB, share * MIB)


SLICES = [
    standing("/a-build.slice", SliceKind.BUILD, 300),
    standing("/big-build.slice", SliceKind.BUILD, 900),
    standing("/entitled-build.slice", SliceKind.BUILD, 2000, 1500),
    standing("/idle-build.slice", SliceKind.BUILD, 9),
    standing("/b-build.slice", SliceKind.BUILD, 300),
    standing("/app.slice", SliceKind.APP, 9000),
    standing("/modest-app.slice", SliceKind.APP, 200, 200),
    standing("/session.slice", SliceKind.SESSION, 5000, 250),
]
ORDER = [
    "/big-build.slice",
    "/entitled-build.slice",
    "/a-build.slice",
    "/b-build.slice",
    "/app.slice",
    "/session.slice",
]


@given(st.permutations(SLICES))
def test_builds_before_apps_before_sessions(slices: list[SliceStanding]) -> None:
    """Among these the one most above its share; neither who is within it, nor who holds next to nothing."""
    assert [each.cgroup for each in in_order(slices, 1000 * MIB)] == ORDER


def test_nobody_has_anything() -> None:
    assert in_order([standing("/build.slice", SliceKind.BUILD, 9)], 1000 * MIB) == []
