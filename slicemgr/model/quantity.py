# SPDX-License-Identifier: LGPL-2.1-or-later
"""Amounts of memory and time as people write and read them.

`slicemgr run` reads this before its command starts, and importing `dataclasses`, `enum` and `typing` takes longer than
all the rest of it (23 of 31 ms): so these classes are written out.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar, Final, Self, TypeAlias

# systemd.resource-control(5): "If the value is suffixed with K, M, G or T, the specified memory size is
# parsed as Kilobytes, ... (with the base 1024)". The same letters here, so that a value can be moved over.
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

# The kernel counts a cgroup in pages of a signed long: a larger amount could not be written to memory.max.
_LARGEST_BYTES: Final = (1 << 63) - 1


class QuantityError(ValueError):
    """The text is no amount; the message says what would be one."""


class NoLimit:
    """The word `max` (or systemd's `infinity`): a value of its own, never -1 or 2**63. There is one, NO_LIMIT."""

    __slots__ = ()
    NO_LIMIT: ClassVar[NoLimit]

    def __new__(cls) -> Self:
        """The one: so a copy of a specification still has it."""
        try:
            return cls.NO_LIMIT  # type: ignore[return-value]  # Nobody derives from it.
        except AttributeError:
            return super().__new__(cls)

    def __repr__(self) -> str:
        return "NoLimit.NO_LIMIT"

    def __str__(self) -> str:
        return "max"


NoLimit.NO_LIMIT = NoLimit()


class Percent:
    """A share of the machine's memory, in hundredths of a percent (60% is 6000). A value: never changed."""

    __slots__ = ("hundredths",)

    def __init__(self, hundredths: int) -> None:
        self.hundredths: Final = hundredths

    def of(self, total_bytes: int) -> int:
        """This share of `total_bytes`, rounded down."""
        return total_bytes * self.hundredths // 10_000

    def __eq__(self, other: object) -> bool:
        return self.hundredths == other.hundredths if isinstance(other, Percent) else NotImplemented

    def __lt__(self, other: Percent) -> bool:
        return self.hundredths < other.hundredths

    def __le__(self, other: Percent) -> bool:
        return self.hundredths <= other.hundredths

    def __hash__(self) -> int:
        return hash((Percent, self.hundredths))

    def __repr__(self) -> str:
        return f"Percent({self.hundredths})"

    def __str__(self) -> str:
        whole, part = divmod(self.hundredths, 100)
        return f"{whole}.{part:02}".rstrip("0").rstrip(".") + "%"


Amount: TypeAlias = int | Percent | NoLimit


def parse_amount(text: str) -> Amount:
    """Read `600M`, `1.5G`, `1073741824`, `60%` or `max`.

    Suffixes count in 1024 as systemd's do; `B` and `iB` may follow them. Raises QuantityError.
    """
    stripped = text.strip()
    if stripped.lower() in {"max", "infinity"}:
        return NoLimit.NO_LIMIT
    if stripped.endswith("%"):
        return Percent(_scaled(stripped[:-1].rstrip(), 100, text))
    number = stripped.rstrip("KMGTiBkmgtb ")
    suffix = stripped[len(number) :].strip().upper()
    for ending in ("IB", "B"):
        if suffix != ending and suffix.endswith(ending):
            suffix = suffix.removesuffix(ending)
            break
    unit = 1 if suffix == "B" else _UNITS.get(suffix)
    if unit is None:
        raise _no_amount(text)
    size = _scaled(number, unit, text)
    if size > _LARGEST_BYTES:
        raise QuantityError(f"'{text}' is more than any machine has; try a percentage such as 60%")
    return size


def _scaled(number: str, unit: int, text: str) -> int:
    """Decimal digits with at most one point, times `unit`, rounded down; in integers, so 0.1G is exact."""
    whole, point, part = number.partition(".")
    digits = whole + part
    # isascii beside isdigit: '²' and '٣' are digits to Python, and no one's idea of a size.
    if not (digits.isascii() and digits.isdigit()) or (point and not part) or len(digits) > 40:
        raise _no_amount(text)
    scale: int = 10 ** len(part)
    return int(digits) * unit // scale


def _no_amount(text: str) -> QuantityError:
    return QuantityError(f"'{text}' is no size; try bytes, a suffix of 1024s (600M, 1.5G), or a percentage (60%)")


def format_size(size_bytes: int) -> str:
    """`612.3M`: one decimal, suffixes of 1024, as systemd prints it; below 1 KiB plain bytes (`512B`)."""
    sign, left = ("-", -size_bytes) if size_bytes < 0 else ("", size_bytes)
    for suffix in ("T", "G", "M", "K"):
        unit = _UNITS[suffix]
        if left >= unit:
            return f"{sign}{left / unit:.1f}{suffix}"
    return f"{sign}{left}B"


def format_duration(seconds: float) -> str:
    """`0.41 s`, `12.3 s`, `3 min 20 s`, `2 h 5 min`: two figures that matter."""
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
