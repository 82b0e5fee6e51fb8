# SPDX-License-Identifier: LGPL-2.1-or-later
"""The three rules of a slice, who is protected in it, and what its members have by birth."""

from fnmatch import fnmatchcase
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.config.schema import PROTECTED
from slicemgr.kernel.errors import ProcessGoneError
from slicemgr.model.process import OOM_SCORE_ADJ_MIN, ProcessSample
from slicemgr.model.slice import VictimRule
from slicemgr.policy.badness import BadnessScale, Unkillable, inherited_oom_score_adj
from slicemgr.policy.victim import Choice, NoVictim, choose, runners_up
from slicemgr.service.managed import ManagedSlice, protected_pids
from tests.unit.samples import SLICE, process, process_lists, table

PARENT, SMALL, BIG, OTHER = (
    process(10, 900, name="server"),
    process(11, 100, parent=10),
    process(12, 300, parent=10),
    process(20, 800),
)
FAMILY = [PARENT, SMALL, BIG, OTHER]
NO_CHILDREN = [VictimRule.HIGHEST_BADNESS, VictimRule.WHOLE_JOB]


@pytest.mark.parametrize(
    ("rule", "victim", "parent"),
    [
        (VictimRule.HIGHEST_BADNESS_CHILD, BIG, PARENT),
        (VictimRule.HIGHEST_BADNESS, PARENT, None),
        (VictimRule.WHOLE_JOB, PARENT, None),
    ],
)
def test_who_goes_by_which_rule(rule: VictimRule, victim: ProcessSample, parent: ProcessSample | None) -> None:
    """In a build the child; elsewhere it is as dear as its parent. In any order of the same processes."""
    for order in permutations(FAMILY):
        choice = choose(table(*order), SLICE, rule=rule)
        assert isinstance(choice, Choice)
        assert choice.victim.process == victim
        assert (choice.for_parent.process if choice.for_parent else None) == parent


@pytest.mark.parametrize("rule", NO_CHILDREN)
def test_exhausted_parents_are_of_the_first_rule_alone(rule: VictimRule) -> None:
    """No child goes for a parent here, so none has gone in vain."""
    choice = choose(table(PARENT, OTHER, process(30, 950)), SLICE, frozenset({OTHER.identity}), rule)
    assert isinstance(choice, Choice)
    assert choice.victim.process.pid == 30


@pytest.mark.parametrize(
    ("rule", "next_ones"),
    [(VictimRule.HIGHEST_BADNESS_CHILD, [11, 10, 20]), (VictimRule.HIGHEST_BADNESS, [20, 12, 11])],
)
def test_who_would_be_next(rule: VictimRule, next_ones: list[int]) -> None:
    choice = choose(table(*FAMILY), SLICE, rule=rule)
    assert isinstance(choice, Choice)
    assert [each.process.pid for each in runners_up(table(*FAMILY), SLICE, choice.victim, rule=rule)] == next_ones


@given(
    process_lists(), st.sampled_from(VictimRule), st.randoms(use_true_random=False), st.frozensets(st.integers(1, 30))
)
def test_any_processes_in_any_order(
    processes: list[ProcessSample], rule: VictimRule, random: object, protected: frozenset[int]
) -> None:
    """One answer, whatever the order; never pid 1, a protected one, or one at -1000; all of them accounted for."""
    scale = BadnessScale(total_pages=100_000, protected=protected)
    shuffled = list(processes)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    choice = choose(table(*processes), scale, rule=rule)
    assert choose(table(*shuffled), scale, rule=rule) == choice
    if isinstance(choice, NoVictim):
        assert [each.pid for each, _ in choice.spared] == sorted(each.pid for each in processes)
    else:
        victim = choice.victim.process
        assert victim.pid > 1
        assert victim.pid not in protected
        assert victim.oom_score_adj > OOM_SCORE_ADJ_MIN
        assert victim.has_memory


def test_protected_is_a_reason() -> None:
    (reason,) = choose(table(PARENT), BadnessScale(1000, protected=frozenset({10}))).spared  # type: ignore[union-attr]
    assert reason == (PARENT, Unkillable.PROTECTED)


