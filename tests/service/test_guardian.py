# SPDX-License-Identifier: LGPL-2.1-or-later
"""The child that outlives a slicemgr that was SIGKILLed, with real forks and files in place of cgroups."""

from __future__ import annotations

import itertools
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.service import guardian as guardian_module
from slicemgr.service.guardian import Guardian, left_behind, since_last, without_steps
from tests.service.waiting_child import WaitingChild, waiting_child

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parent.parent.parent
SECONDS = 20.0

PARENT = """
import os, sys
from slicemgr.service.guardian import Guardian
guardian = Guardian(mount=sys.argv[1])
for told in sys.argv[3:]:
    guardian.watch(told.split(",") if told else [])
if sys.argv[2] == "lift":
    guardian.lift()
print(guardian.pid, flush=True)
if sys.argv[2] == "crash":
    raise RuntimeError("no end in order")
sys.stdin.read()
"""


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    for name in ("a.slice", "b.slice"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "memory.high").write_text("100")
    return tmp_path


class Parent:
    """A python that has a guardian, and what its guardian holds open beside the pipe to it."""

    def __init__(self, mount: Path, *arguments: str, script: str = PARENT) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, str(mount), *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self.process.stdout is not None
        self.guardian = int(self.process.stdout.readline())

    def finish(self) -> None:
        """Wait until the guardian has done what it does; by its pidfd, for it is nobody's child here."""
        try:
            pidfd = os.pidfd_open(self.guardian)
        except ProcessLookupError:
            return
        try:
            assert select.select([pidfd], [], [], SECONDS)[0], "the guardian has not ended"
        finally:
            os.close(pidfd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def highs(mount: Path) -> tuple[str, str]:
    """memory.high of both."""
    first, second = ((mount / name / "memory.high").read_text() for name in ("a.slice", "b.slice"))
    return first, second


@pytest.mark.parametrize(
    ("told", "then"),
    [
        (["/a.slice,/b.slice"], ("max", "max")),
        (["/a.slice"], ("max", "100")),
        # Anew: in place of what was told before.
        (["/a.slice", "/b.slice"], ("100", "max")),
        (["/a.slice,/b.slice", ""], ("100", "100")),
        ([], ("100", "100")),
        # One that is gone keeps it from no other.
        (["/gone.slice,/b.slice"], ("100", "max")),
    ],
)
@pytest.mark.parametrize("end", ["kill", "crash"])
def test_its_parent_dies(mount: Path, end: str, told: list[str], then: tuple[str, str]) -> None:
    """Nobody guards any more: what was throttled for us is lifted."""
    with Parent(mount, end, *told) as parent:
        if end == "kill":
            assert highs(mount) == ("100", "100")
            parent.process.kill()
        parent.finish()
        assert highs(mount) == then


def test_an_end_in_order(mount: Path) -> None:
    """When `lift` is back all of it is lifted, and the child gone, and collected."""
    with Parent(mount, "lift", "/a.slice") as parent:
        assert highs(mount) == ("max", "100")
        with pytest.raises(ProcessLookupError):
            os.kill(parent.guardian, 0)


def test_who_else_keeps_the_number_is_told(mount: Path) -> None:
    """When the files are written; a service manager has a number of its own that it writes again."""
    told = mount / "told"

    def also(cgroups: Sequence[str]) -> None:
        told.write_text(f"{highs(mount)} {cgroups}")
        raise RuntimeError

    guardian = Guardian(mount=str(mount), also=also)
    guardian.watch(["/b.slice", "/gone.slice"])
    guardian.lift()
    assert told.read_text() == "('100', 'max') ['/b.slice', '/gone.slice']"


def test_nothing_lifted_nobody_told(mount: Path) -> None:
    guardian = Guardian(mount=str(mount), also=lambda _: (mount / "told").touch())
    guardian.lift()
    assert not (mount / "told").exists()


def test_who_does_not_answer_is_not_waited_for(mount: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manager that stands still keeps neither us nor our service from ending."""
    monkeypatch.setattr(guardian_module, "KEEPER_SECONDS", 1)
    waiting = Guardian(mount=str(mount), also=lambda _: select.select([], [], []))
    waiting.watch(["/b.slice"])
    waiting.lift()
    assert highs(mount) == ("100", "max")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE])
def test_signals_are_not_for_it(mount: Path, number: signal.Signals) -> None:
    """A hang-up or ^C ends the parent, and so it has to outlive them."""
    with Parent(mount, "kill", "/a.slice") as parent:
        os.kill(parent.guardian, number)
        parent.process.kill()
        parent.finish()
        assert highs(mount) == ("max", "100")


def test_it_holds_nobody_s_files(mount: Path) -> None:
    """Whoever reads the parent's output waits for the last who could write there."""
    with Parent(mount, "kill", "/a.slice") as parent:
        held = [os.readlink(f"/proc/{parent.guardian}/fd/{each}") for each in _descriptors(parent.guardian, 1)]
        assert len(held) == 1
        assert held[0].startswith("pipe:")


def _descriptors(pid: int, wanted: int) -> list[str]:
    """What it holds when it has come so far: it is another process, so this is a poll."""
    deadline = time.monotonic() + SECONDS
    while len(found := os.listdir(f"/proc/{pid}/fd")) != wanted and time.monotonic() < deadline:
        os.sched_yield()
    return found


@pytest.fixture
def guardian(mount: Path) -> Iterator[Guardian]:
    made = Guardian(mount=str(mount))
    yield made
    made.lift()


def test_killed_itself(mount: Path) -> None:
    """Then nobody outlives us, and nothing else is wrong."""
    guardian = Guardian(mount=str(mount))
    os.kill(guardian.pid, signal.SIGKILL)
    os.waitpid(guardian.pid, 0)
    guardian.watch(["/a.slice"])
    guardian.lift()
    assert highs(mount) == ("100", "100")


def test_the_parent_s_signals_are_as_before(guardian: Guardian) -> None:
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        (b"", []),
        (b"=\n", []),
        (b"=\n/a\n/b\n", [b"/a", b"/b"]),
        (b"=\n/a\n=\n/b\n", [b"/b"]),
        (b"=\n/a\n=\n", []),
        (b"=\n/a\n\n", [b"/a"]),
        # Cut off by the end of who wrote it.
        (b"=\n/a\n/b", [b"/a"]),
        (b"=\n/a\n=", [b"/a"]),
        (b"=\n/a=b\n", [b"/a=b"]),
        (b"=\n/\xff\xfe\n", [b"/\xff\xfe"]),
    ],
)
def test_what_was_told_last(text: bytes, paths: list[bytes]) -> None:
    assert left_behind(text) == (paths, [])


