# SPDX-License-Identifier: LGPL-2.1-or-later
"""The state table on recordings of a real kernel: what it decides, when, and that a churn of page cache is spared."""

from pathlib import Path

import pytest

from slicemgr.kernel import cgroup_formats as formats
from slicemgr.model.cgroup import CgroupReading, MemoryLimits
from slicemgr.model.decision import Evidence, FindVictim, KernelWasFirst
from slicemgr.policy.evidence import situation_between
from slicemgr.policy.reaction import ReactionState, react
from tests.vm.episodes import Header, Recording, Sample, load

EPISODES = Path(__file__).parent.parent / "data/episodes"
RECORDINGS = sorted(EPISODES.glob("*.jsonl.gz"))


def reading(sample: Sample) -> CgroupReading:
    """A recorded sample as the guard would have read it."""
    files = {name: text.encode() for name, text in sample.files.items()}
    return CgroupReading(
        taken_seconds=sample.seconds,
        current_bytes=sample.number("memory.current"),
        swap_bytes=formats.parse_single(files["memory.swap.current"], "memory.swap.current"),
        events=formats.parse_memory_events(files["memory.events"]),
        local_events=formats.parse_memory_events(files["memory.events.local"]),
        stat=formats.parse_memory_stat(files["memory.stat"]),
        pressure=formats.parse_pressure(files["memory.pressure"]),
        cpu_usage_usec=formats.parse_cpu_usage(files["cpu.stat"]),
    )


def swap_room(header: Header, sample: Sample) -> int:
    """What swap could still take, as the guard works it out."""
    free = sample.row("meminfo", "SwapFree:") << 10
    if header.swap_max.strip() == "max":
        return free
    return max(0, min(free, int(header.swap_max) - sample.number("memory.swap.current")))


def first_decision(recording: Recording) -> tuple[float, FindVictim] | None:
    """When the table looks for a victim, in seconds after the first `high` event; None: never."""
    header = recording.header
    limits = MemoryLimits(high=header.high_bytes, max=header.max_bytes)
    state, before = ReactionState(), None
    for sample in recording.samples:
        now = reading(sample)
        situation = situation_between(before, now, swap_room(header, sample))
        state, decision = react(state, situation, limits, throttles=True, page_bytes=header.page_bytes)
        if isinstance(decision, FindVictim):
            assert header.onset_seconds is not None
            return sample.seconds - header.onset_seconds, decision
        if isinstance(decision, KernelWasFirst):
            pytest.fail(f"the kernel was first, at {sample.seconds}")
        before = now
    return None


@pytest.mark.parametrize("path", RECORDINGS, ids=[path.name.partition(".")[0] for path in RECORDINGS])
def test_what_is_decided(path: Path) -> None:
    """A leak within a second of its first event; nobody who makes progress, ever."""
    recording = load(path)
    decided = first_decision(recording)
    if recording.header.expected == "kill":
        assert decided is not None
        seconds, decision = decided
        assert decision.shortage.evidence in {Evidence.UNRECLAIMABLE, Evidence.SWAP_FULL}
        assert seconds < 1.0 or decision.shortage.stalled_seconds < 1.0
    elif recording.header.expected == "spare":
        assert decided is None
