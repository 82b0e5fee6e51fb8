# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which signals tell of what; and that org.slicemgr1.xml, which is their manual, knows each key of theirs."""

import re
from pathlib import Path

import pytest

from slicemgr.bus.objects import slice_object
from slicemgr.model.decision import Resource, Shortage
from slicemgr.model.machine import MachineReading
from slicemgr.model.slice import SliceKind
from slicemgr.policy.pressure_level import PressureLevel
from slicemgr.service.action_details import details_of
from slicemgr.service.overview import SliceOverview
from slicemgr.service.published import Moment, Standing
from slicemgr.service.record import Record
from slicemgr.service.report import HighReport, KernelKillReport, NoVictimReport, Report
from slicemgr.service.signals import Signal, of_step
from tests.unit.samples import process
from tests.unit.test_record import a_kill

XML = (Path(__file__).parents[2] / "slicemgr/bus/org.slicemgr1.xml").read_text()
BUILD = "/user.slice/user-7.slice/user@7.service/build.slice"


def moment(level: PressureLevel) -> Moment:
    """As LevelWatch tells it: no level is no entry."""
    return Moment(
        standing=Standing("1.2", 7, dry_run=False),
        machine=MachineReading(0.0, 16 << 30, 8 << 30, 0, 0, 0, 0, 0, None),
        wall_seconds=1.0,
        slices=(SliceOverview("build.slice", BUILD, SliceKind.BUILD, None, ()),),
        levels={} if level is PressureLevel.NONE else {BUILD: level},
    )


@pytest.mark.parametrize("before", PressureLevel)
@pytest.mark.parametrize("now", PressureLevel)
def test_a_level_is_told_when_it_is_another(before: PressureLevel, now: PressureLevel) -> None:
    """That it is over too: who has shown a bar for it takes it away."""
    told = [] if now is before else [Signal("PressureLevelChanged", (slice_object("build.slice"), now.value))]
    assert list(of_step(moment(before), moment(now))) == told


@pytest.mark.parametrize(
    ("signal", "report"),
    [
        ("ProcessKilled", a_kill(for_parent=process(3))),
        ("ProcessKilled", KernelKillReport(1.0, BUILD, 1, ((7, "ld"),))),
        ("Warning", HighReport(1.0, 3, 2, BUILD)),
        ("NobodyToEnd", NoVictimReport(1.0, Shortage(Resource.MEMORY, 2, 1), (), BUILD)),
    ],
)
def test_the_manual_knows_every_key(signal: str, report: Report) -> None:
    """In the comment before the signal, or before ListActions, which has two more."""
    comments = [
        re.findall(r"<!--(.*?)-->", XML.split(f'"{name}"')[0], re.DOTALL)[-1] for name in (signal, "ListActions")
    ]
    words = set(re.findall(r"[\w-]+", " ".join(comments)))
    assert set(details_of(Record(report, 1.0, "build.slice", "x.scope"))) <= words
