# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is in units/ for the bus, polkit and logins, held against the interface and the code that they are for."""

from __future__ import annotations

import configparser
import re
from pathlib import Path, PurePath
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from slicemgr.bus.authority import Action
from slicemgr.bus.objects import BUS_NAME
from slicemgr.cli.install_places import SERVICE, SESSION_SERVICE, Places

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "units"
MANAGERS = ("user", "system")

# What everybody may ask of any object, and (interface, None): all of it.
STANDARD = {
    ("org.freedesktop.DBus.Introspectable", None),
    ("org.freedesktop.DBus.Peer", None),
    ("org.freedesktop.DBus.ObjectManager", None),
    ("org.freedesktop.DBus.Properties", "Get"),
    ("org.freedesktop.DBus.Properties", "GetAll"),
}

# Methods of the interface that only root may call: a new one that is to be so goes here, with the reason.
ROOT_ALONE: set[tuple[str, str]] = set()


def parsed(path: Path) -> ET.Element:
    return ET.fromstring(path.read_text(encoding="utf-8"))  # noqa: S314 - our own


def policies() -> dict[str, list[tuple[str, dict[str, str]]]]:
    """The rules of the bus policy in their order, as (allow or deny, attributes), by whom they are for."""
    rules: dict[str, list[tuple[str, dict[str, str]]]] = {}
    for policy in parsed(UNITS / "bus/org.slicemgr1.conf"):
        assert policy.tag == "policy"
        ((kind, whom),) = policy.attrib.items()
        rules.setdefault(f"{kind} {whom}", []).extend((rule.tag, dict(rule.attrib)) for rule in policy)
    return rules


def methods() -> set[tuple[str, str]]:
    interfaces = parsed(ROOT / "slicemgr/bus/org.slicemgr1.xml").iter("interface")
    return {(each.attrib["name"], method.attrib["name"]) for each in interfaces for method in each.iter("method")}