@given(st.binary() | st.lists(st.sampled_from([b"=", b"", b"/a", b"/b", b"!/c", b"!"])).map(b"\n".join))
def test_anything_told(text: bytes) -> None:
    """Never half a path, never one of an older list, and never the mount itself."""
    lines = text.split(b"\n")[:-1]
    last = len(lines) - lines[::-1].index(b"=") if b"=" in lines else 0
    told = [line for line in lines[last:] if line]
    assert left_behind(text) == (
        [line for line in told if line[:1] != b"!"],
        [line[1:] for line in told if line[:1] == b"!"],
    )


@given(st.lists(st.sampled_from([b"=\n", b"=", b"\n", b"/a\n", b"!/b\n", b"/c"])))
def test_what_is_kept_of_it(pieces: list[bytes]) -> None:
    """As it comes, piece by piece: nothing that still says anything is forgotten."""
    kept = b""
    for piece in pieces:
        kept = since_last(kept + piece)
    assert left_behind(kept) == left_behind(b"".join(pieces))


def test_it_does_not_grow() -> None:
    """With every pause of a job, which a user may do on the system bus a thousand times a second."""
    kept = b""
    for _ in range(1000):
        kept = since_last(kept + b"=\n/a.slice\n!/b\n")
    assert len(kept) < 100


