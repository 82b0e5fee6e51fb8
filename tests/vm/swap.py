# SPDX-License-Identifier: LGPL-2.1-or-later
"""Swap in the guest, on request and only for as long as a group of tests needs it."""

from __future__ import annotations

import contextlib
import functools
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

DISK = "/dev/disk/by-id/virtio-swap"
SWAP_MIB = 768
"""Half of the guest's memory: what Debian's installer and zram-tools give, to the order of magnitude."""


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@functools.cache
def zram_device() -> str:
    """The one zram device of this boot, made on first use.

    It is never reset: udev looks at it right after swapoff, and then a reset fails (seen on Debian 13).
    """
    _run("modprobe", "zram", "num_devices=1")
    _run("udevadm", "settle")  # /dev/zram0 may not be there yet, and then zramctl fails.
    return _run("zramctl", "--find", "--size", f"{SWAP_MIB}MiB")


@contextlib.contextmanager
def active(kind: str | None) -> Iterator[None]:
    """Have swap of this kind ("disk", "zram" or None) while the block runs."""
    if kind is None:
        yield
        return
    device = zram_device() if kind == "zram" else DISK
    _run("mkswap", device)
    _run("swapon", device)
    try:
        yield
    finally:
        _run("swapoff", device)
