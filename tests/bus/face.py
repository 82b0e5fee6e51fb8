# SPDX-License-Identifier: LGPL-2.1-or-later
"""A daemon's face in a loop of its own, over a machine that a test makes up, and peers that say anything to it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeVar

import pytest
from gi.repository import Gio, GLib

from slicemgr.bus.objects import BUS_NAME, MANAGER, ROOT
from slicemgr.kernel.cgroupfs import CgroupDir
from slicemgr.model.slice import SliceKind
from slicemgr.service.bus_face import BusFace
from slicemgr.service.overview import JobOverview, SliceOverview
from tests.bus.daemon_side import daemon_side
from tests.bus.fake_daemon import usage
from tests.bus.private_bus import PrivateBus

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
    from pathlib import Path

    from slicemgr.service.explanation import Explanation

T = TypeVar("T")

SECONDS = 60.0
"""For a hang: nothing here takes one."""
PROPERTIES = "org.freedesktop.DBus.Properties"
FLAGS = Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION

STRANGER = 4711
"""Who calls where it is not root's word that counts."""
OWN_ROOT = f"/user.slice/user-{STRANGER}.slice/user@{STRANGER}.service"
SYSTEM_JOB, OWN_JOB = "slicemgr-backup-7.scope", "slicemgr-make-8.scope"


@dataclass
class RefusedError(Exception):
    """An answer that is an error."""

    name: str
    text: str