def test_what_was_frozen_is_thawed(mount: Path) -> None:
    """And one that is gone keeps it from no other."""
    (mount / "b.slice/cgroup.freeze").write_text("1")
    guardian = Guardian(mount=str(mount))
    guardian.watch(["/a.slice"], ["/gone.slice", "/b.slice"])
    guardian.lift()
    assert (mount / "b.slice/cgroup.freeze").read_text() == "0"
    assert highs(mount) == ("max", "100")


@pytest.mark.parametrize("path", ["/gone", "/../..", "/a.slice/memory.high", ""])
def test_what_cant_be_lifted(mount: Path, path: str) -> None:
    guardian = Guardian(mount=str(mount / "a.slice"))
    guardian.watch([path], [path])
    guardian.lift()
    assert highs(mount) in {("100", "100"), ("max", "100")}


def _said(pieces: Sequence[bytes]) -> tuple[bytes, set[tuple[int, int]]]:
    """As the child hears it: what is left about cgroups, and who is held."""
    text, held = b"", set[tuple[int, int]]()
    for piece in pieces:
        text = since_last(without_steps(text + piece, held))
    return text, held


@pytest.mark.parametrize(
    ("text", "held", "left"),
    [
        (b"", set(), b""),
        (b"+1 2\n", {(1, 2)}, b""),
        (b"+1 2\n+1 2\n", {(1, 2)}, b""),
        (b"+1 2\n-1 2\n", set(), b""),
        # Whoever has the number now is another one.
        (b"+1 2\n-1 3\n", {(1, 2)}, b""),
        (b"-1 2\n", set(), b""),
        (b"-1 2\n+1 2\n", {(1, 2)}, b""),
        (b"+1 2\n+3 4\n-1 2\n", {(3, 4)}, b""),
        # Cut off: who was not told of in full was not stopped yet.
        (b"+1 2\n+3 4", {(1, 2)}, b"+3 4"),
        (b"+1 2\n-1 2", {(1, 2)}, b"-1 2"),
        (b"+", set(), b"+"),
        # Cgroups keep what was said of them.
        (b"=\n/a\n+1 2\n/b\n", {(1, 2)}, b"=\n/a\n/b\n"),
        (b"=\n/a+b\n/c-d\n", set(), b"=\n/a+b\n/c-d\n"),
        (b"=\n!/a\n-1 2\n/tor", set(), b"=\n!/a\n/tor"),
        # Nothing that is ever said.
        (b"+\n+x y\n+1\n+1 2 3\n-\n+5 6\n", {(5, 6)}, b""),
    ],
)
def test_who_is_said_to_be_held(text: bytes, held: set[tuple[int, int]], left: bytes) -> None:
    """In one piece, and byte by byte."""
    found: set[tuple[int, int]] = set()
    assert (without_steps(text, found), found) == (left, held)
    assert _said([text[at : at + 1] for at in range(len(text))]) == (since_last(left), held)


_STEPS = st.tuples(st.sampled_from([b"+", b"-"]), st.integers(1, 3), st.integers(1, 2))
_WATCHED = st.lists(st.sampled_from([b"/a", b"/b+1 2", b"!/c", b"/d-"]), max_size=3)


@given(st.lists(_STEPS | _WATCHED), st.lists(st.integers(0, 200)))
def test_steps_between_cgroups(told: list[tuple[bytes, int, int] | list[bytes]], cuts: list[int]) -> None:
    """Whatever pieces a pipe makes of it: those are held that were said to be last, and the last list counts."""
    held, last = set[tuple[int, int]](), list[bytes]()
    for each in told:
        if isinstance(each, list):
            last = each
        elif each[0] == b"+":
            held.add(each[1:])
        else:
            held.discard(each[1:])
    lines = [
        b"".join(line + b"\n" for line in [b"=", *each]) if isinstance(each, list) else b"%s%d %d\n" % each
        for each in told
    ]
    text = b"".join(lines)
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    left, found = _said([text[start:end] for start, end in itertools.pairwise(edges)])
    assert found == held
    assert left_behind(left) == (
        [path for path in last if path[:1] != b"!"],
        [path[1:] for path in last if path[:1] == b"!"],
    )


