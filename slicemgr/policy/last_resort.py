# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whom to end when waiting can't help any more: the steps with the least work lost among those that suffice.

A step that runs alone and does not fit beside what the waiting ones hold can only go on if one of those gives its
memory back; it comes again later, alone (`Step.alone`). What is lost is the time that it has run.
"""

from collections.abc import Sequence
from typing import Final

from slicemgr.model.step import Step, StepState

_LOOKED_THROUGH: Final = 3
"""Up to so many victims every set is looked at: 1,140 of 20 steps. Where more are needed, a good set has to do."""


def least_work_lost(steps: Sequence[Step], need_bytes: int) -> tuple[int, ...]:
    """The `order` of those who are to be ended so that at least `need_bytes` come free, ascending.

    One if one suffices, else as few as do; of those the ones that have run the shortest time, then those that free
    the most, then the newest. Those that must not wait (they have children, or were excluded) only if the others do
    not suffice, nor those that have come again already: they do so once. Never the only one that runs (of several: the
    oldest), unless all others together do not suffice: then it exceeds the budget by itself, its end is what is needed,
    and nobody else's. Empty if nothing is needed, or nobody holds anything.
    """
    if need_bytes <= 0:
        return ()
    # Of several it is the one that came to run alone that keeps; then the oldest, as everywhere.
    keeper = min(
        (step for step in steps if step.state is StepState.RUNNING),
        key=lambda step: (not step.alone, step.order),
        default=None,
    )
    others = [step for step in steps if step is not keeper and step.held_bytes > 0]
    able = [step for step in others if step.may_wait]
    for candidates in ([step for step in able if not step.alone], able, others):
        found = _fewest(candidates, need_bytes)
        if found:
            return tuple(sorted(step.order for step in found))
    if keeper is not None and keeper.held_bytes > 0:
        return (keeper.order,)
    return ()


def _fewest(candidates: Sequence[Step], need_bytes: int) -> tuple[Step, ...]:
    """A smallest set that suffices, with the least work lost; empty if all together do not."""
    biggest = sorted(candidates, key=lambda step: (-step.held_bytes, step.ran_seconds, -step.order))
    count, freed = 0, 0
    for step in biggest:
        if freed >= need_bytes:
            break
        count, freed = count + 1, freed + step.held_bytes
    if freed < need_bytes:
        return ()
    if count <= _LOOKED_THROUGH:
        return min(_sufficient(biggest, count, need_bytes), key=_loss)
    return _exchanged(tuple(biggest[:count]), biggest[count:], need_bytes)


def _sufficient(biggest: Sequence[Step], count: int, need_bytes: int) -> list[tuple[Step, ...]]:
    """All sets of that many that free enough."""
    if count == 0:
        return [()] if need_bytes <= 0 else []
    found: list[tuple[Step, ...]] = []
    for index, step in enumerate(biggest):
        if step.held_bytes * count < need_bytes:
            break  # All that follow are smaller.
        rest = _sufficient(biggest[index + 1 :], count - 1, need_bytes - step.held_bytes)
        found += [(step, *others) for others in rest]
    return found


def _exchanged(chosen: tuple[Step, ...], rest: Sequence[Step], need_bytes: int) -> tuple[Step, ...]:
    """One for another as long as that loses less and still frees enough."""
    while True:
        spare = sum(step.held_bytes for step in chosen) - need_bytes
        better = [
            (*(step for step in chosen if step is not one), other)
            for one in chosen
            for other in rest
            if one.held_bytes - other.held_bytes <= spare and other.ran_seconds < one.ran_seconds
        ]
        if not better:
            return chosen
        kept = min(better, key=_loss)
        rest = [step for step in (*rest, *chosen) if step not in kept]
        chosen = kept


def _loss(victims: tuple[Step, ...]) -> tuple[float, int, tuple[int, ...]]:
    """What to take least of."""
    return (
        sum(step.ran_seconds for step in victims),
        -sum(step.held_bytes for step in victims),
        tuple(sorted(-step.order for step in victims)),
    )
