# SPDX-License-Identifier: LGPL-2.1-or-later
"""Other processes that learn: `learned_child.py PATH builds NAME COUNT`, or `halfway`, or `endless`."""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from slicemgr.build.learned import LearnedSteps
from slicemgr.build.learned_file import LearnedFile
from slicemgr.model.step import Profile, StepSignature

BIG = 3000
"""Steps of one transaction that does not fit into SQLite's memory here: pages are written before the commit."""


def big(peak_bytes: int) -> list[tuple[StepSignature, Profile]]:
    """What `halfway` and `endless` learn."""
    return [(StepSignature("cc1plus", f"{at}.cc", "/a"), Profile(peak_bytes, 1.0, 2.0)) for at in range(BIG)]


def _say(line: str) -> None:
    print(line, flush=True)


def _builds(path: str, name: str, count: int) -> None:
    with LearnedSteps(path) as learned:
        for at in range(count):
            learned.learn(StepSignature("ld", "shared", "/a"), Profile(1000, 1.0, 2.0), 1e9)
            learned.learn(StepSignature("cc1", f"{name}-{at}", "/a"), Profile(1000 + at, 1.0, 2.0), 1e9)
            learned.flush()


def _halfway(path: str) -> None:
    """Says so in the middle of a transaction, and stands still."""
    plain = LearnedFile.run_each

    def run_each(file: LearnedFile, statement: str, rows: Sequence[Sequence[object]]) -> None:
        file.run("PRAGMA cache_size = 4")
        plain(file, statement, rows)
        _say("halfway")
        sys.stdin.read()

    LearnedFile.run_each = run_each  # type: ignore[method-assign, assignment]
    with LearnedSteps(path) as learned:
        for signature, profile in big(2000):
            learned.learn(signature, profile, 1e9)
        learned.flush()


def _endless(path: str) -> None:
    peak = 2000
    with LearnedSteps(path) as learned:
        while True:
            for signature, profile in big(peak)[:300]:
                learned.learn(signature, profile, 1e9)
            _say(str(peak))
            learned.flush()
            peak += 1


if __name__ == "__main__":
    _, PATH, VERB, *REST = sys.argv
    if VERB == "builds":
        _builds(PATH, REST[0], int(REST[1]))
    elif VERB == "halfway":
        _halfway(PATH)
    else:
        _endless(PATH)