@given(st.lists(st.binary() | st.sampled_from([b"+", b"-", b"\n", b"1 2", b"="])))
def test_anything_said_of_steps(pieces: list[bytes]) -> None:
    """It is the one that has to resume them: it never ends by what it is told."""
    _said(pieces)


def test_what_is_said_of_steps_does_not_add_up() -> None:
    """A build has thousands, each stopped some times."""
    left, held = _said([b"=\n/a\n", *(b"+%d 1\n-%d 1\n" % (each, each) for each in range(1000))])
    assert (left, held) == (b"=\n/a\n", set())


HOLDER = """
import sys
from slicemgr.service.guardian import Guardian
guardian = Guardian(mount=sys.argv[1])
for told in sys.argv[2:]:
    sign, _, rest = told.partition(" ")
    if sign == "=":
        guardian.watch(rest.split())
    else:
        {"+": guardian.hold, "-": guardian.let_go}[sign](*map(int, rest.split()))
print(guardian.pid, flush=True)
sys.stdin.read()
"""


def _killed_holder(mount: Path, *told: str) -> None:
    """A python that tells its guardian this, and is SIGKILLed; back when the guardian has done what it does."""
    holder = Parent(mount, *told, script=HOLDER)
    with holder:
        holder.process.kill()
        holder.finish()


def _name(child: WaitingChild) -> str:
    return f"{child.pid} {child.identity.start_ticks}"


@pytest.fixture
def children() -> Iterator[list[WaitingChild]]:
    """Three, and all are stopped."""
    with waiting_child() as first, waiting_child() as second, waiting_child() as third:
        for each in (first, second, third):
            each.stop_by_somebody_else()
        yield [first, second, third]


def test_steps_go_on_after_its_parent_s_death(mount: Path, children: list[WaitingChild]) -> None:
    """Exactly those that were held then; one that was let go, and has been stopped since, is somebody else's."""
    first, second, third = children
    _killed_holder(mount, f"+ {_name(first)}", f"+ {_name(second)}", f"- {_name(second)}", f"+ {_name(third)}")
    assert [each.stands() for each in children] == [False, True, False]


def test_steps_and_cgroups(mount: Path, children: list[WaitingChild]) -> None:
    """In whatever order it was told of them."""
    first, second, _ = children
    _killed_holder(mount, f"+ {_name(first)}", "= /a.slice", f"+ {_name(second)}", f"- {_name(first)}", "= /b.slice")
    assert [each.stands() for each in children] == [True, False, True]
    assert highs(mount) == ("100", "max")


def test_steps_that_somebody_else_has_stopped_too(mount: Path, children: list[WaitingChild]) -> None:
    """They stand until that one lets them go on."""
    first, second, _ = children
    first.send(signal.SIGSTOP)
    second.send(signal.SIGTSTP)
    _killed_holder(mount, *(f"+ {_name(each)}" for each in children))
    assert [each.stands() for each in children] == [True, True, False]
    first.send(signal.SIGCONT)
    first.answer()


def test_numbers_that_were_given_out_again(mount: Path, children: list[WaitingChild]) -> None:
    """Nobody is resumed whom its parent had not stopped."""
    first, second, _ = children
    second.be_gone()
    _killed_holder(mount, f"+ {first.pid} {first.identity.start_ticks + 1}", f"+ {_name(second)}")
    assert first.stands()


def test_an_end_in_order_lets_them_go_too(mount: Path, children: list[WaitingChild]) -> None:
    """Also those that the pacer has forgotten."""
    guardian = Guardian(mount=str(mount))
    assert guardian.hold(children[0].pid, children[0].identity.start_ticks)
    guardian.lift()
    assert [each.stands() for each in children] == [False, True, True]


def test_killed_itself_it_says_so() -> None:
    """Then nobody may be stopped any more."""
    guardian = Guardian()
    assert guardian.is_there()
    os.kill(guardian.pid, signal.SIGKILL)
    os.waitpid(guardian.pid, 0)
    assert not guardian.is_there()
    assert not guardian.hold(1, 1)
    guardian.let_go(1, 1)
    guardian.lift()
