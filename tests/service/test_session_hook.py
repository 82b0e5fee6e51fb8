# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the login hook asks of whom: a daemon on a real bus, or a service manager."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from gi.repository import Gio, GLib

from slicemgr.bus.context import GLibThread
from slicemgr.bus.objects import BUS_NAME, MANAGER, ROOT, SESSION
from slicemgr.kernel import procfs
from slicemgr.kernel.errors import ProcessGoneError
from slicemgr.model.process import ProcessIdentity
from slicemgr.placement.backend import PlacementError
from slicemgr.placement.bus_connection import ManagerError, NoManagerError
from slicemgr.service import session_hook
from slicemgr.service.session_hook import HookError
from slicemgr.service.session_leader import Leader
from tests.bus.face import Face
from tests.bus.private_bus import PrivateBus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

UID = 4711
XML = """
<node>
  <interface name="org.slicemgr1.Manager">
    <method name="RegisterSession">
      <arg type="h" direction="in"/><arg type="a{sv}" direction="in"/><arg type="o" direction="out"/>
    </method>
  </interface>
  <interface name="org.slicemgr1.Session"><method name="Unregister"><arg type="a{sv}" direction="in"/></method></interface>
</node>
"""


class FakeDaemon:
    """Notes what it is asked; answers what it is told to."""

    def __init__(self, address: str) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.refusal: tuple[str, str] | None = None
        self._thread = GLibThread("fake-daemon")
        self._thread.start()
        self._connection = self._do(lambda: self._connect(address))

    def stop(self) -> None:
        self._do(lambda: self._connection.close_sync(None))
        self._thread.stop()

    def _do(self, call: Callable[[], Any]) -> Any:
        answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread.do(lambda: answer.put(call()))
        return answer.get(timeout=20)

    def _connect(self, address: str) -> Any:
        kinds = Gio.DBusConnectionFlags
        connection = Gio.DBusConnection.new_for_address_sync(
            address, kinds.AUTHENTICATION_CLIENT | kinds.MESSAGE_BUS_CONNECTION, None, None
        )
        connection.set_exit_on_close(False)
        manager, session = Gio.DBusNodeInfo.new_for_xml(XML).interfaces
        connection.register_object(ROOT, manager, self._called, None, None)
        connection.register_object(f"{ROOT}/sessions/_32", session, self._called, None, None)
        connection.call_sync(
            "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "RequestName",
            GLib.Variant("(su)", (BUS_NAME, 0)), None, 0, 5000, None,
        )  # fmt: skip
        return connection

    def _called(
        self, _c: Any, _sender: str, path: str, interface: str, method: str, values: Any, invocation: Any
    ) -> None:
        if self.refusal is not None:
            invocation.return_dbus_error(*self.refusal)
            return
        if (interface, method) == (MANAGER, "RegisterSession"):
            listed = invocation.get_message().get_unix_fd_list().steal_fds()
            index, options = values.unpack()
            with open(f"/proc/self/fdinfo/{listed[index]}") as file:
                told = dict(line.split(":") for line in file)
            for each in listed:
                os.close(each)
            self.calls.append((method, (int(told["Pid"]), options)))
            invocation.return_value(GLib.Variant("(o)", (f"{ROOT}/sessions/_32",)))
        else:
            assert (interface, method) == (SESSION, "Unregister")
            self.calls.append((method, path))
            invocation.return_value(None)


