# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the kernel does to a scope at its limits, recorded for the tests of the policy, and what is true of it.

Without swap, memory above `memory.high` that nothing can reclaim is the end of all progress, and the kernel
never kills for it. Every number that the policy decides by has to tell this from page cache being trimmed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.vm.episodes import CRAWLS, DATA, DATA_BYTES, OUT, SEEKS, Episode, record, save
from tests.vm.workload import drop, prepare

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.vm.episodes import Recording, Sample

BURN = "while :; do :; done"
COMPILE = "while :; do gcc -O2 -c -o /tmp/episode.o /var/tmp/episode.c; done"

READ = "$workload --seconds 20 --read 300M $data"
WRITE = "$workload --seconds 20 --write 150M $data.out"
RUMMAGE = "$workload --seconds 20 --map 128M $data --rummage"

# fmt: off
EPISODES = [
    # Anonymous memory, or tmpfs, that nothing can take.
    Episode("leak-high-noswap", "kill", "48M", "64M", "$hog --grow 200M --rate 200M"),
    Episode("leak-high-large", "kill", "600M", "640M", "$hog --grow 900M --rate 400M", seconds=8),
    Episode("leak-after-cache", "kill", "96M", "128M", f"{READ} & sleep 1.5; $hog --grow 200M --rate 60M", seconds=7),
    Episode("leak-huge-pages", "kill", "96M", "128M", "$hog --huge --grow 300M --rate 100M"),
    Episode("leak-beside-computing", "wait", "48M", "64M", f"{BURN} & $hog --grow 200M --rate 200M", seconds=9),
    Episode("above-and-reading", "kill", "64M", "96M", "$workload --seconds 20 --anon 60M --read 300M $data"),
    Episode("many-hogs", "kill", "375M", "400M", "$hog --fork 20 --grow 60M --rate 30M --hold 20", seconds=6),
    Episode("tmpfs", "kill", "64M", "96M", "dd if=/dev/zero of=/dev/shm/episode bs=1M count=200 2>/dev/null"),
    # Page cache that is trimmed.
    Episode("churn", "spare", "64M", "96M", f"{READ} & {WRITE}"),
    Episode("churn-with-anon", "spare", "96M", "128M", f"{READ} --anon 40M"),
    Episode("churn-with-more-anon", "spare", "96M", "128M", f"{READ} --anon 75M"),
    Episode("churn-slow-disk", "spare", "64M", "96M", f"{READ} & {WRITE}", seconds=7, disk_limits=SEEKS),
    Episode("churn-workingset-slow-disk", "spare", "64M", "96M", "$workload --seconds 20 --read 76M $data", disk_limits=SEEKS, seconds=8),
    Episode("dirty-writeback", "spare", "64M", "96M", "dd if=/dev/zero of=$data.out bs=1M count=600 2>/dev/null"),
    Episode("dirty-writeback-slow-disk", "spare", "64M", "96M", "dd if=/dev/zero of=$data.out bs=1M count=600 2>/dev/null", disk_limits=SEEKS),
    Episode("build-near-limit", "spare", "140M", "180M", f"$hog --start 105M --hold 20 & {COMPILE}", seconds=8),
    # At or above high, and nobody waits, or not for long.
    Episode("short-burst", "spare", "64M", "96M", "$workload --seconds 5 --anon 50M --burst 8M 0.3", seconds=3),
    Episode("above-and-idle", "spare", "64M", "96M", "$workload --seconds 20 --anon 58M", seconds=3),
    Episode("above-and-computing", "spare", "64M", "96M", f"$workload --seconds 20 --anon 58M & {BURN}", seconds=3),
    Episode("neighbour-leaves", "wait", "96M", "128M", f"$workload --seconds 3.5 --anon 40M & timeout 3.5 sh -c '{BURN}' & $hog --start 30M --grow 30M --rate 30M --hold 20", seconds=7),
    # More is in use than may be held.
    Episode("thrash-file", "thrash", "64M", "96M", f"{RUMMAGE} & {RUMMAGE} --anon 30M"),
    Episode("thrash-text", "thrash", "96M", "128M", "$workload --seconds 20 --anon 84M --map 20M $data --rummage"),
    Episode("thrash-file-slow-disk", "thrash", "64M", "96M", f"{RUMMAGE} & {RUMMAGE} --anon 30M", seconds=10, disk_limits=SEEKS),
    Episode("thrash-text-slow-disk", "thrash", "96M", "128M", "$workload --seconds 20 --anon 84M --map 20M $data --rummage", seconds=10, disk_limits=SEEKS),
    # Swap takes it, or can't.
    Episode("swap-takes-it", "spare", "100M", "200M", "$hog --start 150M --hold 20", swap="disk"),
    Episode("swap-takes-it-slow-disk", "spare", "100M", "200M", "$hog --start 150M --hold 20", swap="disk", seconds=10, disk_limits=SEEKS),
    Episode("swap-fast-leak", "spare", "100M", "200M", "$hog --grow 500M --rate 400M --hold 20", swap="disk"),
    Episode("swap-thrash", "thrash", "100M", "150M", "$workload --seconds 20 --anon 200M --rummage", swap="disk", seconds=6),
    Episode("swap-thrash-slow-disk", "thrash", "100M", "150M", "$workload --seconds 20 --anon 130M --rummage", swap="disk", seconds=12, disk_limits=SEEKS),
    Episode("swap-crawls", "thrash", "100M", "200M", "$hog --start 150M --hold 20", swap="disk", seconds=8, disk_limits=CRAWLS),
    Episode("swap-full", "kill", "60M", "80M", "$hog --grow 200M --rate 60M", swap="disk", swap_max="20M"),
    Episode("zram-takes-it", "spare", "100M", "200M", "$hog --start 150M --hold 20", swap="zram"),
    Episode("zram-thrash", "thrash", "100M", "150M", "$workload --seconds 20 --anon 200M --rummage", swap="zram"),
    Episode("zram-full", "kill", "60M", "80M", "$hog --grow 200M --rate 60M", swap="zram", swap_max="20M"),
]
# fmt: on

