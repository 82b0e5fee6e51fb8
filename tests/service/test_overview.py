# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is there, and who would go: fake cgroup trees with real processes in them."""

import difflib
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from slicemgr.kernel import procfs
from slicemgr.kernel.errors import CgroupGoneError, ProcessGoneError
from slicemgr.model.slice import SliceKind, SliceSpec, VictimRule, slice_path
from slicemgr.policy.badness import Unkillable
from slicemgr.service import command_lines, overview
from slicemgr.service.explanation import (
    AmbiguousTargetError,
    Explanation,
    explain,
    find,
    is_managed,
    spec_for,
)
from slicemgr.service.overview import (
    SliceOverview,
    UnknownTargetError,
    Usage,
    find_slice,
    look,
    look_with_users,
    user_root,
    where_jobs_come_and_go,
)
from tests.service.fake_cgroups import MIB, USER_ROOT, FakeCgroups, Family

BUILD = SliceSpec("build.slice", SliceKind.BUILD)
APP = SliceSpec("app.slice", SliceKind.APP, victim=VictimRule.HIGHEST_BADNESS, grace_seconds=5.0)
CI = SliceSpec("build-ci.slice", SliceKind.BUILD)
NOBODY = 4_194_304 + 7
"""Beyond the highest pid_max there is."""


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def cgroups(tmp_path: Path) -> FakeCgroups:
    return FakeCgroups(tmp_path / "cgroup")


@pytest.mark.parametrize(
    ("root", "unit", "path"),
    [
        ("/", "build.slice", "/build.slice"),
        ("/", "app-ci-nightly.slice", "/app.slice/app-ci.slice/app-ci-nightly.slice"),
        (user_root(1000), "build.slice", f"{USER_ROOT}/build.slice"),
        (user_root(1000), "a-b.slice", f"{USER_ROOT}/a.slice/a-b.slice"),
    ],
)
def test_where_a_slice_is(root: str, unit: str, path: str) -> None:
    """Each dash is a level of the tree (systemd.slice(5))."""
    assert slice_path(root, unit) == path


def test_where_jobs_come_and_go(cgroups: FakeCgroups) -> None:
    """A slice has no cgroup before its first job: so who hears of what is made above it hears of that too."""
    user = user_root(1000)
    own = look([BUILD, CI], user, cgroups.mount)
    assert where_jobs_come_and_go(own, 1000, cgroups.mount) == {
        *(user, f"{user}/build.slice", f"{user}/build.slice/build-ci.slice")
    }
    nobody = where_jobs_come_and_go(look_with_users([BUILD], cgroups.mount), None, cgroups.mount)
    assert nobody == {"/", "/build.slice", "/user.slice"}
    cgroups.add(USER_ROOT)
    logged_in = where_jobs_come_and_go(look_with_users([BUILD], cgroups.mount), None, cgroups.mount)
    assert logged_in == nobody | {"/user.slice/user-1000.slice", user}
    cgroups.add(f"{USER_ROOT}/build.slice")
    building = where_jobs_come_and_go(look_with_users([BUILD], cgroups.mount), None, cgroups.mount)
    assert building == logged_in | {f"{user}/build.slice"}


def test_slices_and_their_jobs(cgroups: FakeCgroups, stack: ExitStack) -> None:
    """Figures, limits and members of both; jobs by name, with the command that leads them."""
    make = Family(stack, 1, 1)
    cgroups.add(f"{USER_ROOT}/build.slice", current=700 * MIB, max=2 << 30, stalled=12.5)
    unit = f"slicemgr-my\\x2dbuild-{make.pid}.scope"
    cgroups.add(
        f"{USER_ROOT}/build.slice/{unit}", current=600 * MIB, high=900 * MIB, max=1 << 30, swap=MIB, pids=list(make)
    )
    cgroups.add(f"{USER_ROOT}/build.slice/other.scope", pids=[os.getpid()])
    build, app = look([BUILD, APP], USER_ROOT, cgroups.mount)
    assert build.unit == "build.slice"
    assert build.kind is SliceKind.BUILD
    assert build.usage == Usage(700 * MIB, 0, None, 2 << 30, None, 12.5, members=4)
    (job,) = build.jobs
    assert (job.name, job.unit, job.leader_pid) == ("my-build", unit, make.pid)
    assert job.usage == Usage(600 * MIB, MIB, 900 * MIB, 1 << 30, None, 0.0, members=3)
    assert job.command_line[1] == "-c"
    assert job.age_seconds is not None
    assert 0 <= job.age_seconds < 60
    assert app == SliceOverview("app.slice", f"{USER_ROOT}/app.slice", SliceKind.APP, None, ())


