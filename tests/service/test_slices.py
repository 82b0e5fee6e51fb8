# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a daemon sets on its slices, when it takes that back, and when it keeps its hands off."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from slicemgr.config.schema import DEFAULT_MACHINE, DEFAULTS
from slicemgr.kernel.kill import ProvenProcess
from slicemgr.model.quantity import NoLimit, Percent
from slicemgr.model.slice import Auto, SliceKind, SliceSpec, with_inner_protection
from slicemgr.placement import systemd1
from slicemgr.placement.bus_connection import NoManagerError
from slicemgr.placement.systemd import SlicePlace
from slicemgr.service import rehearsal, slices
from slicemgr.service.guardian import Guardian
from slicemgr.service.slices import OwnSlices, lift_high

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from slicemgr.model.process import ProcessIdentity

TOTAL = 16 << 30
AGENT = SliceSpec(
    unit="agent.slice",
    kind=SliceKind.BUILD,
    memory_max=4 << 30,
    memory_low=1 << 30,
    memory_min=1 << 20,
    tasks_max=NoLimit(),
    cpu_weight=20,
)
APP = DEFAULTS[SliceKind.APP]


class Systemd:
    """A manager that does what it is told."""

    def __init__(self) -> None:
        self.connections = 0
        self.connected = 0
        self.set: dict[str, Mapping[str, Any]] = {}
        self.taken_back: dict[str, Mapping[str, Any]] = {}
        self.answers = True

    def connect(self) -> Any:
        if not self.answers:
            raise NoManagerError("nobody is there")
        self.connections += 1
        self.connected += 1
        return self

    def close(self) -> None:
        self.connected -= 1

    def set_unit_properties(self, unit: str, properties: Mapping[str, Any]) -> None:
        self.taken_back[unit] = properties


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch) -> Systemd:
    made = Systemd()

    def set_slice(manager: Systemd, unit: str, properties: Mapping[str, Any], *, is_user: bool) -> SlicePlace:
        assert manager.connected == 1
        assert is_user
        made.set[unit] = properties
        return SlicePlace(unit, f"/user/{unit}", (), "")

    monkeypatch.setattr(slices, "set_slice", set_slice)
    return made


def own(systemd: Systemd | None, said: list[str] | None = None) -> OwnSlices:
    return OwnSlices(
        None if systemd is None else systemd.connect,
        root="/user",
        is_user=True,
        total_bytes=TOTAL,
        say=(said if said is not None else []).append,
    )


def test_what_is_asked_for_no_more_is_taken_back(systemd: Systemd) -> None:
    """Else it would hold until the next boot, and `slicemgr config` would say that it does not."""
    ours = own(systemd)
    ours.open([replace(APP, memory_max=4 << 30, cpu_weight=30), AGENT], DEFAULT_MACHINE)
    assert systemd.taken_back == {}
    assert set(systemd.set["agent.slice"]) == {
        *("MemoryHigh", "MemoryMax", "MemoryLow", "MemoryMin", "TasksMax", "CPUWeight")
    }
    ours.open([replace(APP, cpu_weight=40)], DEFAULT_MACHINE)
    assert systemd.taken_back == {
        "app.slice": {"MemoryMax": systemd1.NO_LIMIT},
        "agent.slice": {
            **dict.fromkeys(("MemoryHigh", "MemoryMax", "TasksMax", "CPUWeight"), systemd1.NO_LIMIT),
            "MemoryLow": 0,
            "MemoryMin": 0,
        },
    }
    systemd.taken_back.clear()
    ours.open([replace(APP, cpu_weight=40)], DEFAULT_MACHINE)
    assert systemd.taken_back == {}
    assert (systemd.connections, systemd.connected) == (3, 0)


def test_under_a_hold_only_what_it_changes_is_set(systemd: Systemd) -> None:
    """What a person has set meanwhile stays."""
    ours = own(systemd)
    ours.open([replace(AGENT, cpu_weight=50)], DEFAULT_MACHINE)
    systemd.set.clear()
    ours.open([replace(AGENT, cpu_weight=1)], DEFAULT_MACHINE, only_what_differs=True)
    assert systemd.set == {"agent.slice": {"CPUWeight": 1}}
    systemd.set.clear()
    ours.open([replace(AGENT, cpu_weight=1)], DEFAULT_MACHINE, only_what_differs=True)
    assert systemd.set == {"agent.slice": {}}
    ours.open([replace(AGENT, cpu_weight=1)], DEFAULT_MACHINE)
    assert {"CPUWeight", "MemoryMax", "TasksMax"} <= set(systemd.set["agent.slice"])
    assert systemd.taken_back == {}


