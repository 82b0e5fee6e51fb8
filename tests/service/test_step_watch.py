# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who is a step, among real processes: shells, scripts, compilers, forks, vforks, and who must never wait."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from slicemgr.kernel import procfs
from slicemgr.kernel.errors import CgroupGoneError, NotPermittedError
from slicemgr.kernel.hold import HeldProcess
from slicemgr.model.step import StepSignature, StepState
from slicemgr.service import step_watch
from slicemgr.service.step_watch import LIST_SECONDS, YOUNG_SECONDS, StepWatch
from tests.conftest import HOG
from tests.service.waiting_child import WaitingChild, descriptors, waiting_child

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    from slicemgr.kernel.formats import ProcStat
    from slicemgr.model.process import ProcessIdentity
    from slicemgr.service.live_step import LiveStep

SECONDS = 20.0
PYTHON = os.path.basename(sys.executable)[:15]
ANSWER = "for _ in iter(sys.stdin.readline, ''): print(flush=True)"
"""A python that does what `cat` does."""


def _signature(arguments: Sequence[str], directory: str) -> StepSignature:
    return StepSignature(os.path.basename(arguments[0]) if arguments else "", "", directory)


def tree_below(root: int) -> dict[int, ProcStat]:
    """The processes from there down, those that nobody has collected as well."""
    found, table = {root}, procfs.processes()
    while more := {pid for pid, stat in table.items() if stat.ppid in found and pid not in found}:
        found |= more
    return {pid: table[pid] for pid in found if pid in table}


@pytest.fixture(autouse=True)
def computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps by names that nobody knows: `cat` and `grep` themselves are too small to be any."""
    for name, tool in (("compute", "cat"), ("sift", "grep")):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).symlink_to(f"/bin/{tool}")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")


class Watched:
    """The watch over one real tree. Time goes by only when it looks."""

    def __init__(
        self,
        root: int,
        *,
        spared: Sequence[str] = (),
        spares: frozenset[int] = frozenset(),
        root_is_agent: bool = False,
    ) -> None:
        self.root = root
        self.now = 1000.0
        self.hold: Callable[[ProcessIdentity], HeldProcess] = HeldProcess
        self.sign = _signature
        self.members: Callable[[], Iterable[int]] = lambda: tree_below(root)
        self.watch = StepWatch(
            lambda: self.members(),  # noqa: PLW0108 - what stands there when it is called
            root_pid=root,
            hold=lambda identity: self.hold(identity),  # noqa: PLW0108
            sign=lambda arguments, directory: self.sign(arguments, directory),  # noqa: PLW0108
            spared=spared,
            spares=spares,
            root_is_agent=root_is_agent,
        )

    def look(
        self, after: float = 1.0, *, born: Collection[int] | None = None, exited: Iterable[int] = ()
    ) -> tuple[list[LiveStep], list[LiveStep]]:
        self.now += after
        return self.watch.look(self.now, born=born, exited=exited)

    def names(self) -> list[str]:
        """Of the steps, when all who are there are old enough to tell."""
        self.look()
        self.look(2 * YOUNG_SECONDS)
        return sorted(step.kind for step in self.watch.steps.values())

    def only(self) -> LiveStep:
        """The only one."""
        self.names()
        (step,) = self.watch.steps.values()
        return step


@pytest.fixture
def watched() -> Iterator[Callable[..., Watched]]:
    """All are closed afterwards, and nothing is left open."""
    before, made = descriptors(), list[Watched]()

    def make(root: int, **options: object) -> Watched:
        made.append(Watched(root, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for each in made:
        each.watch.close()
    assert len(descriptors()) <= len(before)


@contextmanager
def started(*command: str) -> Iterator[WaitingChild]:
    """A tree whose last process answers; all of it is gone afterwards."""
    with waiting_child(*command) as root:
        try:
            yield root
        finally:
            _kill_below(root.pid)


def _kill_below(root: int) -> None:
    """All of the tree; whom its parent's end has ended is gone already."""
    for pid in tree_below(root):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _until(root: int, name: str, *, count: int = 1) -> list[int]:
    """The processes of this name, as soon as there are so many: nobody tells when an exec is done."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        found = [pid for pid, stat in tree_below(root).items() if os.fsdecode(stat.comm) == name and stat.state != "Z"]
        if len(found) >= count:
            return found
        os.sched_yield()
    raise AssertionError(f"no {name}: {tree_below(root)}")


@pytest.mark.parametrize(
    ("command", "names"),
    [
        # The command itself never waits: its stop would be ours.
        (("compute",), []),
        (("sh", "-c", "compute; :"), ["compute"]),
        (("sh", "-c", "bash -c 'dash -c \"compute; :\"; :'; :"), ["compute"]),
        (("sh", "-c", "env compute; :"), ["compute"]),
        (("sh", "-c", "nice env timeout 600 compute; :"), ["compute"]),
        # Two, the one behind a pipe too.
        (("sh", "-c", "compute | compute; :"), ["compute", "compute"]),
        (("sh", "-c", "compute | sift --line-buffered '^$'; :"), ["compute", "sift"]),
    ],
)
def test_leaves_are_steps(watched: Callable[..., Watched], command: tuple[str, ...], names: list[str]) -> None:
    """Who starts others never waits."""
    with started(*command) as root:
        assert watched(root.pid).names() == names


def test_it_is_a_step_at_once(watched: Callable[..., Watched]) -> None:
    """At the first look after its exec: it takes 5 to 10 MB in its first 10 ms."""
    with started("sh", "-c", "compute; :") as root:
        begun, ended = watched(root.pid).look()
        assert ([step.kind for step in begun], ended) == (["compute"], [])
        (step,) = begun
        assert step.state is StepState.NEW
        assert step.may_wait
        assert step.signature == StepSignature("compute", "", os.getcwd())
        assert step.command_line == ("compute",)
        assert procfs.identity_of(step.identity.pid) == step.identity


def test_a_shell_that_execs(watched: Callable[..., Watched]) -> None:
    """It is none, and then it is what it was told to run."""
    with started("sh", "-c", "sh -c 'read one; echo; read two; echo; exec compute'; :") as root:
        all_of_it = watched(root.pid)
        assert all_of_it.names() == []
        root.answer()
        root.answer()  # By compute.
        assert all_of_it.names() == ["compute"]


@pytest.mark.parametrize(("interpreter", "names"), [("/bin/sh", []), ("/bin/bash", []), (sys.executable, ["a-script"])])
def test_a_script(watched: Callable[..., Watched], tmp_path: Path, interpreter: str, names: list[str]) -> None:
    """Its comm is the script's own; what it is tells the file that it executes."""
    script = tmp_path / "a-script"
    body = f"import sys\n{ANSWER}\n" if names else "while read line; do echo; done\n"
    script.write_text(f"#!{interpreter}\n{body}")
    script.chmod(0o755)
    with started("sh", "-c", f"{script}; :") as root:
        assert watched(root.pid).names() == names


