# SPDX-License-Identifier: LGPL-2.1-or-later
"""`slicemgr install`: units and completions in place, and out again."""

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import slicemgr
from slicemgr.cli.exit_codes import ExitCode
from slicemgr.cli.installed_files import Fate, Record, RecordError
from slicemgr.cli.parser import OneLineParser
from slicemgr.cli.printable import print_out, printable, say
from slicemgr.cli.systemctl import Systemctl, SystemctlError

_PROG = "slicemgr install"
_SERVICE = "slicemgr.service"
_FROM_THE_NEXT_LOGIN_ON = "for users who are logged in, MemoryLow= and IOWeight= hold in full from the next login on"

_DESCRIPTION = """\
Put slicemgr's systemd units and its completions for bash, zsh and fish into place, and tell systemd. Says what it
does, file by file, and starts nothing. No file that slicemgr has not written is ever overwritten or removed."""

_EPILOG = """\
With --user (the default, unless you are root) the files go below ~/.local/share: systemd, bash and fish look there,
and ~/.config stays yours, so that 'systemctl --user edit' and 'mask' work. With --system they go below /usr/local.
A list of them is kept as installed.json in ~/.local/state/slicemgr or /var/lib/slicemgr.

exit status: 0 if all is as asked for, 125 if not, 2 for a usage error.

example: slicemgr install && systemctl --user enable --now slicemgr"""


class InstallError(Exception):
    """It can't be done; says what to try."""

    def __init__(self, message: str, status: ExitCode = ExitCode.OWN_FAILURE) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Places:
    """Where the files of one manager go."""

    manager: str
    """`user` or `system`, as the folder in units/ and the option of systemctl."""
    units: Path
    data: Path
    wants: Path
    """Where `systemctl enable` leaves its link."""
    state: Path

    @classmethod
    def of_system(cls) -> "Places":
        # Not /etc: that is for `systemctl edit` and `mask`, which a unit file in there would be in the way of.
        local = Path("/usr/local")
        wants = Path("/etc/systemd/system/multi-user.target.wants")
        return cls("system", local / "lib/systemd/system", local / "share", wants, Path("/var/lib/slicemgr"))

    @classmethod
    def of_user(cls, environment: Mapping[str, str]) -> "Places":
        """Raises InstallError where there is no home."""
        home = Path(environment.get("HOME", ""))
        if not home.is_absolute():
            raise InstallError("HOME is not set; try 'HOME=/your/home slicemgr install'")
        data, config, state = (
            _xdg_folder(environment, name, home / default)
            for name, default in (
                ("XDG_DATA_HOME", ".local/share"),
                ("XDG_CONFIG_HOME", ".config"),
                ("XDG_STATE_HOME", ".local/state"),
            )
        )
        return cls(
            "user", data / "systemd/user", data, config / "systemd/user/default.target.wants", state / "slicemgr"
        )

    def completions(self) -> dict[str, Path]:
        """By the name in slicemgr/completions/."""
        return {
            "slicemgr.bash": self.data / "bash-completion/completions/slicemgr",
            "_slicemgr": self.data / "zsh/site-functions/_slicemgr",
            "slicemgr.fish": self.data / "fish/vendor_completions.d/slicemgr.fish",
        }


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
    manager = None
    if options.destdir is None and not options.dry_run:
        manager = Systemctl.find(user=places.manager == "user")
    if options.uninstall:
        _uninstall(places, record, manager, told, dry_run=options.dry_run)
    else:
        _install(places, record, manager, told, options)


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        prog=_PROG,
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("--user", action="store_true", help="for your own service manager")
    whose.add_argument("--system", action="store_true", help="for the machine's; needs root")
    parser.add_argument("--uninstall", action="store_true", help="stop the service, remove exactly what was installed")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    parser.add_argument("--destdir", metavar="DIR", help="put the files below DIR, and tell systemd nothing")
    return parser


def _places(options: argparse.Namespace, *, staging: bool) -> Places:
    if options.system or (os.geteuid() == 0 and not options.user):
        if os.geteuid() != 0 and not staging and not options.dry_run:
            raise InstallError("--system is for root; try 'sudo slicemgr install --system', or --user", ExitCode.USAGE)
        return Places.of_system()
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
    program = _program(sys.argv[0], sys.executable)
    if places.manager == "system" and options.destdir is None:
        _refuse_what_the_service_cant_start(program)
    steps = record.plan(_wanted(places, _exec_start(program)))
    for step in steps:
        if step.fate is Fate.FOREIGN:
            path = printable(shlex.quote(str(record.real(step.path))))
            raise InstallError(f"{path} is there, and not slicemgr's; try 'mv {path} {path}.old', then again")
    if not options.dry_run:
        record.install(steps)
    told += record.lines(steps, dry_run=options.dry_run)
    folder = printable(shlex.quote(str(places.data / "zsh/site-functions")))
    zsh = f"for zsh, put 'fpath+=({folder})' into ~/.zshrc, before compinit"
    told.append(zsh if places.manager == "user" else _FROM_THE_NEXT_LOGIN_ON)
    if manager is not None:
        told.append(manager.tell("daemon-reload"))
        _say_what_hides_ours(places, manager)
    elif options.destdir is None and not options.dry_run:
        told.append(f"no {places.manager} service manager is running here: it will find the units when it starts")
    flag = " --user" if places.manager == "user" else ""
    updated = any(step.fate is Fate.UPDATE and step.path.parent == places.units for step in steps)
    runs = manager is not None and updated and manager.active_state(_SERVICE) == "active"
    told.append(f"now try: systemctl{flag} {'restart' if runs else 'enable --now'} slicemgr")


