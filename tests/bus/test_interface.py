# SPDX-License-Identifier: LGPL-2.1-or-later
"""org.slicemgr1.xml is the interface: what is published, answered and told is what it says, and nothing else."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from gi.repository import Gio, GLib

from slicemgr.bus import interface
from slicemgr.bus.interface import InterfaceTable
from slicemgr.bus.objects import (
    JOB,
    LOG_CONTROL,
    LOG_CONTROL_PATH,
    MANAGER,
    ROOT,
    SESSION,
    SLICE,
    job_object,
    session_object,
    slice_object,
)
from slicemgr.bus.values import BY_KEY, pack
from slicemgr.model.process import ProcessTable
from slicemgr.model.slice import VictimRule
from slicemgr.policy.badness import BadnessScale, Unkillable
from slicemgr.policy.pressure_level import PressureLevel
from slicemgr.policy.ranking import rank
from slicemgr.service import adoption, job_requests, signals
from slicemgr.service.action_details import details_of
from slicemgr.service.adoption import Adopted
from slicemgr.service.explanation import Explanation
from slicemgr.service.holds import Hold, HoldKind
from slicemgr.service.published import objects_of
from slicemgr.service.read_requests import explanation_details, reads
from slicemgr.service.record import Record
from slicemgr.service.report import HighReport, KernelKillReport, NoVictimReport, Report
from slicemgr.service.sessions import SessionOverview
from tests.bus.face import PROPERTIES, SYSTEM_JOB, Face, Peer
from tests.bus.fake_daemon import KATE, moment, usage
from tests.unit.samples import process
from tests.unit.test_record import a_kill

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bus.private_bus import PrivateBus

XML = (Path(interface.__file__).parent / "org.slicemgr1.xml").read_text(encoding="utf-8")
TABLE = InterfaceTable()
OBJECT_MANAGER = "org.freedesktop.DBus.ObjectManager"
UID = os.getuid()
BUILD, WORK = slice_object("build.slice"), job_object(SYSTEM_JOB)
SESSION_2 = SessionOverview("2", 1000, 7, "x11", "i3", True, "/x", ((7, "i3"),), 1 << 30, 1 << 29, 1 << 28)
FULL = replace(
    moment(),
    sessions=(SESSION_2,),
    levels={KATE.rpartition("/")[0]: PressureLevel.LOW},
    paused=frozenset({KATE}),
    holds=(Hold(1, HoldKind.BUILDS_GROW, "Away", "org.example.Lock", ":1.7", 1000),),
    degraded=("no swap",),
)


@pytest.fixture
def face(bus: PrivateBus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Face]:
    with Face(bus, tmp_path, user_uid=UID, monkeypatch=monkeypatch) as made:
        yield made


@pytest.fixture
def leader() -> Iterator[int]:
    """A pidfd of somebody of ours."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as running:
        descriptor = os.pidfd_open(running.pid)
        yield descriptor
        os.close(descriptor)


def described(info: Any) -> dict[str, Any]:
    """All that a caller may rely on."""

    def arguments(listed: Any) -> list[tuple[str, str]]:
        return [(each.name, each.signature) for each in listed or ()]

    def notes(listed: Any) -> dict[str, str]:
        return {each.key: each.value for each in listed or ()}

    return {
        "methods": {each.name: (arguments(each.in_args), arguments(each.out_args)) for each in info.methods},
        "signals": {each.name: arguments(each.args) for each in info.signals},
        "properties": {
            each.name: (each.signature, int(each.flags), notes(each.annotations)) for each in info.properties
        },
    }


def test_what_is_published_is_what_the_file_says(face: Face, leader: int) -> None:
    """Of every kind of object: each method, signal and property with names, types and annotations, and no other."""
    it = face.peer()
    (session,) = register(it, leader)
    kinds = {
        ROOT: {MANAGER, OBJECT_MANAGER},
        LOG_CONTROL_PATH: {LOG_CONTROL},
        BUILD: {SLICE},
        WORK: {JOB},
        session: {SESSION},
    }
    wanted = {each.name: described(each) for each in Gio.DBusNodeInfo.new_for_xml(XML).interfaces}
    assert set(wanted) == {MANAGER, SLICE, JOB, SESSION}
    for path, names in kinds.items():
        (xml,) = it.call(path, "org.freedesktop.DBus.Introspectable", "Introspect")
        seen = {each.name: each for each in Gio.DBusNodeInfo.new_for_xml(xml).interfaces}
        ours = {name for name in seen if name in TABLE.infos}
        assert ours == names, path
        assert {name for name in seen if "slicemgr1" in name} <= names
        for name in ours:
            assert described(seen[name]) == (wanted.get(name) or described(TABLE.infos[name]))


