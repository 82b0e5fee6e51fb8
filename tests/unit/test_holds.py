# SPDX-License-Identifier: LGPL-2.1-or-later
"""What others have asked for until they leave."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.bus.errors import DeniedError, InvalidArgumentError, LimitExceededError, NotFoundError
from slicemgr.config.schema import DEFAULT_MACHINE, DEFAULTS
from slicemgr.model.slice import Auto, SliceKind, SliceSpec
from slicemgr.policy.slice_limits import resolve_slice
from slicemgr.service.holds import MOST_HOLDS, HoldKind, Holds, under

YIELD, GROW = HoldKind
BUILD = SliceSpec("build.slice", SliceKind.BUILD, memory_max=Auto.AUTO, cpu_weight=50)
SPECS = (BUILD, DEFAULTS[SliceKind.APP])


def test_from_hold_to_release() -> None:
    holds = Holds()
    first = holds.add("builds-grow", "Nobody is here", "org.example.Lock", holder=":1.1", uid=1000)
    second = holds.add("builds-yield", "Presenting", "", holder=":1.2", uid=1000)
    assert holds.all() == (first, second)
    assert holds.in_force() is YIELD  # The stronger one.
    with pytest.raises(DeniedError, match="another caller's; try"):
        holds.release(second.cookie, holder=":1.1")
    assert holds.release(second.cookie, holder=":1.2") == second
    assert holds.in_force() is GROW
    with pytest.raises(NotFoundError, match="try the property Holds"):
        holds.release(second.cookie, holder=":1.2")
    assert holds.left(":1.1") == [first]
    assert holds.in_force() is None
    assert holds.left(":1.1") == []


@pytest.mark.parametrize(
    ("what", "reason", "words"),
    [
        ("nothing", "x", "nothing is called 'nothing'; try builds-yield or builds-grow"),
        ("builds-grow", " ", "a reason has 1 to 200 characters; try 'Presenting'"),
        ("builds-grow", "x" * 201, "a reason has 1 to 200 characters; try 'Presenting'"),
    ],
)
def test_what_cant_be_held(what: str, reason: str, words: str) -> None:
    holds = Holds()
    with pytest.raises(InvalidArgumentError) as error:
        holds.add(what, reason, "", holder=":1.1", uid=1000)
    assert str(error.value) == words
    assert holds.all() == ()


def test_one_caller_has_so_many() -> None:
    """And takes nothing from the others by that."""
    holds = Holds()
    for _ in range(MOST_HOLDS):
        holds.add("builds-grow", "x", "", holder=":1.1", uid=1000)
    with pytest.raises(LimitExceededError, match="try Release"):
        holds.add("builds-grow", "x", "", holder=":1.1", uid=1000)
    assert holds.add("builds-grow", "x", "", holder=":1.2", uid=1000).cookie == MOST_HOLDS + 1


@given(
    st.lists(st.tuples(st.sampled_from(["add", "release", "left"]), st.integers(0, 2), st.integers(1, 8)), max_size=40)
)
def test_any_order(steps: list[tuple[str, int, int]]) -> None:
    """A cookie is one hold's alone, and who has left holds nothing."""
    holds, given_out = Holds(), []
    for step, who, cookie in steps:
        holder = f":1.{who}"
        if step == "add":
            given_out.append(holds.add("builds-grow", "x", "", holder=holder, uid=1000).cookie)
        elif step == "left":
            holds.left(holder)
            assert all(hold.holder != holder for hold in holds.all())
        else:
            known = {hold.cookie: hold.holder for hold in holds.all()}
            try:
                holds.release(cookie, holder=holder)
                assert known[cookie] == holder
            except (NotFoundError, DeniedError):
                assert known.get(cookie) != holder
    assert len(set(given_out)) == len(given_out)


def test_what_a_hold_comes_to() -> None:
    """Who yields keeps its memory; who grows has what was kept for the session."""
    total = 16 << 30
    assert under(None, SPECS, DEFAULT_MACHINE) == (SPECS, DEFAULT_MACHINE)
    specs, machine = under(YIELD, SPECS, DEFAULT_MACHINE)
    assert [each.cpu_weight for each in specs] == [1, SPECS[1].cpu_weight]
    before = resolve_slice(BUILD, DEFAULT_MACHINE, total)
    assert resolve_slice(specs[0], machine, total).memory_max == before.memory_max == 14 << 30
    specs, machine = under(GROW, SPECS, DEFAULT_MACHINE)
    assert resolve_slice(specs[0], machine, total).memory_max == total