def test_at_our_end_nobody_is_slowed_down(systemd: Systemd) -> None:
    """What we end stalls at, and nothing else; apps that a person has given a memory.high keep it."""
    ours = own(systemd)
    opened = ours.open(
        [replace(APP, memory_high=1 << 30), AGENT, replace(AGENT, unit="free.slice", memory_max=None)], DEFAULT_MACHINE
    )
    assert [each.is_throttled_by_us for each in opened] == [False, True, False]
    lift_high(systemd.connect, [each.managed.cgroup for each in opened if each.is_throttled_by_us])
    assert systemd.taken_back == {"agent.slice": {"MemoryHigh": systemd1.NO_LIMIT}}
    assert systemd.connected == 0


def test_a_dry_run_asks_nobody(systemd: Systemd) -> None:
    """Nothing is set, nothing throttled by us, and nothing complained of."""
    ours = own(None)
    (opened,) = ours.open([AGENT], DEFAULT_MACHINE)
    assert (opened.managed.cgroup, opened.why_not, opened.is_throttled_by_us) == ("/user/agent.slice", "", False)
    assert (systemd.set, systemd.taken_back) == ({}, {})


def test_no_manager(systemd: Systemd) -> None:
    """The slices are taken as they are, and it is said; the next time may be better, and at the end there is none."""
    said: list[str] = []
    ours = own(systemd, said)
    systemd.answers = False
    (opened,) = ours.open([AGENT], DEFAULT_MACHINE)
    assert said == ["no service manager answers (nobody is there): the slices are taken as they are"]
    assert opened.why_not == "agent.slice is not there, and no service manager to make it; try with systemd"
    systemd.answers = True
    (opened,) = ours.open([AGENT], DEFAULT_MACHINE)
    assert opened.why_not == ""
    systemd.answers = False
    lift_high(systemd.connect, ["/user/agent.slice"])
    assert systemd.taken_back == {}


@pytest.mark.parametrize(
    ("units", "spared"),
    [
        ({"app": "a", "app-db": "b"}, {"app": {"a", "b"}, "app-db": {"b"}}),
        ({"app": "a", "app-db": "b", "app-db-x": "c"}, {"app": {"a", "b", "c"}, "app-db": {"b", "c"}, "app-db-x": {"c"}}),
        ({"app": "a", "application": "b", "build": "c"}, {"app": {"a"}, "application": {"b"}, "build": {"c"}}),
    ],
)  # fmt: skip
def test_who_is_spared_within_is_spared_from_outside(units: dict[str, str], spared: dict[str, set[str]]) -> None:
    """By the names of the units, whose dashes are levels (systemd.slice(5))."""
    specs = [SliceSpec(f"{name}.slice", SliceKind.BUILD, protect=(pattern,)) for name, pattern in units.items()]
    found = {spec.unit.removesuffix(".slice"): set(spec.protect) for spec in with_inner_protection(specs)}
    assert found == spared


def test_the_rehearsal_goes_all_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the pidfd of our own guardian, in whose cgroup it is: what a kill needs is in memory then."""
    proven: list[int] = []

    @contextmanager
    def recorded(identity: ProcessIdentity, cgroup: str) -> Iterator[ProvenProcess]:
        with ProvenProcess(identity, cgroup) as process:
            proven.append(identity.pid)
            yield process

    monkeypatch.setattr(rehearsal, "ProvenProcess", recorded)
    guardian = Guardian()
    try:
        rehearsal.rehearse([], guardian.pid)
    finally:
        guardian.lift()
    assert proven == [guardian.pid]


def test_auto_is_the_default_of_builds() -> None:
    """The reserve of the session is never theirs."""
    assert DEFAULTS[SliceKind.BUILD].memory_max is Auto.AUTO
    assert DEFAULTS[SliceKind.BUILD].tasks_max == Percent(2500)
