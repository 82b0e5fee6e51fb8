# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which files `slicemgr install` puts into place, where each goes, and why there."""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import slicemgr
from slicemgr.cli.install_error import InstallError
from slicemgr.cli.own_program import command_line
from slicemgr.cli.printable import printable

SERVICE: Final = "slicemgr.service"
SESSION_SERVICE: Final = "slicemgr-session.service"
_BUS_ALIAS: Final = "dbus-org.slicemgr1.service"
"""What the bus asks systemd for. It is there while the service is enabled: the bus does not start it before."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where the files of one manager go."""

    manager: str
    """`user` or `system`, as the folder in units/ and the option of systemctl."""
    units: Path
    data: Path
    state: Path
    links: tuple[Path, ...]
    """Where `systemctl enable` leaves its own."""
    others: Mapping[str, Path]
    """Where what is neither a unit of the manager nor a completion goes, by its path in the package or beside it."""
    advice: tuple[str, ...]
    """What is left to a person."""

    @classmethod
    def of_system(cls, *, usr_is_read_only: bool = False) -> "Places":
        # Not /etc: that is for `systemctl edit` and `mask`, which a unit file in there would be in the way of.
        local = Path("/usr/local")
        data, etc = local / "share", Path("/etc")
        # For bus policies and polkit actions no bus and no polkit looks below /usr/local (but polkit 127: Debian 12 has
        # 122), and dbus-daemon(1) keeps /etc for the administrator, whose file is read after ours and wins. Where /usr
        # can't be written (image-based systems) it is /etc nevertheless: both buses read it, and polkit 127.
        vendor = etc if usr_is_read_only else Path("/usr/share")
        system, user = etc / "systemd/system", etc / "systemd/user"
        return cls(
            "system",
            local / "lib/systemd/system",
            data,
            Path("/var/lib/slicemgr"),
            (system / "multi-user.target.wants" / SERVICE, system / _BUS_ALIAS, *_session_links(user)),
            {
                "units/bus/org.slicemgr1.conf": vendor / "dbus-1/system.d/org.slicemgr1.conf",
                "units/bus/org.slicemgr1.policy": vendor / "polkit-1/actions/org.slicemgr1.policy",
                # The first folder of dbus-daemon's and dbus-broker's standard ones. Named as the bus name, or refused.
                "units/bus/org.slicemgr1.system.service": data / "dbus-1/system-services/org.slicemgr1.service",
                # The hook of everybody's sessions: this unit where systemd starts them, the other where not. No
                # desktop looks for autostart files below /usr/local.
                f"units/user/{SESSION_SERVICE}": local / "lib/systemd/user" / SESSION_SERVICE,
                "units/xdg/slicemgr-session.desktop": etc / "xdg/autostart/slicemgr-session.desktop",
                # Nobody reads it there: what PAM runs at a login is the administrator's decision, and line to write.
                "units/pam/slicemgr-session.sh": data / "slicemgr/slicemgr-session.sh",
            },
            (
                "for users who are logged in, MemoryLow= and IOWeight= hold in full from the next login on",
                f"for all users' graphical sessions, try: systemctl --global enable {SESSION_SERVICE}",
            ),
        )

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
        # A person's own autostart files are only looked for in ~/.config/autostart, which is theirs.
        hook = data / "slicemgr/slicemgr-session.desktop"
        wants = config / "systemd/user"
        return cls(
            "user",
            data / "systemd/user",
            data,
            state / "slicemgr",
            (wants / "default.target.wants" / SERVICE, wants / _BUS_ALIAS, *_session_links(wants)),
            {
                "units/bus/org.slicemgr1.user.service": data / "dbus-1/services/org.slicemgr1.service",
                "units/xdg/slicemgr-session.desktop": hook,
            },
            (
                f"for zsh, put 'fpath+=({_quoted(data / 'zsh/site-functions')})' into ~/.zshrc, before compinit",
                f"for a desktop that systemd does not start, link {_quoted(hook)} into {_quoted(config / 'autostart')}",
            ),
        )

    def files(self, program: Sequence[str]) -> dict[Path, bytes]:
        """Every file, by where it goes, with the command line of slicemgr in it. Raises InstallError."""
        package = Path(slicemgr.__file__).parent
        # In a wheel units/ is within the package, in a checkout beside it.
        beside = next((each for each in (package, package.parent) if (each / "units").is_dir()), None)
        if beside is None:
            raise InstallError(f"'{package}/units' is missing; try installing slicemgr again")
        source = beside / "units" / self.manager
        units = sorted(each for each in source.rglob("*") if each.is_file())
        wanted = {self.units / file.relative_to(source): _filled_in(file, program) for file in units}
        for name, path in self.others.items():
            wanted[path] = _filled_in(beside / name, program)
        for name, path in self._of_the_package().items():
            wanted[path] = (package / name).read_bytes()
        return wanted

    def _of_the_package(self) -> dict[str, Path]:
        return {
            "bus/org.slicemgr1.xml": self.data / "dbus-1/interfaces/org.slicemgr1.xml",
            "completions/slicemgr.bash": self.data / "bash-completion/completions/slicemgr",
            "completions/_slicemgr": self.data / "zsh/site-functions/_slicemgr",
            "completions/slicemgr.fish": self.data / "fish/vendor_completions.d/slicemgr.fish",
        }


def _session_links(units: Path) -> tuple[Path, ...]:
    targets = ("graphical-session-pre.target", "graphical-session.target")
    return tuple(units / f"{target}.wants" / SESSION_SERVICE for target in targets)


def _filled_in(file: Path, program: Sequence[str]) -> bytes:
    line = shlex.join(program) if file.suffix == ".sh" else command_line(program)
    return file.read_bytes().replace(b"@SLICEMGR@", os.fsencode(line))


def _quoted(path: Path) -> str:
    return printable(shlex.quote(str(path)))


def _xdg_folder(environment: Mapping[str, str], name: str, default: Path) -> Path:
    """A relative path is to be ignored, says the XDG Base Directory Specification."""
    folder = Path(environment.get(name, ""))
    return folder if folder.is_absolute() else default
