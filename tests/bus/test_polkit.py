# SPDX-License-Identifier: LGPL-2.1-or-later
"""The system's daemon and polkit: yes, no, a question, silence, absence, death, nonsense; and nothing done without."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from gi.repository import GLib

from slicemgr.bus import authority
from slicemgr.bus.authority import Authority
from slicemgr.bus.objects import JOB, MANAGER, ROOT, SLICE, job_object, slice_object
from slicemgr.service.holds import HoldKind
from tests.bus.dbusmocks import needs_dbusmock, polkit
from tests.bus.face import OWN_JOB, STRANGER, SYSTEM_JOB, Face, Peer, in_thread, refusal, shared_face

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bus.private_bus import PrivateBus

pytestmark = needs_dbusmock

MANAGE, OWN, INSPECT = "org.slicemgr1.manage", "org.slicemgr1.manage-own-jobs", "org.slicemgr1.inspect"
DENIED = "org.slicemgr1.Error.Denied"
BUILD, HIS_JOB, SYSTEMS_JOB = slice_object("build.slice"), job_object(OWN_JOB, STRANGER), job_object(SYSTEM_JOB)

# What is asked for, of whom, with what, and which action that is; `h` is a process of the caller's.
CALLS = [
    (ROOT, MANAGER, "SetLimits", "(sa{sv}a{sv})", ("build", {"MemoryMax": GLib.Variant("t", 1 << 30)}, {}), MANAGE),
    (BUILD, SLICE, "SetLimits", "(a{sv}a{sv})", ({"MemoryMax": GLib.Variant("t", 1 << 30)}, {}), MANAGE),
    (ROOT, MANAGER, "Hold", "(sssa{sv})", ("builds-yield", "Presenting", "", {}), MANAGE),
    (ROOT, MANAGER, "Reload", "(a{sv})", ({},), MANAGE),
    (ROOT, MANAGER, "PlaceProcess", "(hsa{sv})", (0, "build", {}), MANAGE),
    (ROOT, MANAGER, "PlaceJob", "(ha{sv})", (0, {}), MANAGE),
    (SYSTEMS_JOB, JOB, "Stop", "(a{sv})", ({},), MANAGE),
    (SYSTEMS_JOB, JOB, "Pause", "(a{sv})", ({},), MANAGE),
    (HIS_JOB, JOB, "Pause", "(a{sv})", ({},), OWN),
    (HIS_JOB, JOB, "Resume", "(a{sv})", ({},), OWN),
    (SYSTEMS_JOB, JOB, "Explain", "(a{sv})", ({},), INSPECT),
    (ROOT, MANAGER, "Explain", "(sa{sv})", ("backup", {}), INSPECT),
    (ROOT, MANAGER, "ListActions", "(tua{sv})", (0, 0, {"all-users": GLib.Variant("b", True)}), INSPECT),
]
IDS = [
    f"{interface.rpartition('.')[2]}.{method}-{action.rpartition('.')[2]}" for _, interface, method, *_, action in CALLS
]
every_call = pytest.mark.parametrize("call", CALLS, ids=IDS)


@pytest.fixture(scope="module")
def systems(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Face]:
    with shared_face(tmp_path_factory.mktemp("face"), user_uid=None) as made:
        yield made


@pytest.fixture
def face(systems: Face, monkeypatch: pytest.MonkeyPatch) -> Iterator[Face]:
    """The system's, called by somebody who is not root (here everybody is who runs the tests)."""
    original = Authority._ask_bus

    async def ask_bus(self: Authority, method: str, name: str, bus_id: str) -> Any:
        told = await original(self, method, name, bus_id)
        return {**told, "UnixUserID": STRANGER} if method == "GetConnectionCredentials" else told

    monkeypatch.setattr(Authority, "_ask_bus", ask_bus)
    yield systems
    systems.settle()


@pytest.fixture
def bus(systems: Face) -> PrivateBus:
    return systems.bus


@pytest.fixture
def pidfd() -> Iterator[int]:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        descriptor = os.pidfd_open(process.pid)
        yield descriptor
        os.close(descriptor)


def ask(peer: Peer, call: tuple[Any, ...], pidfd: int, **options: Any) -> tuple[Any, ...]:
    path, interface, method, signature, arguments, _ = call
    if options:
        arguments = (*arguments[:-1], {**arguments[-1], **options})
    return peer.call(path, interface, method, GLib.Variant(signature, arguments), descriptors=[pidfd])


@every_call
def test_what_polkit_allows_is_done(face: Face, bus: PrivateBus, pidfd: int, call: tuple[Any, ...]) -> None:
    """With this action and no other; placing fails later, because this manager moves nobody."""
    _, _, method, _, _, action = call
    with polkit(bus) as there, face.peer() as it:
        there.mock("SetAllowed", "(as)", [each for each in (MANAGE, OWN, INSPECT) if each != action])
        error = refusal(lambda: ask(it, call, pidfd))
        assert error.name == DENIED
        assert error.text.endswith(f"polkit does not allow {action}; try as root")
        assert face.nothing_was_done
        there.mock("SetAllowed", "(as)", [action])
        if method in {"PlaceProcess", "PlaceJob", "Explain"}:
            assert refusal(lambda: ask(it, call, pidfd)).name == "org.slicemgr1.Error.Failed"
        else:
            ask(it, call, pidfd)
        assert face.nothing_was_done is (method in {"ListActions", "Resume"})