def test_a_job_whose_command_has_ended(cgroups: FakeCgroups, stack: ExitStack) -> None:
    """Its age is that of the oldest that is left; what it was is no longer known."""
    (job,) = _jobs_of(cgroups, f"slicemgr-make-{NOBODY}.scope", [os.getpid(), Family(stack, 1).pid])
    assert job.leader_pid is None
    assert job.command_line == ()
    assert job.age_seconds is not None


def _jobs_of(cgroups: FakeCgroups, unit: str, pids: list[int]) -> tuple[overview.JobOverview, ...]:
    cgroups.add(f"{USER_ROOT}/build.slice/{unit}", pids=pids)
    return look([BUILD], USER_ROOT, cgroups.mount)[0].jobs


def test_a_job_with_nobody_in_it(cgroups: FakeCgroups) -> None:
    """It is ending, and is shown as long as it is there."""
    (job,) = _jobs_of(cgroups, f"slicemgr-make-{NOBODY}.scope", [])
    assert job.usage.members == 0
    assert job.age_seconds is None


def test_processes_below_a_delegated_scope_count(cgroups: FakeCgroups) -> None:
    """A job may make cgroups of its own."""
    cgroups.add(f"{USER_ROOT}/build.slice/slicemgr-podman-{NOBODY}.scope/inner/deeper", pids=[os.getpid()])
    (build,) = look([BUILD], USER_ROOT, cgroups.mount)
    assert build.jobs[0].usage.members == 1


def test_a_slice_that_nobody_configured(cgroups: FakeCgroups) -> None:
    """Is shown if there is a job in it, and where slices are in slices; services are not looked into."""
    cgroups.add(f"/app.slice/app-ci.slice/slicemgr-make-{NOBODY}.scope")
    cgroups.add("/empty.slice")
    cgroups.add(f"/sshd.service/sub.slice/slicemgr-forged-{NOBODY}.scope")
    cgroups.add(f"{USER_ROOT}/build.slice/slicemgr-users-{NOBODY}.scope")
    slices = look([BUILD], "/", cgroups.mount)
    assert [(each.unit, each.kind, [job.name for job in each.jobs]) for each in slices] == [
        ("build.slice", SliceKind.BUILD, []),
        ("app-ci.slice", None, ["make"]),
    ]


@pytest.mark.parametrize(
    "unit",
    ["slicemgr-make.scope", "slicemgr--7.scope", "slicemgr-make-07.scope", "run-u1.scope", "slicemgr-make-x.scope"],
)
def test_scopes_of_others(cgroups: FakeCgroups, unit: str) -> None:
    """Only our own names are jobs."""
    assert _jobs_of(cgroups, unit, []) == ()


def test_a_cgroup_without_the_memory_controller(cgroups: FakeCgroups) -> None:
    """Its figures are not known, which is not the same as none."""
    path = Path(cgroups.mount) / "build.slice"
    path.mkdir()
    (path / "cgroup.procs").write_text("")
    (build,) = look([BUILD], "/", cgroups.mount)
    assert build.usage == Usage(None, None, None, None, None, None, members=0)


def test_a_process_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its command line is behind its address space, and that may be held for minutes."""
    let_go = threading.Event()

    def command_line(pid: int) -> tuple[str, ...]:
        if pid == 2:
            let_go.wait()
        return (str(pid),)

    monkeypatch.setattr(procfs, "command_line", command_line)
    monkeypatch.setattr(command_lines, "COMMAND_LINES_SECONDS", 0.02)
    try:
        assert command_lines.read_command_lines([1, 2, 3]) == {1: ("1",)}
    finally:
        let_go.set()


def test_who_does_not_answer_costs_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often somebody looks: a service may have 64."""
    let_go, begun = threading.Event(), []

    def command_line(pid: int) -> tuple[str, ...]:
        begun.append(pid)
        let_go.wait()
        return ()

    monkeypatch.setattr(procfs, "command_line", command_line)
    monkeypatch.setattr(command_lines, "COMMAND_LINES_SECONDS", 0.02)
    try:
        assert [command_lines.read_command_lines([pid]) for pid in (1, 2, 3)] == [{}, {}, {}]
        assert len(begun) <= 1  # None, where the thread has not come so far yet.
    finally:
        let_go.set()


