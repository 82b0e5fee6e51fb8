# SPDX-License-Identifier: LGPL-2.1-or-later
"""The line that the kernel's OOM killer leaves, as a kernel wrote it, and as a hostile name might make it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.kernel.kernel_log import oom_victims, parse_oom_kill

SLICE = "/user.slice/user-1000.slice/user@1000.service/build.slice"
JOB = f"{SLICE}/slicemgr-make-4711.scope"


def line(task: bytes = b"cc1plus", cgroup: str = JOB, pid: int = 4720) -> bytes:
    """A record of /dev/kmsg."""
    group = escaped(cgroup.encode())
    return (
        b"6,1234,98765432,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,"
        b"oom_memcg=%s,task_memcg=%s,task=%s,pid=%d,uid=1000" % (group, group, escaped(task), pid)
    )


def escaped(text: bytes) -> bytes:
    """As msg_print_ext_body() of kernel/printk/printk.c has it."""
    return b"".join(b"\\x%02x" % c if c < 32 or c >= 127 or c == ord("\\") else bytes([c]) for c in text)


@pytest.mark.parametrize("asked", ["/", "/user.slice", SLICE, JOB])
def test_whom_the_kernel_took(asked: str) -> None:
    assert parse_oom_kill(line(), asked) == (4720, "cc1plus")


@pytest.mark.parametrize("asked", [f"{JOB}/below", SLICE[:-1], JOB + "x", "/system.slice", "/build.slice"])
def test_of_another_cgroup(asked: str) -> None:
    """A prefix of a name is not the cgroup above it."""
    assert parse_oom_kill(line(), asked) is None


@pytest.mark.parametrize(
    "comm", [b"x,pid=1", b",pid=1,uid=0", b"a,task=b", b"task=,pid=", b"", b"a b", b"\xff\n\\x41", b"\\"]
)
def test_a_comm_that_would_be_more(comm: bytes) -> None:
    """15 bytes that a process chose: they are its name, and nothing else."""
    victim = parse_oom_kill(line(comm), JOB)
    assert victim == (4720, comm.decode(errors="surrogateescape"))


def test_a_unit_with_an_escape_in_its_name() -> None:
    r"""systemd has `\x20` for a space, of which /dev/kmsg escapes the backslash once more."""
    job = f"{SLICE}/slicemgr-cargo\\x20build-7.scope"
    assert b"\\x5cx20" in line(cgroup=job)
    assert parse_oom_kill(line(cgroup=job), job) == (4720, "cc1plus")


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"oom-kill:",
        b"6,1,2,-;Out of memory: Killed process 4720 (cc1plus)",
        line().partition(b",task=")[0],
        line().partition(b",pid=")[0],
        line().replace(b",pid=4720", b",pid=x"),
        line().replace(b",pid=4720", b",pid="),
        line().replace(b"oom-kill:", b"oom-"),
        line().replace(b",task_memcg=", b",memcg="),
    ],
)
def test_no_such_line(record: bytes) -> None:
    assert parse_oom_kill(record, "/") is None


@given(st.binary() | st.builds(bytes.__add__, st.just(line()), st.binary()), st.text(max_size=5))
def test_anything(record: bytes, cgroup: str) -> None:
    """Whatever stands there: a pid and a name, or nothing."""
    victim = parse_oom_kill(record, "/" + cgroup)
    assert victim is None or victim[0] >= 0


@given(st.binary(max_size=15).filter(lambda comm: b"\0" not in comm))
def test_any_comm(comm: bytes) -> None:
    assert parse_oom_kill(line(comm), SLICE) == (4720, comm.decode(errors="surrogateescape"))


def test_a_whole_log(tmp_path: Path) -> None:
    """Oldest first, those of other cgroups and other lines left out."""
    log = tmp_path / "kmsg"
    records = [line(pid=1), b"6,2,3,-;cc1plus invoked oom-killer", line(pid=2, cgroup="/other"), line(b"ld", pid=3)]
    log.write_bytes(b"\n".join(records) + b"\n")
    assert oom_victims(SLICE, str(log)) == ((1, "cc1plus"), (3, "ld"))


def test_a_log_that_may_not_be_read(tmp_path: Path) -> None:
    """Debian's kernel.dmesg_restrict=1: nothing is known, and nothing is wrong."""
    assert oom_victims("/", str(tmp_path / "absent")) == ()
    assert oom_victims("/", str(tmp_path)) == ()
