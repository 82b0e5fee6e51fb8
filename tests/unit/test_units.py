# SPDX-License-Identifier: LGPL-2.1-or-later
"""The unit files as text: what they promise to each other, and that every line of them is known."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest

from slicemgr.config.schema import DEFAULTS
from slicemgr.model.quantity import Percent
from slicemgr.model.slice import Auto, SliceKind

UNITS = Path(__file__).parents[2] / "units"
MANAGERS = ("system", "user")
"""What else is in units/ is for others: test_units_bus.py."""
FILES = sorted(path for manager in MANAGERS for path in (UNITS / manager).rglob("*") if path.is_file())
NAMES = [path.relative_to(UNITS).as_posix() for path in FILES]

Unit = dict[str, dict[str, list[str]]]


def parse(path: Path) -> Unit:
    """{section: {setting: [values]}}; a setting may stand several times. A line that is nothing else is an error."""
    unit: Unit = {}
    section: dict[str, list[str]] | None = None
    for line in path.read_text().splitlines():
        if not line or line[0] in "#;":
            continue
        if header := re.fullmatch(r"\[(\w+)\]", line):
            assert header[1] not in unit, f"{path}: [{header[1]}] twice"
            section = unit[header[1]] = defaultdict(list)
            continue
        assert section is not None
        name, equals, value = line.partition("=")
        assert equals, f"{path}: {line}"
        assert re.fullmatch(r"[A-Z][A-Za-z]+", name), f"{path}: {line}"
        section[name].append(value)
    return unit


def one(unit: Unit, section: str, name: str) -> str:
    (value,) = unit[section][name]
    return value


SYSTEM = parse(UNITS / "system/slicemgr.service")
USER = parse(UNITS / "user/slicemgr.service")


def test_what_there_is() -> None:
    """For both managers, and no file that `slicemgr install` would put somewhere by mistake."""
    assert NAMES == [
        "system/build.slice",
        "system/slicemgr.service",
        "system/user-.slice.d/10-slicemgr.conf",
        "system/user.slice.d/10-slicemgr.conf",
        "system/user@.service.d/10-slicemgr.conf",
        "user/app.slice.d/10-slicemgr.conf",
        "user/build.slice",
        "user/session.slice.d/10-slicemgr.conf",
        "user/slicemgr-session.service",
        "user/slicemgr.service",
    ]


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_every_file_can_be_read(path: Path) -> None:
    """Licence, sections that belong to its kind, no setting twice but lists, no trailing blanks."""
    unit = parse(path)
    assert path.read_text().startswith("# SPDX-License-Identifier: LGPL-2.1-or-later\n")
    assert not re.search(r"[ \t]$", path.read_text(), re.MULTILINE)
    kind = path.name if path.suffix != ".conf" else path.parent.name.removesuffix(".d")
    sections = {"slice": {"Unit", "Slice"}, "service": {"Unit", "Service", "Install"}}[kind.rpartition(".")[2]]
    assert unit
    assert set(unit) <= sections
    for section in unit.values():
        for name, values in section.items():
            assert len(values) == 1 or name == "SystemCallFilter", name


@pytest.mark.parametrize(("unit", "manager"), [(SYSTEM, "system"), (USER, "user")], ids=["system", "user"])
def test_the_daemon_is_started_and_watched(unit: Unit, manager: str) -> None:
    """As service/readiness.py speaks; Type=notify-reload is unknown to systemd 252."""
    service = unit["Service"]
    assert service["ExecStart"] == [f"@SLICEMGR@ daemon --{manager}"]
    assert service["Type"] == ["notify"]
    assert service["ExecReload"] == ["kill -HUP $MAINPID"]
    assert service["Restart"] == ["on-failure"]
    assert int(one(unit, "Service", "WatchdogSec")) >= 30
    assert one(unit, "Install", "WantedBy") == ("multi-user.target" if manager == "system" else "default.target")


@pytest.mark.parametrize("unit", [SYSTEM, USER], ids=["system", "user"])
def test_the_guard_is_in_none_of_its_slices(unit: Unit) -> None:
    """Directly below the manager's root: MemoryMin= there is not capped by an ancestor without one."""
    assert unit["Service"]["Slice"] == ["-.slice"]
    assert unit["Service"]["MemorySwapMax"] == ["0"]
    assert unit["Service"]["OOMPolicy"] == ["continue"]


