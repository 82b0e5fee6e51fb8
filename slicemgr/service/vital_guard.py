# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's OOM killer kept off the vital processes of sessions, and on what they start: oom_score_adj is inherited.

"/proc/pid/oom_adj [...] that value is inheritable to children and, thus, all children are implicitly protected as well"
(David Rientjes, 2010) was the answer to who had lost his session, and half of one: a browser would be as safe as the
shell that has started it. So the shell gets a value of ours, and each child that has it by birth gets what the shell
had before. Nothing tells of a fork without CAP_NET_ADMIN (cn_proc), so the children are looked at once a second. An
app that fills the machine within that second is as safe as the shell to the kernel, and to our own guards it is not.

What was started by a double fork has another parent by then: the nearest subreaper above, which is the user's manager,
or pid 1. So the children of all ancestors are looked at too; who is known there is not read again.

A look takes 1.6 ms of processor time for 12 vital processes of 20 threads and 4 children each, 0.6 ms if they have 5
threads, and the first one 5 ms (tests/bench/vital_children.py): two thousandths of one processor. 7 us of it are for
each thread, whose children are in a file of its own. For the system's daemon alone: to lower takes CAP_SYS_RESOURCE.
"""

import contextlib
from collections.abc import Collection, Iterable
from typing import Final

from slicemgr.kernel import procfs, syscalls
from slicemgr.kernel.errors import KernelError
from slicemgr.kernel.kill import RefusedError
from slicemgr.kernel.oom_adj import adjust
from slicemgr.model.process import ProcessIdentity
from slicemgr.service.vital_ledger import VitalLedger

LOOK_SECONDS: Final = 1.0
"""Between two looks at the children."""

MOST_SHARE: Final = 4
"""A vital process that holds a quarter of the machine is the leak itself, and is as any other."""

_OUT_OF_REACH: Final = (KernelError, RefusedError)
"""Gone, another's, or protected for ever."""
_UNTOUCHED: Final = (*_OUT_OF_REACH, OSError)
"""Or there is no descriptor just now: the next look sees who is left."""