def test_a_compiler(watched: Callable[..., Watched]) -> None:
    """Its driver has no children at first, and is known by its name; the program that compiles is the step."""
    process = subprocess.Popen(["sh", "-c", "g++ -c -x c++ - -o /dev/null; :"], stdin=subprocess.PIPE)
    try:
        _until(process.pid, "cc1plus")
        all_of_it = watched(process.pid)
        assert all_of_it.names() == ["cc1plus"]
        (step,) = all_of_it.watch.steps.values()
        names = [os.fsdecode(procfs.read_stat(pid).comm) for pid in all_of_it.watch.ancestors_of(step.identity.pid)]
        assert names[:2] == ["g++", "sh"]
    finally:
        process.communicate()


def test_between_a_vfork_and_its_exec(watched: Callable[..., Watched], tmp_path: Path) -> None:
    """Who stopped that child would stop its parent in the same address space; and the parent waits for it."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    process = subprocess.Popen(["sh", "-c", f"{sys.executable} {HOG} --vfork {fifo}; :"])
    try:
        children = _until(process.pid, PYTHON, count=2)
        assert len({procfs.read_stat(pid).ppid for pid in children} & set(children)) == 1
        assert watched(process.pid).names() == []
    finally:
        fifo.write_text("")
        process.wait()


FORKS = f"""
import os, sys
if os.fork() == 0:
    {ANSWER}
else:
    os.wait()
