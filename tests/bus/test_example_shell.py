# SPDX-License-Identifier: LGPL-2.1-or-later
"""examples/desktop/desktop.sh, with the real busctl, and with one that only notes what it is asked."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import pytest

from slicemgr.bus.interface import InterfaceTable
from slicemgr.bus.objects import ROOT, job_object, slice_object
from tests.bus.busctl_lines import complaints
from tests.bus.example_process import NO_BUS, SHELL, Asked, Started, one_line, run
from tests.bus.fake_daemon import KATE, KATE_UNIT, MIB, FakeDaemon

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bus.private_bus import PrivateBus


def test_the_shell_s_reads(bus: PrivateBus) -> None:
    """With busctl, of what is there."""
    with FakeDaemon(bus):
        status, said, wrong = run(bus.address, *SHELL, "list")
        assert (status, wrong) == (0, "")
        rows = [line.split() for line in said.splitlines()[1:]]
        assert ["build.slice", str(5 * MIB), str(2048 * MIB), "1"] in rows
        assert ["app.slice", str(5 * MIB), "max", "1"] in rows
        assert rows[-1] == [KATE_UNIT, str(5 * MIB), str(1024 * MIB), "1"]
        assert job_object(KATE_UNIT) in run(bus.address, *SHELL, "tree")[1]
        assert "PlaceProcess" in run(bus.address, *SHELL, "introspect")[1]
        assert "SetLimits" in run(bus.address, *SHELL, "introspect", "kate")[1]
        assert "org.slicemgr1.Slice" in run(bus.address, *SHELL, "introspect", "build")[1]
        status, said, wrong = run(bus.address, *SHELL, "pause", "kat")
        assert (status, said) == (1, "")
        assert one_line(wrong).endswith("no job 'kat'; try 'kate'")
    status, said, wrong = run(bus.address, *SHELL, "list")
    assert (status, said) == (1, "")
    assert one_line(wrong).endswith("no slicemgr daemon on this bus; try 'systemctl --user enable --now slicemgr'")


def test_the_shell_s_deeds(bus: PrivateBus) -> None:
    with FakeDaemon(bus) as daemon:
        told = {"control-group": KATE, "runners-up": [{"pid": 7, "points": -1}]}
        asked = Asked(daemon, SetLimits=(), Pause=(), Resume=(), Explain=(told,))
        for words, method, arguments in (
            (("limits", "kate", "MemoryMax=2147483648", "MemoryHigh=max"), "SetLimits",
             ({"MemoryMax": 1 << 31, "MemoryHigh": (1 << 64) - 1}, {})),
            (("pause", "kate"), "Pause", ({},)),
            (("resume", "kate"), "Resume", ({},)),
            (("explain", "kate"), "Explain", ("kate", {})),
        ):  # fmt: skip
            status, said, wrong = run(bus.address, *SHELL, *words)
            assert (status, wrong) == (0, "")
            call = asked.next()
            assert (call.method, call.arguments) == (method, arguments)
            assert call.path == (job_object(KATE_UNIT) if method != "Explain" else ROOT)
        points = json.loads(said)["data"][0]["runners-up"]["data"][0]["points"]
        assert points == {"type": "x", "data": -1}
        for wrong_limit in ("MemoryMax", "MemoryMax=2G", "MemoryMax="):
            status, _, wrong = run(bus.address, *SHELL, "limits", "kate", wrong_limit)
            assert status == 2
            one_line(wrong)


def test_the_shell_s_monitor(bus: PrivateBus) -> None:
    with FakeDaemon(bus) as daemon, Started(bus.address, "stdbuf", "-oL", *SHELL, "monitor") as monitor:
        assert monitor.process.stderr is not None
        assert monitor.process.stderr.readline() == "Monitoring bus message stream.\n"
        daemon.emit("PressureLevelChanged", slice_object("build.slice"), "low")
        while "Member=PressureLevelChanged" not in (line := monitor.line()):
            assert line or monitor.process.poll() is None


def test_the_shell_s_hold(bus: PrivateBus) -> None:
    """By the other example: busctl leaves the bus after each call."""
    with FakeDaemon(bus) as daemon:
        asked = Asked(daemon, Hold=(7,), Release=())
        with Started(bus.address, *SHELL, "hold", "sh", "-c", "read it; exit 6") as hold:
            assert asked.next().arguments[0] == "builds-yield"
            assert hold.end("\n")[0] == 6


STAND_IN = f"""#!{sys.executable}
import json, os, sys
with open(os.environ["NOTES"], "a") as notes:
    notes.write(json.dumps(["busctl", *sys.argv[1:]]) + "\\n")
ANSWERS = {{
    "NameHasOwner": "b true",
    "GetSlice": 'o "{slice_object("build.slice")}"',
    "GetJob": 'o "{job_object(KATE_UNIT)}"',
    "ListSlices": 'a(so) 1 "build.slice" "{slice_object("build.slice")}"',
    "ListJobs": 'a(so) 1 "{KATE_UNIT}" "{job_object(KATE_UNIT)}"',
    "get-property": "t 5\\nt 18446744073709551615\\nu 1",
}}
print(next((answer for word, answer in ANSWERS.items() if word in sys.argv), ""))
"""


@pytest.mark.parametrize(
    ("words", "calls"),
    [
        (("list",), 5),
        (("tree",), 2),
        (("introspect", "build"), 3),
        (("monitor",), 2),
        (("--system", "limits", "kate", "MemoryMax=max", "CPUWeight=10"), 3),
        (("pause", "kate"), 3),
        (("resume", "kate"), 3),
        (("explain", "kate"), 2),
    ],
)
def test_all_that_the_shell_calls_is_in_the_interface(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, ...], calls: int
) -> None:
    """As a stand-in for busctl notes it: on one bus, by the name and the types of the XML, and starting nobody."""
    (tmp_path / "busctl").write_text(STAND_IN)
    (tmp_path / "busctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    assert run(NO_BUS, *SHELL, *words)[0] == 0
    notes = [json.loads(line) for line in (tmp_path / "notes").read_text().splitlines()]
    table = InterfaceTable()
    assert [complaint for note in notes for complaint in complaints(note, table)] == []
    assert len(notes) == calls
    assert {tuple(note[1:3]) for note in notes} == {
        ("--system" if words[0] == "--system" else "--user", "--auto-start=no")
    }
