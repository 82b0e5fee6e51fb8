# SPDX-License-Identifier: LGPL-2.1-or-later
"""The machine's memory, from /proc/meminfo. Light, see model/quantity.py."""

import os

from slicemgr.kernel.errors import FormatError

_PATH = "/proc/meminfo"


def read_total_and_available(path: str = _PATH) -> tuple[int, int]:
    """MemTotal and MemAvailable in bytes. Raises OSError where there is no /proc/meminfo, FormatError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(descriptor, 4096)  # 1.6 kB; the two stand in its first three lines.
    finally:
        os.close(descriptor)
    return _bytes_of(b"MemTotal:", text), _bytes_of(b"MemAvailable:", text)


def _bytes_of(key: bytes, text: bytes) -> int:
    """The row of this key, in kB: `MemTotal:        8039164 kB`."""
    _, found, rest = text.partition(key)
    words = rest[:64].split()
    if not found or not words or not words[0].isdigit():
        raise FormatError(f"{key.decode()[:-1]} in {_PATH}", text)
    return int(words[0]) << 10
