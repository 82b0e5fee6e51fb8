# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr install`: units, D-Bus and session files and completions in place, and out again."""

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from slicemgr.cli.exit_codes import ExitCode
from slicemgr.cli.install_error import InstallError
from slicemgr.cli.install_places import SERVICE, SESSION_SERVICE, Places
from slicemgr.cli.installed_files import Fate, Record, RecordError
from slicemgr.cli.message_bus import MessageBusError, reload_bus
from slicemgr.cli.own_program import own_program, refuse_what_the_service_cant_start
from slicemgr.cli.parser import OneLineParser
from slicemgr.cli.printable import print_out, printable, say
from slicemgr.cli.systemctl import Systemctl, SystemctlError

_PROG = "slicemgr install"

_DESCRIPTION = """\
Put slicemgr's systemd units, its D-Bus and session files and its completions for bash, zsh and fish into place, and
tell systemd and the bus. Says what it does, file by file, and starts nothing. No file that slicemgr has not written is
ever overwritten or removed."""

_EPILOG = """\
With --user (the default, unless you are root) the files go below ~/.local/share: systemd, D-Bus, bash and fish look
there, and ~/.config stays yours, so that 'systemctl --user edit' and 'mask' work. With --system they go below
/usr/local, but for three that nobody looks for there: bus policy and polkit actions are in /usr/share, the autostart
file is in /etc/xdg. A list of them is kept as installed.json in ~/.local/state/slicemgr or /var/lib/slicemgr.

exit status: 0 if all is as asked for, 125 if not, 2 for a usage error.

example: slicemgr install && systemctl --user enable --now slicemgr"""


def main(arguments: Sequence[str]) -> int:
    """Run the verb; returns the exit status."""
    options = _parser().parse_args(arguments)
    told: list[str] = []
    status, problem = ExitCode(0), ""
    try:
        _carry_out(options, told)
    except InstallError as error:
        status, problem = error.status, str(error)
    except (RecordError, SystemctlError) as error:
        status, problem = ExitCode.OWN_FAILURE, str(error)
    except OSError as error:
        where = f"'{printable(str(error.filename))}'" if error.filename else "a file"
        status = ExitCode.OWN_FAILURE
        problem = f"can't change {where}: {error.strerror}; try 'ls -ld' and 'df' on its folder, then again"
    # Only now: what is done must not depend on whether somebody reads it.
    unread = print_out("".join(f"{line}\n" for line in told), _PROG)
    if problem:
        say(problem, prog=_PROG)
    return status or unread


def _carry_out(options: argparse.Namespace, told: list[str]) -> None:
    """What was done is in `told`, also when this raises: InstallError, RecordError, SystemctlError, OSError."""
    if options.destdir == "":
        raise InstallError("--destdir is empty, as from a variable that is not set; try a folder", ExitCode.USAGE)
    places = _places(options, staging=options.destdir is not None)
    record = _record(places, Path(options.destdir or "/").absolute(), options)
    is_here = options.destdir is None and not options.dry_run
    manager = Systemctl.find(user=places.manager == "user") if is_here else None
    if options.uninstall:
        _uninstall(places, record, manager, told, options)
    else:
        _install(places, record, manager, told, options)


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog=_PROG,
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("--user", action="store_true", help="for your own service manager")
    whose.add_argument("--system", action="store_true", help="for the machine's; needs root")
    parser.add_argument("--uninstall", action="store_true", help="stop the service, remove exactly what was installed")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument("--destdir", metavar="DIR", help="put the files below DIR, and tell nobody")
    return parser


def _places(options: argparse.Namespace, *, staging: bool) -> Places:
    if options.system or (os.geteuid() == 0 and not options.user):
        if os.geteuid() != 0 and not staging and not options.dry_run:
            raise InstallError("--system is for root; try 'sudo slicemgr install --system', or --user", ExitCode.USAGE)
        read_only = not staging and bool(os.statvfs("/usr/share").f_flag & os.ST_RDONLY)
        return Places.of_system(usr_is_read_only=read_only)
    places = Places.of_user(os.environ)
    home = Path(os.environ["HOME"])
    if not staging and home.exists() and home.stat().st_uid != os.geteuid():
        raise InstallError(f"'{printable(str(home))}' is somebody else's home; try it as that user, without sudo")
    return places


