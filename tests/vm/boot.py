# SPDX-License-Identifier: LGPL-2.1-or-later
"""One boot of the guest: qemu with its drives and ports, the events it sends, and its end after a silence."""

from __future__ import annotations

import base64
import contextlib
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from tests.vm.checkout import write_job_drive
from tests.vm.image import Image, cache_directory, ensure_image, locked
from tests.vm.protocol import Alive, Event, Job, Output, SavedFile, Started, decode
from tests.vm.recipe import chosen
from tests.vm.swap import SWAP_MIB

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULTS = Path(os.environ.get("SLICEMGR_VM_RESULTS") or Path(__file__).parent / "results")
KEPT_BOOTS = 5
MEMORY_MIB = 1536
"""Debian, two managers and pytest take 200 MiB; the rest holds a bomb of 1 GiB and its page cache."""
BOOT_SECONDS = 180.0
"""Silence allowed before the agent's first word: ten times what it takes here (15 s on 2 cores)."""
CONSOLE_LINES = 40


class GuestDiedError(Exception):
    """The guest hung or ended early; the message says which, and ends in its console."""


def qemu_command(image: Image, job: Path, swap: Path, results_fd: int, folder: Path, shell: bool) -> list[str]:
    """The command line of one boot. Emulation only: the guest must be the same where kvm is not to be had."""
    # -cx16: with it, Debian 13's kernel 6.12 dies of a double fault under emulation. And with a thread for each
    # processor it died once in 630 s of an int3 in get_page_from_freelist, where it was patching its own code.
    threads = "multi" if chosen().suite == "bookworm" else "single"
    command = ["qemu-system-x86_64", "-accel", f"tcg,thread={threads}", "-cpu", "qemu64,-cx16"]
    command += ["-smp", "2", "-m", str(MEMORY_MIB), "-nodefaults", "-display", "none", "-no-reboot"]
    # psi=1 is for kernels that ship it switched off; panic=-1 with -no-reboot: a panic is the end of qemu.
    # loglevel=5: warnings reach the console, out-of-memory reports among them; auto: so do units that hang.
    append = "console=ttyS0 root=/dev/vda rootfstype=ext4 rw loglevel=5 systemd.show_status=auto"
    append += " psi=1 mitigations=off panic=-1"
    command += ["-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", append]
    for name, path, options in (
        ("root", image.root, "snapshot=on"),
        ("job", job, "readonly=on"),
        ("swap", swap, "discard=unmap"),
    ):
        drive = f"file={str(path).replace(',', ',,')},format=raw,if=none,id={name},cache=unsafe,{options}"
        command += ["-drive", drive, "-device", f"virtio-blk-pci,drive={name},serial={name}"]
    # Ports and not drives for what comes back: a line is on the host as soon as the guest has written it.
    where = str(folder).replace(",", ",,")
    console = f"stdio,signal=off,logfile={where}/console.log" if shell else f"file,path={where}/console.log"
    command += ["-chardev", f"{console},id=console", "-serial", "chardev:console"]
    # Not -add-fd: a file chardev of qemu 7.2 answers "Could not open '/dev/fdset/1': Invalid argument".
    command += ["-chardev", f"file,id=results,path=/dev/fd/{results_fd}"]
    command += ["-chardev", f"file,id=journal,path={where}/journal.log", "-device", "virtio-serial-pci"]
    command += ["-device", "virtconsole,chardev=journal"]
    command += ["-device", "virtserialport,chardev=results,name=slicemgr.results"]
    return [*command, "-device", "virtio-rng-pci"]


