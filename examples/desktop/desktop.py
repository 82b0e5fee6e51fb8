#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a desktop does with slicemgr, over D-Bus, to copy from. It needs PyGObject (python3-gi), nothing of slicemgr.

    desktop.py [--system] watch    slices and jobs that come and go; warnings, kills, pauses, memory pressure
    desktop.py play COMMAND...     run a game or a presentation; builds get the least share of the CPU meanwhile
    desktop.py launch COMMAND...   become COMMAND, in a scope of its own in app.slice

A desktop lives without slicemgr as well: watch waits for a daemon, play and launch say that there is none, and go on.
docs/dbus.md tells the conversation step by step, slicemgr/bus/org.slicemgr1.xml is the manual.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

try:
    from gi.repository import Gio, GLib
except ImportError:
    sys.exit("desktop.py: no PyGObject here; try 'sudo apt install python3-gi'")

NAME = "org.slicemgr1"
PATH = "/org/slicemgr1"
MANAGER, SLICE, JOB = f"{NAME}.Manager", f"{NAME}.Slice", f"{NAME}.Job"
NO_LIMIT = 2**64 - 1
PATIENCE_MS = 5000
"""For an answer: a launcher never waits for long for something that it can do without."""
NO_DAEMON = ("ServiceUnknown", "NameHasNoOwner", "Spawn.ServiceNotFound")
"""Errors of the bus: nobody has the name, or a person has not enabled the daemon that the bus could start."""


ENABLE = "systemctl --user enable --now slicemgr"


class DesktopError(Exception):
    """One line for people; it ends in what to try."""


# -- The bus.


def connect(*, system: bool = False) -> Any:
    """The user's daemon is on the session bus, the machine's on the system bus. Raises DesktopError."""
    word = "system" if system else "session"
    try:
        bus = Gio.bus_get_sync(Gio.BusType.SYSTEM if system else Gio.BusType.SESSION, None)
    except GLib.Error as error:
        hint = "'systemctl status dbus'" if system else "from within a desktop session, or 'dbus-run-session -- bash'"
        raise DesktopError(f"no {word} bus ({error.message}); try {hint}") from None
    bus.set_exit_on_close(False)  # By default GLib ends the program when the bus goes.
    restore_signals()
    return bus


def restore_signals() -> None:
    """As a C program has them, for what we start, and for `desktop.py watch | head`: Python and GLib ignore these."""
    for each in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(each, signal.SIG_DFL)


def reason_of(error: Any) -> str:
    """Of a call that failed, for people. slicemgr's own errors end in what to try already."""
    name = Gio.DBusError.get_remote_error(error) or ""
    if name.removeprefix("org.freedesktop.DBus.Error.") in NO_DAEMON:
        return f"no slicemgr daemon; try '{ENABLE}'"
    text = error.message.removeprefix(f"GDBus.Error:{name}: ")
    return text if name.startswith("org.slicemgr1.Error.") else f"{text}; try 'systemctl --user status slicemgr'"


def warn(text: str) -> None:
    print(f"desktop.py: {text}", file=sys.stderr, flush=True)


# -- Watching: what a desktop shows of slices, jobs, and what is done to them.


