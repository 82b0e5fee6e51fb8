# SPDX-License-Identifier: LGPL-2.1-or-later
"""Our badness beside the guest kernel's /proc/PID/oom_score, negative adjustments and swapped memory included."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from slicemgr.kernel import procfs
from slicemgr.policy.badness import BadnessScale, Unkillable, why_unkillable
from tests.oom_score import disagreements

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Hog

# systemd gives 100 to a user's manager (OOMScoreAdjust= in user@.service), and nobody below it may go below that.
ADJUSTMENTS = {"root": (-1000, -999, -500, -100, 0, 1, 200, 1000), "tester": (100, 101, 200, 300, 500, 1000)}


def test_hogs_of_all_adjustments(hog: Callable[..., Hog], vm_user: str) -> None:
    """Each from 5 MiB up, with each adjustment that this user may set."""
    hogs = [
        hog("--start", f"{5 + 10 * at}M", "--oom-score-adj", str(adjustment))
        for at, adjustment in enumerate(ADJUSTMENTS[vm_user])
    ]
    lines, compared = disagreements([each.pid for each in hogs])
    assert not lines
    assert compared == len(hogs)


def test_every_process_of_the_guest() -> None:
    """systemd as pid 1, kernel threads, services with adjustments of their own."""
    lines, compared = disagreements(procfs.processes())
    assert not lines
    assert compared > 20


@pytest.mark.vm(users=("root",), swap="disk")
def test_swapped_memory_counts(hog: Callable[..., Hog]) -> None:
    """The leaker of the 2010 argument: pushed out to swap, and as bad as before."""
    leaker = hog("--start", "200M", "--swap-out")
    found = procfs.sample_process(leaker.pid)
    assert found.swap_pages > (150 << 20) // procfs.PAGE_BYTES
    lines, compared = disagreements([leaker.pid])
    assert not lines
    assert compared == 1


@pytest.mark.vm(users=("root",))
def test_minus_1000_is_never_taken(hog: Callable[..., Hog]) -> None:
    """Set for real, which needs privileges."""
    protected = procfs.sample_process(hog("--start", "5M", "--oom-score-adj", "-1000").pid)
    assert why_unkillable(protected, BadnessScale(1000)) is Unkillable.ADJUSTED