class Guest:
    """A running guest. `next_event` waits for what it says; `end` ends it, however it is."""

    def __init__(self, command: list[str], folder: Path, results: tuple[int, int]) -> None:
        self.folder = folder
        reading, writing = results
        self._limit_seconds = BOOT_SECONDS
        self._doing = "booting"
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        with (folder / "qemu.log").open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(writing,)
            )
        os.close(writing)
        self._reader = threading.Thread(target=self._read, args=(os.fdopen(reading, "rb"),), daemon=True)
        self._reader.start()

    def _read(self, results: BinaryIO) -> None:
        """Keep the pipe empty, so that a slow host never stops the guest; None says that qemu is gone."""
        with results, (self.folder / "events.jsonl").open("wb", buffering=0) as copy:
            for line in results:
                copy.write(line)
                if (event := decode(line)) is not None:
                    self._queue.put(event)
        self._queue.put(None)

    def next_event(self) -> Event | None:
        """The next event; None after the last. Raises GuestDiedError when the guest breaks its promise."""
        try:
            event = self._queue.get(timeout=self._limit_seconds)
        except queue.Empty:
            self.end()
            raise GuestDiedError(
                f"the guest was silent for {self._limit_seconds:.0f} s while {self._doing}, and was ended;"
                f" look into {self.folder}\n{self.console_tail()}"
            ) from None
        if isinstance(event, Alive | Started):
            self._limit_seconds = event.within_seconds
            self._doing = event.doing if isinstance(event, Alive) else f"running {event.nodeid}"
        elif isinstance(event, Output):
            with (self.folder / "out.log").open("a") as log:
                log.write(event.text)
        elif isinstance(event, SavedFile):
            (self.folder / Path(event.name).name).write_bytes(base64.b64decode(event.base64))
        return event

    def end(self) -> None:
        """Kill qemu if it still runs. The root drive is a snapshot, the results are here: nothing is lost."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for name in ("console.log", "journal.log"):  # terminals end their lines in CR LF
            if (path := self.folder / name).exists():
                path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n"))

    def console_tail(self) -> str:
        """The last lines of the journal, of the serial console and of qemu's own complaints."""
        parts = []
        for name in ("journal.log", "console.log", "qemu.log"):
            path = self.folder / name
            lines = path.read_text(errors="replace").splitlines() if path.exists() else []
            if lines:
                parts.append(f"--- {name}, last {CONSOLE_LINES} lines ---\n" + "\n".join(lines[-CONSOLE_LINES:]))
        return "\n".join(parts) or "--- the console is empty ---"


@dataclass(frozen=True, slots=True)
class Boot:
    """All that is ready before qemu starts; `results` is a pipe, its writing end for qemu."""

    command: list[str]
    folder: Path
    results: tuple[int, int]


@contextlib.contextmanager
def prepared(job: Job) -> Iterator[Boot]:
    """Image, drives and results folder for `job`. One boot at a time: two would halve each other's clock."""
    image = ensure_image(chosen())
    with (
        locked(cache_directory() / "boot.lock"),
        tempfile.TemporaryDirectory(prefix="slicemgr-vm-") as scratch,
    ):
        drive, swap = Path(scratch) / "job.tar", Path(scratch) / "swap.img"
        write_job_drive(drive, job)
        with swap.open("wb") as file:
            file.truncate(SWAP_MIB << 20)
        folder = new_results_folder()
        reading, writing = os.pipe()
        yield Boot(qemu_command(image, drive, swap, writing, folder, job.interactive), folder, (reading, writing))


@contextlib.contextmanager
def booted(job: Job) -> Iterator[Guest]:
    """A guest at work on `job`, ended with the block."""
    with prepared(job) as boot:
        guest = Guest(boot.command, boot.folder, boot.results)
        try:
            yield guest
        finally:
            guest.end()


def new_results_folder() -> Path:
    """A folder for this boot's console, journal and output; the oldest ones go."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    old = sorted(path for path in RESULTS.iterdir() if path.is_dir())
    for path in old[: max(0, len(old) - KEPT_BOOTS + 1)]:
        shutil.rmtree(path, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=RESULTS))


def main() -> int:
    """`--shell`: a root shell in a fresh guest, on this terminal; its end is the guest's end."""
    if sys.argv[1:] != ["--shell"]:
        print("usage: python3 -m tests.vm.boot --shell", file=sys.stderr)
        return 2
    with prepared(Job(interactive=True)) as boot:
        return subprocess.run(boot.command, pass_fds=(boot.results[1],)).returncode


if __name__ == "__main__":
    sys.exit(main())
