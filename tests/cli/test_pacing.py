# SPDX-License-Identifier: LGPL-2.1-or-later
"""A build that does not fit ends anyway, on a process tree: its steps wait, whoever starts them, and nothing is killed.

The steps are hogs: twice the limit and more in all, so that without pacing some are killed (the same tests show that).
"""

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.cli.paced_run import MIB, CrowdedRun, PacedRun, named_python, step, until

Runs: TypeAlias = Callable[..., PacedRun]

SIZE = ["--start", "5M", "--grow", "40M", "--rate", "60M", "--hold", "0.3"]
"""51 MB with the interpreter, of which four fit below the limit, and eleven are begun."""
LIMIT = "230M"
COUNT = 11


@pytest.fixture
def paced(tmp_path: Path) -> Iterator[Runs]:
    """Start builds in a directory of their own; nothing is left of them after the test."""
    runs: list[PacedRun] = []

    def start(*command: str, limit: str = LIMIT, options: tuple[str, ...] = ()) -> PacedRun:
        runs.append(PacedRun(tmp_path, *command, limit=limit, options=options))
        return runs[-1]

    yield start
    for each in runs:
        each.close()


def by_make(directory: Path, *size: str, count: int = COUNT) -> list[str]:
    """`make -j` with a recipe for each step."""
    names = " ".join(f"s{number}" for number in range(count))
    (directory / "Makefile").write_text(f"all: {names}\ns%:\n\t@{step(*size)} && touch done.$@\n.PHONY: all\n")
    return ["make", f"-j{count}"]


def by_shell(directory: Path, *size: str, count: int = COUNT) -> list[str]:
    """A script with `&` that fails if any step does."""
    begun = "".join(f'{step(*size)} & all="$all $!"\n' for _ in range(count))
    (directory / "build.sh").write_text(f"#!/bin/sh\n{begun}for each in $all; do wait $each || exit 3; done\n")
    return ["sh", "build.sh"]


def by_xargs(directory: Path, *size: str, count: int = COUNT) -> list[str]:
    """`xargs -P`."""
    (directory / "numbers").write_text("".join(f"{number}\n" for number in range(count)))
    return ["xargs", "-a", "numbers", "-P", str(count), "-I{}", "sh", "-c", f"{step(*size)} && : {{}}"]


TOOLS = pytest.mark.parametrize("tool", [by_make, by_shell, by_xargs])
Tool: TypeAlias = Callable[..., list[str]]


@TOOLS
def test_a_build_that_does_not_fit_ends(paced: Runs, tmp_path: Path, tool: Tool) -> None:
    """The first time, and the second, when the sizes are known: nothing is killed, some have waited."""
    for _ in range(2):
        run = paced(*tool(tmp_path, *SIZE))
        status = run.end()
        assert (status, run.data["kills"]) == (0, []), run.told
        told = run.data["pacing"]
        assert told["steps"] >= COUNT
        assert told["waited"] > 0
        assert 50 * MIB < told["peak_bytes"] <= told["budget_bytes"] == 230 * MIB
        assert 40 * MIB < told["fattest"][0]["peak_bytes"] < 65 * MIB
        assert "; nothing killed; " in run.told
        assert "steps waited, " in run.told


@TOOLS
def test_without_pacing_it_loses_steps(paced: Runs, tmp_path: Path, tool: Tool) -> None:
    """So the tests above show something."""
    run = paced(*tool(tmp_path, *SIZE), options=("--no-pacing",))
    assert run.end() != 0
    assert run.data["kills"], run.told
    assert run.data["pacing"] is None


@TOOLS
def test_far_from_the_limit_nobody_waits(paced: Runs, tmp_path: Path, tool: Tool) -> None:
    """Not long, as long as nothing is known of a few steps; and then nobody is stopped for a moment."""
    for is_known in (False, True):
        run = paced(*tool(tmp_path, "--start", "5M", "--hold", "0.5", count=3), limit="8G")
        assert run.end() == 0, run.told
        told = run.data["pacing"]
        assert told["steps"] >= 3
        assert (told["waited"], told["stops"]) == (0, 0)
        assert told["waited_seconds"] == 0.0 or not is_known