class Manager:
    """A service manager that does what it is told to, or not."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.is_closed = False
        self._failure = failure

    def start_transient_unit(self, unit: str, properties: dict[str, Any]) -> tuple[str, ...]:
        self.calls.append((unit, properties))
        raise self._failure or PlacementError("systemd made it, and this test has seen enough; try another")

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def leader() -> Iterator[ProcessIdentity]:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        yield procfs.identity_of(process.pid)
        process.stdin.close()


class Login:
    """An environment, and who the leader is."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, leader: ProcessIdentity) -> None:
        self.environment = {
            "XDG_SESSION_ID": "2",
            "XDG_SESSION_TYPE": "x11",
            "XDG_CURRENT_DESKTOP": "i3",
            "XDG_RUNTIME_DIR": str(folder),
        }
        self.manager = Manager()
        self.leader: Leader | None = Leader(leader, "2", is_run_by_units=False)
        monkeypatch.setattr(session_hook, "find_leader", lambda *_: self.leader)
        monkeypatch.setattr(session_hook, "connect", self._connect)

    def _connect(self, uid: int, *, runtime_dir: str | None, session_bus: str | None) -> Manager:
        assert (uid, runtime_dir) == (UID, self.environment["XDG_RUNTIME_DIR"])
        return self.manager

    def above(self) -> Leader | None:
        return session_hook.leader_above(os.getpid(), UID, self.environment)

    def open(self) -> str:
        """Nothing, or why not."""
        try:
            session_hook.open_session(self.above(), UID, self.environment, seconds=20.0)
        except HookError as error:
            return str(error)
        return ""

    def close(self) -> str:
        try:
            session_hook.close_session(self.above(), UID, self.environment, seconds=20.0)
        except HookError as error:
            return str(error)
        return ""


@pytest.fixture
def login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leader: ProcessIdentity) -> Login:
    return Login(tmp_path, monkeypatch, leader)


@pytest.fixture
def daemon(bus: PrivateBus) -> Iterator[FakeDaemon]:
    made = FakeDaemon(bus.address)
    yield made
    made.stop()


def test_the_daemon_is_told(login: Login, daemon: FakeDaemon, leader: ProcessIdentity) -> None:
    assert login.open() == ""
    options = {"id": "2", "desktop": "i3", "type": "x11", "place": True}
    assert daemon.calls == [("RegisterSession", (leader.pid, options))]
    assert login.close() == ""
    assert daemon.calls[1:] == [("Unregister", f"{ROOT}/sessions/_32")]
    assert login.manager.calls == []


def test_what_systemd_runs_is_only_told(login: Login, daemon: FakeDaemon, leader: ProcessIdentity) -> None:
    login.leader = Leader(leader, "2", is_run_by_units=True)
    login.environment |= {"XDG_CURRENT_DESKTOP": "ubuntu:GNOME", "XDG_SESSION_TYPE": "wayland"}
    assert login.open() == ""
    ((_, (_, options)),) = daemon.calls
    assert options == {"id": "2", "desktop": "ubuntu:GNOME", "type": "wayland", "place": False}


def test_without_an_id(login: Login, daemon: FakeDaemon, leader: ProcessIdentity) -> None:
    """Where there is no logind: open and close find the same leader, so the same name."""
    login.leader = Leader(leader, "", is_run_by_units=False)
    assert login.open() == ""
    assert daemon.calls[0][1][1]["id"] == f"leader-{leader.pid}"
    assert login.close() == ""  # Of one that the daemon does not know.
    login.leader = None
    assert login.close() == ""
    assert len(daemon.calls) == 1


def test_a_bus_of_its_own(login: Login, daemon: FakeDaemon, tmp_path: Path) -> None:
    """dbus-launch, as startx has it: the daemon is on the other one."""
    folder = tmp_path / "own"
    folder.mkdir()
    own = PrivateBus(folder)
    own.start()
    login.environment["DBUS_SESSION_BUS_ADDRESS"] = own.address
    assert (login.open(), login.close()) == ("", "")
    assert [method for method, _ in daemon.calls] == ["RegisterSession", "Unregister"]
    own.kill()


@pytest.mark.parametrize("has_bus", [True, False])
@pytest.mark.parametrize("by_units", [True, False])
def test_without_a_daemon(
    login: Login, bus: PrivateBus, leader: ProcessIdentity, has_bus: bool, by_units: bool
) -> None:
    """The service manager is asked for the same scope; with nothing to be moved nobody is asked."""
    if not has_bus:
        bus.kill()
    login.leader = Leader(leader, "2", is_run_by_units=by_units)
    told = login.open()
    if by_units:
        assert (told, login.manager.calls) == ("", [])
        return
    ((unit, properties),) = login.manager.calls
    assert unit == "slicemgr_session-2.scope"
    assert (properties["Slice"], properties["PIDs"]) == ("session.slice", [leader.pid])
    assert told == "systemd made it, and this test has seen enough; try another"
    assert login.manager.is_closed
    assert login.close() == ""


