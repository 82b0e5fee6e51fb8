# SPDX-License-Identifier: LGPL-2.1-or-later
"""units/bus/org.slicemgr1.conf as a real dbus-daemon reads it: who may call what on the system bus."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from slicemgr.bus.objects import BUS_NAME, MANAGER
from slicemgr.placement.bus_connection import BUS_NAME as BUS
from slicemgr.placement.bus_connection import BUS_PATH

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).parents[2]
NOBODY = 65534

# What Debian's /usr/share/dbus-1/system.conf says, as far as it matters here. Our name's owner is who runs the test.
CONFIG = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>{address}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>
  </policy>
  <includedir>{policies}</includedir>
  <policy user="{uid}">
    <allow own="org.slicemgr1"/>
  </policy>
</busconfig>
"""

ASK = """
import json, os, sys
from slicemgr.placement.bus_connection import Connection, ManagerError
if os.geteuid() == 0 and len(sys.argv) > 3:
    os.setuid(int(sys.argv[3]))
connection = Connection("\\0" + sys.argv[1], is_bus=True, seconds=10)
said = []
for destination, interface, member in json.loads(sys.argv[2]):
    try:
        connection.call(destination, "/org/slicemgr1", interface, member, seconds=10)
        said.append("")
    except ManagerError as error:
        said.append(error.name)
print(json.dumps(said))
"""

# Owns the name; GLib answers every call itself, that there is no such object.
OWN = """
import sys
from gi.repository import Gio, GLib
flags = Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION
bus = Gio.DBusConnection.new_for_address_sync(sys.argv[1], flags, None, None)
Gio.bus_own_name_on_connection(bus, "org.slicemgr1", 0, lambda *_: print(bus.get_unique_name(), flush=True), None)
GLib.MainLoop().run()
"""


@pytest.fixture
def system_bus(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A bus with our policy: its abstract name (pytest's folders are closed to others), and the owner of our name."""
    name = f"slicemgr-test-{secrets.token_hex(8)}"
    address = f"unix:abstract={name}"
    config = tmp_path / "bus.conf"
    config.write_text(CONFIG.format(address=address, policies=CHECKOUT / "units/bus", uid=os.getuid()))
    bus = ["dbus-daemon", f"--config-file={config}", "--nofork", "--print-address"]
    with started(bus) as listens, started([sys.executable, "-c", OWN, address]) as owns:
        assert listens.startswith("unix:abstract=")
        assert owns.startswith(":")
        yield name, owns


@contextlib.contextmanager
def started(command: list[str]) -> Iterator[str]:
    """Its first line, which it prints when it is ready."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def ask(bus: str, *calls: tuple[str, str, str], uid: int = NOBODY) -> list[str]:
    """The error that each call ends in. Where root runs the test, as nobody."""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-c", ASK, bus, json.dumps(calls), str(uid)]
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said: list[str] = json.loads(done.stdout)
    return said


DENIED = "org.freedesktop.DBus.Error.AccessDenied"
NO_SUCH_OBJECT = "org.freedesktop.DBus.Error.UnknownMethod"


def test_who_may_call_what(system_bus: tuple[str, str]) -> None:
    """An ordinary user calls what is listed, by our name or by our connection's, and nothing else."""
    bus, owner = system_bus
    calls = {
        (MANAGER, "ListSlices"): True,
        (MANAGER, "SetLimits"): True,
        ("org.slicemgr1.Job", "Stop"): True,
        ("org.slicemgr1.Session", "Protect"): True,
        ("org.freedesktop.DBus.Properties", "Get"): True,
        ("org.freedesktop.DBus.ObjectManager", "GetManagedObjects"): True,
        (MANAGER, "NoSuchMethod"): False,
        ("org.slicemgr1.Slice", "Stop"): False,
        ("org.freedesktop.DBus.Properties", "Set"): False,
        ("org.freedesktop.LogControl1", "NoSuchMethod"): False,
        ("org.example", "ListSlices"): False,
    }
    for destination in (BUS_NAME, owner):
        said = ask(bus, *((destination, interface, member) for interface, member in calls))
        assert {call: error for call, error in zip(calls, said, strict=True) if (error != DENIED) != calls[call]} == {}
        assert {DENIED, NO_SUCH_OBJECT} == set(said)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be root; try sudo")
def test_root_may_all(system_bus: tuple[str, str]) -> None:
    """What is not listed as well: `systemctl service-log-level slicemgr debug`."""
    said = ask(system_bus[0], (BUS_NAME, "org.freedesktop.DBus.Properties", "Set"), (BUS_NAME, MANAGER, "New"), uid=0)
    assert said == [NO_SUCH_OBJECT, NO_SUCH_OBJECT]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user; try sudo")
def test_nobody_takes_the_name(system_bus: tuple[str, str]) -> None:
    """Nor queues for it."""
    script = f"""
import os, sys
sys.path.insert(0, {str(CHECKOUT)!r})
from slicemgr.placement.bus_connection import Connection, ManagerError
os.setuid({NOBODY})
connection = Connection("\\0{system_bus[0]}", is_bus=True, seconds=10)
try:
    print(connection.call({BUS!r}, {BUS_PATH!r}, {BUS!r}, "RequestName", "su", ({BUS_NAME!r}, 0)))
except ManagerError as error:
    print(error.name)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == DENIED, done.stderr
