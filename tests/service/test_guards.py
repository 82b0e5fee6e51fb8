# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which slice a cgroup belongs to, who guards it, and who may ask."""

from __future__ import annotations

import asyncio
import os
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from slicemgr.config.schema import DEFAULT_MACHINE, DEFAULTS, PROTECTED, Config
from slicemgr.kernel.errors import CgroupGoneError, NotSupportedError
from slicemgr.kernel.procfs import PAGE_BYTES
from slicemgr.model.process import ProcessIdentity
from slicemgr.model.slice import SliceKind, VictimRule
from slicemgr.service import guards
from slicemgr.service.guard import KillRules
from slicemgr.service.guards import Guards
from slicemgr.service.managed import ManagedSlice, spared_pids
from slicemgr.service.report import GuardFailedReport, HighReport, Report
from tests.unit.samples import process, table

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from slicemgr.service.cgroup_guard import CgroupGuard

GIB = 1 << 30
USER = "/user.slice/user-4711.slice/user@4711.service"
AGENT = replace(DEFAULTS[SliceKind.BUILD], unit="app-agent.slice", victim=VictimRule.WHOLE_JOB)
CONFIG = Config((*DEFAULTS.values(), AGENT), DEFAULT_MACHINE)


class Tasks:
    """Nothing is run."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def create_task(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Future[None]:
        coroutine.close()
        self.names.append(name)
        return asyncio.get_running_loop().create_future()


class Bench:
    def __init__(self, *slices: ManagedSlice, is_user: bool) -> None:
        self.tasks = Tasks()
        self.guards = Guards(CONFIG, lambda report: None, dry_run=False, is_user=is_user)
        self.guard(*slices)

    def guard(self, *slices: ManagedSlice) -> None:
        self.guards.guard(slices, CONFIG, self.tasks)  # type: ignore[arg-type]

    def slice_of(self, cgroup: str) -> str | None:
        found = self.guards.managed_of(cgroup)
        return None if found is None else found.cgroup


@contextmanager
def guarding(*slices: ManagedSlice, is_user: bool = True) -> Iterator[Bench]:
    bench = Bench(*slices, is_user=is_user)
    try:
        yield bench
    finally:
        bench.guards.cancel()
        bench.guards.close()


@pytest.fixture(autouse=True)
def no_trigger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's pressure, and nobody's own daemon."""

    def none(*_: object) -> None:
        raise NotSupportedError("no pressure files", "another kernel")

    monkeypatch.setattr(guards, "open_trigger", none)
    monkeypatch.setattr(guards, "somebody_answers", lambda path: False)


APP, INNER, BUILD = (
    ManagedSlice(f"{USER}/app.slice", SliceKind.APP, protect=("shell",)),
    ManagedSlice(f"{USER}/app.slice/app-agent.slice", protect=("keeper",)),
    ManagedSlice(f"{USER}/build.slice"),
)

BELONGS = [
    (f"{USER}/build.slice", BUILD.cgroup),
    (f"{USER}/build.slice/", BUILD.cgroup),
    (f"{USER}/build.slice/x.scope/y", BUILD.cgroup),
    (f"{USER}/build.slicex", None),
    (f"{USER}/app.slice/x.scope", APP.cgroup),
    # The innermost one.
    (f"{USER}/app.slice/app-agent.slice/x.scope", INNER.cgroup),
    (f"{USER}/init.scope", None),
    (USER, None),
    ("/system.slice/ssh.service", None),
    ("/", None),
    ("", None),
]


@pytest.mark.asyncio
@pytest.mark.parametrize(("cgroup", "slice_"), BELONGS)
async def test_a_user_s_own(cgroup: str, slice_: str | None) -> None:
    with guarding(APP, INNER, BUILD) as bench:
        assert bench.slice_of(cgroup) == slice_