def test_no_thread_for_command_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork bomb has them all: the jobs are shown by their names, and again with them afterwards."""

    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", refused)
        assert command_lines.read_command_lines([os.getpid()]) == {}
    assert command_lines.read_command_lines([os.getpid()]).keys() == {os.getpid()}


def test_slices_nested_beyond_any_path(cgroups: FakeCgroups) -> None:
    """A user may do that in their own tree: all others are shown as before."""
    cgroups.add(f"{USER_ROOT}/build.slice", current=0, pids=[])
    top = f"{cgroups.mount}{USER_ROOT}"
    directory, name = os.open(top, os.O_RDONLY), "a" * 249 + ".slice"
    try:
        for _ in range(20):
            os.mkdir(name, dir_fd=directory)
            below = os.open(name, os.O_RDONLY, dir_fd=directory)
            os.close(directory)
            directory = below
        assert [each.unit for each in look([BUILD], USER_ROOT, cgroups.mount)] == ["build.slice"]
    finally:
        os.close(directory)
        subprocess.run(["rm", "-rf", f"{top}/{name}"], check=True)


def test_more_scopes_than_anybody_looks_at(cgroups: FakeCgroups, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview, "MOST_PLACES", 3)
    for number in range(1, 9):
        cgroups.add(f"{USER_ROOT}/x.slice/slicemgr-make-{number}.scope", current=0, pids=[])
    (x,) = (each for each in look([], USER_ROOT, cgroups.mount))
    assert len(x.jobs) == 3


def test_a_name_is_compared_with_few_and_short_ones(cgroups: FakeCgroups, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody's jobs, and what he asks for, may be made to keep the loop busy for seconds."""
    for number in range(1, 70):
        cgroups.add(f"{USER_ROOT}/x.slice/slicemgr-{'ab' * (number % 3 * 20 + 1)}-{number}.scope", current=0, pids=[])
    slices = look([BUILD], USER_ROOT, cgroups.mount)
    compared: list[list[str]] = []

    def none(_meant: str, known: list[str], **_: object) -> list[str]:
        compared.append(known)
        return []

    monkeypatch.setattr(difflib, "get_close_matches", none)
    assert overview.nearest_name("ba" * 90, slices, with_jobs=True) == ""
    assert overview.nearest_name("ba", slices, with_jobs=True) == ""
    (known,) = compared
    assert (len(known), known[0], max(map(len, known)) <= overview.LONGEST_MEANT) == (
        overview.MOST_COMPARED,
        "build",
        True,
    )