def ini(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(path.read_text(encoding="utf-8"))
    return parser


def settings(unit: Path, name: str) -> list[str]:
    """All values of a setting that may stand more than once, and hold several words."""
    return [word for line in re.findall(rf"^{name}=(.*)$", unit.read_text(), re.MULTILINE) for word in line.split()]


def test_what_everybody_may_send() -> None:
    """Every method of the interface is listed by its name, and nothing else is."""
    allowed = set()
    for verdict, rule in policies()["context default"]:
        if verdict == "allow" and "send_destination" in rule:
            assert set(rule) <= {"send_destination", "send_interface", "send_member"}, rule
            assert rule["send_destination"] == BUS_NAME
            allowed.add((rule["send_interface"], rule.get("send_member")))
    assert allowed == STANDARD | (methods() - ROOT_ALONE)


def test_what_is_not_listed_is_denied() -> None:
    """The denials come first, because the last rule that fits wins; and there are no others."""
    rules = policies()["context default"]
    assert rules[:2] == [("deny", {"own": BUS_NAME}), ("deny", {"send_destination": BUS_NAME})]
    assert {verdict for verdict, _ in rules[2:]} == {"allow"}
    assert not [rule for _, rule in rules[2:] if "own" in rule or "user" in rule or "group" in rule]


def test_root_owns_the_name() -> None:
    """And nobody else is named."""
    assert set(policies()) == {"context default", "user root"}
    assert policies()["user root"] == [("allow", {"own": BUS_NAME}), ("allow", {"send_destination": BUS_NAME})]


def test_polkit_knows_the_actions_that_are_asked_for() -> None:
    """And no other; who is told no, is told why in a sentence."""
    actions = {action.attrib["id"]: action for action in parsed(UNITS / "bus/org.slicemgr1.policy").iter("action")}
    assert set(actions) == {each.value for each in Action}
    for action in actions.values():
        assert action.findtext("description")
        assert (action.findtext("message") or "").startswith("Authentication is required to ")


def test_what_polkit_grants_unasked() -> None:
    """To manage one's own jobs, at the machine; everything else has to be authenticated."""
    granted = {
        (action.attrib["id"], who.tag): who.text or ""
        for action in parsed(UNITS / "bus/org.slicemgr1.policy").iter("action")
        for who in action.findall("defaults/*")
    }
    assert len(granted) == 3 * len(Action)
    assert [key for key, value in granted.items() if value == "yes"] == [(Action.MANAGE_OWN_JOBS.value, "allow_active")]
    for (action, _), value in granted.items():
        assert value == "yes" or value.startswith(
            "auth_self" if action == Action.MANAGE_OWN_JOBS.value else "auth_admin"
        )


@pytest.mark.parametrize("manager", MANAGERS)
def test_activation(manager: str) -> None:
    """The bus name, and a unit that there is only while the service is enabled."""
    file = UNITS / f"bus/org.slicemgr1.{manager}.service"
    service = ini(file)["D-BUS Service"]
    assert service["Name"] == BUS_NAME
    assert service["Exec"] == "/bin/false"
    assert service.get("User") == ("root" if manager == "system" else None)
    unit = UNITS / manager / SERVICE
    assert settings(unit, "Alias") == [service["SystemdService"]]
    assert not (UNITS / manager / service["SystemdService"]).exists()
    # It is ready when it guards, not when it has its name.
    assert settings(unit, "Type") == ["notify"]
    assert settings(unit, "BusName") == []


@pytest.mark.parametrize("manager", MANAGERS)
def test_the_bus_finds_the_file_by_its_name(manager: str) -> None:
    """dbus-daemon(1): on the system bus it must be the bus name; policies end in .conf, polkit's in .policy."""
    names = {path.name for path in places(manager).others.values() if {"dbus-1", "polkit-1"} & set(path.parts)}
    also = {f"{BUS_NAME}.conf", f"{BUS_NAME}.policy"} if manager == "system" else set()
    assert names == {f"{BUS_NAME}.service"} | also


def places(manager: str) -> Places:
    return Places.of_system() if manager == "system" else Places.of_user({"HOME": "/home/anna"})


def links(manager: str) -> Iterator[PurePath]:
    """What `systemctl enable` makes of the [Install] sections, and with --global of the user's unit that root installs."""
    home = PurePath("/home/anna/.config/systemd/user" if manager == "user" else "/etc/systemd/system")
    of_session = home if manager == "user" else PurePath("/etc/systemd/user")
    for unit, folder in ((UNITS / manager / SERVICE, home), (UNITS / "user" / SESSION_SERVICE, of_session)):
        yield from (folder / f"{target}.wants" / unit.name for target in settings(unit, "WantedBy"))
        yield from (folder / alias for alias in settings(unit, "Alias"))


@pytest.mark.parametrize("manager", MANAGERS)
def test_no_link_is_left_behind(manager: str) -> None:
    """`--uninstall` knows each that `systemctl enable` makes."""
    assert set(places(manager).links) == set(links(manager))


def test_every_file_is_there() -> None:
    """For either manager, and none of units/ is forgotten."""
    named = {name for manager in MANAGERS for name in places(manager).others}
    assert {name for name in named if not (ROOT / name).is_file()} == set()
    units = {path.relative_to(ROOT).as_posix() for path in UNITS.rglob("*") if path.is_file()}
    assert {each for each in units if not each.startswith(("units/user/", "units/system/"))} <= named


def test_a_read_only_usr() -> None:
    """Image-based systems: what goes to /usr/share elsewhere goes where root can write, and nothing else moves."""
    usual, image = (Places.of_system(usr_is_read_only=each).others for each in (False, True))
    moved = {str(image[name]) for name in usual if image[name] != usual[name]}
    assert moved == {f"/etc/dbus-1/system.d/{BUS_NAME}.conf", f"/etc/polkit-1/actions/{BUS_NAME}.policy"}
    assert not [path for path in image.values() if path.is_relative_to("/usr/share")]


def test_a_login_can_not_fail_by_its_hook() -> None:
    """The unit: no failure counts, both directions have a limit, and who waits for it waits for nobody else."""
    unit = UNITS / "user" / SESSION_SERVICE
    (start,), (stop,) = (
        re.findall(rf"^{name}=(.*)$", unit.read_text(), re.MULTILINE) for name in ("ExecStart", "ExecStop")
    )
    assert (start, stop) == ("-@SLICEMGR@ session open", "-@SLICEMGR@ session close")
    assert 0 < int(*settings(unit, "TimeoutStartSec")) <= 5
    assert 0 < int(*settings(unit, "TimeoutStopSec")) <= 5
    assert settings(unit, "KillMode") == ["process"]
    assert settings(unit, "Type") == ["oneshot"]
    assert settings(unit, "RemainAfterExit") == ["yes"]
    assert "graphical-session-pre.target" in settings(unit, "Before")
    assert settings(unit, "PartOf") == ["graphical-session.target"]
    assert "graphical-session.target" in settings(unit, "WantedBy")
    for dependency in ("Requires", "Requisite", "BindsTo", "After", "OnFailure"):
        assert settings(unit, dependency) == []


def test_no_session_is_opened_twice() -> None:
    """The autostart file is for desktops that systemd does not start: the others have the unit."""
    entry = ini(UNITS / "xdg/slicemgr-session.desktop")["Desktop Entry"]
    assert entry["Type"] == "Application"
    assert entry["Exec"].split()[-3:] == ["@SLICEMGR@", "session", "open"]
    assert entry["Exec"].startswith("timeout ")
    assert {entry[key] for key in ("NoDisplay", "X-systemd-skip", "X-GNOME-HiddenUnderSystemd")} == {"true"}
    assert {"OnlyShowIn", "NotShowIn", "X-GNOME-Autostart-Phase"} & set(entry) == set()