@pytest.mark.asyncio
@pytest.mark.parametrize(("cgroup", "slice_"), BELONGS)
async def test_a_user_s_for_the_system(cgroup: str, slice_: str | None) -> None:
    """By the same rules, with no list of users."""
    with guarding(ManagedSlice("/build.slice"), is_user=False) as bench:
        assert bench.slice_of(cgroup) == slice_
        assert bench.slice_of("/build.slice/x.scope") == "/build.slice"
        # Not a user's manager, whatever it is called.
        assert bench.slice_of(f"{USER.replace('@4711', '@4712')}/build.slice/x") is None
        assert bench.slice_of(f"/system.slice{USER}/build.slice/x") is None
        inner = bench.guards.managed_of(f"{USER}/app.slice/app-agent.slice/x.scope")
        if inner is not None:
            assert inner.rules == KillRules(VictimRule.WHOLE_JOB)


@pytest.mark.asyncio
async def test_a_user_with_a_daemon_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is asked at most once a second."""
    asked: list[str] = []

    def answers(path: str) -> bool:
        asked.append(path)
        return "4711" in path

    monkeypatch.setattr(guards, "somebody_answers", answers)
    with guarding(is_user=False) as bench:
        for _ in range(5):
            assert bench.slice_of(f"{USER}/build.slice/x.scope") is None
            assert bench.slice_of(f"{USER}/build.slice/x.scope".replace("4711", "4712")) is not None
        assert asked == ["/run/user/4711/slicemgr/control", "/run/user/4712/slicemgr/control"]


@pytest.mark.asyncio
async def test_one_guard_for_each() -> None:
    """It goes down to the last cgroup: a slice within another needs no second one. The machine has one for all."""
    with guarding(INNER, APP, BUILD) as bench:
        assert sorted(bench.tasks.names) == sorted([APP.cgroup, BUILD.cgroup, "machine"])
        bench.guard(APP, INNER)
        assert len(bench.tasks.names) == 3  # Who is guarded goes on undisturbed.
        bench.guard(APP, BUILD)
        assert bench.tasks.names[3:] == [BUILD.cgroup]
    with guarding(ManagedSlice("/build.slice"), is_user=False) as bench:
        assert sorted(bench.tasks.names) == ["/build.slice", "/user.slice", "machine"]


@pytest.mark.asyncio
async def test_who_is_spared_within_is_spared_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a user's slices by the system's daemon too."""
    agent = replace(AGENT, protect=("postgres",))
    monkeypatch.setitem(globals(), "CONFIG", Config((*DEFAULTS.values(), agent), DEFAULT_MACHINE))
    with guarding(is_user=False) as bench:
        outer, inner, build = (
            bench.guards.managed_of(f"{USER}/{path}/x.scope")
            for path in ("app.slice", "app.slice/app-agent.slice", "build.slice")
        )
        assert outer is not None
        assert inner is not None
        assert build is not None
        assert set(outer.protect) == {*PROTECTED, "postgres"}
        assert inner.protect == ("postgres",)
        assert build.protect == ()


@pytest.mark.asyncio
@pytest.mark.parametrize("is_user", [True, False])
async def test_who_is_vital_to_a_session_is_spared_by_identity(is_user: bool) -> None:
    """In every slice, users' too, from the moment that somebody says so; another one with its pid is not."""
    vital: set[ProcessIdentity] = set()
    made = Guards(CONFIG, lambda report: None, dry_run=False, is_user=is_user, spared=lambda: frozenset(vital))
    try:
        made.guard([APP] if is_user else [], CONFIG, Tasks())  # type: ignore[arg-type]
        managed = made.managed_of(f"{APP.cgroup}/x.scope")
        assert managed is not None
        rows = table(process(7, name="launcher"), process(8, name="launcher", start=5))
        assert managed.scale(rows, GIB, frozenset()).protected == frozenset()
        vital |= {ProcessIdentity(7, 0), ProcessIdentity(8, 4)}
        assert managed.scale(rows, GIB, frozenset()).protected == {7}
    finally:
        made.cancel()
        made.close()


@pytest.mark.parametrize(
    ("held", "most", "spared"),
    [
        ([10, 10, 10], 30, [0, 1, 2]),
        ([10, 10, 10], 29, [0, 1]),
        # The leak is passed over; who is small is not.
        ([10, 100, 10], 50, [0, 2]),
        ([100, 10, 10], 50, [1, 2]),
        ([51], 50, []),
        ([], 50, []),
    ],
)
def test_who_asks_to_be_spared_gets_no_more_than_that(held: list[int], most: int, spared: list[int]) -> None:
    """The oldest first, whatever their numbers."""
    rows = table(*(process(100 - at, pages, start=at) for at, pages in enumerate(held)), process(7, 1))
    asked = frozenset(ProcessIdentity(100 - at, at) for at in range(len(held)))
    assert spared_pids(rows, asked, most * PAGE_BYTES) == {100 - at for at in spared}


