# SPDX-License-Identifier: LGPL-2.1-or-later
"""Short ways to state processes and samples, as literals in tests."""

from collections.abc import Iterable

from hypothesis import strategies as st

from slicemgr.model.cgroup import CgroupSample, Measure
from slicemgr.model.process import ProcessIdentity, ProcessSample, ProcessTable
from slicemgr.policy.badness import BadnessScale

MIB = 1 << 20
SLICE = BadnessScale(total_pages=100_000)
"""About 400 MB: an oom_score_adj of 1 is worth 100 pages."""


def process(pid: int, pages: int = 0, *, parent: int = 900, start: int = 0, **fields: object) -> ProcessSample:
    """A process of so many resident pages."""
    return ProcessSample(
        identity=ProcessIdentity(pid, start),
        ppid=parent,
        name=str(fields.pop("name", f"p{pid}")),
        rss_pages=pages,
        **fields,  # type: ignore[arg-type]
    )


def table(*processes: ProcessSample) -> ProcessTable:
    """The processes of one slice."""
    return ProcessTable(processes)


def sample(
    memory: int,
    *,
    resident: int | None = None,
    swap: int = 0,
    at: float = 1.0,
    cost: float = 0.0,
    measure: Measure = Measure.UNRECLAIMABLE,
) -> CgroupSample:
    """A reading in bytes."""
    return CgroupSample(at, cost, 1, memory if resident is None else resident, memory, swap, measure)


@st.composite
def process_lists(draw: st.DrawFn, largest: int = 12) -> list[ProcessSample]:
    """Processes with distinct pids and any parents, cycles included: what a hostile or torn reading could be."""
    pids = draw(st.lists(st.integers(1, 30), unique=True, max_size=largest))
    return [draw(_process(pid)) for pid in pids]


def _process(pid: int) -> st.SearchStrategy[ProcessSample]:
    pages = st.integers(0, 1 << 40) | st.integers(0, 3)
    return st.builds(
        ProcessSample,
        identity=st.builds(ProcessIdentity, st.just(pid), st.integers(0, 5)),
        ppid=st.integers(0, 30),
        name=st.text(max_size=3),
        rss_pages=pages,
        swap_pages=pages,
        page_table_pages=pages,
        oom_score_adj=st.sampled_from([-1000, -999, -1, 0, 200, 1000]) | st.integers(-1000, 1000),
        has_memory=st.sampled_from([True, True, False]),
        is_kernel_thread=st.sampled_from([False, False, True]),
        shares_memory_with_parent=st.sampled_from([False, False, True]),
    )


def any_order(processes: Iterable[ProcessSample]) -> st.SearchStrategy[list[ProcessSample]]:
    """The same processes as the kernel might list them."""
    return st.permutations(list(processes))
