# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kill path with real processes: rules, grace, dry run, whole jobs, and who is proven to be where."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

import pytest

from slicemgr.kernel import kill as kill_module
from slicemgr.kernel import procfs
from slicemgr.kernel.cgroupfs import cgroup_of
from slicemgr.kernel.errors import NotPermittedError, ProcessGoneError
from slicemgr.kernel.kill import ProvenProcess, RefusedError
from slicemgr.model.decision import Resource, Shortage
from slicemgr.model.process import ProcessIdentity, ProcessSample, ProcessTable
from slicemgr.model.slice import VictimRule
from slicemgr.policy.badness import BadnessScale
from slicemgr.service import guard as guard_module
from slicemgr.service.episode import job_of, kill_job_of
from slicemgr.service.futility import FUTILE_SACRIFICES
from slicemgr.service.guard import Ended, Guard, KillRules
from slicemgr.service.kernel_kills import DYING_SECONDS
from slicemgr.service.naming import CommandLines
from slicemgr.service.report import KillOutcome, KillReport, NoVictimReport, Report
from tests.unit.samples import process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from slicemgr.service.guard import Killable

SHORT = Shortage(Resource.HIGH, 1 << 40, 1 << 30)
SCALE = BadnessScale(total_pages=1 << 18)

CHILD = """
import signal, sys
if sys.argv[1] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[1] == "tidy":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def child() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Real processes that stand still: `tidy` exits with 7 when asked, `stubborn` does not listen."""
    started: list[subprocess.Popen[bytes]] = []

    def start(manner: str = "plain") -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", CHILD, manner], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    yield start
    for each in started:
        each.kill()
        each.communicate()


@dataclass
class Offender:
    """A cgroup that is named, with these members."""

    pids: list[int]
    cgroup: str = ""
    table: ProcessTable | None = None
    short: bool = True
    after: int = 5
    """What it holds after a kill; SHORT.usage_bytes: nothing was freed."""
    whole: Callable[[ProcessIdentity, frozenset[int]], bool] = lambda victim, spared: False
    asked: list[str] = field(default_factory=list)

    def snapshot(self) -> ProcessTable:
        return self.table or procfs.snapshot(self.pids)

    def still_short(self, shortage: Shortage) -> bool:
        self.asked.append("still short")
        return self.short

    async def usage_bytes(self, resource: Resource) -> int:
        return self.after

    def kill_whole_job(self, victim: ProcessIdentity, table: ProcessTable, spared: frozenset[int]) -> bool:
        self.asked.append(f"whole {sorted(spared)}")
        return self.whole(victim, spared)