class Watcher:
    """GDBusObjectManagerClient has the slices and jobs with their properties up to date, through restarts too."""

    def __init__(self, bus: Any) -> None:
        self.loop = GLib.MainLoop()
        self.is_lost = False
        self.owner: str | None = ""
        bus.connect("closed", self.bus_closed)
        bus.signal_subscribe(NAME, MANAGER, None, PATH, None, Gio.DBusSignalFlags.NONE, self.told)
        # Who looks starts no daemon.
        flags = Gio.DBusObjectManagerClientFlags.DO_NOT_AUTO_START
        self.objects = Gio.DBusObjectManagerClient.new_sync(bus, flags, NAME, PATH, None, None, None)
        self.objects.connect("object-added", lambda _, added: self.added(added))
        self.objects.connect("object-removed", lambda _, removed: self.removed(removed))
        self.objects.connect("notify::name-owner", lambda *_: self.daemon_changed())
        self.daemon_changed()
        for each in sorted(self.objects.get_objects(), key=lambda known: known.get_object_path()):
            self.added(each)

    def daemon_changed(self) -> None:
        """NameOwnerChanged: a restarted daemon has forgotten our holds, and tells its objects anew."""
        owner = self.objects.get_name_owner()
        if owner == self.owner:  # GLib says so twice.
            return
        self.owner = owner
        show("daemon", "is there" if owner else f"is not there, waiting for it; try '{ENABLE}'")

    def added(self, added: Any) -> None:
        if proxy := added.get_interface(SLICE):
            show("slice", f"{value(proxy, 'Unit')}, at most {size(value(proxy, 'MemoryMax'))}")
        elif proxy := added.get_interface(JOB):
            command = " ".join(value(proxy, "CommandLine"))
            show("job", f"{value(proxy, 'Name')}, at most {size(value(proxy, 'MemoryMax'))}: {command}")

    def removed(self, removed: Any) -> None:
        proxy = removed.get_interface(JOB)
        if proxy and self.objects.get_name_owner():  # Else it is the daemon that has gone.
            show("job", f"{value(proxy, 'Name')} has ended")

    def told(self, _bus: Any, _sender: str, _path: str, _interface: str, name: str, arguments: Any) -> None:
        """A signal of the manager's. There may be more of them tomorrow."""
        about, *rest = arguments.unpack()
        match name, rest:
            case "Warning", [details]:
                used, high = size(details["memory-current"]), size(details["memory-high"])
                show("warning", f"{self.name_of(about)} has {used}, above {high}: it is slowed down, next is a kill")
            case "ProcessKilled", [details]:
                show("killed", f"in {self.name_of(about)}: {victims(details)}")
            case "NobodyToEnd", _:
                show("stuck", f"{self.name_of(about)} is out of memory, and nobody in it can be ended")
            case "PressureLevelChanged", [level]:
                show("pressure", f"{self.name_of(about)}: {level}")
            case (("JobPaused" | "JobResumed"), _):
                show(name.removeprefix("Job").lower(), self.name_of(about))

    def name_of(self, path: str) -> str:
        """What a person calls it: `make` or `build.slice`."""
        if job := self.objects.get_interface(path, JOB):
            return str(value(job, "Name"))
        if around := self.objects.get_interface(path, SLICE):
            return str(value(around, "Unit"))
        return "what has ended since"

    def bus_closed(self, *_: Any) -> None:
        self.is_lost = True
        self.loop.quit()


def value(proxy: Any, name: str) -> Any:
    """A property as it was told last. MemoryCurrent and others that change all the time are not: Get them."""
    return proxy.get_cached_property(name).unpack()


def victims(details: dict[str, Any]) -> str:
    """Who was ended, why, and who would be next."""
    if details["by"] == "kernel":
        names = ", ".join(f"'{each['name']}' (pid {each['pid']})" for each in details["victims"])
        return f"{names or 'somebody'}, by the kernel"
    line = f"'{details['name']}' (pid {details['pid']}), which held {size(details['held'])}; {details['evidence']}"
    if details["runners-up"]:
        line += f"; next would be '{details['runners-up'][0]['name']}' (pid {details['runners-up'][0]['pid']})"
    return line


def size(amount: int) -> str:
    return "what there is" if amount == NO_LIMIT else f"{amount / (1 << 20):.0f} MiB"


def show(what: str, line: str) -> None:
    """Names of processes are anybody's words, terminal escapes too."""
    safe = "".join(letter if letter.isprintable() else "?" for letter in line)
    print(f"{what:<9}{safe}", flush=True)


def watch(*, system: bool) -> int:
    watcher = Watcher(connect(system=system))
    if not watcher.is_lost:
        watcher.loop.run()
    raise DesktopError("the bus is gone; try again when it is back")


# -- Playing: builds stand back for as long as something runs.


