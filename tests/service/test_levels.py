# SPDX-License-Identifier: LGPL-2.1-or-later
"""The pressure level of each slice: asleep until its trigger fires, awake until it has come to rest."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from slicemgr.kernel.errors import CgroupGoneError, NotSupportedError
from slicemgr.policy.pressure_level import PressureLevel
from slicemgr.service import levels
from slicemgr.service.levels import LevelWatch
from tests.service.fake_cgroups import FakeCgroups

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

BUILD, APP = "/build.slice", "/app.slice"
SECONDS = 20.0


class Pressure:
    """A kernel that fires when a test says so."""

    def __init__(self) -> None:
        self.stalls: dict[Any, Callable[[], object]] = {}
        self.ends: dict[Any, Callable[[], object]] = {}
        self.closed: list[str] = []
        self.refuses: Exception | None = None
        self.opened: list[str] = []
        self.no_pipe = False

    def open(self, place: Any, *_: object) -> Any:
        self.opened.append(place.path)
        if self.refuses is not None:
            raise self.refuses
        return place.path

    def add(self, trigger: Any, stalled: Callable[[], object], gone: Callable[[], object]) -> None:
        if self.no_pipe:
            raise OSError(24, "Too many open files")
        self.stalls[trigger], self.ends[trigger] = stalled, gone

    def remove(self, trigger: Any) -> None:
        self.closed.append(trigger)


class Desk:
    def __init__(self, mount: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pressure = Pressure()
        monkeypatch.setattr(levels, "open_trigger", self.pressure.open)
        monkeypatch.setattr(levels, "LOOK_SECONDS", 0.0)
        self.cgroups = FakeCgroups(mount)
        self.told: asyncio.Queue[dict[str, PressureLevel]] = asyncio.Queue()
        for path in (BUILD, APP):
            self.stall(path, 0.0)
        self.watch = LevelWatch(
            self.pressure,  # type: ignore[arg-type]
            lambda told: self.told.put_nowait(dict(told)),
            str(mount),
        )

    def stall(self, path: str, percent: float) -> None:
        self.cgroups.add(path, stalled=percent)

    async def hears(self) -> dict[str, PressureLevel]:
        async with asyncio.timeout(SECONDS):
            return await self.told.get()


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    return tmp_path / "cgroup"


@contextlib.asynccontextmanager
async def desk(mount: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    made = Desk(mount, monkeypatch)
    running = asyncio.create_task(made.watch.run())
    try:
        yield made
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


@pytest.mark.asyncio
async def test_from_calm_to_calm(mount: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each level is told once, and the last is that there is none."""
    async with desk(mount, monkeypatch) as it:
        it.watch.watch([BUILD, APP])
        it.stall(BUILD, 45.0)
        it.pressure.stalls[BUILD]()
        assert await it.hears() == {BUILD: PressureLevel.CRITICAL}
        it.stall(BUILD, 10.0)
        assert await it.hears() == {BUILD: PressureLevel.LOW}
        it.stall(BUILD, 0.0)
        assert await it.hears() == {}
        it.stall(APP, 25.0)
        it.pressure.stalls[APP]()
        assert await it.hears() == {APP: PressureLevel.MEDIUM}
        assert it.told.empty()


@pytest.mark.asyncio
async def test_it_sleeps_until_somebody_waits(mount: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is read before the trigger fires, nor after the calm."""
    async with desk(mount, monkeypatch) as it:
        looked: list[str] = []
        look = it.watch._look

        def note(cgroup: str) -> None:
            looked.append(cgroup)
            look(cgroup)

        monkeypatch.setattr(it.watch, "_look", note)
        it.watch.watch([BUILD])
        for _ in range(10):
            await asyncio.sleep(0)
        assert looked == []
        it.pressure.stalls[BUILD]()
        for _ in range(10):
            await asyncio.sleep(0)
        assert looked == [BUILD]  # It was over by then.
        assert it.told.empty()


@pytest.mark.asyncio
@pytest.mark.parametrize("end", ["watched no more", "gone", "gone before it is told", "closed"])
async def test_a_slice_that_ends(mount: Path, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """Its trigger is disarmed, and its level is none."""
    async with desk(mount, monkeypatch) as it:
        it.watch.watch([BUILD, APP])
        it.stall(BUILD, 45.0)
        it.pressure.stalls[BUILD]()
        assert await it.hears() == {BUILD: PressureLevel.CRITICAL}
        match end:
            case "watched no more":
                it.watch.watch([APP])
            case "gone":
                it.pressure.ends[BUILD]()
            case "gone before it is told":
                for file in (mount / "build.slice").iterdir():
                    file.unlink()
                (mount / "build.slice").rmdir()
            case "closed":
                it.watch.close()
        assert await it.hears() == {}
        assert it.told.empty()
        assert set(it.pressure.closed) == {
            "watched no more": {BUILD}, "gone": {BUILD}, "gone before it is told": set(), "closed": {BUILD, APP},
        }[end]  # fmt: skip


@pytest.mark.asyncio
async def test_told_again_of_the_same(mount: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the machine says which there are: one trigger for each."""
    async with desk(mount, monkeypatch) as it:
        for _ in range(3):
            it.watch.watch([BUILD, APP])
        assert it.pressure.opened == [BUILD, APP]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("refusal", "times"),
    [
        (NotSupportedError("no PSI", "psi=1"), 1),  # It will not be there tomorrow.
        (CgroupGoneError(BUILD), 3),  # Another one may have its name by then.
    ],
)
async def test_no_trigger_is_to_be_had(
    mount: Path, monkeypatch: pytest.MonkeyPatch, refusal: Exception, times: int
) -> None:
    async with desk(mount, monkeypatch) as it:
        it.pressure.refuses = refusal
        for _ in range(3):
            it.watch.watch([BUILD])
        assert it.pressure.opened == [BUILD] * times
        it.watch.close()
        assert it.pressure.closed == []


@pytest.mark.asyncio
async def test_no_descriptor_is_to_be_had_now(mount: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A moment later there may be one."""
    async with desk(mount, monkeypatch) as it:
        it.pressure.no_pipe = True
        it.watch.watch([BUILD])
        assert it.pressure.stalls == {}
        it.pressure.no_pipe = False
        it.watch.watch([BUILD])
        assert set(it.pressure.stalls) == {BUILD}
