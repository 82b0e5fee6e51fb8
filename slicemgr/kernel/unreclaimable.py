# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rows of memory.stat that say what can't be reclaimed, and no others: for who asks twenty times a second.

`anon 1531904`, `shmem 0`, `kernel 425984` (Documentation/admin-guide/cgroup-v2.rst). How they add up is judged in
policy/evidence.py. To read the file on a kept descriptor and find these in its 2 kB takes 8 us; to find all that
cgroup_formats.parse_memory_stat finds takes 19 us without the reading (tests/bench/budget.py).
"""

from typing import Final

from slicemgr.kernel.cgroup_files import CgroupFiles
from slicemgr.kernel.errors import FormatError
from slicemgr.model.cgroup import MemoryStat

_ALWAYS: Final = ("anon", "shmem", "sock", "kernel", "slab_reclaimable")
_PARTS: Final = ("kernel_stack", "pagetables", "percpu", "slab_unreclaimable")
"""Of the kernel's own memory, before 5.18 has a row for all of it."""


def read_unreclaimable(cgroup: CgroupFiles) -> MemoryStat | None:
    """These rows of memory.stat, of the whole subtree; None where there is no such file.

    Raises CgroupGoneError, CgroupNotPermittedError, FormatError.
    """
    text = cgroup.read("memory.stat")
    return None if text is None else parse_unreclaimable(text)


def parse_unreclaimable(text: bytes) -> MemoryStat:
    """As parse_memory_stat, with all other rows None. Raises FormatError."""
    text = b"\n" + text
    rows = {name: _row(text, name) for name in _ALWAYS}
    if rows["kernel"] is None:
        rows.update((name, _row(text, name)) for name in _PARTS)
    return MemoryStat(**rows)


def _row(text: bytes, name: str) -> int | None:
    key = b"\n%s " % name.encode()
    at = text.find(key)
    if at < 0:
        return None
    end = text.find(b"\n", at + 1)
    word = text[at + len(key) : end if end >= 0 else len(text)]
    if not word.isdigit() or len(word) > 20:
        raise FormatError("memory.stat", text[1:])
    return int(word)
