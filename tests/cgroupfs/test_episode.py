# SPDX-License-Identifier: LGPL-2.1-or-later
"""One cgroup from its first event on: what it still has of swap, by its own limit and by those around it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from slicemgr.kernel.cgroupfs import CgroupDir
from slicemgr.model.decision import Evidence, FindVictim
from slicemgr.service.episode import Episode
from tests.cgroupfs.fake_tree import HIGH, MAX, MIB, FakeTree

if TYPE_CHECKING:
    from pathlib import Path

SLICE, JOB = "/user.slice/build.slice", "/user.slice/build.slice/a.scope"
FREE_SWAP = 8 << 30


class Stalling:
    """A job at a stand at its memory.high, on a machine with 8 GiB of free swap."""

    def __init__(self, mount: Path, monkeypatch: pytest.MonkeyPatch, free: int = FREE_SWAP) -> None:
        self.now = 100.0
        self.tree = FakeTree(mount, monkeypatch)
        self.tree.add("/user.slice", swap_max=None)
        self.tree.add(SLICE, swap_max=None)
        self.job = self.tree.add(JOB, anon=HIGH + MIB, high=HIGH, max=MAX, swap_max=None)
        self.episode = Episode(
            CgroupDir.open(JOB, self.tree.mount),
            None,
            job_root=SLICE,
            free_swap=lambda: free,
            mount=self.tree.mount,
            clock=lambda: self.now,
        )

    def decided_within(self, seconds: float) -> FindVictim | None:
        """Look every 50 ms while all tasks wait."""
        began = self.now
        while self.now - began < seconds:
            decision = self.episode.look()
            if isinstance(decision, FindVictim):
                return decision
            self.now += 0.05
            self.job.stalled_usec += 50_000
            self.job.events["high"] += 1
            self.tree.sync()
        return None


@pytest.mark.parametrize(
    ("slice_max", "above_max", "own_max", "is_stuck"),
    [
        (None, None, None, False),
        (None, None, 0, True),
        (0, None, None, True),
        (None, 0, None, True),
        (50 * MIB, None, None, False),
        (None, 50 * MIB, FREE_SWAP, False),
        # Taken by its neighbours already.
        (20 * MIB, None, None, True),
    ],
    ids=["none", "its own", "the slice's", "further up", "some room", "some further up", "used up"],
)
def test_whose_limit_on_swap_counts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    slice_max: int | None,
    above_max: int | None,
    own_max: int | None,
    is_stuck: bool,
) -> None:
    """The narrowest: who has no swap left by any of them is decided on within a second, and nobody else."""
    stalling = Stalling(tmp_path, monkeypatch)
    stalling.tree.groups["/user.slice"].swap_max = above_max
    stalling.tree.groups[SLICE].swap_max = slice_max
    stalling.tree.groups[SLICE].swap = 20 * MIB
    stalling.job.swap_max = own_max
    stalling.tree.sync()
    decision = stalling.decided_within(1.0)
    assert (decision is not None) is is_stuck
    if decision is not None:
        assert decision.shortage.evidence is Evidence.UNRECLAIMABLE
    stalling.episode.close()


def test_a_limit_that_is_lowered_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read at each look."""
    stalling = Stalling(tmp_path, monkeypatch)
    assert stalling.decided_within(1.0) is None
    stalling.tree.groups[SLICE].swap_max = 0
    assert stalling.decided_within(1.0) is not None
    stalling.episode.close()


def test_nothing_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither after its end, nor if one of those around it can't be opened."""
    before = len(os.listdir("/proc/self/fd"))
    stalling = Stalling(tmp_path, monkeypatch)
    stalling.decided_within(0.1)
    stalling.episode.close()
    directory = CgroupDir.open(JOB, stalling.tree.mount)
    opened = CgroupDir.open

    def refuse(path: str, mount: str) -> CgroupDir:
        if path == "/user.slice":
            raise OSError(24, "Too many open files")
        return opened(path, mount)

    monkeypatch.setattr(CgroupDir, "open", refuse)
    with pytest.raises(OSError, match="Too many"):
        Episode(directory, None, job_root=SLICE, free_swap=lambda: 0, mount=stalling.tree.mount)
    assert len(os.listdir("/proc/self/fd")) == before
