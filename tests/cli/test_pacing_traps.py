# SPDX-License-Identifier: LGPL-2.1-or-later
"""Steps that wait for each other while they wait for memory: no build hangs, and none loses a step for it.

A step that stands may hold what the running ones wait for, and nobody can see that from outside. Each build is run
twice, the second time with all sizes known, and without tokens: with them make begins few that would have to stand.
"""

import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.cli.paced_run import PYTHON, PacedRun, step

Builds: TypeAlias = Callable[..., None]


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[Builds]:
    """Run a build by make, twice, to a good end: so many of each of the recipes, all at once."""
    runs: list[PacedRun] = []

    def build(count: int, *recipes: str, limit: str, waits: bool = True) -> None:
        """`%` is the number in a recipe."""
        numbered = [recipe.replace("%", str(number)) for number in range(count) for recipe in recipes]
        targets = " ".join(f"s{number}" for number in range(len(numbered)))
        rules = "".join(f"s{number}:\n\t@{recipe}\n" for number, recipe in enumerate(numbered))
        (tmp_path / "Makefile").write_text(f"all: {targets}\n{rules}.PHONY: {targets}\n")
        for is_known in (False, True):
            run = PacedRun(tmp_path, "make", f"-j{len(numbered)}", limit=limit, options=["--no-tokens"])
            runs.append(run)
            status = run.end()
            assert (status, run.data["kills"]) == (0, []), run.told
            assert is_known or not waits or run.data["pacing"]["waited"] > 0, run.told

    yield build
    for each in runs:
        each.close()


def trapped(*deeds: str) -> str:
    """A step that does this."""
    return shlex.join([PYTHON, "-IS", str(Path(__file__).parent / "trapped_step.py"), *deeds])


SMALL = step("--start", "5M", "--grow", "25M", "--rate", "60M", "--hold", "0.2")


def test_two_steps_joined_by_a_pipe(ends: Builds) -> None:
    """The producer ends when the consumer has read all; both are big."""
    ends(4, f"{trapped('grow=25M', 'produce=25M')} | {trapped('consume')}", limit="200M")


def test_a_lock_in_the_middle_of_a_step(ends: Builds, tmp_path: Path) -> None:
    """Whoever has it grows on, and may have to stand; who runs waits for it."""
    ends(6, trapped("grow=15M", f"lock={tmp_path / 'lock'}", "grow=20M", "unlock"), limit="200M")


def test_the_command_flock(ends: Builds, tmp_path: Path) -> None:
    """Its child has the lock while it stands."""
    ends(5, f"flock {tmp_path / 'lock'} {SMALL}", SMALL, limit="150M")


def test_a_fifo(ends: Builds, tmp_path: Path) -> None:
    """One step waits for what another one writes when it has grown."""
    for number in range(4):
        os.mkfifo(tmp_path / f"fifo{number}")
    ends(4, trapped("grow=20M", "read=fifo%", "grow=10M"), trapped("grow=30M", "write=fifo%"), limit="220M")


def test_a_step_that_forks_workers(ends: Builds) -> None:
    """Its children compute, and it waits for them. Until 0.3 s after the fork they might be about to exec."""
    workers = step("--fork", "3", "--start", "1M", "--grow", "15M", "--rate", "10M", "--hold", "0.2")
    ends(4, workers, limit="210M")


def test_a_step_that_becomes_another_program(ends: Builds) -> None:
    """It has a new name and a new size."""
    ends(6, trapped("grow=20M", f"execute={SMALL}"), limit="160M")


def test_workers_that_share_what_they_have(ends: Builds) -> None:
    """60 MB and ten forks are 60 MB, not 700: all fit, so nothing is killed for it, and nobody waits for ever."""
    sharers = step("--start", "60M", "--fork-share", "10", "--hold", "0.5")
    ends(2, sharers, SMALL, SMALL, limit="700M", waits=False)


def test_the_lock_of_a_younger_step(ends: Builds, tmp_path: Path) -> None:
    """It stands because the older one grows, and that comes to wait for its lock: after three seconds in which nobody
    has moved it goes on, and both end."""
    os.mkfifo(tmp_path / "fifo")
    lock = f"lock={tmp_path / 'lock'}"
    older = trapped("read=fifo", "grow=90M", lock)
    younger = trapped(lock, "write=fifo", "grow=90M", "unlock")
    ends(1, older, younger, limit="210M")
