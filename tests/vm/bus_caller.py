# SPDX-License-Identifier: LGPL-2.1-or-later
"""Calls of org.slicemgr1 by whoever runs this, with pidfds: `python3 -m tests.vm.bus_caller JSON`; JSON comes back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.vm.living import as_user

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = "org.slicemgr1"
ROOT = "/org/slicemgr1"


@dataclass(frozen=True, slots=True)
class Asked:
    """A method of an object, and who is named in it by a pidfd (the index of `h` in `arguments`)."""

    member: str
    """`Manager.Reload`; or with another interface's whole name."""
    signature: str = "(a{sv})"
    arguments: tuple[Any, ...] = ({},)
    path: str = ROOT
    pids: tuple[int, ...] = ()
    """0: the caller itself."""
    destination: str = NAME
    kinds: dict[str, str] = field(default_factory=dict)
    """Of the values in a dictionary, by their keys; a string unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Told:
    """What came back."""

    error: str
    """The error's name without `org.slicemgr1.Error.`, or nothing."""
    message: str
    answer: Any


def ask(asked: Asked, uid: int, bus: str = "system") -> Told:
    """By a process of this user's, on the system bus or on the bus at an address."""
    (told,) = ask_all([asked], uid, bus)
    return told


def ask_all(asked: Sequence[Asked], uid: int, bus: str = "system") -> list[Told]:
    """One after the other, by one process: to start one takes 3 s of an emulated machine's."""
    words = json.dumps({"bus": bus, "calls": [asdict(each) for each in asked]})
    command = [sys.executable, "-m", "tests.vm.bus_caller", words]
    whose = as_user(uid)
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=200, **whose)
    assert done.returncode == 0, done.stderr
    return [Told(**told) for told in json.loads(done.stdout)]


def main(words: str) -> int:
    """In the caller's process."""
    from gi.repository import Gio, GLib

    wanted = json.loads(words)
    flags = Gio.DBusConnectionFlags
    address = "unix:path=/run/dbus/system_bus_socket" if wanted["bus"] == "system" else wanted["bus"]
    try:
        bus = Gio.DBusConnection.new_for_address_sync(
            address, flags.AUTHENTICATION_CLIENT | flags.MESSAGE_BUS_CONNECTION, None, None
        )
    except GLib.Error as error:
        nobody = {"error": "not let onto the bus", "message": error.message, "answer": None}
        print(json.dumps([nobody] * len(wanted["calls"])))
        return 0
    print(json.dumps([_called(bus, asked) for asked in wanted["calls"]]))
    return 0


def _called(bus: Any, asked: dict[str, Any]) -> dict[str, Any]:
    from gi.repository import Gio, GLib

    def packed(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: GLib.Variant(asked["kinds"].get(key, "s"), each) for key, each in value.items()}

    interface, _, member = asked["member"].rpartition(".")
    interface = interface if "." in interface else f"{NAME}.{interface}"
    values = [packed(value) for value in asked["arguments"]]
    if asked["signature"].endswith("v)"):
        values[-1] = GLib.Variant("s", values[-1])
    descriptors = Gio.UnixFDList.new()
    for pid in asked["pids"]:
        descriptors.append(os.pidfd_open(pid or os.getpid()))
    try:
        answer, _ = bus.call_with_unix_fd_list_sync(
            asked["destination"], asked["path"], interface, member,
            GLib.Variant(asked["signature"], tuple(values)), None, 0, 60_000, descriptors, None,
        )  # fmt: skip
    except GLib.Error as error:
        name = Gio.DBusError.get_remote_error(error) or "no answer"
        message = error.message.removeprefix(f"GDBus.Error:{name}: ")
        return {"error": name.removeprefix(f"{NAME}.Error."), "message": message, "answer": None}
    return {"error": "", "message": "", "answer": answer.unpack()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
