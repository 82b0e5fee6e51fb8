# SPDX-License-Identifier: LGPL-2.1-or-later
"""Formats of cgroup v2 and of the machine's memory, hostile contents included."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.kernel import cgroup_formats as formats
from slicemgr.kernel.cgroup_formats import CgroupEvents, MemInfo, Mount, SwapDevice, ZramUse
from slicemgr.kernel.errors import FormatError
from slicemgr.model.cgroup import MemoryEvents, MemoryStat, Pressure, Stall

if TYPE_CHECKING:
    from collections.abc import Callable

PARSERS: list[Callable[[bytes], Any]] = [
    formats.parse_single,
    formats.parse_memory_events,
    formats.parse_memory_stat,
    formats.parse_cgroup_events,
    formats.parse_cpu_usage,
    formats.parse_pids_events,
    formats.parse_pressure,
    formats.parse_pids,
    formats.parse_words,
    formats.parse_cgroup_path,
    formats.parse_meminfo,
    formats.parse_swaps,
    formats.parse_zram,
    formats.parse_mounts,
]

# Words of the formats, so that the generator gets behind the first check.
WORDS = st.sampled_from(
    rb"some full avg10= avg60=1.0 avg300=0.00 total= nan 1e9 max anon high populated frozen usage_usec MemTotal: "
    rb"SwapFree: kB 0::/ - /dev/zram0 \777 0 17 -1 1_0 cgroup2 ro ,".split()
)
GAPS = st.sampled_from([b" ", b"\n", b"", b"9" * 5000, b"\xff", b"\0"])
TEXTS = st.one_of(st.binary(), st.lists(st.one_of(WORDS, GAPS), max_size=40).map(b"".join))


@pytest.mark.parametrize("parse", PARSERS, ids=lambda parse: parse.__name__)
@given(text=TEXTS)
def test_anything_is_a_value_or_a_format_error(parse: Callable[[bytes], Any], text: bytes) -> None:
    """No other exception leaves a parser, whatever the kernel of the future writes."""
    with contextlib.suppress(FormatError):
        parse(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [(b"0\n", 0), (b"104857600\n", 104857600), (b"max\n", None), (b"18446744073709551615", 2**64 - 1)],
)
def test_single(text: bytes, value: int | None) -> None:
    """A number, or no limit."""
    assert formats.parse_single(text) == value


@pytest.mark.parametrize("text", [b"", b"\n", b"-1\n", b"1_000\n", b"+5", b"1 2\n", b"MAX\n", b"0x10", "٣".encode()])
def test_single_refuses(text: bytes) -> None:
    """What Python's int() would take as well is not what the kernel writes."""
    with pytest.raises(FormatError, match=r"memory\.high"):
        formats.parse_single(text, "memory.high")


@given(st.integers(min_value=0, max_value=2**64 - 1))
def test_single_is_exact(number: int) -> None:
    """Every number that the kernel can write."""
    assert formats.parse_single(b"%d\n" % number) == number


@pytest.mark.parametrize(
    ("text", "events"),
    [
        (b"low 0\nhigh 54\nmax 3\noom 2\noom_kill 1\noom_group_kill 0\n", MemoryEvents(0, 54, 3, 2, 1, 0)),
        (b"low 0\nhigh 54\nmax 3\noom 2\noom_kill 1\n", MemoryEvents(0, 54, 3, 2, 1, None)),
        (b"high 1\nsock_throttled 7\n", MemoryEvents(high=1)),
        (b"high 1\nfuture a=1 b=2\n", MemoryEvents(high=1)),
        (b"", MemoryEvents()),
    ],
    ids=["6.1", "before 5.17", "an unknown row", "an unknown row of another kind", "no rows"],
)
def test_memory_events(text: bytes, events: MemoryEvents) -> None:
    """Unknown rows are ignored, missing ones None."""
    assert formats.parse_memory_events(text) == events


