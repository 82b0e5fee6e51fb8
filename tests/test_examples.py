# SPDX-License-Identifier: LGPL-2.1-or-later
"""The examples, run the way a person runs them: real builds, real kills."""

import importlib.util
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
NOT_HERE = "is not to be had here"

GOOD: dict[str, Any] = {"exit": {"status": 0}, "kills": [], "left_running": []}
PACED: dict[str, Any] = {**GOOD, "pacing": {"waited": 3}}
KILLED: dict[str, Any] = {"exit": {"status": 2}, "kills": [{"pid": 7, "comm": "meinproc5"}], "left_running": []}


@pytest.mark.example
@pytest.mark.parametrize("build", ["kde", "cxx"])
def test_try(build: str) -> None:
    """Steps are killed at -j20, none at fewer jobs or with pacing, and the bystander lives: it checks that itself."""
    done = subprocess.run(
        ["examples/try", build], cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_COLOR": "1"}
    )
    if NOT_HERE in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "slicemgr: killed '" in done.stdout
    assert "steps were killed, so the build failed, and says so;" in done.stdout
    assert "it stayed until it was asked to go, and ended with status 0." in done.stdout
    assert "under the same limit: status 0 after " in done.stdout
    assert "With pacing, the first time: status 0 after " in done.stdout
    assert "The second time: status 0 after " in done.stdout
    assert "\x1b" not in done.stdout


def test_try_with_an_unknown_build() -> None:
    """One line that ends in what there is."""
    done = subprocess.run(["examples/try", "walk"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].endswith("[kde|cxx]")


@pytest.mark.parametrize(
    ("many", "few", "second", "session", "complaint"),
    [
        (KILLED, GOOD, PACED, 0, None),
        (GOOD, GOOD, PACED, 0, "nothing was killed at -j20"),
        (KILLED, KILLED, PACED, 0, "with fewer jobs the build ended with status 2"),
        (KILLED, GOOD, PACED, -9, "the bystander did not live"),
        ({**KILLED, "kills": [{"pid": 7, "comm": "make"}]}, GOOD, PACED, 0, "make itself was killed"),
        ({**KILLED, "left_running": [{"pid": 8}]}, GOOD, PACED, 0, "left processes behind"),
        (KILLED, GOOD, {**PACED, **KILLED}, 0, "the second paced build ended with status 2"),
        (KILLED, GOOD, {**PACED, "kills": KILLED["kills"]}, 0, "of the second paced build 1 processes were killed"),
        (KILLED, GOOD, {**GOOD, "pacing": None}, 0, "nobody has paced the second build"),
    ],
)
def test_the_demonstration_can_fail(many: Any, few: Any, second: Any, session: int, complaint: str | None) -> None:
    """What is not as promised is said."""
    spec = importlib.util.spec_from_file_location("what_happened", ROOT / "examples/what_happened.py")
    assert spec is not None
    assert spec.loader is not None
    what_happened = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(what_happened)
    complaints = what_happened.disagreements(many, few, (PACED, second), session)
    assert (complaints == []) == (complaint is None)
    assert complaint is None or any(complaint in each for each in complaints)