SOURCE = "#include <stdio.h>\n" + "".join(
    f'int f{at}(int a) {{ int s = 0; for (int i = 0; i < a; i++) s += i * {at} ^ s; printf("%d", s); return s; }}\n'
    for at in range(120)
)


@pytest.fixture
def data() -> Iterator[None]:
    """The file that workloads read, and the source that they compile; nobody is charged for their pages yet."""
    if not DATA.exists():
        prepare(DATA, DATA_BYTES)
    Path("/var/tmp/episode.c").write_text(SOURCE)
    for path in (DATA, *Path("/usr/lib/gcc").rglob("cc1")):
        drop(path)
    yield
    OUT.unlink(missing_ok=True)
    Path("/dev/shm/episode").unlink(missing_ok=True)


def stalls_for_ever(recording: Recording) -> None:
    """Nothing can be reclaimed: above high, all of it stands still, and the kernel does not think of killing."""
    half = recording.samples[len(recording.samples) // 2 :]
    last = half[-1]
    assert last.number("memory.current") > recording.header.high_bytes
    assert unreclaimable(last) > recording.header.high_bytes
    assert last.row("memory.events.local", "high") > half[0].row("memory.events.local", "high")
    assert last.stalled_usec("full") - half[0].stalled_usec("full") > 500_000 * (last.seconds - half[0].seconds)


def one_stands_still(recording: Recording) -> None:
    """But another one has work. Pressure is an average over the processors in use: here it is half, and so is `full`."""
    half = recording.samples[len(recording.samples) // 2 :]
    seconds = half[-1].seconds - half[0].seconds
    assert half[-1].row("cpu.stat", "usage_usec") - half[0].row("cpu.stat", "usage_usec") > 500_000 * seconds
    for kind in ("some", "full"):
        assert 0.2 < (half[-1].stalled_usec(kind) - half[0].stalled_usec(kind)) / (1_000_000 * seconds) < 0.8
    assert unreclaimable(half[-1]) > recording.header.high_bytes


def ends_by_itself(recording: Recording) -> None:
    """It was above high, with nothing to reclaim, and stood still for more than a second; then it went on."""
    assert max(map(unreclaimable, recording.samples)) > 1.01 * recording.header.high_bytes
    assert recording.samples[-1].stalled_usec("some") > 1_000_000
    assert unreclaimable(recording.samples[-1]) < recording.header.high_bytes


def and_never_ends(recording: Recording) -> None:
    """One process asleep above high does not come to max."""
    assert recording.samples[-1].row("memory.events.local", "max") == 0
    assert recording.samples[-1].row("memory.events.local", "oom") == 0


def nobody_dies(recording: Recording) -> None:
    assert recording.samples[-1].row("memory.events", "oom_kill") == 0


def trims_page_cache(recording: Recording) -> None:
    """Usage is at high all the time, and what reclaim looks at it gets."""
    last = recording.samples[-1]
    assert recording.grew("memory.events.local", "high") > 100
    assert last.number("memory.current") > 0.9 * recording.header.high_bytes
    assert unreclaimable(last) < recording.header.high_bytes
    assert recording.grew("memory.stat", "pgsteal") > 0.5 * recording.grew("memory.stat", "pgscan")


def needs_it_again(recording: Recording) -> None:
    """Far more pages come back than the cgroup may hold."""
    back = recording.grew("memory.stat", "workingset_refault_file")
    back += recording.grew("memory.stat", "workingset_refault_anon")
    assert recording.grew("memory.events.local", "high") > 10
    assert back > 1000


def is_below_or_still(recording: Recording) -> None:
    """Being above high costs those nothing who want no more memory."""
    assert recording.samples[-1].stalled_usec("full") < 500_000


def goes_to_swap(recording: Recording) -> None:
    """And comes to rest."""
    assert recording.samples[-1].number("memory.swap.current") > 20 << 20
    assert unreclaimable(recording.samples[-1]) <= 1.01 * recording.header.high_bytes


def fills_its_swap(recording: Recording) -> None:
    assert recording.samples[-1].number("memory.swap.current") > 0.9 * int(recording.header.swap_max)


FACTS = {
    "leak-high-noswap": (stalls_for_ever, and_never_ends),
    "leak-high-large": (stalls_for_ever, and_never_ends),
    "leak-after-cache": (stalls_for_ever, and_never_ends),
    "leak-huge-pages": (stalls_for_ever,),
    "above-and-reading": (stalls_for_ever, nobody_dies),
    "many-hogs": (stalls_for_ever,),
    "tmpfs": (stalls_for_ever, and_never_ends),
    "churn": (trims_page_cache, nobody_dies),
    "churn-with-anon": (trims_page_cache, nobody_dies),
    "churn-with-more-anon": (trims_page_cache, nobody_dies),
    "build-near-limit": (is_below_or_still, nobody_dies),
    "dirty-writeback": (trims_page_cache, nobody_dies),
    "short-burst": (is_below_or_still, nobody_dies),
    "above-and-idle": (is_below_or_still, nobody_dies),
    "above-and-computing": (is_below_or_still, nobody_dies),
    "thrash-file": (trims_page_cache, needs_it_again, nobody_dies),
    "thrash-text": (trims_page_cache, needs_it_again, nobody_dies),
    "churn-slow-disk": (nobody_dies,),
    "churn-workingset-slow-disk": (nobody_dies,),
    "thrash-file-slow-disk": (needs_it_again, nobody_dies),
    "thrash-text-slow-disk": (nobody_dies,),
    "leak-beside-computing": (one_stands_still, and_never_ends),
    "neighbour-leaves": (ends_by_itself, nobody_dies),
    "dirty-writeback-slow-disk": (nobody_dies,),
    "swap-crawls": (nobody_dies,),
    "swap-takes-it": (goes_to_swap, nobody_dies),
    "swap-thrash": (needs_it_again, nobody_dies),
    "swap-takes-it-slow-disk": (nobody_dies,),
    "swap-fast-leak": (goes_to_swap, nobody_dies),
    "swap-thrash-slow-disk": (needs_it_again, nobody_dies),
    "swap-full": (stalls_for_ever, and_never_ends, fills_its_swap),
    "zram-takes-it": (goes_to_swap, nobody_dies),
    "zram-thrash": (needs_it_again, nobody_dies),
    "zram-full": (stalls_for_ever, and_never_ends, fills_its_swap),
}
"""What is true of each, whatever the machine's speed."""


def unreclaimable(sample: Sample) -> int:
    """Bytes that only swap or a death can take."""
    anon, shmem, kernel, slab = (
        sample.row("memory.stat", key) for key in ("anon", "shmem", "kernel", "slab_reclaimable")
    )
    return anon + shmem + kernel - slab


@pytest.mark.vm(users=("root",), timeout=60)
@pytest.mark.parametrize(
    "episode", [pytest.param(each, id=each.name, marks=pytest.mark.vm(swap=each.swap)) for each in EPISODES]
)
@pytest.mark.usefixtures("data")
def test_episode(episode: Episode, vm_files: Path) -> None:
    """It goes as it has to; the recording is left in the results of the boot."""
    recording = record(episode)
    save(recording, vm_files / f"{episode.name}.jsonl.gz")
    for fact in FACTS[episode.name]:
        fact(recording)