@pytest.mark.parametrize(
    ("adjustments", "inherited"),
    [
        ([], 0),
        ([0, 0, 300], 0),
        ([200, 200, 200, 0], 200),
        # The lowest of several.
        ([200, 200, 100, 100], 100),
        ([300, -5], -5),
        # Who is never taken has no say.
        ([-1000, -1000, 200], 200),
        ([-1000, -1000], 0),
        ([-999, -999, 0], -999),
    ],
)
def test_what_all_have_by_birth(adjustments: list[int], inherited: int) -> None:
    processes = [process(10 + at, 5, oom_score_adj=adj) for at, adj in enumerate(adjustments)]
    for order in ([*processes], processes[::-1]):
        assert inherited_oom_score_adj(order) == inherited


def test_the_dead_have_no_say() -> None:
    zombies = [process(20 + at, has_memory=False, oom_score_adj=0) for at in range(5)]
    assert inherited_oom_score_adj([*zombies, process(10, 5, oom_score_adj=200)]) == 200


def test_birth_decides_nothing() -> None:
    """A terminal's 200 for all: the one with more memory goes, as with 0 for all."""
    own = ManagedSlice("/x.slice")
    members = table(process(10, 50, oom_score_adj=200), process(11, 60, oom_score_adj=200))
    scale = own.scale(members, 100_000 * 4096, frozenset())
    assert scale.inherited_oom_score_adj == 200
    choice = choose(members, scale)
    assert isinstance(choice, Choice)
    assert (choice.victim.process.pid, choice.victim.points) == (11, 60)


NAMED = table(process(10, name="gnome-shell"), process(11, name="cc1plus"), process(12, name="python3"))
UNITS = {
    10: "/app.slice/shell.service",
    11: "/app.slice/app-x.slice/app-x-1.scope",
    12: "/app.slice/postgresql@15.service/main",
}


@pytest.mark.parametrize(
    ("patterns", "pids"),
    [
        ((), set()),
        (("gnome-*",), {10}),
        (("GNOME-*",), set()),
        (("cc1",), set()),
        (("postgresql@*.service",), {12}),
        (("app-x*.scope",), {11}),
        (("app-x.slice",), {11}),
        # A word without a dot is a name of a process, and of no part of a path.
        (("main", "app"), set()),
        (("*.service", "python3"), {10, 12}),
        (("cc1plus", "gnome-shell", "python?"), {10, 11, 12}),
    ],
)
def test_the_patterns_of_a_slice(patterns: tuple[str, ...], pids: set[int]) -> None:
    assert protected_pids(NAMED, patterns, UNITS.__getitem__) == pids


def test_one_that_is_gone_is_in_no_unit() -> None:
    """It ends while the patterns are compared: by its name it may be protected yet."""

    def gone(pid: int) -> str:
        raise ProcessGoneError(pid)

    assert protected_pids(NAMED, ("*.service", "cc1plus"), gone) == {11}


@pytest.mark.parametrize(
    "comm",
    [
        "gnome-shell", "gnome-session-b", "kwin_wayland_wr", "kwin_x11", "plasmashell", "startplasma-way", "sway",
        "Hyprland", "Xorg", "Xwayland", "dbus-daemon", "dbus-broker-lau", "systemd", "(sd-pam)", "pipewire-pulse",
        "wireplumber", "xfce4-session", "slicemgr", "kded5", "kded6", "mutter-x11-fram", "cosmic-comp",
    ],
)  # fmt: skip
def test_whose_end_is_the_end_of_the_session(comm: str) -> None:
    assert len(comm) <= 15
    assert any(fnmatchcase(comm, pattern) for pattern in PROTECTED)


@pytest.mark.parametrize(
    "comm", ["firefox", "cc1plus", "make", "bash", "python3", "code", "systemd-run", "java", "sd-pam"]
)
def test_whose_end_is_not(comm: str) -> None:
    assert not any(fnmatchcase(comm, pattern) for pattern in PROTECTED)
