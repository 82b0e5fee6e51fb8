# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the command line asks, on a real bus: answers, errors by their names, and nobody who is waited for in vain."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest

from slicemgr.bus.authority import ASK_SECONDS
from slicemgr.bus.control import PERSON_SECONDS, Control
from slicemgr.bus.errors import NO_BUS, NO_OWNER, NO_REPLY, DeniedError, RemoteError
from slicemgr.bus.objects import BUS_NAME, JOB, SLICE, job_object, slice_object
from tests.bus.fake_daemon import KATE, KATE_UNIT, MIB, FakeDaemon, moment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.bus.private_bus import PrivateBus


@pytest.fixture
def daemon(bus: PrivateBus) -> Iterator[FakeDaemon]:
    with FakeDaemon(bus) as made:
        yield made


@pytest.fixture
def control(bus: PrivateBus) -> Iterator[Control]:
    with Control.connect(bus.address) as made:
        yield made


def test_reads(daemon: FakeDaemon, control: Control) -> None:
    assert control.properties()["Version"] == "1.2"
    tree = control.tree()
    assert set(tree) == {slice_object("build.slice"), slice_object("app.slice"), job_object(KATE_UNIT)}
    assert tree[job_object(KATE_UNIT)][JOB]["ControlGroup"] == KATE
    assert daemon.calls == []


@pytest.mark.parametrize(
    ("name", "interface", "path", "maximum"),
    [
        ("build", SLICE, slice_object("build.slice"), 2048 * MIB),
        ("build.slice", SLICE, slice_object("build.slice"), 2048 * MIB),
        ("kate", JOB, job_object(KATE_UNIT), 1024 * MIB),
        (KATE_UNIT, JOB, job_object(KATE_UNIT), 1024 * MIB),
    ],
)
def test_find(daemon: FakeDaemon, control: Control, name: str, interface: str, path: str, maximum: int) -> None:
    found = control.find(name)
    assert (found.interface, found.path, found.properties["MemoryMax"]) == (interface, path, maximum)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("biuld", "no slice or job 'biuld'; try 'build'"),
        ("kat", "no slice or job 'kat'; try 'kate'"),
        ("zzz", "no slice or job 'zzz'; try ListJobs"),
    ],
)
def test_what_is_not_there(daemon: FakeDaemon, control: Control, name: str, line: str) -> None:
    with pytest.raises(RemoteError) as error:
        control.find(name)
    assert (error.value.name, str(error.value)) == ("org.slicemgr1.Error.NotFound", line)


def test_a_job(daemon: FakeDaemon, control: Control) -> None:
    """And no slice."""
    assert control.job("kate") == control.job(KATE_UNIT) == control.find("kate")
    with pytest.raises(RemoteError) as error:
        control.job("build")
    assert error.value.name == "org.slicemgr1.Error.NotFound"


ASKED: list[tuple[str, Callable[[Control], Any], tuple[Any, ...], Any, tuple[Any, ...]]] = [
    (
        "SetLimits",
        lambda control: control.set_limits(control.find("kate"), {"MemoryMax": 5, "CPUWeight": 1}, interactive=True),
        (),
        None,
        ({"MemoryMax": 5, "CPUWeight": 1}, {"interactive": True}),
    ),
    (
        "Pause",
        lambda control: control.pause(control.job("kate"), pause=True, interactive=True),
        (),
        None,
        ({"interactive": True},),
    ),
    ("Resume", lambda control: control.pause(control.job("kate"), pause=False, interactive=False), (), None, ({},)),
    (
        "Explain",
        lambda control: control.explain("kate", interactive=False),
        ({"victim": {"pid": 3}},),
        {"victim": {"pid": 3}},
        ("kate", {}),
    ),
    (
        "ListActions",
        lambda control: control.actions(7, 8, of_all=True, interactive=True),
        ([{"kind": "kill"}],),
        [{"kind": "kill"}],
        (7, 8, {"interactive": True, "all-users": True}),
    ),
    (
        "ListActions",
        lambda control: control.actions(0, 0, of_all=False, interactive=False),
        ([],),
        [],
        (0, 0, {}),
    ),
]


@pytest.mark.parametrize(("method", "ask", "answer", "told", "arguments"), ASKED)
def test_requests(
    daemon: FakeDaemon,
    control: Control,
    method: str,
    ask: Callable[[Control], Any],
    answer: tuple[Any, ...],
    told: Any,
    arguments: tuple[Any, ...],
) -> None:
    """What is sent, and what comes back."""
    daemon.answers[method] = lambda call: answer
    assert ask(control) == told
    (call,) = daemon.calls
    assert (call.method, call.arguments) == (method, arguments)


def test_a_refusal(daemon: FakeDaemon, control: Control) -> None:
    """By the daemon's own name for it, and with its line."""

    def refuse(call: object) -> tuple[Any, ...]:
        raise DeniedError("can't: polkit says no; try as root")

    daemon.answers["Explain"] = refuse
    with pytest.raises(RemoteError) as error:
        control.explain("kate", interactive=False)
    assert (error.value.name, str(error.value)) == (
        "org.slicemgr1.Error.Denied",
        "can't: polkit says no; try as root",
    )


def test_a_daemon_that_does_not_answer(daemon: FakeDaemon, control: Control) -> None:
    daemon.answers["Reload"] = daemon.stand_still
    with pytest.raises(RemoteError) as error:
        control.call("Reload", "(a{sv})", ({},), seconds=0.05)
    assert error.value.name == NO_REPLY


def test_no_daemon_and_none_is_started(bus: PrivateBus, tmp_path: Path) -> None:
    """Though the bus knows how: who looks does not mean to change anything."""
    bus.kill()
    started = tmp_path / "started"
    bus.services.mkdir()
    (bus.services / f"{BUS_NAME}.service").write_text(
        f"[D-BUS Service]\nName={BUS_NAME}\nExec=/usr/bin/touch {started}\n"
    )
    bus.start()
    with Control.connect(bus.address) as control:
        for ask in (control.properties, control.tree, lambda: control.find("build")):
            with pytest.raises(RemoteError) as error:
                ask()
            assert error.value.name in NO_OWNER
    assert not started.exists()


@pytest.mark.parametrize("address", ["unix:path=/nowhere/bus", "nonsense", ""])
def test_no_bus(address: str) -> None:
    with pytest.raises(RemoteError) as error:
        Control.connect(address)
    assert error.value.name == NO_BUS
    assert str(error.value)


def test_a_bus_that_does_not_answer(tmp_path: Path) -> None:
    """As one that is stopped: its socket takes us, and that is all."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "bus"))
        listener.listen()
        with pytest.raises(RemoteError) as error:
            Control.connect(f"unix:path={tmp_path}/bus", seconds=0.05)
        assert (error.value.name, str(error.value)) == (NO_REPLY, "the bus does not answer")


def test_a_bus_that_goes(bus: PrivateBus, daemon: FakeDaemon, control: Control) -> None:
    assert control.properties()["DryRun"] is False
    bus.kill()
    with pytest.raises(RemoteError) as error:
        control.properties()
    assert error.value.name == NO_BUS


def test_what_is_shown_of_the_system(bus: PrivateBus) -> None:
    """A user's slices are below the user there."""
    with FakeDaemon(bus, moment(user_uid=None)), Control.connect(bus.address) as control:
        assert control.properties()["Scope"] == "system"
        assert control.find("build").path == slice_object("build.slice", 1000)


def test_who_asks_a_person_waits_for_the_daemon_that_does() -> None:
    """Else the answer would come to nobody."""
    assert PERSON_SECONDS > ASK_SECONDS
