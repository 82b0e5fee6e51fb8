# SPDX-License-Identifier: LGPL-2.1-or-later
"""The way of a kill, gone once before it is needed."""

import contextlib
from dataclasses import replace

from slicemgr.kernel import procfs
from slicemgr.kernel.cgroupfs import cgroup_of
from slicemgr.kernel.kill import ProvenProcess, RefusedError
from slicemgr.policy.victim import NoVictim, choose
from slicemgr.service.managed import ManagedSlice


def rehearse(slices: list[ManagedSlice], pid: int) -> None:
    """The way of a kill with signal 0 for its end (ProvenProcess sends it): modules, tables and files are warm then.

    On a child of our own. Raises KernelError, OSError.
    """
    managed = slices[0] if slices else ManagedSlice("")
    table = procfs.snapshot([pid])
    # It has a keeper's name, and would be spared.
    choice = choose(table, replace(managed.scale(table, 1 << 30, frozenset()), keepers=frozenset()))
    if isinstance(choice, NoVictim):
        return
    with contextlib.suppress(RefusedError), ProvenProcess(choice.victim.process.identity, cgroup_of(pid)):
        return
