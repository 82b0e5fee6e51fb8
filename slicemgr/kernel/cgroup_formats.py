# SPDX-License-Identifier: LGPL-2.1-or-later
"""Formats of cgroup v2 and of the machine's memory: text in, value out; opens no file.

Kernels differ: an unknown row is ignored, a missing one is None, and only a known row with an unknown value is a
FormatError. Numbers are unsigned decimals; Python's int() would also take `1_000` and ` -5`. A line ends at a newline
and nowhere else: the kernel escapes that one in names, and not the carriage return at which splitlines() cuts as well.
"""

import re
from dataclasses import dataclass, fields
from typing import Final

from slicemgr.kernel.errors import FormatError
from slicemgr.model.cgroup import MemoryEvents, MemoryStat, Pressure, Stall


@dataclass(frozen=True, slots=True)
class CgroupEvents:
    """cgroup.events."""

    populated: bool | None
    """A living process is in the cgroup or below it."""
    frozen: bool | None
    """Everything in it stands still (since 5.2)."""


@dataclass(frozen=True, slots=True)
class MemInfo:
    """The rows of /proc/meminfo that we use, in bytes."""

    total: int
    available: int | None
    """Since 3.14."""
    swap_total: int
    swap_free: int


@dataclass(frozen=True, slots=True)
class SwapDevice:
    """A row of /proc/swaps."""

    path: str
    size_bytes: int
    used_bytes: int


@dataclass(frozen=True, slots=True)
class ZramUse:
    """The first numbers of /sys/block/zramN/mm_stat, in bytes."""

    original_bytes: int
    """What was put in."""
    compressed_bytes: int
    """What it is compressed, without the allocator's own needs."""
    memory_bytes: int
    """The RAM that it takes (`mem_used_total`)."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A row of /proc/self/mountinfo (proc_pid_mountinfo(5))."""

    root: str
    point: str
    type: str
    read_only: bool
    """The mount, or the file system behind it."""
    options: frozenset[str]
    """Of the file system; with cgroup v1 they name its controllers."""


_EVENT_ROWS: Final = tuple((field.name, field.name.encode()) for field in fields(MemoryEvents))
_STAT_ROWS: Final = tuple((field.name, field.name.encode()) for field in fields(MemoryStat))

_ESCAPED: Final = re.compile(rb"\\([0-7]{3})")
"""mangle_path() of fs/seq_file.c: white space and backslashes in a path, as three octal digits."""

_GAP: Final = re.compile(rb"[ \t]+")
"""Between the columns of /proc/swaps."""


def parse_single(text: bytes, what: str = "a cgroup file") -> int | None:
    """`104857600`, or `max`, which is None: no limit. Raises FormatError."""
    word = text.strip()
    return None if word == b"max" else _number(word, text, what)


def parse_memory_events(text: bytes) -> MemoryEvents:
    """memory.events, memory.events.local: `low 0`, `high 54`, `max 0`, `oom 0`, `oom_kill 0`. Raises FormatError."""
    rows = _rows(text, "memory.events")
    return MemoryEvents(**{name: _row(rows, key, text, "memory.events") for name, key in _EVENT_ROWS})


def parse_memory_stat(text: bytes) -> MemoryStat:
    """memory.stat: `anon 1531904` and forty more (Documentation/admin-guide/cgroup-v2.rst). Raises FormatError."""
    rows = _rows(text, "memory.stat")
    return MemoryStat(**{name: _row(rows, key, text, "memory.stat") for name, key in _STAT_ROWS})


def parse_cgroup_events(text: bytes) -> CgroupEvents:
    """cgroup.events: `populated 1`, `frozen 0`. Raises FormatError."""
    rows = _rows(text, "cgroup.events")
    populated, frozen = (_row(rows, key, text, "cgroup.events") for key in (b"populated", b"frozen"))
    return CgroupEvents(
        populated=None if populated is None else populated != 0, frozen=None if frozen is None else frozen != 0
    )


def parse_cpu_usage(text: bytes) -> int | None:
    """cpu.stat: `usage_usec 102338`, there without the controller too. Raises FormatError."""
    return _row(_rows(text, "cpu.stat"), b"usage_usec", text, "cpu.stat")


def parse_pids_events(text: bytes) -> int | None:
    """pids.events: `max 3`, forks refused by pids.max. Raises FormatError."""
    return _row(_rows(text, "pids.events"), b"max", text, "pids.events")


def parse_pressure(text: bytes) -> Pressure:
    """memory.pressure, /proc/pressure/memory: `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, then `full`.

    Raises FormatError.
    """
    some = full = None
    for line in _lines(text):
        kind, _, rest = line.partition(b" ")
        if kind == b"some":
            some = _stall(rest, text)
        elif kind == b"full":
            full = _stall(rest, text)
    if some is None:
        raise FormatError("memory.pressure", text)
    return Pressure(some=some, full=full)


def parse_pids(text: bytes) -> list[int]:
    """cgroup.procs: a pid a line. Raises FormatError.

    The kernel shows 0 for a process of another pid namespace. It is left out: to kill(2), 0 is our own group.
    """
    return [pid for word in text.split() if (pid := _number(word, text, "cgroup.procs")) != 0]


def parse_words(text: bytes) -> frozenset[str]:
    """cgroup.controllers, cgroup.subtree_control: `cpuset cpu io memory pids`."""
    return frozenset(_decode(word) for word in text.split())


