# SPDX-License-Identifier: LGPL-2.1-or-later
"""A build that does not fit ends anyway, on a process tree: its steps wait, whoever starts them, and nothing is killed.

The steps are hogs: three times the limit in all, so that without pacing some are killed (the same tests show that).
"""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.cli.paced_run import MIB, PacedRun, named_python, step, until

Runs: TypeAlias = Callable[..., PacedRun]

SIZE = ["--start", "5M", "--grow", "45M", "--rate", "60M", "--hold", "0.3"]
"""51 MB with the interpreter, of which three fit below the limit, and eight are begun."""
LIMIT = "170M"
COUNT = 8


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


def by_make(directory: Path, *size: str) -> list[str]:
    """`make -j` with a recipe for each step."""
    names = " ".join(f"s{number}" for number in range(COUNT))
    (directory / "Makefile").write_text(f"all: {names}\ns%:\n\t@{step(*size)} && touch done.$@\n.PHONY: all\n")
    return ["make", f"-j{COUNT}"]


def by_shell(directory: Path, *size: str) -> list[str]:
    """A script with `&` that fails if any step does."""
    begun = "".join(f'{step(*size)} & all="$all $!"\n' for _ in range(COUNT))
    (directory / "build.sh").write_text(f"#!/bin/sh\n{begun}for each in $all; do wait $each || exit 3; done\n")
    return ["sh", "build.sh"]


def by_xargs(directory: Path, *size: str) -> list[str]:
    """`xargs -P`."""
    (directory / "numbers").write_text("".join(f"{number}\n" for number in range(COUNT)))
    return ["xargs", "-a", "numbers", "-P", str(COUNT), "-I{}", "sh", "-c", f"{step(*size)} && : {{}}"]


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
        assert 50 * MIB < told["peak_bytes"] <= told["budget_bytes"] == 170 * MIB
        assert 45 * MIB < told["fattest"][0]["peak_bytes"] < 65 * MIB
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
    """Nobody is stopped for a moment, in a build of which nothing is known."""
    run = paced(*tool(tmp_path, "--start", "5M", "--hold", "0.5"), limit="8G")
    assert run.end() == 0, run.told
    told = run.data["pacing"]
    assert told["steps"] >= COUNT
    assert (told["waited"], told["stops"], told["waited_seconds"]) == (0, 0, 0.0)


class Crowded:
    """A build with one big step that stays until it is let go, so that all who come after it have to wait."""

    def __init__(self, directory: Path, start: Runs, later: str, options: tuple[str, ...] = ()) -> None:
        """`later`: a shell command whose steps are begun when the big one has its memory."""
        for name in ("gate", "ready"):
            os.mkfifo(directory / name)
        self._gate = os.open(directory / "gate", os.O_RDWR)
        big = step("--start", "340M", "--until-eof", "--work", "--comm", "big", "--ready", "ready")
        # The script opens its end for reading alone; ours is closed to let it go.
        script = f"{big} <gate & first=$!\nread line <ready\n{later}\nwait $first || exit 3\n"
        (directory / "build.sh").write_text(script)
        self.run = start("sh", "build.sh", limit="400M", options=options)

    def let_go(self) -> None:
        """The big one ends."""
        if self._gate >= 0:
            os.close(self._gate)
            self._gate = -1


@pytest.fixture
def crowded(tmp_path: Path, paced: Runs) -> Iterator[Callable[..., Crowded]]:
    """Start one."""
    made: list[Crowded] = []

    def start(later: str, *options: str) -> Crowded:
        made.append(Crowded(tmp_path, paced, later, options))
        return made[-1]

    yield start
    for each in made:
        each.let_go()


def later(name: str, directory: Path, before: str = "") -> str:
    """Two steps of this name, which it has from its exec on."""
    program = named_python(directory, name)
    begun = f"{before}{step('--start', '30M', '--hold', '0.2', program=program)} &"
    return f"{begun} one=$!\n{begun} two=$!\nwait $one || exit 4; wait $two || exit 5"


def test_who_comes_late_waits_at_its_birth(tmp_path: Path, crowded: Callable[..., Crowded]) -> None:
    """Stopped while it is small, until there is room; what the next tests take as given."""
    crowd = crowded(later("late", tmp_path))
    until(lambda: len(crowd.run.standing()) == 2, "both stand")
    assert set(crowd.run.standing()) == set(crowd.run.named("late"))
    crowd.let_go()
    assert crowd.run.end() == 0, crowd.run.told
    assert crowd.run.data["kills"] == []
    assert crowd.run.data["pacing"]["waited"] >= 2


@pytest.mark.parametrize(
    ("before", "options"),
    [("", ("--never-hold", "spared")), ("", ("--never-hold", "no*", "--never-hold", "sp?red")), ("setsid -w ", ())],
    ids=["by its name", "by a pattern", "a session leader"],
)
def test_who_never_waits(
    tmp_path: Path, crowded: Callable[..., Crowded], before: str, options: tuple[str, ...]
) -> None:
    """It runs to its end while another one waits beside it."""
    program = named_python(tmp_path, "spared")
    spared = before + step("--start", "1M", "--hold", "0.3", program=program)
    crowd = crowded(
        f"{later('late', tmp_path).partition(chr(10))[0]}\n{spared} || exit 6\ntouch over\nwait $one", *options
    )
    seen: set[str] = set()

    def is_over() -> bool:
        states = {stat.comm: stat.state for stat in crowd.run.all_below().values()}
        seen.add(states.get(b"spared", ""))
        return (tmp_path / "over").exists()

    until(lambda: len(crowd.run.standing()) == 1, "the other one stands")
    until(is_over, "the spared one has ended")
    assert "T" not in seen
    assert crowd.run.standing()
    crowd.let_go()
    assert crowd.run.end() == 0, crowd.run.told


def test_who_was_stopped_by_somebody_else_stays_so(tmp_path: Path, crowded: Callable[..., Crowded]) -> None:
    """While we hold it, and then there is room for it: we are done with it, and only that somebody resumes it."""
    crowd = crowded(later("late", tmp_path))
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


def test_who_was_stopped_before_we_came_stays_so(tmp_path: Path, crowded: Callable[..., Crowded]) -> None:
    """It is stopped already when we would hold it: never ours to resume."""
    program = named_python(tmp_path, "asleep")
    asleep = f"sh -c 'kill -STOP $$; exec {step('--start', '20M', program=program)}' & sleeper=$!"
    crowd = crowded(f"{asleep}\n{later('late', tmp_path)}\nwait $sleeper || exit 7")
    until(lambda: len(crowd.run.standing()) == 3, "all stand")
    (sleeper,) = set(crowd.run.standing()) - set(crowd.run.named("late"))
    crowd.let_go()
    until(lambda: not crowd.run.named("late"), "the others have ended")
    assert crowd.run.standing() == [sleeper]
    os.kill(sleeper, signal.SIGCONT)
    assert crowd.run.end() == 0, crowd.run.told