def test_without_glib(login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "slicemgr.bus.control", None)
    assert "seen enough" in login.open()
    assert login.close() == ""


def test_a_daemon_that_refuses_is_the_last_word(login: Login, daemon: FakeDaemon) -> None:
    """It may have reasons: nobody is put anywhere behind its back."""
    daemon.refusal = ("org.slicemgr1.Error.Denied", "it is another's; try your own")
    assert login.open() == "it is another's; try your own"
    daemon.refusal = ("org.freedesktop.DBus.Error.NoReply", "late")
    assert login.open() == "late; try 'slicemgr status'"
    assert login.close() == "late; try 'slicemgr status'"
    daemon.refusal = ("org.slicemgr1.Error.NotFound", "gone")
    assert login.close() == ""
    assert login.manager.calls == []


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (ManagerError("x.Y", "no"), "systemd says: no; try 'systemctl --user status'"),
        (NoManagerError("nobody"), "systemd says: nobody; try 'systemctl --user status'"),
        (OSError(5, "bad disk"), "[Errno 5] bad disk; try it from within the session"),
    ],
)
def test_what_the_manager_says(login: Login, failure: Exception, told: str) -> None:
    login.manager = Manager(failure)
    assert login.open() == told


def test_what_is_no_session(login: Login, leader: ProcessIdentity) -> None:
    login.leader = None
    assert login.open() == "this is no session; try it from within one, as from ~/.xinitrc or XDG autostart"
    # Another process has its number by now.
    login.leader = Leader(ProcessIdentity(leader.pid, 1), "2", False)
    assert login.open() == f"process {leader.pid} is gone; try it from within the session"
    login.leader = Leader(ProcessIdentity(1 << 22, 1), "2", False)
    assert login.open() == f"process {1 << 22} is gone; try it from within the session"
    login.leader = Leader(leader, "x\ny", False)
    assert login.open() == "an id has 1 to 64 printable characters; try $XDG_SESSION_ID"
    assert login.manager.calls == []


def test_pam(daemon: FakeDaemon, bus: PrivateBus, leader: ProcessIdentity, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's daemon is told whose session it is; of a user that nobody knows it is told nothing."""
    monkeypatch.setattr(session_hook, "bus_address", lambda *_: bus.address)
    monkeypatch.setattr(session_hook, "login_program", lambda _: leader)

    def tell(deed: str, user: str = "root") -> None:
        environment = {"XDG_SESSION_ID": "2", "PAM_USER": user}
        login = session_hook.login_above(os.getpid())
        session_hook.tell_the_systems_daemon(deed, login, environment, seconds=20.0)

    tell("open")
    tell("close")
    options = {"id": "2", "desktop": "", "type": "", "place": False, "user": 0}
    assert daemon.calls == [("RegisterSession", (leader.pid, options)), ("Unregister", f"{ROOT}/sessions/_32")]
    with pytest.raises(HookError):
        tell("open", "no such user")

    def gone(pid: int) -> ProcessIdentity:
        raise ProcessGoneError(pid)

    monkeypatch.setattr(session_hook, "login_program", gone)
    with pytest.raises(HookError):
        tell("open")


def test_nothing_stays_open(login: Login, daemon: FakeDaemon) -> None:
    """As soon as GLib's own thread has let go of what it has sent: that may be after the answer."""
    login.open()  # GLib keeps some for itself from then on.
    before = len(os.listdir("/proc/self/fd"))
    login.open()
    login.close()
    Face.until_outside(lambda: len(os.listdir("/proc/self/fd")) <= before)
    assert len(daemon.calls) == 3
