# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whom the kernel's OOM killer took: its own line in the kernel log, where we may read that.

    oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/build.slice,
    task_memcg=/build.slice/slicemgr-make-4711.scope,task=cc1plus,pid=4720,uid=1000

(mm/oom_kill.c, dump_oom_summary, since 5.0.) With kernel.dmesg_restrict=1, Debian's default, it wants CAP_SYSLOG.
"""

import os
import re
from typing import Final

from slicemgr.model.cgroup import is_below

KMSG: Final = "/dev/kmsg"

_LONGEST_RECORD: Final = 8192
"""Documentation/ABI/testing/dev-kmsg: a buffer that is too small gives EINVAL; PRINTK_MESSAGE_MAX is 2048 and more."""

_MARK: Final = b"oom-kill:"
_ESCAPED: Final = re.compile(rb"\\x([0-9a-f]{2})")


def oom_victims(cgroup: str, path: str = KMSG) -> tuple[tuple[int, str], ...]:
    """(pid, comm) of those that were taken from this cgroup or below, oldest first; nothing where it can't be read.

    Never waits. The log wraps, and a pid is used again: what it says is for a report, not for a decision.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ()
    found: list[tuple[int, str]] = []
    try:
        while True:
            try:
                record = os.read(descriptor, _LONGEST_RECORD)
            except BrokenPipeError:  # Records were overwritten while we read: go on with the oldest left.
                continue
            except OSError:  # EAGAIN: that was the last.
                break
            if not record:
                break
            for line in record.split(b"\n"):
                victim = parse_oom_kill(line, cgroup)
                if victim is not None:
                    found.append(victim)
    finally:
        os.close(descriptor)
    return tuple(found)


def parse_oom_kill(record: bytes, cgroup: str) -> tuple[int, str] | None:
    """The victim of one line, if it is such a line and it lived in this cgroup or below.

    A comm may hold commas and `,pid=1`: so it is cut out between the first `task=` behind the cgroup and the last
    `,pid=`.
    """
    _, mark, text = record.partition(_MARK)
    _, has_group, rest = text.partition(b",task_memcg=")
    if not mark or not has_group:
        return None
    where, has_task, rest = rest.partition(b",task=")
    name, has_pid, numbers = rest.rpartition(b",pid=")
    pid = numbers.partition(b",")[0]
    if not has_task or not has_pid or not pid.isdigit():
        return None
    lived = os.fsdecode(_unescaped(where))
    if not is_below(lived, cgroup):
        return None
    return int(pid), os.fsdecode(_unescaped(name))


def _unescaped(text: bytes) -> bytes:
    r"""/dev/kmsg shows a backslash, and all that is not plain ASCII, as \x and two digits (kernel/printk/printk.c)."""
    return _ESCAPED.sub(lambda found: bytes.fromhex(found[1].decode()), text)