@every_call
def test_without_polkit_nothing_is_done(face: Face, pidfd: int, call: tuple[Any, ...]) -> None:
    """There is none on this machine."""
    with face.peer() as it:
        error = refusal(lambda: ask(it, call, pidfd))
        assert error.name == DENIED
        assert ": polkit does not answer (" in error.text
        assert error.text.endswith("; try as root")
    assert face.nothing_was_done


CHECK = ("CheckAuthorization", "(sa{sv})sa{ss}us", "(bba{ss})")


@every_call
def test_a_question_is_asked_where_one_may(face: Face, bus: PrivateBus, pidfd: int, call: tuple[Any, ...]) -> None:
    """Only with the option `interactive`; what polkit is told of is the caller's name, and the action."""
    action = call[-1]
    with polkit(bus, template=False) as there, face.peer() as it:
        there.answer(*CHECK, "ret = (False, not args[3], {})")
        error = refusal(lambda: ask(it, call, pidfd))
        assert error.name == DENIED
        assert error.text.endswith(f"polkit does not allow {action}; try the option `interactive`, or as root")
        error = refusal(lambda: ask(it, call, pidfd, interactive=GLib.Variant("b", True)))
        assert error.text.endswith(f"polkit does not allow {action}; try as root")
        subject = ("system-bus-name", {"name": it.connection.get_unique_name()})
        assert there.calls("CheckAuthorization") == [(subject, action, {}, flags, "") for flags in (0, 1)]
    assert face.nothing_was_done


@pytest.mark.parametrize("call", CALLS[::4], ids=IDS[::4])
def test_a_polkit_that_hangs(
    face: Face, bus: PrivateBus, pidfd: int, monkeypatch: pytest.MonkeyPatch, call: tuple[Any, ...]
) -> None:
    """Others are answered meanwhile; and what it says in the end comes too late."""
    monkeypatch.setattr(authority, "QUIET_SECONDS", 0.3)
    with polkit(bus) as there, face.peer() as it, face.peer() as other:
        there.mock("SetAllowed", "(as)", [call[-1]])
        there.mock("SimulateHang", "(b)", True)
        asked = in_thread(lambda: ask(it, call, pidfd))
        assert other.get("Scope") == "system"
        error = refusal(lambda: asked.result(20))
        assert error.name == DENIED
        assert ": polkit does not answer (" in error.text
        there.mock("ReleaseHangingCalls", "()")
        assert other.get("Scope") == "system"
    assert face.nothing_was_done


@every_call
def test_a_polkit_that_dies_while_it_thinks(face: Face, bus: PrivateBus, pidfd: int, call: tuple[Any, ...]) -> None:
    with polkit(bus) as there, face.peer() as it:
        there.mock("SetAllowed", "(as)", [call[-1]])
        there.mock("SimulateHang", "(b)", True)
        asked = in_thread(lambda: ask(it, call, pidfd, interactive=GLib.Variant("b", True)))
        Face.until_outside(lambda: there.mock("HaveHangingCalls", "()")[0])
        assert not asked.done()
        there.end()
        error = refusal(lambda: asked.result(20))
        assert error.name == DENIED
        assert ": polkit does not answer (" in error.text
    assert face.nothing_was_done


@pytest.mark.parametrize(
    ("gives", "code"), [("s", "ret = 'yes'"), ("(ss)", "ret = ('yes', 'yes')"), ("", ""), ("(bbb)", "ret = (1, 1, 1)")]
)
def test_an_answer_that_is_none(face: Face, bus: PrivateBus, pidfd: int, gives: str, code: str) -> None:
    """Of another type it is no yes, whatever it says."""
    with polkit(bus, template=False) as there, face.peer() as it:
        there.answer("CheckAuthorization", "(sa{sv})sa{ss}us", gives, code)
        error = refusal(lambda: ask(it, CALLS[0], pidfd))
        assert error.name == DENIED
        assert error.text.endswith(": polkit answers what it never says; try as root")
    assert face.nothing_was_done


def test_a_hold_that_is_allowed(face: Face, bus: PrivateBus) -> None:
    with polkit(bus) as there, face.peer() as it:
        there.mock("SetAllowed", "(as)", [MANAGE])
        (cookie,) = it.manager("Hold", "(sssa{sv})", "builds-grow", "Away", "", {})
        assert face.in_force == [HoldKind.BUILDS_GROW]
        it.manager("Release", "(u)", cookie)
        assert face.in_force == [HoldKind.BUILDS_GROW, None]
