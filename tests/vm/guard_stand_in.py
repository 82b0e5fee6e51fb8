# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs under the hardening of slicemgr.service and does once what a guard has to do: what was refused goes to a file.

python3 -m tests.vm.guard_stand_in REPORT VICTIM-PID CGROUP MANAGER-SOCKET
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import select
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from slicemgr.kernel import staying_alive, syscalls
from slicemgr.service.readiness import Readiness, watchdog_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    Deed = Callable[[], object]


def deeds(victim: int, cgroup: Path, manager: str, folders: dict[str, Path]) -> dict[str, Deed]:
    """What a guard does, in the order of its life."""
    proc = Path(f"/proc/{victim}")
    needed: dict[str, Deed] = {
        f"read {name}": (proc / name).read_bytes
        for name in ("stat", "statm", "status", "oom_score_adj", "smaps_rollup", "cmdline", "cgroup", "maps")
    }
    needed |= {
        f"read {name}": (cgroup / name).read_bytes
        for name in ("memory.current", "memory.events", "memory.stat", "memory.pressure", "cgroup.procs")
    }
    needed["see everybody"] = lambda: len(psutil.pids()) > 30 or _fail()
    needed["compare address spaces"] = lambda: syscalls.same_address_space(victim, victim) or _fail()
    needed["machine pressure"] = lambda: _trigger(Path("/proc/pressure/memory"))
    needed["slice pressure"] = lambda: _trigger(cgroup / "memory.pressure")
    needed["freeze"] = lambda: [(cgroup / "cgroup.freeze").write_text(state) for state in ("1", "0")]
    needed["open cgroup.kill"] = lambda: os.close(os.open(cgroup / "cgroup.kill", os.O_WRONLY))
    needed["talk to the manager"] = lambda: _connect(manager)
    needed["listen"] = lambda: _listen(folders["runtime"] / "control")
    needed["write history"] = lambda: (folders["state"] / "history.jsonl").write_text("{}\n")
    if os.geteuid() == 0:  # kernel.dmesg_restrict=1
        needed["read the kernel log"] = lambda: os.close(os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK))
    needed["a thread"] = _in_a_thread
    needed["signal 0"] = lambda: _with_pidfd(victim, _signal_nothing)
    needed["kill and release"] = lambda: _with_pidfd(victim, _kill)
    return needed


def forbidden() -> dict[str, Deed]:
    """What is none of its business; every one has to fail."""
    return {
        "the network": lambda: socket.socket(socket.AF_INET).close(),
        "write to /etc": lambda: Path("/etc/slicemgr-was-here").write_text("x"),
        "another device": lambda: os.close(os.open("/dev/vda", os.O_RDONLY)),
        "load code": _writable_and_executable,
        "a user namespace": _unshare,
    }


def attempt(deed: Deed) -> str:
    """`ok`, or why not."""
    try:
        deed()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    except RuntimeError as error:
        return str(error) or "failed"
    return "ok"


async def serve(readiness: Readiness, status: str) -> None:
    """READY, and then as a daemon does: alive, reload on SIGHUP, end on SIGTERM."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)

    def reload() -> None:
        readiness.reloading("reading the configuration")
        readiness.ready("reloaded\nREADY=0")

    loop.add_signal_handler(signal.SIGHUP, reload)
    readiness.ready(status)
    interval = watchdog_seconds(os.environ.get("WATCHDOG_USEC"), os.environ.get("WATCHDOG_PID"), os.getpid())
    while not ended.is_set():
        readiness.alive()
        try:
            async with asyncio.timeout(interval):
                await ended.wait()
        except TimeoutError:
            pass
    readiness.stopping("bye")


def main(report: str, victim: str, cgroup: str, manager: str) -> None:
    folders = {
        "runtime": Path(os.environ["RUNTIME_DIRECTORY"]),
        "state": Path(os.environ.get("STATE_DIRECTORY", os.environ["RUNTIME_DIRECTORY"])),
    }
    told: dict[str, object] = {
        "memlock": resource.getrlimit(resource.RLIMIT_MEMLOCK),
        "mapped_kib": int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() // 1024,
        "lock": staying_alive.lock_memory().name,
        "oom_score_adj": staying_alive.lower_oom_score_adj(-900),
        "open_files": staying_alive.raise_open_files(),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "cgroup": Path("/proc/self/cgroup").read_text().strip(),
        "needed": {name: attempt(deed) for name, deed in deeds(int(victim), Path(cgroup), manager, folders).items()},
        "forbidden": {name: attempt(deed) for name, deed in forbidden().items()},
        "status": Path("/proc/self/status").read_text(),
    }
    (folders["runtime"] / report).write_text(json.dumps(told))
    with Readiness(os.environ.get("NOTIFY_SOCKET")) as readiness:
        asyncio.run(serve(readiness, f"guarding; {told['lock']}"))


def _fail() -> object:
    raise RuntimeError("not so")


def _trigger(file: Path) -> None:
    """A privileged window; an ordinary user gets one of 2 s."""
    window = 1_000_000 if os.geteuid() == 0 else 2_000_000
    with file.open("r+b", buffering=0) as stream:
        stream.write(b"some 100000 %d\0" % window)
        poll = select.poll()
        poll.register(stream, select.POLLPRI)
        poll.poll(0)


def _connect(address: str) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        connection.sendall(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\n")
        if not connection.recv(100).startswith(b"OK "):
            raise RuntimeError("refused")


def _listen(address: Path) -> None:
    address.unlink(missing_ok=True)  # RuntimeDirectoryPreserve=restart
    with socket.socket(socket.AF_UNIX) as ear:
        ear.bind(str(address))


def _in_a_thread() -> None:
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()


def _with_pidfd(pid: int, deed: Callable[[int], None]) -> None:
    pidfd = os.pidfd_open(pid)
    try:
        deed(pidfd)
    finally:
        os.close(pidfd)


def _signal_nothing(pidfd: int) -> None:
    signal.pidfd_send_signal(pidfd, 0)


def _kill(pidfd: int) -> None:
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    try:
        syscalls.process_mrelease(pidfd)
    except OSError as error:
        if error.errno != errno.ESRCH:  # It was quicker, which is as good.
            raise


def _writable_and_executable() -> None:
    import mmap

    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def _unshare() -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x10000000) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


if __name__ == "__main__":
    main(*sys.argv[1:])