Crowds: TypeAlias = Callable[..., CrowdedRun]


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[Crowds]:
    """Start one; nothing is left of it after the test."""
    made: list[CrowdedRun] = []

    def start(later: Mapping[str, str], *options: str, rest: str = "") -> CrowdedRun:
        made.append(CrowdedRun(tmp_path, later, options=options, rest=rest))
        return made[-1]

    yield start
    for each in made:
        each.close()


def late(directory: Path) -> str:
    """A step of this name, which it has from its exec on."""
    return step("--start", "30M", "--hold", "0.2", program=named_python(directory, "late"))


def test_who_comes_late_waits_at_its_birth(tmp_path: Path, crowded: Crowds) -> None:
    """Stopped while it is small, until there is room; what the next tests take as given."""
    crowd = crowded({"one": late(tmp_path), "two": late(tmp_path)})
    until(lambda: len(crowd.run.standing()) == 2, "both stand")
    assert set(crowd.run.standing()) == set(crowd.run.named("late"))
    crowd.let_go()
    assert crowd.run.end() == 0, crowd.run.told
    assert crowd.run.data["kills"] == []


@pytest.mark.parametrize(
    ("before", "options"),
    [
        ("", ("--never-hold", "spared")),
        ("timeout 60 ", ("--never-hold", "no*", "--never-hold", "sp?red")),
        ("setsid -w ", ()),
    ],
    ids=["by its name", "by a pattern, below timeout(1)", "a session leader"],
)
def test_who_never_waits(tmp_path: Path, crowded: Crowds, before: str, options: tuple[str, ...]) -> None:
    """It runs to its end while another one waits beside it."""
    spared = before + step("--start", "1M", "--hold", "0.3", program=named_python(tmp_path, "spared"))
    crowd = crowded({"one": late(tmp_path)}, *options, rest=f"{spared} || exit 6\ntouch over\n")
    seen: set[str] = set()

    def is_over() -> bool:
        states = {stat.comm: stat.state for stat in crowd.run.all_below().values()}
        seen.add(states.get(b"spared", ""))
        return (tmp_path / "over").exists()

    until(is_over, "the spared one has ended")
    assert "T" not in seen
    until(lambda: crowd.run.standing() == [*crowd.run.named("late")] != [], "the other one stands")
    crowd.let_go()
    assert crowd.run.end() == 0, crowd.run.told


def test_who_was_stopped_by_somebody_else_stays_so(tmp_path: Path, crowded: Crowds) -> None:
    """While we hold it, and then there is room for it: we are done with it, and only that somebody resumes it."""
    crowd = crowded({"one": late(tmp_path), "two": late(tmp_path)})
    until(lambda: len(crowd.run.standing()) == 2, "both stand")
    chosen, other = sorted(crowd.run.standing())
    os.kill(chosen, signal.SIGSTOP)
    crowd.let_go()
    until(lambda: other not in crowd.run.processes(), "the other one has ended")
    assert crowd.run.processes()[chosen].state == "T"
    assert crowd.run.process.poll() is None
    os.kill(chosen, signal.SIGCONT)
    assert crowd.run.end() == 0, crowd.run.told
    assert crowd.run.data["kills"] == []


def test_who_was_stopped_before_we_came_stays_so(tmp_path: Path, crowded: Crowds) -> None:
    """It is stopped already when we would hold it: never ours to resume."""
    asleep = f"sh -c 'kill -STOP $$; exec {step('--start', '20M', program=named_python(tmp_path, 'asleep'))}'"
    crowd = crowded({"asleep": asleep, "one": late(tmp_path)})
    until(lambda: len(crowd.run.standing()) == 2, "both stand")
    (sleeper,) = set(crowd.run.standing()) - set(crowd.run.named("late"))
    crowd.let_go()
    until(lambda: not crowd.run.named("late"), "the other one has ended")
    assert crowd.run.standing() == [sleeper]
    os.kill(sleeper, signal.SIGCONT)
    assert crowd.run.end() == 0, crowd.run.told