"""


def test_a_forked_worker(watched: Callable[..., Watched]) -> None:
    """It looks like its parent, and may be about to exec; when it still does so after a while it computes."""
    with started("sh", "-c", f'{sys.executable} -ISc "$0"; :', FORKS) as root:
        all_of_it = watched(root.pid)
        assert all_of_it.look() == ([], [])
        assert all_of_it.look(YOUNG_SECONDS / 2) == ([], [])
        ((step,), _) = all_of_it.look(YOUNG_SECONDS)
        assert step.kind == PYTHON
        parent = procfs.read_stat(step.identity.pid).ppid
        assert os.fsdecode(procfs.read_stat(parent).comm) == PYTHON
        assert parent in all_of_it.watch.others


def test_a_step_amid_its_exec(watched: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch) -> None:
    """It has its new name, and no arguments yet, by which it would be known: so it is looked at again."""
    with started("sh", "-c", f'{sys.executable} -ISc "$0"; :', f"import sys\n{ANSWER}") as root:
        all_of_it = watched(root.pid)
        with monkeypatch.context() as patch:
            patch.setattr(procfs, "command_line", lambda pid: ())
            assert all_of_it.look() == ([], [])
        ((step,), _) = all_of_it.look(YOUNG_SECONDS / 2)
        assert step.command_line[1] == "-ISc"


FORKS_TO_WORK = f"""
import os, sys, time
if os.fork() == 0:
    while time.process_time() < 0.05:
        pass
    {ANSWER}
else:
    os.wait()
"""


def test_a_forked_worker_that_works(watched: Callable[..., Watched]) -> None:
    """Nobody uses so much of a core before an exec: it is known at once."""
    with started("sh", "-c", f'{sys.executable} -ISc "$0"; :', FORKS_TO_WORK) as root:
        ((step,), _) = watched(root.pid).look()
        assert step.kind == PYTHON


FORKS_LATER = f"""
import os, sys
sys.stdin.readline()
print(flush=True)
sys.stdin.readline()
if os.fork() == 0:
    {ANSWER}
os.wait()
print(flush=True)
while os.read(0, 1):
    pass
"""


def test_a_step_that_has_children(watched: Callable[..., Watched]) -> None:
    """It computed, and starts others now: it may not be stopped as long as they are there."""
    with started("sh", "-c", f'{sys.executable} -ISuc "$0"; :', FORKS_LATER) as root:
        all_of_it = watched(root.pid)
        step = all_of_it.only()
        assert step.as_step(all_of_it.now).may_wait
        root.process.stdin.write(b"\n")  # type: ignore[union-attr]
        root.process.stdin.flush()  # type: ignore[union-attr]
        root.answer()  # By the child.
        all_of_it.look()
        assert step.children == 1
        assert not step.as_step(all_of_it.now).may_wait
        (child,) = tree_below(step.identity.pid).keys() - {step.identity.pid}
        os.kill(child, signal.SIGKILL)
        assert root.process.stdout.readline() == b"\n"  # type: ignore[union-attr]
        all_of_it.look()
        assert step.children == 0
        assert step.as_step(all_of_it.now).may_wait


def test_who_waited_for_a_shell_computes_at_once(watched: Callable[..., Watched]) -> None:
    """As meinproc5 does for its xmllint, by popen: of the shell's end no pidfd tells, and a list is half a second away."""
    answers, waits = "sys.stdin.readline(); print()", "subprocess.run(['sh', '-c', 'read x; :']); print()"
    script = f"import subprocess, sys; {answers}; {waits}; sys.stdin.read()"
    with started("sh", "-c", f'{sys.executable} -ISuc "$0"; :', script) as root:
        all_of_it = watched(root.pid)
        (shell,) = set(_until(root.pid, "sh", count=2)) - {root.pid}
        assert all_of_it.names() == []
        os.kill(shell, signal.SIGKILL)
        assert root.process.stdout.readline() == b"\n"  # type: ignore[union-attr]
        begun, _ = all_of_it.look(LIST_SECONDS / 100, born=())
        assert [step.kind for step in begun] == [PYTHON]


@pytest.mark.parametrize(
    ("command", "spared"),
    [
        ("compute", ("compute",)),
        ("compute", ("x*", "c*te")),
        ("compute", ("[a-d]*",)),
        # It leads a session: a daemon, or a terminal of its own.
        ("setsid compute", ()),
    ],
)
def test_who_never_waits(watched: Callable[..., Watched], command: str, spared: tuple[str, ...]) -> None:
    """It is a step, and runs."""
    with started("sh", "-c", f"{command}; :") as root:
        step = watched(root.pid, spared=spared).only()
        assert (step.kind, step.state, step.may_wait) == ("compute", StepState.RUNNING, False)