def _uninstall(places: Places, record: Record, manager: Systemctl | None, told: list[str], *, dry_run: bool) -> None:
    steps = record.plan_removal()
    if not record.files:
        path = printable(str(record.real(record.path)))
        told.append(f"nothing is installed for --{places.manager}, as far as '{path}' knows")
        return
    failure = None
    if manager is not None and any(step.path == places.units / _SERVICE for step in steps):
        # Not build.slice: to stop a slice is to end what runs in it.
        try:
            told.append(manager.tell("disable", "--now", _SERVICE))
        except SystemctlError as error:
            # Without an answer it may run as well: a service that runs needs its unit, to be stopped by.
            if manager.active_state(_SERVICE) not in {"inactive", "failed"}:
                raise InstallError(f"{error.what}, and nothing was removed; try {error.hint}, or --destdir /") from None
            failure = error
    if not dry_run:
        record.uninstall(steps)
        link = record.real(places.wants / _SERVICE)
        if link.is_symlink() and not link.exists():
            link.unlink()
    told += record.lines(steps, dry_run=dry_run)
    if manager is not None:
        told.append(manager.tell("daemon-reload"))
    if failure is not None:
        raise failure


def _say_what_hides_ours(places: Places, manager: Systemctl) -> None:
    """A file in ~/.config or /etc comes before ours, and the manager may have another XDG_DATA_HOME than we."""
    for unit in (_SERVICE, "build.slice"):
        file = manager.unit_file(unit)
        if file != str(places.units / unit):
            uses = f"uses '{printable(file)}'" if file else "finds no file"
            say(f"for {unit} systemd {uses}, not ours; try '{manager} cat {unit}'", prog=_PROG)


def _wanted(places: Places, exec_start: str) -> dict[Path, bytes]:
    """Every file, by where it goes."""
    package = Path(slicemgr.__file__).parent
    # In a wheel units/ is within the package, in a checkout beside it.
    units = next((each for each in (package / "units", package.parent / "units") if each.is_dir()), None)
    if units is None:
        raise InstallError(f"'{package}/units' is missing; try installing slicemgr again")
    source = units / places.manager
    wanted = {}
    for file in sorted(each for each in source.rglob("*") if each.is_file()):
        content = file.read_bytes().replace(b"@SLICEMGR@", exec_start.encode())
        wanted[places.units / file.relative_to(source)] = content
    for name, path in places.completions().items():
        wanted[path] = (package / "completions" / name).read_bytes()
    return wanted


def _program(argv0: str, python: str) -> list[str]:
    """How this very slicemgr is started from anywhere. Raises InstallError if it is not."""
    script = Path(argv0).absolute()
    if script.name == "slicemgr" and os.access(script, os.X_OK):
        program = [str(script)]
    else:
        # -P: the service's working directory is a home, and there may be a folder `slicemgr` in it.
        program = [python, "-P", "-m", "slicemgr"]
    environment = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}
    done = subprocess.run(  # noqa: S603  (ourselves)
        [*program, "--version"], check=False, cwd="/", env=environment, capture_output=True, text=True
    )
    if done.stdout != f"slicemgr {slicemgr.__version__}\n":
        raise InstallError(
            f"'{printable(shlex.join(program))}' does not start outside of this folder; try 'pip install'"
        )
    return program


def _exec_start(program: Sequence[str]) -> str:
    """As systemd.service(5) reads a command line."""
    for word in program:
        if not word.isprintable() or set(word) & set("\"'\\$"):
            raise InstallError(
                f"a unit file can't hold the path '{printable(word)}'; try installing slicemgr elsewhere"
            )
    return " ".join(f'"{word}"' if " " in word else word for word in (each.replace("%", "%%") for each in program))


def _refuse_what_the_service_cant_start(program: Sequence[str]) -> None:
    """Raises InstallError: hidden by the unit's sandbox, or another user's, who would be root through it."""
    files = [Path(program[0]), Path(program[0]).resolve(), Path(sys.executable).resolve(), Path(slicemgr.__file__)]
    for file in files:
        if any(file.is_relative_to(hidden) for hidden in ("/home", "/root", "/run/user", "/tmp", "/var/tmp")):  # noqa: S108
            raise InstallError(f"'{file}' is where a system service can't see it; try a venv in /opt")
        for part in (file, *file.parents):
            owner = part.stat()
            if owner.st_uid != 0 or (owner.st_mode & 0o1002) == 0o0002:
                raise InstallError(f"'{part}' is not only root's, and the service runs as root; try a venv in /opt")


def _xdg_folder(environment: Mapping[str, str], name: str, default: Path) -> Path:
    """A relative path is to be ignored, says the XDG Base Directory Specification."""
    folder = Path(environment.get(name, ""))
    return folder if folder.is_absolute() else default