class EndError(Exception):
    """The way out of what goes on for ever."""


@pytest.mark.asyncio
async def test_a_failure_that_stays_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice that is not there is none; and after that the same failure is news again."""
    told: list[Report] = []
    no, gone = OSError("no descriptor"), CgroupGoneError("/x.slice")
    failures = iter([no, no, no, gone, gone, no, NotSupportedError("nothing", "something")])
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 7:
            raise EndError

    def fails(root: str) -> CgroupGuard:
        raise next(failures)

    with guarding() as bench:
        monkeypatch.setattr(bench.guards, "_report", told.append)
        monkeypatch.setattr(bench.guards, "_new_guard", fails)
        monkeypatch.setattr(asyncio, "sleep", pause)
        with pytest.raises(EndError):
            await bench.guards._keep_guarding("/x.slice")
    assert pauses == [guards.ABSENT_SECONDS] * 7
    assert told == [
        GuardFailedReport("OSError: no descriptor"),
        GuardFailedReport("OSError: no descriptor"),
        GuardFailedReport("NotSupportedError: nothing; try something"),
    ]


@pytest.mark.asyncio
async def test_kill_paths_over_a_reload() -> None:
    """Survivors and a kill under way are remembered where the rules are the same."""
    with guarding(APP, BUILD) as bench:
        paths = {each.cgroup: bench.guards._guard_of(each) for each in (APP, BUILD)}
        assert bench.guards._guard_of(APP) is paths[APP.cgroup]
        changed = replace(APP, rules=KillRules(VictimRule.WHOLE_JOB))
        bench.guard(changed, BUILD)
        assert bench.guards._guard_of(BUILD) is paths[BUILD.cgroup]
        assert bench.guards._guard_of(changed) is not paths[APP.cgroup]
        assert bench.guards._guard_of(changed).rules == changed.rules


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("cgroup", "uid", "word"),
    [
        (f"{USER}/build.slice/x.scope", 4711, None),
        (f"{USER}/build.slice/x.scope", 0, None),
        (f"{USER}/build.slice/x.scope", 471, "another user's"),
        ("/build.slice/user-471.slice/x.scope", 471, "another user's"),
        (f"{USER}/init.scope", 4711, "in no managed slice; try"),
        ("/system.slice/x.service", 0, "in no managed slice; try"),
    ],
)
async def test_who_may_ask_for_what(monkeypatch: pytest.MonkeyPatch, cgroup: str, uid: int, word: str | None) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    with guarding(ManagedSlice("/build.slice"), is_user=False) as bench:
        running: Any = {"/user.slice": None, "/build.slice": None}
        monkeypatch.setattr(bench.guards, "_running", running)
        answer = bench.guards.refusal(cgroup, uid)
        assert (answer is None) == (word is None)
        assert word is None or word in str(answer)
        running.clear()
        assert bench.guards.refusal(cgroup, uid) is not None  # `run` guards it itself then.


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("cgroup", "names"),
    [
        (f"{USER}/build.slice/slicemgr-make-1.scope", ("build.slice", "slicemgr-make-1.scope")),
        (f"{USER}/build.slice/slicemgr-make-1.scope/payload", ("build.slice", "slicemgr-make-1.scope")),
        (f"{USER}/build.slice", ("build.slice", "")),
        (f"{USER}/app.slice/app-agent.slice/x.scope", ("app-agent.slice", "x.scope")),
        ("/system.slice/x.service", ("", "")),
        ("", ("", "")),
    ],
)
async def test_whose_report_it_is(cgroup: str, names: tuple[str, str]) -> None:
    with guarding(APP, INNER, BUILD) as bench:
        assert bench.guards.names_of(HighReport(1.0, 2, 3, cgroup)) == names