@pytest.mark.parametrize("text", [b"high\n", b"high many\n", b"high -1\n", b"high 1 2\n", b"high  1\n", b"high 1\n\n"])
def test_memory_events_refuse(text: bytes) -> None:
    """A known row with an unknown value."""
    with pytest.raises(FormatError):
        formats.parse_memory_events(text)


def test_memory_stat_takes_its_rows() -> None:
    """And no other's: `anon_thp` is not `anon`."""
    stat = formats.parse_memory_stat(b"anon 4096\nfile 8192\nanon_thp 2097152\npgscan 5\nworkingset_refault_file 3\n")
    assert stat == MemoryStat(anon=4096, file=8192, pgscan=5, workingset_refault_file=3)


def test_pressure() -> None:
    """Two lines; a word that is not known yet does no harm."""
    some = b"some avg10=1.53 avg60=0.35 avg300=100.00 total=123456789"
    full = b"full avg10=0.00 avg60=0.00 avg300=0.00 total=0"
    parsed = Pressure(Stall(1.53, 0.35, 100.0, 123456789), Stall(0.0, 0.0, 0.0, 0))
    assert formats.parse_pressure(some + b"\n" + full + b"\n") == parsed
    assert formats.parse_pressure(some + b" avg900=1.00\n" + full + b"\nirq avg10=0.00\n") == parsed
    assert formats.parse_pressure(some + b"\n").full is None


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
        b"some avg10=0.00 avg60=0.00 avg300=0.00\n",
        b"some avg10=nan avg60=0.00 avg300=0.00 total=0\n",
        b"some avg10=1e5 avg60=0.00 avg300=0.00 total=0\n",
        b"some avg10=-1.0 avg60=0.00 avg300=0.00 total=0\n",
        b"some avg10=0.00 avg60=0.00 avg300=0.00 total=-1\n",
        b"some avg10 avg60=0.00 avg300=0.00 total=0\n",
    ],
)
def test_pressure_refuses(text: bytes) -> None:
    """Half a line, and floats that only Python writes."""
    with pytest.raises(FormatError):
        formats.parse_pressure(text)


def test_pids_leave_out_strangers() -> None:
    """0 is a process of another pid namespace, and our own group to kill(2)."""
    assert formats.parse_pids(b"12\n0\n4711\n0\n") == [12, 4711]
    assert formats.parse_pids(b"") == []
    with pytest.raises(FormatError):
        formats.parse_pids(b"12\n-1\n")


@pytest.mark.parametrize(
    ("text", "events"),
    [
        (b"populated 1\nfrozen 0\n", CgroupEvents(True, False)),
        (b"populated 0\n", CgroupEvents(False, None)),
        (b"", CgroupEvents(None, None)),
    ],
)
def test_cgroup_events(text: bytes, events: CgroupEvents) -> None:
    """frozen is younger than populated."""
    assert formats.parse_cgroup_events(text) == events


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (b"0::/user.slice/user-1000.slice\n", "/user.slice/user-1000.slice"),
        (b"9:name=systemd:/\n4:memory:/a\n0::/b\n", "/b"),
        (b"4:memory:/a\n1:cpu:/0::/x\n", None),
        (b"", None),
        (b"0::/\n", "/"),
        (b"0::/../../elsewhere\n", "/../../elsewhere"),
        (b"0::/job.scope (deleted)\n", "/job.scope (deleted)"),
        (b"0::/caf\xe9\n", "/caf\udce9"),
        (b"0::/with:colon ::/and space\n", "/with:colon ::/and space"),
        (b"0::/user.slice/build.slice\rnot/x\n", "/user.slice/build.slice\rnot/x"),
        (b"4:memory:/a\r0::/forged\n0::/b\x0b\x0c\x1c\n", "/b\x0b\x0c\x1c"),
    ],
)
def test_cgroup_path(text: bytes, path: str | None) -> None:
    """The line of version 2, in a hybrid tree too."""
    assert formats.parse_cgroup_path(text) == path