class Peer:
    """A connection of one's own: what it sends is what a test says, also where that is nonsense."""

    def __init__(self, address: str) -> None:
        self.connection = Gio.DBusConnection.new_for_address_sync(address, FLAGS, None, None)
        self.connection.set_exit_on_close(False)

    def call(
        self,
        path: str,
        interface: str,
        method: str,
        body: Any = None,
        *,
        descriptors: Sequence[int] = (),
        to: str = BUS_NAME,
    ) -> tuple[Any, ...]:
        """The answer, unpacked; raises RefusedError. `body` is a GLib.Variant."""
        listed = Gio.UnixFDList.new()
        for each in descriptors:
            listed.append(each)
        try:
            answer, _ = self.connection.call_with_unix_fd_list_sync(
                to, path, interface, method, body, None, 0, int(SECONDS * 1000), listed, None
            )
        except GLib.Error as error:
            name = Gio.DBusError.get_remote_error(error) or f"{error.domain}:{error.code}"
            raise RefusedError(name, error.message.removeprefix(f"GDBus.Error:{name}: ")) from None
        finally:
            del listed  # Whoever keeps the error keeps this frame, and so what was sent.
        return tuple(answer.unpack())

    def manager(self, method: str, signature: str, *arguments: Any, **others: Any) -> tuple[Any, ...]:
        """Of org.slicemgr1.Manager."""
        return self.call(ROOT, MANAGER, method, GLib.Variant(signature, arguments), **others)

    def get(self, name: str, path: str = ROOT, interface: str = MANAGER) -> Any:
        """A property."""
        return self.call(path, PROPERTIES, "Get", GLib.Variant("(ss)", (interface, name)))[0]

    def send(self, path: str, interface: str, method: str, body: Any, descriptors: Sequence[int] = ()) -> None:
        """A call whose answer nobody waits for, though one is asked for; on the bus when this returns."""
        message = Gio.DBusMessage.new_method_call(BUS_NAME, path, interface, method)
        message.set_body(body)
        if descriptors:
            listed = Gio.UnixFDList.new()
            for each in descriptors:
                listed.append(each)
            message.set_unix_fd_list(listed)
        self.connection.send_message(message, Gio.DBusSendMessageFlags.NONE)
        self.connection.flush_sync(None)

    def leave(self) -> None:
        """The bus; nothing if that has gone before."""
        with contextlib.suppress(GLib.Error):
            self.connection.close_sync(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()


class Manager:
    """A service manager that notes what it is asked, does nothing, and may be told to take its time."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.begun = threading.Semaphore(0)
        """Released with each call."""
        self.go_on = threading.Event()
        self.go_on.set()

    def _note(self, name: str, *arguments: Any) -> None:
        self.calls.append((name, arguments))
        self.begun.release()
        assert self.go_on.wait(SECONDS)

    def start_transient_unit(self, unit: str, properties: Mapping[str, Any]) -> tuple[str, ...]:
        self._note("start", unit, dict(properties))
        return ()

    def attach_processes(self, unit: str, pids: Sequence[int]) -> None:
        self._note("attach", unit, list(pids))

    def set_unit_properties(self, unit: str, properties: Mapping[str, Any]) -> None:
        self._note("set", unit, dict(properties))

    def begin_stop(self, unit: str) -> None:
        self._note("stop", unit)

    def close(self) -> None:
        """Nothing to hang up."""


def machine(user_uid: int | None) -> tuple[SliceOverview, ...]:
    """The manager's own build.slice with a job; on the system's side also a user's with one of theirs."""
    if user_uid is None:
        below, owners = "", [("", SYSTEM_JOB), (OWN_ROOT, OWN_JOB)]
    else:
        below = f"/user.slice/user-{user_uid}.slice/user@{user_uid}.service"
        owners = [(below, SYSTEM_JOB)]
    slices = []
    for root, unit in owners:
        job = JobOverview(unit, f"{root}/build.slice/{unit}", unit.split("-")[1], usage(), 7, ("make",), 1.0)
        slices.append(SliceOverview("build.slice", f"{root}/build.slice", SliceKind.BUILD, usage(), (job,)))
    return (*slices, SliceOverview("app.slice", f"{below}/app.slice", SliceKind.APP, usage(), ()))


class Face:
    """Everything of the bus side of a daemon, and what it has done."""

    def __init__(self, bus: PrivateBus, folder: Path, *, user_uid: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
        self.manager = Manager()
        self.said: list[str] = []
        self.in_force: list[Any] = []
        """What was to be applied, one for each change of the holds."""
        self.explained: list[str] = []
        self.explanation: Explanation | None = None
        """Else it can't be told; that it was asked for is enough."""
        self.reloads = 0
        self.frozen: frozenset[str] = frozenset()
        self.bus = bus
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="face", daemon=True)
        self.slices = machine(user_uid)
        for each in self.slices:
            for job in each.jobs:
                (folder / job.path.lstrip("/")).mkdir(parents=True)
                (folder / job.path.lstrip("/") / "cgroup.freeze").write_text("0")
        monkeypatch.setattr(CgroupDir.open.__func__, "__defaults__", (str(folder),))  # type: ignore[attr-defined]
        self._side = daemon_side(
            bus.address, folder, user_uid=user_uid, connect=lambda: self.manager, look=lambda: self.slices,
            explain=self._explain, reload=self._reload, hold=self._hold, paused_changed=self._paused_changed,
            say=self.said.append,
        )  # fmt: skip
        self._peers: list[Peer] = []

    def _explain(self, cgroup: str) -> Explanation:
        self.explained.append(cgroup)
        if self.explanation is None:
            raise OSError(5, "Input/output error")
        return self.explanation

    async def _reload(self) -> str:
        self.reloads += 1
        return ""

    async def _hold(self, kind: Any) -> None:
        self.in_force.append(kind)

    def _paused_changed(self, frozen: frozenset[str]) -> None:
        self.frozen = frozen

    @property
    def nothing_was_done(self) -> bool:
        """Neither placed nor limited, stopped, frozen, held, read again or explained."""
        return not (self.manager.calls or self.in_force or self.explained or self.reloads or self.frozen)

    def on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """What the face's own loop makes of it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(SECONDS)

    def peer(self) -> Peer:
        """One more client."""
        made = Peer(self.bus.address)
        self._peers.append(made)
        return made

    def until(self, is_so: Callable[[], object]) -> None:
        """It is so on the loop, after whatever is on its way: each look is a turn of the loop and of the bus."""
        deadline = threading.Event()
        timer = threading.Timer(SECONDS, deadline.set)
        timer.daemon = True
        timer.start()
        try:
            while not self.on_loop(_now(is_so)):
                assert not deadline.is_set(), "it never came to that"
        finally:
            timer.cancel()

    def until_named(self, peer: Peer) -> None:
        """The daemon has its name on the bus of this peer, and its other connection knows who calls."""

        def answers() -> bool:
            try:
                peer.manager("Release", "(u)", 0)
            except RefusedError as error:
                return error.name == "org.slicemgr1.Error.NotFound"
            return False

        self.until_outside(answers)

    @staticmethod
    def until_outside(is_so: Callable[[], object]) -> None:
        """As `until`, where a look is a call itself."""
        deadline = threading.Event()
        timer = threading.Timer(SECONDS, deadline.set)
        timer.daemon = True
        timer.start()
        try:
            while not is_so():
                assert not deadline.is_set(), "it never came to that"
        finally:
            timer.cancel()

    def settle(self) -> None:
        """For the next test: the peers have left, and all that was done is undone and forgotten.

        One face for many tests, because a connection is never given up (_KEPT in bus/context.py), nor its descriptors.
        """
        self.manager.go_on.set()
        for each in self._peers[1:]:
            each.leave()
        del self._peers[1:]
        face = self.face
        self.until(
            lambda: not face._holds.all() and len(face._tasks) <= self._standing and not face._server._open_calls
        )
        face._paused.forget_all_but((), face._paused.all())
        self.on_loop(face._publisher.look())
        for done in (self.manager.calls, self.in_force, self.explained):
            done.clear()
        self.reloads = 0

    def tasks(self) -> int:
        """How many there are on the loop, this question left out."""

        async def count() -> int:
            return len(asyncio.all_tasks()) - 1

        return self.on_loop(count())

    def __enter__(self) -> Self:
        self._thread.start()

        async def begin() -> None:
            self.face = BusFace(self.bus.address, self._side)
            await self.face.start()
            self._running = asyncio.create_task(self.face.run())

        self.on_loop(begin())
        self.until_named(self.peer())
        self._standing = len(self.face._tasks)
        return self

    def __exit__(self, *_: object) -> None:
        self.manager.go_on.set()

        async def end() -> None:
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running
            await self.face.close()

        for each in self._peers:
            each.leave()
        try:
            self.on_loop(end())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(SECONDS)
            self._loop.close()


@contextlib.contextmanager
def shared_face(folder: Path, *, user_uid: int | None) -> Iterator[Face]:
    """For all tests of a file, each of which settles it; on a bus of its own."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        bus = PrivateBus(folder)
        bus.start()
        try:
            with Face(bus, folder, user_uid=user_uid, monkeypatch=monkeypatch) as made:
                yield made
        finally:
            bus.kill()


async def _now(is_so: Callable[[], object]) -> bool:
    await asyncio.sleep(0)
    return bool(is_so())


def refusal(call: Callable[[], object]) -> RefusedError:
    """What it is answered with, which is an error."""
    try:
        answer = call()
    except RefusedError as error:
        return error
    raise AssertionError(f"answered {answer!r}")


def in_thread(call: Callable[[], T]) -> concurrent.futures.Future[T]:
    """Begun in a thread of its own; the future has its answer or its error."""
    answer: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            answer.set_exception(error)

    threading.Thread(target=run, name="caller", daemon=True).start()
    return answer