class Hold:
    """`builds-yield`, taken again from each daemon that comes. It ends with Release, or when we leave the bus."""

    def __init__(self, bus: Any, reason: str, application_id: str) -> None:
        self.bus = bus
        self.arguments = GLib.Variant("(sssa{sv})", ("builds-yield", reason, application_id, {}))
        self.cookie: int | None = None
        self.watch = Gio.bus_watch_name_on_connection(
            bus, NAME, Gio.BusNameWatcherFlags.NONE, self.appeared, self.vanished
        )

    def call(self, method: str, arguments: Any, done: Any = None) -> None:
        flags = Gio.DBusCallFlags.NO_AUTO_START
        self.bus.call(NAME, PATH, MANAGER, method, arguments, None, flags, PATIENCE_MS, None, done)

    def appeared(self, *_: Any) -> None:
        self.call("Hold", self.arguments, self.held)

    def held(self, bus: Any, result: Any) -> None:
        try:
            (self.cookie,) = bus.call_finish(result).unpack()
        except GLib.Error as error:
            warn(f"builds do not yield: {reason_of(error)}")

    def vanished(self, *_: Any) -> None:
        if self.cookie is None:
            warn(f"builds do not yield: no slicemgr daemon; try '{ENABLE}'")
        self.cookie = None

    def release(self) -> None:
        """For who stays on the bus; who leaves it need not."""
        Gio.bus_unwatch_name(self.watch)
        if self.cookie is not None:
            self.call("Release", GLib.Variant("(u)", (self.cookie,)))
            self.bus.flush_sync(None)


def play(command: list[str]) -> int:
    loop = GLib.MainLoop()
    try:
        game = Gio.Subprocess.new(command, Gio.SubprocessFlags.STDIN_INHERIT)
    except GLib.Error as error:
        warn(f"{error.message}; try 'command -v {command[0]}'")
        return 127
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C is for the game; it says when it has ended.
    signal.signal(signal.SIGTERM, lambda *_: game.send_signal(signal.SIGTERM))
    game.wait_async(None, lambda *_: loop.quit())
    hold = None
    try:
        hold = Hold(connect(), f"{os.path.basename(command[0])[:100]} is running", "org.slicemgr1.ExampleDesktop")
    except DesktopError as error:
        warn(f"builds do not yield: {error}")
    loop.run()
    if hold is not None:
        hold.release()
    return int(game.get_exit_status() if game.get_if_exited() else 128 + game.get_term_sig())


# -- Launching: an app in a scope of its own, so that a browser's leak is not the shell's.


def place_ourselves(name: str) -> None:
    """Before the exec: what is charged already stays charged to where we came from. Raises DesktopError."""
    pidfds = Gio.UnixFDList.new()
    pidfd = os.pidfd_open(os.getpid())
    options = {"name": GLib.Variant("s", name), "tree": GLib.Variant("b", False)}
    arguments = GLib.Variant("(hsa{sv})", (pidfds.append(pidfd), "app.slice", options))
    try:
        connect().call_with_unix_fd_list_sync(
            NAME, PATH, MANAGER, "PlaceProcess", arguments, None,
            Gio.DBusCallFlags.NO_AUTO_START, PATIENCE_MS, pidfds, None,
        )  # fmt: skip
    except GLib.Error as error:
        raise DesktopError(reason_of(error)) from None
    finally:
        os.close(pidfd)


def launch(command: list[str]) -> int:
    try:
        place_ourselves(os.path.basename(command[0])[:100])
    except DesktopError as error:
        warn(f"'{command[0]}' is started where this was: {error}")
    try:
        os.execvp(command[0], command)  # GLib's threads end here, and its descriptors are closed.
    except OSError as error:
        warn(f"can't start '{command[0]}': {error.strerror}; try 'command -v {command[0]}'")
        return 127 if isinstance(error, FileNotFoundError) else 126


def main(words: list[str]) -> int:
    restore_signals()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        match words:
            case ["-h" | "--help"]:
                print(__doc__.strip())
                return 0
            case ["watch"]:
                return watch(system=False)
            case ["--system", "watch"]:
                return watch(system=True)
            case ["play", _, *_]:
                return play(words[1:])
            case ["launch", _, *_]:
                return launch(words[1:])
            case _:
                warn("that can't be meant; try 'desktop.py watch', 'desktop.py play COMMAND' or 'desktop.py --help'")
                return 2
    except DesktopError as error:
        warn(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