def test_words() -> None:
    """Controllers."""
    assert formats.parse_words(b"cpu io memory pids\n") == {"cpu", "io", "memory", "pids"}
    assert formats.parse_words(b"\n") == frozenset()


def test_cpu_and_pids() -> None:
    """One row each."""
    assert formats.parse_cpu_usage(b"usage_usec 102338\nuser_usec 1\n") == 102338
    assert formats.parse_cpu_usage(b"user_usec 1\n") is None
    assert formats.parse_pids_events(b"max 3\n") == 3


def test_meminfo() -> None:
    """Kilobytes become bytes; a page count in another row does not."""
    text = b"MemTotal:        2014272 kB\nMemFree: 1 kB\nMemAvailable: 100 kB\nSwapTotal: 8 kB\nSwapFree:  4 kB\nHugePages_Total:       0\n"
    assert formats.parse_meminfo(text) == MemInfo(2014272 << 10, 100 << 10, 8 << 10, 4 << 10)
    assert formats.parse_meminfo(b"MemTotal: 1 kB\n") == MemInfo(1024, None, 0, 0)
    with pytest.raises(FormatError):
        formats.parse_meminfo(b"MemAvailable: 1 kB\n")


def test_swaps() -> None:
    """Blanks in a name are octal; a device that was removed while in use says so behind its name."""
    heading = b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
    rows = (
        b"/dev/zram0                              partition\t786428\t\t1024\t\t100\n/my\\040swap\\134 file\t8\t0\t-2\n"
    )
    assert formats.parse_swaps(heading + rows) == (
        SwapDevice("/dev/zram0", 786428 << 10, 1 << 20),
        SwapDevice("/my swap\\", 8192, 0),
    )
    assert formats.parse_swaps(heading + b"/a\rb\x0c file\t8\t0\t-2\n") == (SwapDevice("/a\rb\x0c", 8192, 0),)
    assert formats.parse_swaps(heading) == formats.parse_swaps(b"") == ()
    with pytest.raises(FormatError):
        formats.parse_swaps(heading + b"/dev/zram0 partition\n")


def test_zram() -> None:
    """Three of nine columns."""
    text = b"   65536    16384    20480        0    20480        0        0        0        0\n"
    assert formats.parse_zram(text) == ZramUse(65536, 16384, 20480)
    with pytest.raises(FormatError):
        formats.parse_zram(b"1 2\n")


@pytest.mark.parametrize(
    ("line", "mount"),
    [
        (
            b"31 24 0:27 / /sys/fs/cgroup rw,nosuid shared:9 master:1 - cgroup2 cgroup2 rw,nsdelegate\n",
            Mount("/", "/sys/fs/cgroup", "cgroup2", False, frozenset({"rw", "nsdelegate"})),
        ),
        (
            b"31 24 0:27 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n",
            Mount("/", "/sys/fs/cgroup", "cgroup2", True, frozenset({"rw"})),
        ),
        (
            b"35 31 0:32 /docker/a\\040b /mnt rw - cgroup cgroup ro,memory\n",
            Mount("/docker/a b", "/mnt", "cgroup", True, frozenset({"ro", "memory"})),
        ),
        (
            b"90 24 0:55 / /home/u/a\rb rw,nosuid - fuse.sshfs host:a\rb rw,user_id=1000\n",
            Mount("/", "/home/u/a\rb", "fuse.sshfs", False, frozenset({"rw", "user_id=1000"})),
        ),
    ],
)
def test_mounts(line: bytes, mount: Mount) -> None:
    """The fields behind the dash move with the optional ones before it."""
    assert formats.parse_mounts(line) == [mount]


def test_mounts_refuse() -> None:
    """A line without its dash."""
    with pytest.raises(FormatError):
        formats.parse_mounts(b"31 24 0:27 / /sys/fs/cgroup rw,nosuid cgroup2 cgroup2 rw\n")
