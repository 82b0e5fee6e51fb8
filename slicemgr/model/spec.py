# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a person asks for: a job, before anything about the machine is known."""

from dataclasses import dataclass

from slicemgr.model.quantity import Amount

_UNIT_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:_.-")
# systemd.unit(5): "The unit name ... at most 255 characters", suffix included.
_LONGEST_UNIT_NAME = 255


class SpecError(ValueError):
    """The request can't be meant as it stands; the message ends in what to try."""


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A command and the limits asked for it. None: not given, so the default holds."""

    command: tuple[str, ...]
    name: str
    slice_name: str = "build.slice"
    high: Amount | None = None
    max: Amount | None = None
    swap_max: Amount | None = None


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