def register(it: Peer, leader: int) -> tuple[Any, ...]:
    options = {"id": GLib.Variant("s", "c2"), "place": GLib.Variant("b", False)}
    return it.manager("RegisterSession", "(ha{sv})", 0, options, descriptors=[leader])


def declared() -> set[tuple[str, str]]:
    """All methods of ours."""
    return {name for name in TABLE.methods if name[0].startswith("org.slicemgr1.")}


def test_every_method_is_answered_and_no_other(face: Face) -> None:
    by_loop, by_thread = face.face.requests.names(), set(reads(lambda: FULL))
    assert not by_loop & by_thread
    assert (by_loop - {(PROPERTIES, "Set")}) | by_thread == declared()


def test_every_property_is_published_and_no_other() -> None:
    """Each of its type; on the wire it is packed like this."""
    seen: dict[str, set[str]] = {}
    for interfaces in objects_of(FULL).values():
        for name, properties in interfaces.items():
            assert seen.setdefault(name, set(properties)) == set(properties)
            for each, value in properties.items():
                wanted = TABLE.properties[name, each]
                assert pack(wanted, value).get_type_string() == wanted
    published = {(name, each) for name, properties in seen.items() for each in properties}
    assert published == set(TABLE.properties)


def test_every_answer_is_of_its_types(face: Face, leader: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each method once, as somebody calls it who has read the file; GDBus compares the answer's type with it."""
    adopted = Adopted(SYSTEM_JOB, "/x", (7, 8), 1 << 40, "no controller")
    monkeypatch.setattr(job_requests, "adopt", lambda *_, **__: adopted)
    face.explanation = EXPLANATION
    it = face.peer()
    call = Caller(it, leader)
    for name in ("ListSlices", "ListJobs", "ListSessions", "Reload"):
        call(ROOT, MANAGER, name, "(a{sv})", {})
    call(ROOT, MANAGER, "GetSlice", "(sa{sv})", "build", {})
    call(ROOT, MANAGER, "GetJob", "(sa{sv})", "backup", {})
    session = call(ROOT, MANAGER, "RegisterSession", "(ha{sv})", 0, {"place": GLib.Variant("b", False)})[0]
    pid = it.get("Leader", session, SESSION)
    assert call(ROOT, MANAGER, "GetSession", "(sa{sv})", f"leader-{pid}", {}) == (session,)
    call(session, SESSION, "Protect", "(aha{sv})", [0], {})
    call(session, SESSION, "Unregister", "(a{sv})", {})
    unit, placed = call(ROOT, MANAGER, "PlaceProcess", "(hsa{sv})", 0, "build", {})
    assert (unit, placed["pids"], placed["charged-elsewhere"]) == (SYSTEM_JOB, [7, 8], 1 << 40)
    assert call(ROOT, MANAGER, "PlaceJob", "(ha{sv})", 0, {})[0] == WORK
    limits = {"MemoryMax": GLib.Variant("t", 1 << 30)}
    call(ROOT, MANAGER, "SetLimits", "(sa{sv}a{sv})", "build", limits, {})
    for path, name in ((BUILD, SLICE), (WORK, JOB)):
        call(path, name, "SetLimits", "(a{sv}a{sv})", limits, {})
        assert call(path, name, "Explain", "(a{sv})", {})[0]["victim"]["pid"] == 4711
    call(ROOT, MANAGER, "Explain", "(sa{sv})", "build", {})
    face._side.history.append(Record(a_kill(), 5.0, "build.slice", SYSTEM_JOB))
    ((action,),) = call(ROOT, MANAGER, "ListActions", "(tua{sv})", 0, 0, {})
    assert (action["kind"], action["time-usec"]) == ("kill", 5_000_000)
    (cookie,) = call(ROOT, MANAGER, "Hold", "(sssa{sv})", "builds-grow", "Away", "", {})
    call(ROOT, MANAGER, "Release", "(u)", cookie)
    for name in ("Pause", "Resume", "Stop"):
        call(WORK, JOB, name, "(a{sv})", {})
    monkeypatch.setattr(adoption, "cgroup_of", lambda _: "/")
    monkeypatch.setattr("slicemgr.kernel.pidfd.cgroup_of", lambda _: face.slices[0].jobs[0].path)
    assert call(ROOT, MANAGER, "GetJobByPIDFd", "(ha{sv})", 0, {}) == (WORK,)
    assert call.made == declared()


class Caller:
    """Notes what it has called; a pidfd goes with each."""

    def __init__(self, peer: Peer, leader: int) -> None:
        self._peer = peer
        self._leader = leader
        self.made: set[tuple[str, str]] = set()

    def __call__(self, path: str, interface: str, method: str, signature: str, *arguments: Any) -> Any:
        assert signature == "(" + "".join(TABLE.methods[interface, method].arguments) + ")"
        self.made.add((interface, method))
        return self._peer.call(path, interface, method, GLib.Variant(signature, arguments), descriptors=[self._leader])


EXPLANATION = Explanation(
    KATE, VictimRule.HIGHEST_BADNESS, 0.0, usage(), 1 << 30, None, "memory.max",
    rank(ProcessTable([process(4711, 100, name="a\udcff"), process(4712, 50), process(4713, 1, oom_score_adj=-1000)]), BadnessScale(1 << 18)),
    ("cc1plus",),
)  # fmt: skip
SHORTAGE = a_kill().shortage
REPORTS: list[Report] = [
    a_kill(),
    a_kill(for_parent=None, runners_up=(), command_line=()),
    KernelKillReport(1.0, KATE, 2, ()),
    KernelKillReport(1.0, KATE, 2, ((7, "cc1plus"),)),
    HighReport(1.0, 5, 4, KATE),
    NoVictimReport(1.0, SHORTAGE, (), KATE),
    NoVictimReport(
        1.0,
        SHORTAGE,
        ((process(1, 5), Unkillable.PROTECTED),),
        KATE,
    ),
]


def documented() -> dict[str, str]:
    """Keys of dictionaries with their types, as the file's comments have them: `pid (u)`, `pids (au: who was moved)`."""
    found: dict[str, str] = {}
    for names, signature in re.findall(r"((?:[a-z-]+, )*[a-z]+(?:-[a-z]+)*) \(([a-z{}]+)(?: each)?[):]", XML):
        if GLib.VariantType.string_is_valid(signature):
            for name in names.split(", ") if " each)" in XML else [names]:
                found.setdefault(name, signature)
    return found


def test_the_keys_that_are_told_are_of_their_types() -> None:
    """An empty list too, and a small number."""
    types = documented()
    assert (types["pid"], types["runners-up"], types["pids"], types["points"]) == ("u", "aa{sv}", "au", "x")
    told = [details_of(Record(each, 1.0, "build.slice", "x")) for each in REPORTS]
    told += [
        explanation_details(EXPLANATION),
        explanation_details(replace(EXPLANATION, ranking=rank(ProcessTable([]), BadnessScale(1 << 18)))),
    ]
    told.append(job_requests._placed(Adopted("x.scope", "/x", (), 0, "")))
    for each in told:
        check(pack("a{sv}", each), types)
    assert set(BY_KEY) - {"victims"} <= set(types)


def check(packed: Any, types: dict[str, str]) -> None:
    for at in range(packed.n_children()):
        entry = packed.get_child_value(at)
        key, value = entry.get_child_value(0).get_string(), entry.get_child_value(1).get_variant()
        if key in types:
            assert value.get_type_string() == types[key], key
        if value.get_type_string() == "a{sv}":
            check(value, types)
        elif value.get_type_string() == "aa{sv}":
            for each in range(value.n_children()):
                check(value.get_child_value(each), types)


def test_every_signal_is_told_and_no_other() -> None:
    """Each of its types. HoldReleased and LimitsChanged are the requests' own."""
    empty = replace(FULL, slices=(), sessions=(), levels={}, paused=frozenset())
    resumed = replace(FULL, paused=frozenset(), levels={})
    told = [signal for report in REPORTS for signal in signals.of_record(Record(report, 1.0), FULL)]
    for before, after in ((empty, FULL), (FULL, empty), (FULL, resumed)):
        told += signals.of_step(before, after)
    for each in told:
        pack(TABLE.signals[MANAGER, each.name], each.arguments)
    assert {each.name for each in told} | {"HoldReleased", "LimitsChanged"} == {
        name for at, name in TABLE.signals if at == MANAGER
    }


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({}, {"/s": PressureLevel.LOW}, ["low"]),
        ({"/s": PressureLevel.LOW}, {"/s": PressureLevel.CRITICAL}, ["critical"]),
        ({"/s": PressureLevel.CRITICAL}, {}, ["none"]),
        ({"/s": PressureLevel.LOW}, {"/s": PressureLevel.LOW}, []),
        ({}, {}, []),
    ],
)
def test_a_level_that_ends_is_told(before: Any, after: Any, told: list[str]) -> None:
    """Whoever turned something off at `critical` waits for it."""
    build = replace(FULL.slices[0], path="/s")
    steps = [replace(FULL, slices=(build,), levels=levels) for levels in (before, after)]
    said = [each for each in signals.of_step(*steps) if each.name == "PressureLevelChanged"]
    assert [each.arguments for each in said] == [(BUILD, level) for level in told]


def test_the_object_of_a_session() -> None:
    assert objects_of(FULL)[session_object("2")][SESSION]["Protected"] == [(7, "i3")]