def parse_cgroup_path(text: bytes) -> str | None:
    """/proc/PID/cgroup -> the path of the `0::` line, which is cgroup v2's (cgroups(7)); None if there is none.

    A name can't forge a line: the kernel refuses a newline in it. The ` (deleted)` behind the path of a zombie
    stays, because it may be part of a name: no directory has that path, and that is the answer.
    """
    for line in _lines(text):
        if line.startswith(b"0::/"):
            return _decode(line[3:])
    return None


def parse_meminfo(text: bytes) -> MemInfo:
    """/proc/meminfo: `MemTotal:        2014272 kB`. Raises FormatError without MemTotal."""
    rows = _rows(text, "/proc/meminfo", b":")

    def kilobytes(key: bytes) -> int | None:
        words = rows.get(key, b"").split()
        return _number(words[0], text, "/proc/meminfo") << 10 if words else None

    total = kilobytes(b"MemTotal")
    if total is None:
        raise FormatError("/proc/meminfo", text)
    return MemInfo(
        total=total,
        available=kilobytes(b"MemAvailable"),
        # Without CONFIG_SWAP too the kernel shows both, as 0.
        swap_total=kilobytes(b"SwapTotal") or 0,
        swap_free=kilobytes(b"SwapFree") or 0,
    )


def parse_swaps(text: bytes) -> tuple[SwapDevice, ...]:
    """/proc/swaps: a heading, then `/dev/zram0  partition  786428  0  100` in kilobytes. Raises FormatError."""
    return tuple(_swap_device(_GAP.split(line), text) for line in _lines(text)[1:])


def parse_zram(text: bytes) -> ZramUse:
    """/sys/block/zramN/mm_stat: `orig_data_size compr_data_size mem_used_total ...` in bytes. Raises FormatError.

    Documentation/admin-guide/blockdev/zram.rst.
    """
    words = text.split()
    if len(words) < 3:
        raise FormatError("zram mm_stat", text)
    original, compressed, memory = (_number(word, text, "zram mm_stat") for word in words[:3])
    return ZramUse(original_bytes=original, compressed_bytes=compressed, memory_bytes=memory)


def parse_mounts(text: bytes) -> list[Mount]:
    """/proc/self/mountinfo: `31 24 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw`. Raises FormatError."""
    return [_mount(line, text) for line in _lines(text)]


def _swap_device(words: list[bytes], text: bytes) -> SwapDevice:
    if len(words) < 4:
        raise FormatError("/proc/swaps", text)
    return SwapDevice(
        path=_path(words[0]),
        size_bytes=_number(words[2], text, "/proc/swaps") << 10,
        used_bytes=_number(words[3], text, "/proc/swaps") << 10,
    )


def _mount(line: bytes, text: bytes) -> Mount:
    # Optional fields stand before the dash, so it is counted from there.
    before, dash, after = line.partition(b" - ")
    left, right = before.split(b" "), after.split(b" ")
    if not dash or len(left) < 6 or len(right) < 3:
        raise FormatError("/proc/self/mountinfo", text)
    return Mount(
        root=_path(left[3]),
        point=_path(left[4]),
        type=_decode(right[0]),
        read_only=b"ro" in left[5].split(b",") or b"ro" in right[-1].split(b","),
        options=frozenset(_decode(option) for option in right[-1].split(b",")),
    )


def _stall(rest: bytes, text: bytes) -> Stall:
    values = dict(word.split(b"=", 1) for word in rest.split() if b"=" in word)
    try:
        avg10, avg60, avg300 = (_share(values[key], text) for key in (b"avg10", b"avg60", b"avg300"))
        return Stall(avg10, avg60, avg300, total_usec=_number(values[b"total"], text, "memory.pressure"))
    except KeyError as error:
        raise FormatError("memory.pressure", text) from error


def _share(word: bytes, text: bytes) -> float:
    if not word.replace(b".", b"", 1).isdigit():  # `nan` and `1e9` are floats to Python, and not to PSI.
        raise FormatError("memory.pressure", text)
    return float(word)


def _lines(text: bytes) -> list[bytes]:
    lines = text.split(b"\n")
    return lines if lines[-1] else lines[:-1]


def _rows(text: bytes, what: str, separator: bytes = b" ") -> dict[bytes, bytes]:
    rows: dict[bytes, bytes] = {}
    for line in _lines(text):
        key, found, value = line.partition(separator)
        if not found:
            raise FormatError(what, text)
        rows[key] = value
    return rows


def _row(rows: dict[bytes, bytes], key: bytes, text: bytes, what: str) -> int | None:
    value = rows.get(key)
    return None if value is None else _number(value, text, what)


def _number(word: bytes, text: bytes, what: str) -> int:
    # 2**64 has 20 digits; Python itself refuses to read more than 4300.
    if not word.isdigit() or len(word) > 20:
        raise FormatError(what, text)
    return int(word)


def _path(word: bytes) -> str:
    # An octal above 377 is no byte: no kernel writes it, and we do not stumble over it.
    return _decode(_ESCAPED.sub(lambda escape: bytes([int(escape[1], 8) & 0xFF]), word))


def _decode(word: bytes) -> str:
    return word.decode("utf-8", "surrogateescape")
