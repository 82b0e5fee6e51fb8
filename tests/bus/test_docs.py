# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs/dbus.md says what is: every command of it, every error and every polkit action, by the interface."""

import re
import shlex
from pathlib import Path

import pytest

from slicemgr.bus import errors
from slicemgr.bus.authority import Action
from slicemgr.bus.interface import InterfaceTable
from slicemgr.bus.server import MOST_CALLS
from slicemgr.service.holds import MOST_HOLDS
from slicemgr.service.read_requests import MOST_ACTIONS
from slicemgr.service.request_options import LONGEST_TEXT
from tests.bus.busctl_lines import complaints

TEXT = (Path(__file__).parents[2] / "docs/dbus.md").read_text()
COMMANDS = [shlex.split(line.removeprefix("    $ ")) for line in TEXT.splitlines() if line.startswith("    $ ")]
"""From busctl or gdbus on, whoever starts them."""


def test_every_command_can_be_meant() -> None:
    table = InterfaceTable()
    found = [words[at:] for words in COMMANDS for at, word in enumerate(words) if word in {"busctl", "gdbus"}]
    assert len(found) == len(COMMANDS) >= 15
    assert [complaint for words in found for complaint in complaints(words, table)] == []


def test_every_error_and_every_action_is_told() -> None:
    """And no other."""
    names = {each("").name for each in errors.RequestError.__subclasses__()}
    assert set(re.findall(r"org\.slicemgr1\.Error\.\w+", TEXT)) == names
    assert {f"org.slicemgr1.{word}" for word in re.findall(r"`org\.slicemgr1\.((?:manage|inspect)[\w-]*)`", TEXT)} == {
        each.value for each in Action
    }


@pytest.mark.parametrize(
    "words",
    [
        f"{MOST_CALLS} calls of one sender",
        f"{MOST_HOLDS} holds of one",
        f"{MOST_ACTIONS} actions in one answer",
        f"{LONGEST_TEXT} characters in a text",
    ],
)
def test_every_number_is_the_code_s(words: str) -> None:
    assert words in TEXT


def test_every_method_and_signal_is_there() -> None:
    """What stands in backquotes and looks like one; `List*` are several."""
    table = InterfaceTable()
    known = {name for _, name in (*table.methods, *table.properties, *table.signals)}
    known |= {"InterfacesAdded", "InterfacesRemoved", "PropertiesChanged", "NameOwnerChanged"}
    named = set(re.findall(r"`([A-Z][a-z]+(?:[A-Z]+[a-z]+)*)`", TEXT))
    assert named - known == {"GUnixFDList"} & named
    assert {"PlaceProcess", "ProcessKilled", "Hold"} <= named


@pytest.mark.parametrize(
    ("line", "is_right"),
    [
        ("busctl call org.slicemgr1 / org.slicemgr1.Manager Release u 7", True),
        ("busctl call org.slicemgr1 / org.slicemgr1.Manager Release s 7", False),
        ("busctl call org.slicemgr1 / org.slicemgr1.Manager Release u", False),
        ("busctl call org.slicemgr1 / org.slicemgr1.Manager Release u x", False),
        ("busctl call org.slicemgr1 / org.slicemgr1.Manager GetJob sa{sv} make 1 name s x", True),
        ("busctl call org.slicemgr1 / org.slicemgr1.Manager GetJob sa{sv} make", False),
        ("busctl call org.slicemgr1 / org.slicemgr1.Manager GetJob sa{sv} make 1 name s", False),
        ("busctl call org.slicemgr1 / org.slicemgr1.Manager GetJob sa{sv} make 0 x", False),
        ("busctl call org.slicemgr1 / org.slicemgr1.Slice Stop a{sv} 0", False),
        ("busctl get-property org.slicemgr1 / org.slicemgr1.Slice Kind Kin", False),
        ("gdbus call --dest org.slicemgr1 --method org.slicemgr1.Manager.GetJob make {}", True),
        ("gdbus call --dest org.slicemgr1 --method org.slicemgr1.Manager.GetJob make", False),
    ],
)
def test_a_command_that_is_wrong_is_seen(line: str, is_right: bool) -> None:
    assert (complaints(shlex.split(line), InterfaceTable()) == []) == is_right