class TestExplain:
    """A make with compilers in a build, beside a bigger process that can't be taken."""

    @pytest.fixture
    def make(self, cgroups: FakeCgroups, stack: ExitStack) -> Family:
        family = Family(stack, 4, 24, 12)
        cgroups.add(f"{USER_ROOT}/build.slice", max=800 * MIB, current=60 * MIB, pids=[os.getpid()])
        cgroups.add(f"{USER_ROOT}/build.slice/slicemgr-make-{family.pid}.scope", current=55 * MIB, pids=list(family))
        return family

    def _explain(self, cgroups: FakeCgroups, path: str, spec: SliceSpec | None) -> Explanation:
        return explain(
            path,
            spec,
            ourselves=frozenset({os.getpid()}),
            machine_total_bytes=8 << 30,
            mount=cgroups.mount,
        )

    def test_a_slice(self, cgroups: FakeCgroups, make: Family) -> None:
        """The biggest compiler, in place of make; then the others; never ourselves."""
        told = self._explain(cgroups, f"{USER_ROOT}/build.slice", BUILD)
        ranking = told.ranking
        assert ranking.victim is not None
        assert ranking.victim.process.pid == make.children[1]
        assert ranking.next_ones[0].process.pid == make.children[2]
        assert len(ranking.next_ones) + ranking.later == 3
        assert [(process.pid, why) for process, why in ranking.spared] == [(os.getpid(), Unkillable.OURSELVES)]
        assert (told.limit_bytes, told.limit_path) == (800 * MIB, f"{USER_ROOT}/build.slice")
        assert told.usage.members == 5
        assert told.victim_command_line[1] == "-c"

    def test_a_job_is_measured_against_the_tightest_limit_above_it(self, cgroups: FakeCgroups, make: Family) -> None:
        """Its own is `max` here, so it is the slice's."""
        told = self._explain(cgroups, f"{USER_ROOT}/build.slice/slicemgr-make-{make.pid}.scope", BUILD)
        assert told.limit_path == f"{USER_ROOT}/build.slice"
        assert told.ranking.spared == ()

    def test_the_rule_of_the_slice_holds(self, cgroups: FakeCgroups, make: Family) -> None:
        """A protected name is spared, and without sacrifice of children the highest goes itself."""
        spec = SliceSpec("build.slice", SliceKind.BUILD, victim=VictimRule.HIGHEST_BADNESS, protect=("cc1*",))
        told = self._explain(cgroups, f"{USER_ROOT}/build.slice", spec)
        assert told.ranking.victim is not None
        assert told.ranking.victim.process.pid == make.pid
        assert told.ranking.for_parent is None
        spared = {process.pid: why for process, why in told.ranking.spared}
        assert spared == {**dict.fromkeys(make.children, Unkillable.PROTECTED), os.getpid(): Unkillable.OURSELVES}

    def test_a_slice_without_limits(self, cgroups: FakeCgroups, stack: ExitStack) -> None:
        """Is measured against the machine."""
        cgroups.add("/app.slice", pids=list(Family(stack, 1)))
        told = self._explain(cgroups, "/app.slice", APP)
        assert (told.limit_bytes, told.limit_path) == (8 << 30, None)
        assert told.grace_seconds == 5.0

    def test_a_slice_that_is_not_there(self, cgroups: FakeCgroups) -> None:
        """Nothing runs in it."""
        with pytest.raises(CgroupGoneError):
            self._explain(cgroups, "/app.slice", APP)

    def test_names(self, cgroups: FakeCgroups, make: Family) -> None:
        """A slice with and without its suffix, a job by name, unit and path."""
        slices = look([BUILD], USER_ROOT, cgroups.mount)
        path = f"{USER_ROOT}/build.slice"
        unit = f"slicemgr-make-{make.pid}.scope"
        assert {find(name, slices) for name in ("build", "build.slice", path)} == {path}
        assert {find(name, slices) for name in ("make", unit, f"{path}/{unit}")} == {f"{path}/{unit}"}
        cgroups.add(f"{path}/slicemgr-make-{NOBODY}.scope")
        with pytest.raises(AmbiguousTargetError) as caught:
            find("make", look([BUILD], USER_ROOT, cgroups.mount))
        assert set(caught.value.units) == {unit, f"slicemgr-make-{NOBODY}.scope"}

    @pytest.mark.parametrize(
        ("name", "nearest"), [("biuld", "build"), ("mkae", "make"), ("biuld.slice", "build"), ("qqq", ""), ("", "")]
    )
    def test_an_unknown_name(self, cgroups: FakeCgroups, make: Family, name: str, nearest: str) -> None:
        """With what may have been meant."""
        with pytest.raises(UnknownTargetError) as caught:
            find(name, look([BUILD], USER_ROOT, cgroups.mount))
        assert caught.value.nearest == nearest

    def test_only_a_slice_will_do_for_status(self, cgroups: FakeCgroups, make: Family) -> None:
        """A job's name is no slice."""
        slices = look([BUILD], USER_ROOT, cgroups.mount)
        assert find_slice("build", slices) is slices[0]
        with pytest.raises(UnknownTargetError):
            find_slice("make", slices)

    @pytest.mark.parametrize(
        ("path", "part", "managed"),
        [
            (
                f"{USER_ROOT}/build.slice/slicemgr-make-7.scope/inner",
                f"{USER_ROOT}/build.slice/slicemgr-make-7.scope",
                True,
            ),
            ("/elsewhere.slice/slicemgr-make-7.scope", "/elsewhere.slice/slicemgr-make-7.scope", True),
            (f"{USER_ROOT}/build.slice/build-ci.slice/a.scope", f"{USER_ROOT}/build.slice/build-ci.slice", True),
            (f"{USER_ROOT}/build.slice/b.scope", f"{USER_ROOT}/build.slice", True),
            (f"{USER_ROOT}/build.slice2/b.scope", f"{USER_ROOT}/build.slice2/b.scope", False),
            ("/init.scope", "/init.scope", False),
        ],
    )
    def test_a_pid(
        self, cgroups: FakeCgroups, monkeypatch: pytest.MonkeyPatch, path: str, part: str, managed: bool
    ) -> None:
        """Its job, else its slice, else nothing that is ours."""
        slices = look([BUILD, CI], USER_ROOT, cgroups.mount)
        monkeypatch.setattr("slicemgr.service.explanation.cgroup_of", {4711: path}.__getitem__)
        assert find("4711", slices) == part
        assert is_managed(part, slices) is managed

    def test_a_pid_that_is_gone(self, cgroups: FakeCgroups) -> None:
        """It is said that there is none."""
        with pytest.raises(ProcessGoneError):
            find(str(NOBODY), look([BUILD], USER_ROOT, cgroups.mount))

    def test_the_innermost_slice_rules(self) -> None:
        """A job in a slice in a slice."""
        assert spec_for("/build.slice/build-ci.slice/x.scope", "/", [BUILD, CI]) == CI
        assert spec_for("/build.slice/x.scope", "/", [BUILD, CI]) == BUILD
        assert spec_for("/app.slice", "/", [BUILD, CI]) is None