class VitalGuard:
    """Every call reads and writes files of /proc, which do not wait; all of them from one thread at a time."""

    def __init__(self, adj: int, ledger: VitalLedger, *, total_bytes: int) -> None:
        """`adj`: -999 to 1000, what vital processes get. Of `total_bytes` a single one may hold a share."""
        self._adj = adj
        self._most_bytes = total_bytes // MOST_SHARE
        self._ledger = ledger
        self._former: dict[ProcessIdentity, int] = {}
        """The protected ones, and what they had before."""
        self._above: frozenset[int] = frozenset()
        """Their ancestors: who is orphaned is a child of one of them."""
        self._uids: frozenset[int] = frozenset()
        """Theirs."""
        self._known: dict[int, frozenset[int]] = {}
        """By parent: the children that are what they should be. Who has not the value now will not inherit it."""
        self._given_back: dict[ProcessIdentity, int] = {}
        """In the last look, and what; what they had forked just before that is looked at once more."""

    def protected(self) -> frozenset[ProcessIdentity]:
        """Who has our value."""
        return frozenset(self._former)

    @classmethod
    def restore(cls, ledger: VitalLedger, *, total_bytes: int) -> None:
        """All have again what they had before a slicemgr that was SIGKILLed, and so has what they have started since:
        whether they are vital by now, and what vital processes get by now, is for who comes next."""
        for given, formers in ledger.left().items():
            left = cls(given, ledger, total_bytes=total_bytes)
            for identity, former in formers.items():
                with contextlib.suppress(*_UNTOUCHED):
                    if procfs.identity_of(identity.pid) == identity:
                        left._former[identity] = former
            left._look_above()
            left.close()

    def protect(self, vital: Collection[ProcessIdentity]) -> None:
        """These and no others from now on, as far as the kernel lets us."""
        self.look()  # As long as is known above whom those were who have ended.
        for identity in self._former.keys() - set(vital):
            self._give_up(identity)
        for identity in sorted(self._former):
            self._see_to(identity)
        for identity in sorted(set(vital) - self._former.keys()):
            self._protect(identity)
        self._look_above()
        self._ledger.write(self._adj, self._former)

    def look(self) -> None:
        """Give back to the children what their parent had."""
        given_back, self._given_back = self._given_back, {}
        for identity, value in given_back.items():
            self._settle_all(procfs.children_of(identity.pid), identity.pid, value)
        for identity, former in list(self._former.items()):
            self._look_at_children(identity.pid, former)
        for pid in self._above:
            self._look_at_children(pid, self._value_of_orphans())
        self._known = {pid: known for pid, known in self._known.items() if self._is_watched(pid)}

    def close(self) -> None:
        """All of them have again what they had, and so have their children."""
        formers = dict(self._former)
        for identity, former in formers.items():
            with contextlib.suppress(*_UNTOUCHED):
                adjust(identity, former, only_from=self._adj)
        # A child of before may have been born between the last look and now; one of now has the right value.
        self.look()
        self._former.clear()
        self._ledger.write(self._adj, {})

    def _look_above(self) -> None:
        self._above = frozenset().union(*(procfs.ancestors_of(each.pid) for each in self._former))
        self._above -= {each.pid for each in self._former}
        self._uids = frozenset().union(*(_uids_of(each.pid) for each in self._former))

    def _protect(self, identity: ProcessIdentity) -> None:
        with contextlib.suppress(*_UNTOUCHED):
            if procfs.read_resident(identity.pid) > self._most_bytes:
                return
            before = procfs.read_oom_score_adj(identity.pid)
            # A slicemgr before us may have died and left it so.
            remembered = self._ledger.former_of(identity, before)
            if remembered is None and before <= self._adj:
                return  # Somebody has meant it.
            former = before if remembered is None else remembered
            # Before the write: if we die in between, whoever comes next knows what to give back.
            self._ledger.write(self._adj, {**self._former, identity: former})
            adjust(identity, self._adj, only_from=before)
            self._former[identity] = former
            # Who was forked during the write, or lives in its memory, may have the value as well.
            self._known.pop(identity.pid, None)

    def _see_to(self, identity: ProcessIdentity) -> None:
        """Forget who has ended, or has been given another value by somebody; let go of who has grown too big."""
        try:
            if procfs.identity_of(identity.pid) == identity:
                if procfs.read_resident(identity.pid) > self._most_bytes:
                    self._give_up(identity)
                    return
                if procfs.read_oom_score_adj(identity.pid) == self._adj:
                    return
        except _UNTOUCHED:
            pass
        self._former.pop(identity, None)

    def _give_up(self, identity: ProcessIdentity) -> None:
        former = self._former.pop(identity)
        with contextlib.suppress(*_UNTOUCHED):
            adjust(identity, former, only_from=self._adj)
            self._settle_all(procfs.children_of(identity.pid), identity.pid, former)

    def _look_at_children(self, parent: int, value: int) -> None:
        known = self._known.get(parent, frozenset())
        children = frozenset(procfs.children_of(parent))
        self._known[parent] = (children & known) | self._settle_all(children - known, parent, value)

    def _settle_all(self, pids: Iterable[int], parent: int, value: int) -> set[int]:
        """See to these children, and to all below that have ours by birth. Returns who of them is done with."""
        settled: set[int] = set()
        ahead = [(pid, parent) for pid in pids]
        while ahead:
            pid, above = ahead.pop()
            is_given = False
            try:
                if self._has_ours_by_birth(pid, above):
                    if syscalls.same_address_space(pid, above):
                        # Before an exec, mostly. If it is no vfork, the value is its parent's too: that one keeps it.
                        continue
                    is_given = self._give_back(procfs.identity_of(pid), value)
            except _OUT_OF_REACH:
                pass
            except OSError:  # No descriptor just now.
                continue
            if above == parent:
                settled.add(pid)
            if is_given:
                ahead += [(child, pid) for child in procfs.children_of(pid)]
        return settled

    def _give_back(self, identity: ProcessIdentity, value: int) -> bool:
        if adjust(identity, value, only_from=self._adj) != self._adj:
            return False
        self._given_back[identity] = value
        return True

    def _has_ours_by_birth(self, pid: int, parent: int) -> bool:
        if procfs.identity_of(pid) in self._former or procfs.read_oom_score_adj(pid) != self._adj:
            return False
        return parent not in self._above or self._may_be_an_orphan(pid)

    def _may_be_an_orphan(self, pid: int) -> bool:
        """Children of pid 1 that are root's, or of a user who has nobody here, are services, and have the value that
        somebody has configured: the system's dbus-daemon has -900."""
        uids = procfs.read_uids(pid)
        return procfs.read_stat(pid).ppid != 1 or (0 not in uids and not uids.isdisjoint(self._uids))

    def _value_of_orphans(self) -> int:
        """Nobody tells whose child it was: the value of who is protected least."""
        return max(self._former.values(), default=0)

    def _is_watched(self, pid: int) -> bool:
        return pid in self._above or any(each.pid == pid for each in self._former)


def _uids_of(pid: int) -> frozenset[int]:
    try:
        return procfs.read_uids(pid)
    except KernelError:
        return frozenset()
