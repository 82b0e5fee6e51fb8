# SPDX-License-Identifier: LGPL-2.1-or-later
"""Several builds in one slice: what each may hold, and what comes of it over time when each paces itself."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.policy import sharing
from slicemgr.policy.sharing import Demand, lone_share, shares

LIMIT = 64_000
MOST = 1 << 63


def waiting(held: int, wanted: int = 0) -> Demand:
    return Demand(held, max(held, wanted), is_waiting=True)


def content(held: int, wanted: int = 0) -> Demand:
    return Demand(held, max(held, wanted), is_waiting=False)


def room_for(wanted: int) -> int:
    """What one gets that wants so much, and does not wait."""
    return wanted + wanted // sharing.ROOM_SHARE + LIMIT // sharing.BIRTH_SHARE


@pytest.mark.parametrize(
    ("jobs", "told"),
    [
        ([], []),
        ([waiting(0)], [LIMIT]),
        ([content(0)], [LIMIT]),
        ([waiting(0), waiting(0)], [32_000, 32_000]),
        # Who holds more than his share keeps that, and the newcomer has what is left.
        ([waiting(60_000), waiting(0)], [61_224, 2_776]),
        ([waiting(30_000), waiting(0)], [32_000, 32_000]),
        # And what his steps have begun to take, up to twice that: he would have to stop them half grown.
        ([waiting(30_000, 50_000), waiting(0)], [51_020, 12_980]),
        ([waiting(20_000, 60_000), waiting(0)], [40_000, 24_000]),
        ([waiting(20_000, 60_000), waiting(20_000, 60_000)], [32_000, 32_000]),
        ([waiting(30_000, 60_000), waiting(20_000, 25_000)], [38_490, 25_510]),
        # Who needs less leaves it to the others.
        ([content(8_000), waiting(0)], [room_for(8_000), LIMIT - room_for(8_000)]),
        ([content(1_000, 16_000), waiting(0), waiting(0)], [room_for(16_000), 23_000, 23_000]),
        ([content(0), waiting(60_000)], [room_for(0), LIMIT - room_for(0)]),
        # Nobody waits: what is over goes to the smallest.
        ([content(8_000), content(16_000)], [32_000, 32_000]),
        ([content(8_000), content(40_000)], [LIMIT - room_for(40_000), room_for(40_000)]),
        # He wants more than his share, and does not wait: he has it as long as there is room.
        ([content(10_000, 50_000), waiting(5_000)], [32_000, 32_000]),
        # More is held than there is (the limit was lowered): the biggest loses first.
        ([waiting(60_000), waiting(40_000)], [32_000, 32_000]),
        ([waiting(60_000), content(10_000)], [54_000, 10_000]),
        # What can't be true.
        ([waiting(-5), Demand(-5, -7, is_waiting=False)], [LIMIT - room_for(0), room_for(0)]),
        ([Demand(0, MOST, is_waiting=True), content(1_000)], [LIMIT - room_for(1_000), room_for(1_000)]),
    ],
)
def test_who_gets_what(jobs: list[Demand], told: list[int]) -> None:
    assert list(shares(LIMIT, {str(at): job for at, job in enumerate(jobs)}).values()) == told


DEMANDS = st.builds(
    Demand, st.integers(-10, LIMIT), st.one_of(st.integers(-10, 2 * LIMIT), st.just(MOST)), is_waiting=st.booleans()
)
JOBS = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=2), DEMANDS, max_size=12)


@given(st.integers(-5, LIMIT), JOBS)
def test_never_more_than_there_is(limit: int, jobs: dict[str, Demand]) -> None:
    """And everybody is told something."""
    told = shares(limit, jobs)
    assert told.keys() == jobs.keys()
    assert sum(told.values()) <= max(0, limit)
    assert all(share >= 0 for share in told.values())


@given(st.integers(0, LIMIT), JOBS)
def test_nobody_gives_back_what_he_holds(limit: int, jobs: dict[str, Demand]) -> None:
    """Unless all together hold more than there is."""
    told = shares(limit, jobs)
    if sum(max(0, job.held_bytes) for job in jobs.values()) <= limit:
        assert all(told[name] >= job.held_bytes for name, job in jobs.items())


@given(st.integers(0, LIMIT), JOBS)
def test_max_min_fair(limit: int, jobs: dict[str, Demand]) -> None:
    """Nobody has more than a waiting one, but what he has begun; and while somebody waits nothing lies idle."""
    told = shares(limit, jobs)
    if sum(max(0, job.held_bytes) for job in jobs.values()) > limit:
        return
    for name, job in jobs.items():
        if job.is_waiting:
            assert sum(told.values()) > limit - len(jobs)
            for other, share in told.items():
                assert share <= max(told[name], sharing.BEGUN_FACTOR * jobs[other].held_bytes)


@given(st.integers(0, LIMIT), JOBS, st.randoms(use_true_random=False))
def test_the_order_is_no_matter(limit: int, jobs: dict[str, Demand], shuffling: random.Random) -> None:
    names = list(jobs)
    shuffling.shuffle(names)
    assert shares(limit, {name: jobs[name] for name in names}) == shares(limit, jobs)


@pytest.mark.parametrize(
    ("own", "others", "newcomers", "share"),
    [
        (0, [], 0, LIMIT),
        (50_000, [], 0, LIMIT),
        # Beside one that does not build: all but the spare.
        (0, [500], 0, LIMIT - 500 - 4_000),
        (50_000, [500], 0, LIMIT - 500 - 4_000),
        # The same one, when it has just begun.
        (0, [500], 1, 32_000),
        # Both wait at the fair share.
        (32_000, [32_000], 0, 32_000),
        (31_000, [32_000], 0, 32_000),
        # Above the fair share, and no room: it shrinks; the other has what is left.
        (60_000, [4_000], 0, 58_000),
        (4_000, [60_000], 0, 4_000),
        (0, [LIMIT], 0, 0),
        (10_000, [2 * LIMIT], 0, 0),
        # Room is divided by those who see it.
        (32_000, [10_000], 0, 32_000 + 9_000),
        (30_000, [10_000, 10_000], 0, 30_000 + 10_000 // 3),
    ],
)
def test_without_a_daemon(own: int, others: list[int], newcomers: int, share: int) -> None:
    assert lone_share(LIMIT, own, others, newcomers=newcomers) == share


@given(
    st.integers(-5, LIMIT),
    st.integers(0, 2 * LIMIT),
    st.lists(st.integers(-5, 2 * LIMIT), max_size=8),
    st.integers(0, 9),
)
def test_a_lone_one_takes_from_nobody(limit: int, own: int, others: list[int], newcomers: int) -> None:
    """More than it holds it claims only of what the others leave."""
    share = lone_share(limit, own, others, newcomers=newcomers)
    free = max(0, limit - sum(max(0, each) for each in others))
    assert 0 <= share <= max(free, own)


@given(st.lists(st.integers(LIMIT // 8 + 1, LIMIT), min_size=2, max_size=7))
def test_all_the_lone_ones_of_one_moment_fit(helds: list[int]) -> None:
    """Those above the fair share claim no more in all than there is room; the others what is free, each."""
    if sum(helds) > LIMIT:
        return
    fair = LIMIT // len(helds)
    claims = [lone_share(LIMIT, held, helds[:at] + helds[at + 1 :]) for at, held in enumerate(helds)]
    assert sum(claim for claim, held in zip(claims, helds, strict=True) if claim > max(fair, held)) <= LIMIT


# Over time. A tick is 50 ms; others are looked at, and demands told, five ticks apart.

TICKS_BETWEEN_LOOKS = 5
NEW_TICKS = 200


@dataclass
class Build:
    """`make` without end: each step rises to its peak, stays there for as long, or not at all, and is gone.

    How many run is paced by the budget alone; the first one of them always runs, as in policy/pacing.py.
    """

    peak: int
    ticks: int
    seed: int = 0
    stays: int = 1
    begins: int = 0
    ends: int = 1 << 30
    budget: int = 0
    done: int = 0
    steps: list[list[int]] = field(default_factory=list)
    """Held, peak, ticks of its rise, ticks that it will stay there."""
    course: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    @property
    def held(self) -> int:
        return sum(held for held, *_ in self.steps)

    @property
    def wanted(self) -> int:
        return sum(peak for _, peak, *_ in self.steps)

    @property
    def demand(self) -> Demand:
        return Demand(self.held, self.wanted, is_waiting=self.is_on)

    def tick(self, now: int) -> int:
        """What it has grown by."""
        before, self.is_on = self.held, self.begins <= now < self.ends
        for step in list(self.steps):
            if step is self.steps[0] or self.held <= self.budget * 0.99:
                if step[0] < step[1]:
                    step[0] = min(step[1], step[0] + max(1, step[1] // step[2]))
                else:
                    step[3] -= 1
                if step[0] == step[1] and step[3] <= 0:
                    self.steps.remove(step)
                    self.done += 1
        while self.is_on and (not self.steps or self.wanted + self.peak <= self.budget * 0.97):
            peak = self.random.randint(self.peak // 2, self.peak)
            ticks = self.random.randint(max(1, self.ticks // 2), self.ticks)
            self.steps.append([0, peak, ticks, ticks * self.stays])
        self.course.append(self.budget)
        return max(0, self.held - before)


def run_together(builds: list[Build], *, with_daemon: bool, ticks: int = 2_000) -> int:
    """The most that all of them held at once."""
    most = 0
    seen: dict[int, list[int]] = {}
    told: dict[str, Demand] = {}
    for build in builds:
        build.is_on = build.begins == 0
    for now in range(ticks):
        here = [at for at, build in enumerate(builds) if build.begins <= now]
        if with_daemon:
            if now % TICKS_BETWEEN_LOOKS == 0 or any(builds[at].begins == now for at in here):
                told = {str(at): builds[at].demand for at in here}
            if now % 2 == 0:
                # What each wants is old news; what it holds the daemon reads itself.
                now_held = {
                    name: Demand(builds[int(name)].held, each.wanted_bytes, is_waiting=each.is_waiting)
                    for name, each in told.items()
                }
                for name, share in shares(LIMIT, now_held).items():
                    builds[int(name)].budget = share
        else:
            for at in here:
                others = [each for each in here if each != at]
                if (now + at) % TICKS_BETWEEN_LOOKS == 0 or at not in seen:
                    seen[at] = [builds[each].held for each in others]
                young = [each for each in others if now - max(builds[each].begins, builds[at].begins) < NEW_TICKS]
                builds[at].budget = lone_share(LIMIT, builds[at].held, seen[at], newcomers=len(young))
        for at in here:
            builds[at].tick(now)
        most = max(most, sum(build.held for build in builds))
    return most


KINDS = [(3_200, 20, 4), (3_200, 3, 0), (9_600, 40, 1), (6_400, 100, 0), (16_000, 60, 1)]
"""Peak, ticks, and how long steps stay: small ones; as short as can be; large; slow; and four of them fill all."""


@pytest.mark.parametrize("with_daemon", [True, False], ids=["daemon", "lone"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("begins", [(0, 0), (0, 200), (0, 200, 300), (0, 0, 0)], ids=str)
def test_builds_become_equal(with_daemon: bool, kind: tuple[int, int, int], begins: tuple[int, ...]) -> None:
    """Whoever came first, and however short his steps are; and together they fit at all times.

    But for what nobody can know: what grows from one look to the next, and a newcomer's first step, which is never
    held. Without a daemon also one more where a step is more than half of a share: each one's first is never held.
    """
    peak, ticks, stays = kind
    builds = [Build(peak, ticks, seed, stays, begins=at) for seed, at in enumerate(begins)]
    most = run_together(builds, with_daemon=with_daemon, ticks=1_200)
    growth = min(peak, peak * TICKS_BETWEEN_LOOKS // ticks)
    fair = LIMIT // len(builds)
    first_steps = sum(peak for build in builds if build.begins)
    if not with_daemon and peak > fair // 2:
        first_steps += peak
    assert most <= LIMIT + len(builds) * growth + first_steps
    for build in builds:
        late = build.course[-400:]
        assert fair * 0.9 <= sum(late) / len(late) <= fair * 1.25
        assert min(late) > 0


@pytest.mark.parametrize("with_daemon", [True, False], ids=["daemon", "lone"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_newcomer_does_not_starve(with_daemon: bool, kind: tuple[int, int, int]) -> None:
    """Thirty seconds after it has begun it has had its share, beside one that had all."""
    peak, ticks, stays = kind
    first, second = Build(peak, ticks, 1, stays), Build(peak, ticks, 2, stays, begins=400)
    run_together([first, second], with_daemon=with_daemon, ticks=1_000)
    assert first.course[380] > LIMIT * 0.97
    assert second.course[-1] >= LIMIT // 2 * 0.95
    assert first.course[-1] <= LIMIT // 2 * 1.2


@pytest.mark.parametrize("with_daemon", [True, False], ids=["daemon", "lone"])
def test_what_one_leaves_the_other_has(with_daemon: bool) -> None:
    """It has ended its build, and lives on as an idle shell."""
    first, second = Build(3_200, 20, seed=1), Build(3_200, 20, seed=2, ends=400)
    run_together([first, second], with_daemon=with_daemon, ticks=800)
    assert first.course[350] <= LIMIT * 0.6
    assert first.course[-1] >= LIMIT * 0.93


def test_different_builds_are_equals_too() -> None:
    """One of a few large steps beside one of many small ones."""
    for with_daemon in (True, False):
        large, small = Build(16_000, 60, seed=1), Build(1_600, 10, seed=2)
        run_together([large, small], with_daemon=with_daemon, ticks=1_200)
        assert min(large.done, small.done) > 10
        for build in (large, small):
            assert sum(build.course[-600:]) / 600 >= LIMIT // 2 * 0.9
