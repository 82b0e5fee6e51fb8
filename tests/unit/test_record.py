# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reports as data, and back."""

import contextlib
import json
import math
import os
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.model.decision import Evidence, Resource, Shortage
from slicemgr.model.process import ProcessIdentity, ProcessSample
from slicemgr.model.slice import VictimRule
from slicemgr.policy.badness import Unkillable
from slicemgr.service.record import (
    Record,
    RecordError,
    record_from_data,
    record_from_line,
    record_to_data,
    record_to_line,
    report_from_data,
    report_from_line,
    report_to_data,
    report_to_line,
)
from slicemgr.service.report import (
    GuardFailedReport,
    HighReport,
    KernelKillReport,
    KillOutcome,
    KillReport,
    NoVictimReport,
    PacingFailedReport,
    Report,
    SignalRefusedReport,
)
from tests.unit.samples import process

NAMES = st.binary(max_size=20).map(os.fsdecode) | st.text(max_size=20)
SIZES = st.integers(-(1 << 63), 1 << 63)
SECONDS = st.floats(allow_nan=False, allow_infinity=False)
PROCESSES = st.builds(
    ProcessSample,
    identity=st.builds(ProcessIdentity, SIZES, SIZES),
    ppid=SIZES,
    name=NAMES,
    rss_pages=SIZES,
    oom_score_adj=st.integers(-1000, 1000),
    has_memory=st.booleans(),
)
SHORTAGES = st.builds(
    Shortage, st.sampled_from(Resource), SIZES, SIZES, evidence=st.sampled_from(Evidence), stalled_seconds=SECONDS
)


