# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernel file formats, hostile contents included."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.kernel.errors import FormatError
from slicemgr.kernel.formats import (
    ProcMemory,
    parse_children,
    parse_smaps_rollup,
    parse_stat,
    parse_statm_resident,
    parse_status_memory,
)

# Recorded on 6.1; the fields after the comm.
STAT_TAIL = (
    b" S 4700 4701 3999 34816 4700 4194304 96 0 0 0 1 2 0 0 20 0 3 0 216766 5873664 412 18446744073709551615 "
    b"94 95 140 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
)
STATUS = b"""Name:\tmeinproc5
Umask:\t0022
State:\tR (running)
Tgid:\t4711
VmPeak:\t  266508 kB
VmSize:\t  266504 kB
VmHWM:\t  118208 kB
VmRSS:\t  118208 kB
RssAnon:\t   98512 kB
RssFile:\t   19000 kB
RssShmem:\t     696 kB
VmPTE:\t     536 kB
VmSwap:\t      12 kB
Threads:\t1
"""
ROLLUP = b"""559e0d5c7000-7ffc5d1f2000 ---p 00000000 00:00 0                          [rollup]
Rss:              118208 kB
Pss:               99000 kB
Pss_Dirty:         98000 kB
Pss_Anon:          90000 kB
Pss_File:           8500 kB
Pss_Shmem:           500 kB
Swap:                 12 kB
SwapPss:               6 kB
"""


@pytest.mark.parametrize(
    "comm",
    [
        b"cc1plus",
        b"",
        b"foo) Z 1 2 3",
        b")",
        b"((((",
        b"a b",
        b"tab\there",
        b"new\nline",
        b"\xff\xfe\x80",
        b"\x1b[2J",
        b") S 1 1 1 1",
    ],
)
def test_stat_is_counted_from_the_last_parenthesis(comm: bytes) -> None:
    """A process names itself, and must not become another's child by it."""
    stat = parse_stat(b"4711 (" + comm + b")" + STAT_TAIL)
    assert stat.comm == comm
    assert (stat.state, stat.ppid, stat.pgrp, stat.starttime) == ("S", 4700, 4701, 216766)
    assert not stat.is_kernel_thread


@given(st.binary(max_size=15).filter(lambda comm: b"\0" not in comm))
def test_stat_with_any_name(comm: bytes) -> None:
    """Every name that the kernel allows."""
    assert parse_stat(b"1 (" + comm + b")" + STAT_TAIL).comm == comm


def test_a_kernel_thread_is_known_by_its_flag() -> None:
    """PF_KTHREAD: its name and its parent prove nothing."""
    assert parse_stat(b"2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 5 0 0 0 0 0 0 0").is_kernel_thread


@pytest.mark.parametrize("text", [b"", b"1 (x)", b"1 (x) S", b"no parenthesis at all", b"1 (x) S one two"])
def test_a_stat_that_is_none(text: bytes) -> None:
    """A typed error with what was read."""
    with pytest.raises(FormatError, match="/proc/PID/stat has an unknown format"):
        parse_stat(text)


@given(st.binary(max_size=200))
def test_parsers_fail_in_one_way(text: bytes) -> None:
    """Any bytes give a value or a FormatError; the tolerant ones always a value."""
    for parse in (parse_stat, parse_statm_resident, parse_children):
        try:
            parse(text)
        except FormatError:
            continue
    assert parse_status_memory(text).rss >= 0
    assert parse_smaps_rollup(text).rss >= 0


def test_status_tells_what_only_ending_the_process_frees() -> None:
    """Anonymous and shared memory and page tables; file pages the kernel can drop."""
    assert parse_status_memory(STATUS) == ProcMemory(
        rss=118208 << 10,
        file=19000 << 10,
        unreclaimable=(98512 + 696 + 536) << 10,
        shmem=696 << 10,
        swap=12 << 10,
        page_tables=536 << 10,
        has_memory=True,
    )


def test_status_of_a_zombie_has_no_memory() -> None:
    """No Vm lines at all."""
    assert parse_status_memory(b"Name:\tsh\nState:\tZ (zombie)\nThreads:\t1\n") == ProcMemory()


def test_status_before_4_5_counts_all_of_rss() -> None:
    """RssAnon is missing there: the bound that is known is taken."""
    old = b"VmSize:\t 400 kB\nVmRSS:\t 100 kB\nVmPTE:\t 8 kB\n"
    assert parse_status_memory(old).unreclaimable == 108 << 10


def test_a_name_cant_forge_a_line() -> None:
    """The kernel escapes newlines in `Name:`, and no carriage return; a colon in it stays in its line."""
    forged = STATUS.replace(b"meinproc5", b"VmRSS: 9 kB\\nVmRSS: 9 kB")
    assert parse_status_memory(forged) == parse_status_memory(STATUS)
    zombie = b"Name:\tx\rVmSize: 9 kB\rx\nState:\tZ (zombie)\n"
    assert not parse_status_memory(zombie).has_memory


def test_rollup_counts_shared_pages_once() -> None:
    """The anonymous and shmem parts of PSS."""
    memory = parse_smaps_rollup(ROLLUP)
    assert (memory.rss, memory.unreclaimable, memory.swap) == (118208 << 10, 90500 << 10, 6 << 10)


def test_rollup_before_5_4_counts_all_of_pss() -> None:
    """File pages included, so still an upper bound."""
    assert parse_smaps_rollup(b"Rss: 10 kB\nPss: 7 kB\n").unreclaimable == 7 << 10


@pytest.mark.parametrize(("text", "pids"), [(b"", []), (b"12 13 \n", [12, 13])])
def test_children(text: bytes, pids: list[int]) -> None:
    """Separated by blanks, one at the end."""
    assert parse_children(text) == pids


def test_statm() -> None:
    """The second field is RSS."""
    assert parse_statm_resident(b"5631 1302 930 1 0 412 0\n") == 1302