@pytest.mark.parametrize("spared", [("c", "te", "*x"), ()])
def test_who_may_wait(watched: Callable[..., Watched], spared: tuple[str, ...]) -> None:
    """A job of a shell without job control, by another name than those."""
    with started("sh", "-c", "bash -c 'compute; :'; :") as root:
        step = watched(root.pid, spared=spared).only()
        assert (step.kind, step.state, step.may_wait) == ("compute", StepState.NEW, True)


@pytest.mark.parametrize(
    ("options", "types", "may_wait"),
    [
        ([], True, False),
        # On the same terminal, who reads a pipe.
        ([], False, True),
        # A shell with job control sees each stop of its jobs, and reports it.
        (["-m"], False, False),
    ],
)
def test_on_a_terminal(watched: Callable[..., Watched], options: list[str], types: bool, may_wait: bool) -> None:
    """Nobody waits whom a person types to."""
    master, slave = pty.openpty()
    piped, writing = os.pipe()
    process = subprocess.Popen(
        ["setsid", "--ctty", "bash", *options, "-c", f"compute{'' if types else f' <&{piped}'}; :"],
        stdin=slave,
        stderr=slave,
        stdout=subprocess.PIPE,
        pass_fds=[piped],
    )
    try:
        os.write(master if types else writing, b"\n")
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        assert watched(process.pid).only().may_wait == may_wait
    finally:
        for descriptor in (master, slave, piped, writing):
            os.close(descriptor)
        _kill_below(process.pid)
        process.communicate()


def test_one_that_somebody_has_stopped(watched: Callable[..., Watched]) -> None:
    """Before we came: it is not ours."""
    with started("sh", "-c", "compute; :") as root:
        (pid,) = _until(root.pid, "compute")
        os.kill(pid, signal.SIGSTOP)
        deadline = time.monotonic() + SECONDS
        while procfs.read_stat(pid).state != "T" and time.monotonic() < deadline:
            os.sched_yield()
        assert not watched(root.pid).only().may_wait


@pytest.mark.parametrize("is_agent", [False, True])
def test_the_workers_of_an_agent(watched: Callable[..., Watched], is_agent: bool) -> None:
    """A program that a person talks to, and its children by the same name: they never wait."""
    with started(sys.executable, "-ISc", FORKS) as root:
        step = watched(root.pid, root_is_agent=is_agent).only()
        assert (step.kind, step.may_wait) == (PYTHON, not is_agent)


def test_what_an_agent_starts(watched: Callable[..., Watched]) -> None:
    """Its builds wait as others do."""
    script = "import subprocess; subprocess.run(['sh', '-c', 'compute; :'])"
    with started(sys.executable, "-ISc", script) as root:
        assert watched(root.pid, root_is_agent=True).only().may_wait


def test_who_is_not_of_the_job(watched: Callable[..., Watched]) -> None:
    """The guardian lives in the job's own scope."""
    with started("sh", "-c", "compute; :") as root:
        (pid,) = _until(root.pid, "compute")
        all_of_it = watched(root.pid, spares=frozenset({pid}))
        assert all_of_it.names() == []
        all_of_it.look(born=[pid])
        assert list(all_of_it.watch.others) == [root.pid]


@pytest.mark.parametrize("is_told", [False, True])
def test_a_step_ends(watched: Callable[..., Watched], is_told: bool) -> None:
    """Told by its pidfd, or found missing; once, and its descriptors are closed."""
    with started("sh", "-c", "compute; read x; :") as root:
        all_of_it = watched(root.pid)
        before = descriptors()
        step = all_of_it.only()
        pidfd = os.pidfd_open(step.identity.pid)
        version = all_of_it.watch.version
        os.kill(step.identity.pid, signal.SIGKILL)
        _wait_for(pidfd)
        exited = [step.identity.pid] if is_told else []
        if not is_told:
            _until_gone(step.identity.pid)
        assert all_of_it.look(exited=exited) == ([], [step])
        assert all_of_it.look(exited=exited) == ([], [])
        assert all_of_it.watch.version > version
        assert all_of_it.watch.has_ended
        assert descriptors() == before


def _wait_for(pidfd: int) -> None:
    """Until its process has ended."""
    try:
        assert select.select([pidfd], [], [], SECONDS)[0]
    finally:
        os.close(pidfd)


def _until_gone(pid: int) -> None:
    """Its parent has collected it."""
    deadline = time.monotonic() + SECONDS
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < deadline:
        os.sched_yield()