def tuples_of(each: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(each, max_size=3).map(tuple)


KILLS = st.builds(
    KillReport,
    at_seconds=SECONDS,
    victim=PROCESSES,
    command_line=tuples_of(NAMES),
    held_bytes=SIZES,
    points=SIZES,
    for_parent=st.none() | PROCESSES,
    shortage=SHORTAGES,
    runners_up=tuples_of(st.tuples(PROCESSES, SIZES)),
    outcome=st.sampled_from(KillOutcome),
    seconds_to_exit=SECONDS,
    usage_after_bytes=SIZES,
    was_alone=st.booleans(),
    cgroup=NAMES,
    rule=st.sampled_from(VictimRule),
    asked_to_end=st.booleans(),
)
REPORTS: st.SearchStrategy[Report] = st.one_of(
    KILLS,
    st.builds(HighReport, SECONDS, SIZES, SIZES, NAMES),
    st.builds(KernelKillReport, SECONDS, NAMES, SIZES, tuples_of(st.tuples(SIZES, NAMES))),
    st.builds(NoVictimReport, SECONDS, SHORTAGES, tuples_of(st.tuples(PROCESSES, st.sampled_from(Unkillable))), NAMES),
    st.builds(GuardFailedReport, NAMES),
    st.builds(PacingFailedReport, NAMES),
    st.builds(SignalRefusedReport, SIZES),
)
RECORDS = st.builds(Record, report=REPORTS, wall_seconds=SECONDS, slice=NAMES, job=NAMES)


def a_kill(**changes: Any) -> KillReport:
    fields: dict[str, Any] = {
        "at_seconds": 12.5,
        "victim": process(4711, 100, name="cc1plus"),
        "command_line": ("cc1plus", "kate.cpp"),
        "held_bytes": 400 << 20,
        "points": 102_400,
        "for_parent": process(4700, 10, name="make"),
        "shortage": Shortage(Resource.MEMORY, 1100 << 20, 1 << 30),
        "runners_up": ((process(4712, 50), 200 << 20),),
        "outcome": KillOutcome.STILL_THERE,
        "seconds_to_exit": 0.04,
        "usage_after_bytes": 700 << 20,
        "was_alone": False,
    }
    return KillReport(**{**fields, **changes})


@given(REPORTS)
def test_a_report_survives_a_line(report: Report) -> None:
    """Every field of every kind, names that are no UTF-8 included; the line is ASCII and one line."""
    line = report_to_line(report)
    assert line.isascii()
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert report_from_line(line) == report


@given(RECORDS)
def test_a_record_survives_a_line(record: Record) -> None:
    """With its time and its place."""
    assert record_from_line(record_to_line(record)) == record


def test_every_kind_of_report_is_known() -> None:
    """A report type that is added has to be tried above."""
    assert {type(each) for each in (a_kill(), HighReport(0, 0, 0), KernelKillReport(0, "", 0, ()),
                                    NoVictimReport(0, Shortage(Resource.SWAP, 0, 0), ()), GuardFailedReport(""),
                                    PacingFailedReport(""), SignalRefusedReport(0))} == set(get_args(Report))  # fmt: skip


def test_the_words_of_the_format_are_stable() -> None:
    """Enums by their names and not by their sentences; a name that is no UTF-8 as journalctl shows it."""
    data: Any = report_to_data(a_kill(victim=process(4711, name="caf\udce9")))
    assert data["schema"] == "slicemgr.report/1"
    assert data["kind"] == "kill"
    assert data["outcome"] == "still-there"
    assert data["rule"] == "highest-badness-child"
    assert data["shortage"] == {"resource": "memory", "usage_bytes": 1100 << 20, "limit_bytes": 1 << 30,
                                "evidence": "passed", "stalled_seconds": 0.0}  # fmt: skip
    assert data["victim"]["identity"] == {"pid": 4711, "start_ticks": 0}
    assert data["victim"]["name"] == [99, 97, 102, 233]
    assert data["for_parent"]["name"] == "make"


def test_an_older_version_reads_a_newer_one() -> None:
    """Unknown keys are ignored at every depth."""
    data: Any = record_to_data(Record(a_kill(), 1.0, "build.slice", "make"))
    data["mood"] = "fine"
    data["report"]["mood"] = None
    data["report"]["victim"]["identity"]["mood"] = []
    assert record_from_data(data) == Record(a_kill(), 1.0, "build.slice", "make")


def test_a_newer_version_reads_an_older_one() -> None:
    """A field that came later has its default."""
    data: Any = report_to_data(a_kill())
    for later in ("cgroup", "rule", "asked_to_end"):
        del data[later]
    del data["shortage"]["evidence"]
    assert report_from_data(data) == a_kill()


def at(path: str, value: object) -> Any:
    """A kill's data with one value replaced; MISSING takes the key out."""
    data: Any = report_to_data(a_kill())
    *way, last = path.split(".")
    inner = data
    for step in way:
        inner = inner[step]
    if value is MISSING:
        del inner[last]
    else:
        inner[last] = value
    return data


MISSING = object()


@pytest.mark.parametrize(
    ("path", "value", "key"),
    [
        ("victim", MISSING, "report.victim"),
        ("victim.identity.pid", MISSING, "report.victim.identity.pid"),
        ("victim.identity.pid", True, "report.victim.identity.pid"),
        ("victim.identity.pid", 1.5, "report.victim.identity.pid"),
        ("victim.identity.pid", None, "report.victim.identity.pid"),
        ("victim.has_memory", 1, "report.victim.has_memory"),
        ("victim.name", 7, "report.victim.name"),
        ("victim.name", [300], "report.victim.name"),
        ("victim.name", ["a"], "report.victim.name"),
        ("victim", [], "report.victim"),
        ("at_seconds", "12", "report.at_seconds"),
        ("at_seconds", 10**400, "report.at_seconds"),
        ("at_seconds", False, "report.at_seconds"),
        ("at_seconds", math.inf, "report.at_seconds"),
        ("shortage.stalled_seconds", math.nan, "report.shortage.stalled_seconds"),
        ("command_line", "cc1plus", "report.command_line"),
        ("command_line", ["a", None], "report.command_line[1]"),
        ("runners_up", [[]], "report.runners_up[0]"),
        ("outcome", "EXITED", "report.outcome"),
        ("outcome", {}, "report.outcome"),
        ("for_parent", 0, "report.for_parent"),
        ("kind", MISSING, "report.kind"),
        ("kind", "massacre", "report.kind"),
        ("schema", "slicemgr.report/2", "report.schema"),
        ("schema", MISSING, "report.schema"),
    ],
)
def test_what_is_wrong_is_said_with_its_key(path: str, value: object, key: str) -> None:
    """A missing or wrong one is never guessed."""
    with pytest.raises(RecordError) as caught:
        report_from_data(at(path, value))
    assert caught.value.key == key
    assert f"'{key}'" in str(caught.value)


@pytest.mark.parametrize(
    ("line", "key"),
    [
        (b"", "line"),
        (b'{"schema":"slicemgr.rec', "line"),
        (b"\xff\xfe", "line"),
        (b"[" * 100_000, "line"),
        (b"[]", "record"),
        (b"{}", "record.schema"),
        (b'{"schema":"slicemgr.record/1"}', "report"),
        (b'{"schema":"slicemgr.record/1","report":3,"wall_seconds":1,"slice":"","job":""}', "report"),
        (json.dumps({**record_to_data(Record(a_kill(), 1.0)), "slice": None}).encode(), "slice"),
        # What is no JSON, and what would be none when it is written again.
        (record_to_line(Record(a_kill(), 1.0)).replace(b'"wall_seconds":1.0', b'"wall_seconds":NaN'), "line"),
        (record_to_line(Record(a_kill(), 1.0)).replace(b'"wall_seconds":1.0', b'"wall_seconds":-Infinity'), "line"),
        (record_to_line(Record(a_kill(), 1.0)).replace(b'"wall_seconds":1.0', b'"wall_seconds":1e999'), "wall_seconds"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_record(line: bytes, key: str) -> None:
    """Torn, foreign, or of another schema."""
    with pytest.raises(RecordError) as caught:
        record_from_line(line)
    assert caught.value.key == key


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)),
       st.sampled_from(list(report_to_data(a_kill()))))  # fmt: skip
def test_any_json_in_any_place_is_a_report_or_an_error(value: object, key: str) -> None:
    """Never another exception."""
    with contextlib.suppress(RecordError):
        report_from_data(at(key, value))