def _record(places: Places, root: Path, options: argparse.Namespace) -> Record:
    """Raises RecordError and OSError."""
    path = places.state / "installed.json"
    folder_mode = 0o755 if places.manager == "system" else 0o700
    try:
        return Record.load(path, root, folder_mode)
    except PermissionError as error:
        if not options.dry_run:
            raise
        what = f"can't read '{printable(str(error.filename))}': {error.strerror}"
        if options.uninstall:
            raise InstallError(f"{what}; try it as root") from None
        say(f"{what}, going on without it", prog=_PROG)
        return Record(path, root, folder_mode, is_read=False)


def _install(
    places: Places, record: Record, manager: Systemctl | None, told: list[str], options: argparse.Namespace
) -> None:
    program = own_program(sys.argv[0], sys.executable)
    if places.manager == "system" and options.destdir is None:
        refuse_what_the_service_cant_start(program)
    steps = record.plan(places.files(program))
    for step in steps:
        if step.fate is Fate.FOREIGN:
            path = printable(shlex.quote(str(record.real(step.path))))
            raise InstallError(f"{path} is there, and not slicemgr's; try 'mv {path} {path}.old', then again")
    if not options.dry_run:
        record.install(steps)
    told += record.lines(steps, dry_run=options.dry_run)
    told += places.advice
    _tell_the_bus(places, told, options)
    if manager is not None:
        told.append(manager.tell("daemon-reload"))
        _say_what_hides_ours(places, manager)
    elif options.destdir is None and not options.dry_run:
        told.append(f"no {places.manager} service manager is running here: it will find the units when it starts")
    flag = " --user" if places.manager == "user" else ""
    updated = any(step.fate is Fate.UPDATE and step.path.parent == places.units for step in steps)
    runs = manager is not None and updated and manager.active_state(SERVICE) == "active"
    told.append(f"now try: systemctl{flag} {'restart' if runs else 'enable --now'} slicemgr")


def _uninstall(
    places: Places, record: Record, manager: Systemctl | None, told: list[str], options: argparse.Namespace
) -> None:
    steps = record.plan_removal()
    if not record.files:
        path = printable(str(record.real(record.path)))
        told.append(f"nothing is installed for --{places.manager}, as far as '{path}' knows")
        return
    failure = None
    ours = {step.path for step in steps}
    # Not build.slice: to stop a slice is to end what runs in it.
    services = [each for each in (SERVICE, SESSION_SERVICE) if places.units / each in ours]
    if manager is not None and services:
        try:
            told.append(manager.tell("disable", "--now", *services))
        except SystemctlError as error:
            # Without an answer it may run as well: a service that runs needs its unit, to be stopped by.
            if manager.active_state(SERVICE) not in {"inactive", "failed"}:
                raise InstallError(f"{error.what}, and nothing was removed; try {error.hint}, or --destdir /") from None
            failure = error
    if not options.dry_run:
        record.uninstall(steps)
        for link in map(record.real, places.links):
            if link.is_symlink() and not link.exists():
                link.unlink()
                if link.parent.suffix == ".wants":
                    with contextlib.suppress(OSError):  # Not empty: others are wanted there.
                        link.parent.rmdir()
    told += record.lines(steps, dry_run=options.dry_run)
    _tell_the_bus(places, told, options)
    if manager is not None:
        told.append(manager.tell("daemon-reload"))
    if failure is not None:
        raise failure


def _tell_the_bus(places: Places, told: list[str], options: argparse.Namespace) -> None:
    """All else works without: what it does not read now, it reads when it starts."""
    if options.destdir is None and not options.dry_run:
        try:
            line = reload_bus(os.environ, user=places.manager == "user")
        except MessageBusError as error:
            say(str(error), prog=_PROG)
        else:
            told += [line] if line else []


def _say_what_hides_ours(places: Places, manager: Systemctl) -> None:
    """A file in ~/.config or /etc comes before ours, and the manager may have another XDG_DATA_HOME than we."""
    session = [SESSION_SERVICE] if places.manager == "user" else []
    for unit in (SERVICE, "build.slice", *session):
        file = manager.unit_file(unit)
        if file != str(places.units / unit):
            uses = f"uses '{printable(file)}'" if file else "finds no file"
            say(f"for {unit} systemd {uses}, not ours; try '{manager} cat {unit}'", prog=_PROG)