class KillPath:
    """A guard and what it has told."""

    def __init__(
        self,
        rules: KillRules | None = None,
        *,
        dry_run: bool = False,
        prove: Callable[[ProcessIdentity, str], AbstractContextManager[Killable]] = ProvenProcess,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.told: list[Report] = []
        self.guard = Guard(
            rules or KillRules(),
            report=self.told.append,
            command_lines=CommandLines(lambda: ()),
            prove=prove,
            dry_run=dry_run,
            clock=clock or (lambda: 1.0),
        )

    async def end(self, offender: Offender, scale: BadnessScale = SCALE) -> Ended:
        return await self.guard.end_shortage(SHORT, offender, lambda table: scale)

    @property
    def kills(self) -> list[KillReport]:
        return [each for each in self.told if isinstance(each, KillReport)]


def own_cgroup() -> str:
    return cgroup_of(os.getpid())


@pytest.mark.asyncio
async def test_a_real_victim_in_its_cgroup(child: Callable[..., subprocess.Popen[bytes]]) -> None:
    """It and nobody else, with where it lived; the report has the exit that was seen."""
    victim, bystander = child(), child()
    path, cgroup = KillPath(), own_cgroup()
    scale = BadnessScale(SCALE.total_pages, ourselves=frozenset({bystander.pid}))
    offender = Offender([victim.pid, bystander.pid], cgroup)
    assert await path.end(offender, scale) is Ended.EXITED
    assert victim.wait() == -signal.SIGKILL
    assert bystander.poll() is None
    (kill,) = path.kills
    assert (kill.victim.pid, kill.outcome, kill.cgroup, kill.victim_cgroup) == (
        victim.pid,
        KillOutcome.EXITED,
        cgroup,
        cgroup,
    )
    assert kill.killed
    assert not kill.asked_to_end
    assert kill.usage_after_bytes == 5
    victims = path.guard.victims
    assert victims.dying(cgroup, 1.0) == victims.pids() == {victim.pid}
    assert victims.dying(cgroup, 1.1 + DYING_SECONDS) == frozenset()


@pytest.mark.asyncio
@pytest.mark.parametrize("elsewhere", ["/build.slice/elsewhere.scope", "{own}/below", "{own}x"])
async def test_a_process_of_another_cgroup(child: Callable[..., subprocess.Popen[bytes]], elsewhere: str) -> None:
    """Moved since it was named, or a name that begins alike: it lives, and that is no news."""
    victim, path = child(), KillPath()
    cgroup = elsewhere.format(own=own_cgroup().rstrip("/"))
    assert await path.end(Offender([victim.pid], cgroup)) is Ended.RECOVERED
    assert victim.poll() is None
    assert path.told == []


def test_the_cgroup_is_proven_with_the_identity(child: Callable[..., subprocess.Popen[bytes]]) -> None:
    """In it or below; another cgroup is as good as gone, and every pidfd is given back."""
    victim = child()
    identity, own = procfs.identity_of(victim.pid), own_cgroup()
    descriptors = len(os.listdir("/proc/self/fd"))
    for cgroup in ("/", own, os.path.dirname(own)):
        with ProvenProcess(identity, cgroup) as proven:
            assert proven.cgroup == own
    with ProvenProcess(identity) as proven:
        assert proven.cgroup == ""
    for cgroup in (f"{own.rstrip('/')}/x", "/no.slice"):
        with pytest.raises(ProcessGoneError):
            ProvenProcess(identity, cgroup)
    with pytest.raises(ProcessGoneError):
        ProvenProcess(ProcessIdentity(victim.pid, identity.start_ticks - 1), own)
    for pid in (1, os.getpid()):
        with pytest.raises(RefusedError):
            ProvenProcess(procfs.identity_of(pid), "/")
    assert len(os.listdir("/proc/self/fd")) == descriptors


def no_pidfd(monkeypatch: pytest.MonkeyPatch, *numbers: int) -> None:
    """The next calls fail like this."""
    failures, original = iter(numbers), os.pidfd_open

    def pidfd_open(pid: int, flags: int = 0) -> int:
        for number in failures:
            raise OSError(number, os.strerror(number))
        return original(pid, flags)

    monkeypatch.setattr(os, "pidfd_open", pidfd_open)


@pytest.mark.asyncio
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
async def test_no_descriptor_is_to_be_had_now(
    child: Callable[..., subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """That says nothing about the process: a moment later it is named again, and goes."""
    victim, path = child(), KillPath()
    no_pidfd(monkeypatch, number)
    with pytest.raises(OSError, match=os.strerror(number)):
        await path.end(Offender([victim.pid]))
    assert path.told == []
    assert await path.end(Offender([victim.pid])) is Ended.EXITED
    assert victim.wait() == -signal.SIGKILL


@pytest.mark.asyncio
@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES, errno.ENOSYS])
async def test_a_sandbox_without_pidfds(
    child: Callable[..., subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    victim, path = child(), KillPath()
    no_pidfd(monkeypatch, number)
    assert await path.end(Offender([victim.pid])) is Ended.SURVIVED
    assert [kill.outcome for kill in path.kills] == [KillOutcome.NOT_PERMITTED]


def test_a_name_that_begins_alike_is_not_below(
    child: Callable[..., subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = child()
    identity = procfs.identity_of(victim.pid)
    monkeypatch.setattr(kill_module, "cgroup_of", lambda pid: "/build.slice2/x.scope")
    with pytest.raises(ProcessGoneError):
        ProvenProcess(identity, "/build.slice")
    ProvenProcess(identity, "/build.slice2").close()


@pytest.mark.asyncio
async def test_asked_and_it_ends(child: Callable[..., subprocess.Popen[bytes]]) -> None:
    """An editor writes its files: SIGTERM was enough."""
    victim, path = child("tidy"), KillPath(KillRules(grace_seconds=20.0))
    assert await path.end(Offender([victim.pid])) is Ended.EXITED
    assert victim.wait() == 7
    (kill,) = path.kills
    assert kill.asked_to_end


@pytest.mark.asyncio
async def test_asked_and_it_does_not_listen(child: Callable[..., subprocess.Popen[bytes]]) -> None:
    victim, path = child("stubborn"), KillPath(KillRules(grace_seconds=0.05))
    assert await path.end(Offender([victim.pid])) is Ended.EXITED
    assert victim.wait() == -signal.SIGKILL


@pytest.mark.asyncio
@pytest.mark.parametrize("rule", VictimRule)
async def test_asked_and_it_gives_its_memory_back(
    child: Callable[..., subprocess.Popen[bytes]], rule: VictimRule
) -> None:
    """It goes on without what was too much, or another one has ended: then nobody is made to."""
    victim, path = child("stubborn"), KillPath(KillRules(rule, grace_seconds=0.05))
    offender = Offender([victim.pid])
    answers = iter([True, False])
    offender.still_short = lambda shortage: next(answers)  # type: ignore[method-assign]
    assert await path.end(offender) is Ended.EXITED
    assert victim.poll() is None
    (kill,) = path.kills
    assert (kill.outcome, kill.killed, kill.asked_to_end) == (KillOutcome.ASKED, False, True)


@pytest.mark.asyncio
async def test_a_dry_run(child: Callable[..., subprocess.Popen[bytes]]) -> None:
    """All of it but the signal, whatever the rule; the same victim is told once in ten seconds."""
    victim = child()
    for rules in (KillRules(grace_seconds=5.0), KillRules(VictimRule.WHOLE_JOB)):
        path, offender = KillPath(rules, dry_run=True), Offender([victim.pid])
        assert await path.end(offender) is Ended.EXITED
        assert [kill.outcome for kill in path.kills] == [KillOutcome.DRY_RUN]
        assert not path.kills[0].killed
        assert "whole []" not in offender.asked
    now = [0.0]
    path = KillPath(dry_run=True, clock=lambda: now[0])
    for now[0] in (0.0, 9.9, 10.5):
        await path.end(Offender([victim.pid]))
    assert [kill.at_seconds for kill in path.kills] == [0.0, 10.5]
    assert victim.poll() is None


@pytest.mark.asyncio
async def test_a_dry_run_never_blames_make() -> None:
    """Nothing is freed by a kill that did not happen: that makes no child's end futile."""
    make = process(10, 100, name="make")
    compilers = [process(20 + at, 90, parent=10) for at in range(FUTILE_SACRIFICES + 3)]
    ticks = count(0, 1)
    path = KillPath(dry_run=True, prove=lambda identity, cgroup: nobody(identity), clock=lambda: float(next(ticks)))
    for _ in range(8):
        await path.end(Offender([], table=ProcessTable([make, *compilers]), after=SHORT.usage_bytes))
        compilers.append(compilers.pop(0))
    assert path.kills
    assert 10 not in [kill.victim.pid for kill in path.kills]


@pytest.mark.asyncio
async def test_who_cant_be_killed_is_no_futile_sacrifice() -> None:
    """Children that are not ours to end, one after another: their parent is not to blame for that."""
    make = process(10, 100, name="make")
    compilers = [process(20 + at, 90, parent=10) for at in range(FUTILE_SACRIFICES + 1)]

    @contextmanager
    def not_ours(identity: ProcessIdentity, cgroup: str) -> Iterator[Killable]:
        raise NotPermittedError(identity.pid, "signal")
        yield  # type: ignore[unreachable]

    offender = Offender([], table=ProcessTable([make, *compilers]), after=SHORT.usage_bytes)
    path = KillPath(prove=not_ours)
    for _ in range(len(compilers)):
        assert await path.end(offender) is Ended.SURVIVED
    assert [kill.outcome for kill in path.kills] == [KillOutcome.NOT_PERMITTED] * len(compilers)
    assert sorted(kill.victim.pid for kill in path.kills) == [20, 21, 22, 23]


@contextmanager
def nobody(identity: ProcessIdentity) -> Iterator[Killable]:
    """A process that is there, and is no child of ours."""

    class Nobody:
        cgroup = "/x"

        def fileno(self) -> int:
            raise AssertionError("nothing is waited for")

        kill = ask_to_end = fileno

    yield Nobody()  # type: ignore[misc]


@pytest.mark.asyncio
async def test_a_whole_job_goes_in_one(child: Callable[..., subprocess.Popen[bytes]]) -> None:
    """By cgroup.kill where that can be had; the report is of the process that held most."""
    first, second = child(), child()

    def whole(victim: ProcessIdentity, spared: frozenset[int]) -> bool:
        first.kill()
        second.kill()
        return True

    scale = BadnessScale(SCALE.total_pages, ourselves=frozenset({1}), protected=frozenset({4711}))
    path, offender = KillPath(KillRules(VictimRule.WHOLE_JOB)), Offender([first.pid, second.pid], whole=whole)
    assert await path.end(offender, scale) is Ended.EXITED
    assert offender.asked == ["still short", "whole [1, 4711]"]
    assert len(path.kills) == 1
    assert path.kills[0].rule is VictimRule.WHOLE_JOB


@pytest.mark.asyncio
async def test_a_whole_job_that_cant_be_had(child: Callable[..., subprocess.Popen[bytes]]) -> None:
    """Linux before 5.14, or somebody in it is spared: then the one process."""
    victim, path = child(), KillPath(KillRules(VictimRule.WHOLE_JOB))
    assert await path.end(Offender([victim.pid])) is Ended.EXITED
    assert victim.wait() == -signal.SIGKILL


@pytest.mark.asyncio
async def test_recovered_before_the_shot(child: Callable[..., subprocess.Popen[bytes]]) -> None:
    victim, path = child(), KillPath()
    assert await path.end(Offender([victim.pid], short=False)) is Ended.RECOVERED
    assert victim.poll() is None
    assert path.told == []


@pytest.mark.asyncio
async def test_a_survivor_is_not_tried_again(
    child: Callable[..., subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands in an uninterruptible sleep, say: the next one has its turn, and then there is nobody."""
    victims = [child(), child()]

    async def never(descriptor: int, seconds: float) -> bool:
        assert seconds == guard_module.EXIT_TIMEOUT_SECONDS
        return False

    monkeypatch.setattr(guard_module, "readable_within", never)
    samples = [procfs.sample_process(each.pid) for each in victims]
    path, offender = KillPath(), Offender([], table=ProcessTable(samples))
    assert await path.end(offender) is Ended.SURVIVED
    assert await path.end(offender) is Ended.SURVIVED
    assert {kill.victim.pid for kill in path.kills} == {each.pid for each in victims}
    assert {kill.outcome for kill in path.kills} == {KillOutcome.STILL_THERE}
    assert await path.end(offender) is Ended.NO_VICTIM


@pytest.mark.asyncio
async def test_nobody_is_news_again_after_a_calm() -> None:
    path, offender = KillPath(), Offender([], "/x", table=ProcessTable([process(10, 5, oom_score_adj=-1000)]))
    other = Offender([], "/y", table=offender.table)
    for _ in range(3):
        assert await path.end(offender) is Ended.NO_VICTIM
    await path.end(other)
    path.guard.all_is_well(offender)
    await path.end(offender)
    assert [each.cgroup for each in path.told if isinstance(each, NoVictimReport)] == ["/x", "/y", "/x"]


@pytest.mark.asyncio
async def test_one_victim_at_a_time(child: Callable[..., subprocess.Popen[bytes]]) -> None:
    """Slice and machine are short at once: the second waits, sees that the first was enough, and `at_rest` for both."""
    victim, path = child("stubborn"), KillPath(KillRules(grace_seconds=0.2))
    offender = Offender([victim.pid])
    first = asyncio.create_task(path.end(offender))
    await asyncio.sleep(0)
    second = asyncio.create_task(path.end(Offender([victim.pid], short=False)))
    await asyncio.sleep(0)
    assert not first.done()
    await path.guard.at_rest()
    assert first.done()
    assert await first is Ended.EXITED
    assert await second in {Ended.RECOVERED, Ended.NO_VICTIM}
    assert len(path.kills) == 1


def make_job(mount: Path, path: str, pids: list[int]) -> None:
    folder = mount / path.lstrip("/")
    folder.mkdir(parents=True)
    (folder / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
    (folder / "cgroup.kill").write_text("")


SLICE, JOB = "/build.slice", "/build.slice/a.scope"
VICTIM = ProcessIdentity(10, 0)


@pytest.mark.parametrize(
    ("lives", "pids", "table", "spared", "killed"),
    [
        (JOB, [10, 11], [], {99}, True),
        (f"{JOB}/payload", [10, 11], [], set(), True),
        (JOB, [10, 11], [], {11}, False),
        (JOB, [10, 11, 1], [], set(), False),
        (JOB, [10, 11], [process(11, oom_score_adj=-1000)], set(), False),
        (JOB, [10, 11], [process(12, oom_score_adj=-1000), process(11, oom_score_adj=-999)], set(), True),
        # It has left since: neither this job nor the slice pays for that.
        (JOB, [11], [], set(), False),
        ("/session.slice", [11], [], set(), False),
        ("/build.slice/gone.scope", [10], [], set(), False),
    ],
)
def test_when_a_whole_job_is_killed(
    tmp_path: Path, lives: str, pids: list[int], table: list[ProcessSample], spared: set[int], killed: bool
) -> None:
    """Never with somebody in it who is to be spared, and never more than the job."""
    make_job(tmp_path, SLICE, [])
    make_job(tmp_path, JOB, pids)
    answer = kill_job_of(
        VICTIM, lambda pid: lives, ProcessTable(table), frozenset(spared), job_root=SLICE, mount=str(tmp_path)
    )
    assert answer is killed
    assert (tmp_path / "build.slice/a.scope/cgroup.kill").read_text() == ("1" if killed else "")
    assert (tmp_path / "build.slice/cgroup.kill").read_text() == ""


def test_a_kernel_that_has_no_cgroup_kill(tmp_path: Path) -> None:
    make_job(tmp_path, JOB, [10])
    (tmp_path / "build.slice/a.scope/cgroup.kill").unlink()
    assert not kill_job_of(VICTIM, lambda pid: JOB, ProcessTable([]), frozenset(), job_root=SLICE, mount=str(tmp_path))


@pytest.mark.parametrize(
    ("cgroup", "root", "job"),
    [
        (JOB, SLICE, JOB),
        (f"{JOB}/a/b", SLICE, JOB),
        (SLICE, SLICE, SLICE),
        (JOB, JOB, JOB),
        (f"{JOB}/a", JOB, f"{JOB}/a"),
        ("/build.slice2/x.scope", SLICE, None),
        # GNOME has a slice for an application, and a scope in it for each window.
        ("/app.slice/app-t.slice/vte-1.scope", "/app.slice", "/app.slice/app-t.slice/vte-1.scope"),
        (
            "/app.slice/app-t.slice/app-t-u.slice/x.service/y",
            "/app.slice",
            "/app.slice/app-t.slice/app-t-u.slice/x.service",
        ),
        ("/app.slice/app-t.slice", "/app.slice", "/app.slice/app-t.slice"),
        ("/x.scope/a", "/", "/x.scope"),
    ],
)
def test_which_job_it_is(cgroup: str, root: str, job: str | None) -> None:
    assert job_of(cgroup, root) == job
