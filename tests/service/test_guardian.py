# SPDX-License-Identifier: LGPL-2.1-or-later
"""The child that outlives a slicemgr that was SIGKILLed, with real forks and files in place of cgroups."""

from __future__ import annotations

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
from slicemgr.service.guardian import Guardian, left_behind, since_last

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

    def __init__(self, mount: Path, end: str, *told: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(mount), end, *told],
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
