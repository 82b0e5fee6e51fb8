# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tells what four runs of `slicemgr run --json` did, in words; the end of examples/try.

    what_happened.py FOLDER JOBS SESSION_SIZE SESSION_STATUS

FOLDER holds many.json (at -j20, nobody waits), few.json (at -jJOBS), first.json and second.json (at -j20, paced). Exit
status 1, with a reason, when the demonstration did not go as it should.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

MIB = 1 << 20
Report = dict[str, Any]


def ending(report: Report) -> str:
    end = report["exit"]
    return f"status {end['status']}" if "status" in end else f"signal {end['signal']}"


def printable(text: str) -> str:
    """A process' words may hold anything, terminal escapes too."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def step(kill: Report) -> str:
    """The source that the killed process was at; cc1plus names it somewhere amid twenty options."""
    line = kill["command_line"] or ""
    words = line.split() if isinstance(line, str) else line
    return printable(next((word for word in words if word.endswith((".docbook", ".cpp"))), ""))


def peak(report: Report) -> str:
    limit = report["limits"]["memory_max"]
    percent = 100 * (report["peak_bytes"] - limit) / limit
    side = "over" if percent > 0 else "below"
    return f"{report['peak_bytes'] / MIB:.0f} MiB, {abs(percent):.1f} % {side} the limit"


def tell_many(report: Report) -> None:
    kills = report["kills"]
    freed = sum(kill["held_bytes"] for kill in kills) / MIB
    print(
        f"   At -j20 the build wanted more than its {report['limits']['memory_max'] / MIB:.0f} MiB. With nobody waiting"
    )
    print(f"   slicemgr killed {len(kills)} of its processes, which held {freed:.0f} MiB together:")
    for kill in kills:
        held = kill["held_bytes"] / MIB
        print(f"     {kill['at_seconds']:6.1f} s  {printable(kill['comm']):<12} {held:5.0f} MiB  {step(kill)}")
    print(f"   The build's memory peaked at {peak(report)}; it took {report['elapsed_seconds']:.0f} s.")
    print(f"   make ended with {ending(report)}: steps were killed, so the build failed, and says so;")
    print("   what it lost is those steps, and the next make takes up from there.")


def tell_paced(first: Report, second: Report, few: Report) -> None:
    for when, report in (("With pacing, the first time", first), ("The second time", second)):
        pacing, ratio = report["pacing"] or {}, report["elapsed_seconds"] / max(0.001, few["elapsed_seconds"])
        print(f"   {when}: {ending(report)} after {report['elapsed_seconds']:.0f} s ({ratio:.2f} of that),", end=" ")
        print(f"{len(report['kills']) or 'nothing'} killed, {pacing.get('waited', 0)} steps waited, {peak(report)}.")


def disagreements(many: Report, few: Report, paced: Sequence[Report], session_status: int) -> list[str]:
    """What was not as the demonstration promises; empty when all was."""
    built = {"status": 0}
    makes = [kill["pid"] for kill in many["kills"] if kill["comm"] == "make"]
    claims = {
        "nothing was killed at -j20: the build fitted, or no limit was kept": bool(many["kills"]),
        "the build ended with status 0 although steps of it were killed": many["exit"] != {"status": 0},
        f"make itself was killed (pid {makes})": not makes,
        f"the build left processes behind: {many['left_running']}": not many["left_running"],
        f"with fewer jobs the build ended with {ending(few)}": few["exit"] == {"status": 0},
        f"with fewer jobs {len(few['kills'])} processes were killed": not few["kills"],
        f"the bystander did not live: it ended with status {session_status}": session_status == 0,
    }
    for which, report in zip(("first", "second"), paced, strict=True):
        claims[f"the {which} paced build ended with {ending(report)}"] = report["exit"] == built
        claims[f"of the {which} paced build {len(report['kills'])} processes were killed"] = not report["kills"]
        claims[f"nobody has paced the {which} build"] = report["pacing"] is not None
        claims[f"the {which} paced build left processes behind: {report['left_running']}"] = not report["left_running"]
    return [claim for claim, held in claims.items() if not held]


def main() -> int:
    folder, jobs, session_size, session_status = sys.argv[1:]
    names = ("many", "few", "first", "second")
    many, few, first, second = (json.loads((Path(folder) / f"{name}.json").read_text()) for name in names)
    tell_many(many)
    if session_status == "0":
        print(f"   The bystander outside the build ({session_size}, more than any single step) was not touched:")
        print("   it stayed until it was asked to go, and ended with status 0.")
    print(f"   At -j{jobs}, under the same limit: {ending(few)} after {few['elapsed_seconds']:.0f} s,", end=" ")
    print(f"{len(few['kills']) or 'nothing'} killed, a peak of {peak(few)}.")
    tell_paced(first, second, few)
    wrong = disagreements(many, few, (first, second), int(session_status))
    for claim in wrong:
        print(f"examples/try: not as it should be: {claim}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