def test_the_numbers_that_are_new(watched: Callable[..., Watched]) -> None:
    """They are members if they are children of one; threads are none, and strangers are not."""
    script = f"import sys, threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n{ANSWER}"
    with started("sh", "-c", f'{sys.executable} -ISc "$0"; :', script) as root, waiting_child() as stranger:
        all_of_it = watched(root.pid)
        all_of_it.members = lambda: [root.pid]
        all_of_it.look()
        (pid,) = _until(root.pid, PYTHON)
        born = sorted({*procfs.thread_ids(pid), stranger.pid, 1 << 22})
        assert len(born) == 4
        all_of_it.look(LIST_SECONDS / 2, born=born)
        assert {*all_of_it.watch.others, *all_of_it.watch.steps} == {root.pid, pid}


def test_a_grandchild_is_a_member_in_the_same_look(watched: Callable[..., Watched]) -> None:
    """Numbers are given out in their order: its parent comes first."""
    with started("sh", "-c", "sh -c 'compute; :'; :") as root:
        all_of_it = watched(root.pid)
        all_of_it.members = lambda: [root.pid]
        all_of_it.look()
        begun, _ = all_of_it.look(LIST_SECONDS / 2, born=sorted(tree_below(root.pid)))
        assert [step.kind for step in begun] == ["compute"]


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), CgroupGoneError("/a")])
def test_the_list_fails_for_once(watched: Callable[..., Watched], error: Exception) -> None:
    """An end that was told meanwhile is not lost, and neither is a birth."""
    with started("sh", "-c", "compute; compute; :") as root:
        all_of_it = watched(root.pid)
        step = all_of_it.only()
        pidfd = os.pidfd_open(step.identity.pid)
        os.kill(step.identity.pid, signal.SIGKILL)
        _wait_for(pidfd)  # Or it takes the line with it.
        root.answer()  # By the second one.
        members = all_of_it.members

        def fail() -> Iterable[int]:
            raise error

        all_of_it.members = fail
        with pytest.raises(type(error)):
            all_of_it.look(exited=[step.identity.pid])
        all_of_it.members = members
        begun, ended = all_of_it.look(0.001, born=[])
        assert ended == [step]
        assert [each.kind for each in begun] == ["compute"]


@pytest.mark.parametrize("where", ["hold", "sign", "files", "gone"])
def test_nothing_stays_open(watched: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Where somebody can't be looked at now; it is tried again when there are descriptors."""
    with started("sh", "-c", "compute; :") as root:
        all_of_it = watched(root.pid)
        before = descriptors()

        def fail(*_: object) -> HeldProcess:
            raise NotPermittedError(1, "open a pidfd of") if where == "gone" else OSError(24, "Too many open files")

        with monkeypatch.context() as patch:
            if where == "sign":
                all_of_it.sign = fail  # type: ignore[assignment]
            elif where == "files":
                patch.setattr(step_watch, "StepFiles", fail)
            else:
                all_of_it.hold = fail
            for _ in range(5):
                assert all_of_it.look() == ([], [])
                assert descriptors() == before
        all_of_it.sign, all_of_it.hold = _signature, HeldProcess
        assert all_of_it.names() == ["compute"]


def test_all_are_let_go_of() -> None:
    """At the end."""
    with started("sh", "-c", "compute | compute; :") as root:
        before = descriptors()
        all_of_it = Watched(root.pid)
        assert all_of_it.names() == ["compute", "compute"]
        all_of_it.watch.close()
        assert all_of_it.watch.steps == {}
        assert descriptors() == before


@pytest.mark.parametrize("is_reversed", [False, True])
def test_whoever_is_asked_about_first(watched: Callable[..., Watched], is_reversed: bool) -> None:
    """A fork that looks like its parent does so also before its parent was looked at."""
    with started("sh", "-c", f'{sys.executable} -ISc "$0"; :', FORKS) as root:
        all_of_it = watched(root.pid)
        below = sorted(tree_below(root.pid).keys() - {root.pid}, reverse=is_reversed)
        all_of_it.members = lambda: [root.pid]
        all_of_it.look()
        all_of_it.members = lambda: [root.pid, below[0]]
        all_of_it.watch._list(all_of_it.now)  # One after the other, and both are judged in one look.
        all_of_it.members = lambda: [root.pid, *below]
        assert all_of_it.look(0.001) == ([], [])
