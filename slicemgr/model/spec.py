# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a person asks for: a job, before anything about the machine is known. Light, see model/quantity.py."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slicemgr.model.quantity import Amount

_UNIT_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:_.-")
# systemd.unit(5): "The unit name ... at most 255 characters", suffix included.
_LONGEST_UNIT_NAME = 255


class SpecError(ValueError):
    """The request can't be meant as it stands; the message ends in what to try."""


class JobSpec:
    """A command and the limits asked for it. None: not given, so the default holds. A value: never changed."""

    __slots__ = ("command", "high", "max", "name", "slice_name", "swap_max")

    def __init__(
        self,
        command: tuple[str, ...],
        name: str,
        slice_name: str = "build.slice",
        high: Amount | None = None,
        max: Amount | None = None,  # noqa: A002 - the word of cgroup v2
        swap_max: Amount | None = None,
    ) -> None:
        self.command = command
        self.name = name
        self.slice_name = slice_name
        self.high = high
        self.max = max
        self.swap_max = swap_max

    def _fields(self) -> tuple[object, ...]:
        return self.command, self.name, self.slice_name, self.high, self.max, self.swap_max

    def __eq__(self, other: object) -> bool:
        return self._fields() == other._fields() if isinstance(other, JobSpec) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._fields())

    def __repr__(self) -> str:
        return f"JobSpec{self._fields()!r}"


class PacingRequest:
    """How this one job is to be paced. A value: never changed."""

    __slots__ = ("ceiling", "has_tokens", "is_agent", "is_on", "may_run_again", "never_hold", "relaunches")

    def __init__(
        self,
        *,
        is_on: bool = True,
        never_hold: tuple[str, ...] = (),
        has_tokens: bool = True,
        relaunches: bool = True,
        is_agent: bool = False,
        may_run_again: bool = False,
        ceiling: int | None = None,
    ) -> None:
        self.is_on = is_on
        self.never_hold = never_hold
        """Shell patterns of names (comm) of processes that never wait."""
        self.has_tokens = has_tokens
        """make gets a jobserver of ours."""
        self.relaunches = relaunches
        """A step that we have killed runs again."""
        self.is_agent = is_agent
        """The command is a program that a person talks to, and what it starts are builds."""
        self.may_run_again = may_run_again
        """The command, if it fails: so it has to be known that a person has ended it."""
        self.ceiling = ceiling
        """At most so many steps run at once."""

    def with_ceiling(self, ceiling: int) -> PacingRequest:
        """The same with fewer at once."""
        return PacingRequest(
            is_on=self.is_on,
            never_hold=self.never_hold,
            has_tokens=self.has_tokens,
            relaunches=self.relaunches,
            is_agent=self.is_agent,
            may_run_again=self.may_run_again,
            ceiling=ceiling,
        )


def slice_unit_name(text: str) -> str:
    """`build` or `build.slice` -> `build.slice`, by systemd's rules for unit names. Raises SpecError."""
    stem = text.removesuffix(".slice")
    parts = stem.split("-")
    if not stem or not set(stem) <= _UNIT_NAME_CHARACTERS or len(stem) + len(".slice") > _LONGEST_UNIT_NAME:
        raise SpecError(f"'{text}' is no slice name; try letters, digits, '.', '_' and '-', as in build or app-ci")
    if "" in parts:
        # systemd.slice(5): each dash is a level of the tree, so an empty level names no slice.
        raise SpecError(f"'{text}' has an empty level; in a slice name a dash stands between two names: app-ci")
    return f"{stem}.slice"