def test_a_users_unit_asks_for_nothing_that_only_root_can_have() -> None:
    """A user manager before 254 puts StateDirectory= into ~/.config; mounts, devices and nice below 0 need root."""
    rootly = {"StateDirectory", "Nice", "LimitMEMLOCK", "CapabilityBoundingSet", "MemoryMin"}
    rootly |= {name for name in SYSTEM["Service"] if name.startswith(("Protect", "Private", "Device"))}
    assert not set(USER["Service"]) & rootly
    assert int(one(USER, "Service", "OOMScoreAdjust")) == 100
    assert int(one(SYSTEM, "Service", "OOMScoreAdjust")) == -900


def test_each_hole_is_explained() -> None:
    """Every capability that is kept stands in the comments above it, with its reason."""
    text = (UNITS / "system/slicemgr.service").read_text()
    for capability in one(SYSTEM, "Service", "CapabilityBoundingSet").split():
        assert re.search(rf"^# {capability.removeprefix('CAP_')}: ", text, re.MULTILINE), capability
    assert one(SYSTEM, "Service", "ProtectControlGroups") == "no"
    assert one(SYSTEM, "Service", "ProtectProc") == "default"


def test_the_two_build_slices_agree() -> None:
    """One rule for builds, whoever runs them; no MemoryHigh=, which stalls without an end."""
    slices = [parse(UNITS / manager / "build.slice")["Slice"] for manager in ("system", "user")]
    assert slices[0] == slices[1]
    assert slices[0]["MemoryMax"] == ["80%"]
    assert not any("MemoryHigh" in path.read_text().replace("No MemoryHigh=", "") for path in FILES)


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        (SliceKind.BUILD, "user/build.slice"),
        (SliceKind.APP, "user/app.slice.d/10-slicemgr.conf"),
        (SliceKind.SESSION, "user/session.slice.d/10-slicemgr.conf"),
    ],
)
def test_a_daemon_sets_what_the_units_say(kind: SliceKind, file: str) -> None:
    """What it sets comes after them, and wins. Theirs holds without it: there `auto` is a share, and io a weight."""
    fields = {"MemoryMax": "memory_max", "MemoryLow": "memory_low", "TasksMax": "tasks_max", "CPUWeight": "cpu_weight"}
    unit = {name: values[-1] for name, values in parse(UNITS / file)["Slice"].items()}
    spec = DEFAULTS[kind]
    daemons = {name: getattr(spec, field) for name, field in fields.items() if getattr(spec, field) is not None}
    if kind is SliceKind.BUILD:
        assert (daemons.pop("MemoryMax"), unit.pop("MemoryMax"), unit.pop("IOWeight")) == (Auto.AUTO, "80%", "50")
    assert unit == {
        name: f"{value.hundredths // 100}%" if isinstance(value, Percent) else str(value)
        for name, value in daemons.items()
    }


def test_protection_adds_up() -> None:
    """What session and apps claim is what every level above them has, and what build.slice can't take."""

    def percent(name: str, section: str, setting: str) -> int:
        return int(one(parse(UNITS / name), section, setting).removesuffix("%"))

    claimed = sum(percent(f"user/{name}.slice.d/10-slicemgr.conf", "Slice", "MemoryLow") for name in ("session", "app"))
    for name, section in (("user.slice", "Slice"), ("user-.slice", "Slice"), ("user@.service", "Service")):
        assert percent(f"system/{name}.d/10-slicemgr.conf", section, "MemoryLow") == claimed
    assert claimed + percent("user/build.slice", "Slice", "MemoryMax") == 100
