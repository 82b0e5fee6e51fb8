# SPDX-License-Identifier: LGPL-2.1-or-later
"""Records, and steps from one moment to the next, as a person's notices know them."""

import pytest
from hypothesis import given

from slicemgr.model.decision import Resource, Shortage
from slicemgr.model.machine import MachineReading
from slicemgr.model.slice import SliceKind
from slicemgr.policy.notice_texts import AtLimit, Gone, Subject
from slicemgr.policy.notices import Ended, Event, Left, Paused, Resumed, Slowed, StandsStill
from slicemgr.service.notice_events import Happened, of_record, of_step
from slicemgr.service.overview import JobOverview, SliceOverview, Usage
from slicemgr.service.published import Moment, Standing
from slicemgr.service.record import Record
from slicemgr.service.report import (
    GuardFailedReport,
    HighReport,
    KernelKillReport,
    KillOutcome,
    NoVictimReport,
    PacingFailedReport,
    Report,
    SignalRefusedReport,
)
from tests.unit.samples import MIB
from tests.unit.test_record import RECORDS, a_kill

SLICE = "/user.slice/user-7.slice/user@7.service/build.slice"
UNIT = "slicemgr-my\\x2dbuild-4700.scope"
MINE = Subject("build", "my-build", is_ours=True)
SHORTAGE = Shortage(Resource.MEMORY, 1100 << 20, 1 << 30)
OWN, ABOVE = AtLimit(SHORTAGE, is_own=True), AtLimit(SHORTAGE, is_own=False)


@pytest.mark.parametrize(
    ("report", "event"),
    [
        (a_kill(cgroup=f"{SLICE}/{UNIT}"), Ended((Gone("cc1plus", 400 << 20),), 1, OWN)),
        (a_kill(cgroup=SLICE, victim_cgroup=f"{SLICE}/{UNIT}"), Ended((Gone("cc1plus", 400 << 20),), 1, ABOVE)),
        (KernelKillReport(1.0, f"{SLICE}/{UNIT}", 3, ((7, "ld"), (8, "as"))),
         Ended((Gone("ld"), Gone("as")), 3, AtLimit(None, is_own=True), by_kernel=True)),
        (KernelKillReport(1.0, f"{SLICE}/{UNIT}/inner", 0, ((7, "ld"),)),
         Ended((Gone("ld"),), 1, AtLimit(None, is_own=False), by_kernel=True)),
        (HighReport(1.0, 3 * MIB, 2 * MIB, f"{SLICE}/{UNIT}"), Slowed(3 * MIB, 2 * MIB, is_own=True)),
        (NoVictimReport(1.0, SHORTAGE, (), f"{SLICE}/{UNIT}", out_of_reach=True), StandsStill(OWN, out_of_reach=True)),
        # What was not done, and what only concerns ourselves.
        (a_kill(outcome=KillOutcome.DRY_RUN), None),
        (a_kill(outcome=KillOutcome.ASKED), None),
        (a_kill(outcome=KillOutcome.REFUSED), None),
        (GuardFailedReport("OSError"), None),
        (PacingFailedReport("OSError; try it"), None),
        (SignalRefusedReport(15), None),
    ],
)  # fmt: skip
def test_of_a_job(report: Report, event: Event | None) -> None:
    told = list(of_record(Record(report, 0.0, "build.slice", UNIT)))
    assert told == ([] if event is None else [Happened(UNIT, MINE, event)])


@pytest.mark.parametrize(
    ("record", "unit", "subject"),
    [
        (Record(a_kill(), 0.0, "build.slice"), "build.slice", Subject("build")),
        # Not a job of ours: nobody is offered to stop it.
        (Record(a_kill(), 0.0, "app.slice", "app-firefox.scope"), "app-firefox.scope", Subject("app", "app-firefox")),
    ],
)  # fmt: skip
def test_of_others(record: Record, unit: str, subject: Subject) -> None:
    (told,) = of_record(record)
    assert (told.unit, told.subject) == (unit, subject)


def test_of_nobody() -> None:
    assert list(of_record(Record(a_kill(), 0.0))) == []


@given(RECORDS)
def test_any_record(record: Record) -> None:
    """At most one thing, and it is news."""
    assert all(each.is_news for each in of_record(record))


def moment(*names: str, paused: str = "") -> Moment:
    usage = Usage(5 * MIB, 0, None, None, None, 0.0, 1)
    jobs = tuple(
        JobOverview(f"slicemgr-{name}-7.scope", f"{SLICE}/{name}", name, usage, None, (), None) for name in names
    )
    return Moment(
        Standing("1", 7, dry_run=False),
        MachineReading(0, 0, 0, 0, 0, 0, 0, 0, None),
        0.0,
        (SliceOverview("build.slice", SLICE, SliceKind.BUILD, None, jobs),),
        paused=frozenset(f"{SLICE}/{name}" for name in paused),
    )


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        (moment(), moment("a"), []),
        (moment("a"), moment("a"), []),
        (moment("a", "b"), moment("a", "b", paused="b"), [("b", Paused(5 * MIB))]),
        (moment("a", "b", paused="ab"), moment("a", "b", paused="a"), [("b", Resumed())]),
        (moment("a"), moment("a", "b", paused="ab"), [("a", Paused(5 * MIB)), ("b", Paused(5 * MIB))]),
        (moment("a", "b"), moment("b"), [("a", Left())]),
        (moment("a", paused="a"), moment(), [("a", Left())]),
    ],
)
def test_steps(before: Moment, now: Moment, told: list[tuple[str, Event]]) -> None:
    assert list(of_step(before, now)) == [
        Happened(f"slicemgr-{name}-7.scope", Subject("build", name, is_ours=True), event) for name, event in told
    ]


def test_what_is_worth_a_bubble() -> None:
    """That it goes on, or has ended, matters only where there is one."""
    events = {
        type(each.event): each.is_news
        for before, now in ((moment("a"), moment("a", paused="a")), (moment("a", paused="a"), moment("a")))
        for each in [*of_step(before, now), *of_step(now, moment())]
    }
    assert events == {Paused: True, Resumed: False, Left: False}
