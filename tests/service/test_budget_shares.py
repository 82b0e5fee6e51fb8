# SPDX-License-Identifier: LGPL-2.1-or-later
"""How the builds of a slice are told what each may hold: what they say, what is believed of it, and over real sockets."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.policy.sharing import Demand
from slicemgr.service import budget_shares, control
from slicemgr.service.budget_shares import BudgetShares, NeedLines, parse_need
from slicemgr.service.control import ControlServer
from tests.cgroupfs.fake_tree import MIB, FakeTree
from tests.service.test_control import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

SLICE = "/build.slice"
A, B, C = (f"{SLICE}/slicemgr-{name}-7.scope" for name in "abc")
WAITING = Demand(0, 0, is_waiting=True)


def content(wanted_mib: int) -> Demand:
    return Demand(0, wanted_mib * MIB, is_waiting=False)


@pytest.mark.parametrize(
    ("line", "need"),
    [
        (b"need 1 2 0", Demand(1, 2, is_waiting=False)),
        (b"need 0 0 1", WAITING),
        (b"need 104857600 4611686018427387904 1", Demand(104857600, 1 << 62, is_waiting=True)),
        (b"need 0 4611686018427387905 1", None),
        (b"need 1180591620717411303424 0 1", None),
        (b"need " + b"9" * 60 + b" 0 1", None),
        (b"need " + b"9" * 5000 + b" 0 1", None),
        (b"need -1 0 1", None),
        (b"need 1_0 0 1", None),
        (b"need 1 2", None),
        (b"need 1 2 1 3", None),
        (b"need 1 2 2", None),
        (b"need 1 2 -", None),
        (b"need  1 2 1", None),
        (b"need 1 2 1\r", None),
        ("need ١ 2 1".encode(), None),
        (b"NEED 1 2 1", None),
        (b"watch /build.slice", None),
        (b"", None),
        (b"\xff\0", None),
    ],
    ids=lambda each: repr(each)[:40],
)
def test_a_line(line: bytes, need: Demand | None) -> None:
    assert parse_need(line) == need
    assert NeedLines().last_in(line + b"\n") == need


PIECES = st.lists(
    st.one_of(
        st.sampled_from(
            [b"need 1 2 1\n", b"need 3 4 0\n", b"ne", b"ed 5 6 1", b"\n", b"need ", b"7 8 1\n", b"x" * 100]
        ),
        st.binary(max_size=20),
    ),
    max_size=30,
)


@given(PIECES, st.data())
def test_however_it_is_cut(pieces: list[bytes], data: st.DataObject) -> None:
    """Whatever it says, and wherever the kernel cuts it: the last need that stands on a line of its own."""
    text = b"".join(pieces)
    lines = NeedLines()
    heard = None
    at = 0
    while at < len(text):
        to = data.draw(st.integers(at + 1, len(text)))
        heard = lines.last_in(text[at:to]) or heard
        at = to
        assert len(lines._begun) <= budget_shares.LONGEST_LINE
    needs = [need for line in text.split(b"\n")[:-1] if (need := parse_need(line)) is not None]
    assert heard == (needs[-1] if needs else None)


class Desk:
    """A slice of 1000 MiB with three jobs; clients are named by a word."""

    def __init__(self, tree: FakeTree) -> None:
        self.tree = tree
        self.now = 100.0
        tree.add(SLICE, max=1000 * MIB)
        for path in (A, B, C):
            tree.add(path)
        self.shares: BudgetShares[str] = BudgetShares(tree.mount, lambda: self.now)

    def hold(self, **mib: int) -> None:
        for name, held in mib.items():
            self.tree.groups[f"{SLICE}/slicemgr-{name}-7.scope"].anon = held * MIB
        self.tree.sync()

    def needs(self, **needs: Demand) -> None:
        for name, need in needs.items():
            assert self.shares.need(name, f"{SLICE}/slicemgr-{name}-7.scope", need)

    def told(self) -> dict[str, int | None]:
        """What is news, in MiB; and they are told."""
        news = dict(self.shares.news())
        for client, allowance in news.items():
            self.shares.told(client, allowance)
        return {client: None if each is None else each // MIB for client, each in news.items()}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    made = Desk(FakeTree(tmp_path, monkeypatch))
    yield made
    made.shares.close()


def test_a_build_alone_has_all(desk: Desk) -> None:
    """And is told so once."""
    desk.needs(a=content(100))
    assert desk.told() == {"a": 1000}
    desk.needs(a=WAITING)
    assert desk.told() == {}


def test_a_newcomer_gets_what_is_left_and_then_its_share(desk: Desk) -> None:
    desk.hold(a=900)
    desk.needs(a=WAITING)
    assert desk.told() == {"a": 1000}
    desk.needs(b=WAITING)
    assert desk.told() == {"a": 900, "b": 100}
    desk.hold(a=700, b=100)
    assert desk.told() == {"a": 700, "b": 300}
    desk.hold(a=450, b=300)
    assert desk.told() == {"a": 500, "b": 500}
    assert desk.shares.forget("a")
    assert desk.told() == {"b": 550}  # It still holds what it has left behind.
    desk.hold(a=0)
    assert desk.told() == {"b": 1000}


def test_others_have_what_they_hold(desk: Desk) -> None:
    """A job that is not paced, and whoever else is in the slice; and page cache is nobody's."""
    desk.tree.add(f"{SLICE}/x.service", anon=100 * MIB, file=500 * MIB)
    desk.hold(c=300)
    desk.needs(a=WAITING, b=WAITING)
    assert desk.told() == {"a": 300, "b": 300}


def test_what_it_says_that_it_holds_is_not_believed(desk: Desk) -> None:
    """It gets a waiting build's share."""
    desk.needs(a=Demand(1 << 62, 1 << 62, is_waiting=True), b=WAITING, c=Demand(1 << 62, 1 << 62, is_waiting=False))
    told = desk.told()
    assert told == {"a": 333, "b": 333, "c": 333}


def test_two_that_speak_for_one_job_have_one_share(desk: Desk) -> None:
    """The one that spoke last is heard; both are told."""
    for client in ("1", "2", "3"):
        assert desk.shares.need(client, A, WAITING)
    desk.now += 1
    assert desk.shares.need("2", A, content(0))
    desk.needs(b=WAITING)
    told = desk.told()
    assert told == {"1": 15, "2": 15, "3": 15, "b": 984}


def test_only_news_is_told(desk: Desk) -> None:
    desk.hold(a=600)
    desk.needs(a=WAITING, b=WAITING)
    assert desk.told() == {"a": 600, "b": 400}
    desk.hold(a=595)
    assert desk.told() == {"b": 405}
    desk.hold(a=593)
    assert desk.told() == {"a": 593}
    desk.hold(a=592)
    assert desk.told() == {}


def test_without_a_limit_there_is_nothing_to_share(desk: Desk) -> None:
    """And it is told when that is new."""
    desk.tree.groups[SLICE].max = None
    desk.tree.sync()
    desk.needs(a=WAITING)
    assert desk.told() == {}
    desk.tree.groups[SLICE].high = 500 * MIB
    desk.tree.sync()
    assert desk.told() == {"a": 500}
    desk.tree.groups[SLICE].high = None
    desk.tree.sync()
    assert desk.told() == {"a": None}
    assert desk.told() == {}


def test_a_paused_job_does_not_wait(desk: Desk) -> None:
    """It keeps what it holds and a little; the other has the rest."""
    desk.hold(a=200)
    desk.needs(a=WAITING, b=WAITING)
    assert desk.told() == {"a": 500, "b": 500}
    (Path(desk.tree.mount) / A.lstrip("/") / "cgroup.events").write_text("populated 1\nfrozen 1\n")
    assert desk.told() == {"a": 228, "b": 771}


def test_one_that_says_nothing_any_more_does_not_wait(desk: Desk) -> None:
    """Stopped by ^Z with its command; when it goes on it says so."""
    desk.hold(a=200)
    desk.needs(a=WAITING, b=WAITING)
    desk.told()
    desk.now += budget_shares.STALE_SECONDS + 0.1
    desk.needs(b=WAITING)
    assert desk.told() == {"a": 228, "b": 771}
    desk.needs(a=WAITING)
    assert desk.told() == {"a": 500, "b": 500}


def test_who_is_gone_is_told_nothing(desk: Desk) -> None:
    """Its job, or its whole slice."""
    desk.needs(a=WAITING, b=WAITING)
    desk.tree.remove(A)
    assert desk.told() == {"b": 1000}
    desk.tree.remove(SLICE)
    assert desk.told() == {}


@pytest.mark.parametrize(
    "cgroup",
    [
        "",
        "/",
        "/slicemgr-a-7.scope",
        SLICE,
        f"{SLICE}/make.scope",
        f"{SLICE}/slicemgr-self-7",
        f"{A}/",
        f"{A}/container",
    ],
)
def test_what_is_no_job(desk: Desk, cgroup: str) -> None:
    assert not desk.shares.need("a", cgroup, WAITING)
    assert not desk.shares.are_there_any
    assert not desk.shares.forget("a")


def test_the_bound_of_a_user(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """By whom the cgroup is: another one's jobs count for him."""
    monkeypatch.setattr(budget_shares, "MOST_JOBS", 2)
    theirs = "/user.slice/user-1000.slice/user@1000.service/build.slice/slicemgr-x-{}.scope"
    for at in range(5):
        assert desk.shares.need(f"u{at}", theirs.format(at), WAITING) is (at < 2)
    desk.needs(a=WAITING)
    assert desk.told() == {"a": 1000}
    desk.shares.forget("u0")
    assert desk.shares.need("u4", theirs.format(4), WAITING)


def test_descriptors_go_with_the_last_job_of_a_slice(desk: Desk) -> None:
    desk.needs(a=WAITING, b=WAITING)
    before = len(os.listdir("/proc/self/fd"))
    desk.told()
    assert len(os.listdir("/proc/self/fd")) > before
    desk.shares.forget("a")
    desk.shares.forget("b")
    assert len(os.listdir("/proc/self/fd")) == before


# Over the control socket.


class Build:
    """A client that says what it needs, and hears what it may have."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def watched(cls, path: str, cgroup: str) -> Build:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(f"watch {cgroup}\n".encode())
        assert await reader.readline() == b"ok\n"
        return cls(reader, writer)

    async def allowed(self) -> int | None:
        """The next one that it is told, in MiB."""
        told = json.loads(await self.reader.readline())
        assert told.keys() == {"kind", "allowance_bytes"}
        assert told["kind"] == "budget"
        allowance: int | None = told["allowance_bytes"]
        return None if allowance is None else allowance // MIB


@asynccontextmanager
async def serving(folder: Path, tree: FakeTree) -> AsyncIterator[str]:
    """Where a server listens that watches whatever it is asked to."""
    async with server_of(folder, tree) as server:
        yield server._path


@asynccontextmanager
async def server_of(folder: Path, tree: FakeTree) -> AsyncIterator[ControlServer]:
    """The server itself."""
    tree.add(SLICE, max=1000 * MIB)
    for path in (A, B):
        tree.add(path)
    rest = asyncio.Event()
    rest.set()

    async def at_rest() -> None:
        await rest.wait()

    path = str(folder / "s" / "control")
    server = ControlServer(path, refusal=lambda cgroup, uid: None, at_rest=at_rest, shares=BudgetShares(tree.mount))
    await server.start(for_everybody=False)
    try:
        yield server
    finally:
        await server.close()
        await until(lambda: not server._connected)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTree:
    (tmp_path / "mount").mkdir()
    monkeypatch.setattr(control, "SHARE_SECONDS", 0.0)
    monkeypatch.setattr(control, "SHARE_AGAIN_SECONDS", 0.005)
    monkeypatch.setattr(control, "LEAST_REST", 0)
    monkeypatch.setattr(control, "MOST_PIECES", 1_000)
    return FakeTree(tmp_path / "mount", monkeypatch)


@pytest.mark.asyncio
async def test_two_builds_share(tmp_path: Path, tree: FakeTree) -> None:
    """And what one gives back the other has."""
    async with serving(tmp_path, tree) as path:
        first = await Build.watched(path, A)
        first.writer.write(b"need 0 0 1\n")
        assert await first.allowed() == 1000
        second = await Build.watched(path, B)
        second.writer.write(b"need 0 0 1\n")
        assert [await first.allowed(), await second.allowed()] == [500, 500]
        first.writer.close()
        assert await second.allowed() == 1000
        second.writer.close()


@pytest.mark.asyncio
async def test_what_changes_without_a_word(tmp_path: Path, tree: FakeTree) -> None:
    """The slice has got another limit, and somebody else in it has grown."""
    async with serving(tmp_path, tree) as path:
        build = await Build.watched(path, A)
        build.writer.write(b"need 0 0 1\n")
        assert await build.allowed() == 1000
        tree.groups[SLICE].high = 800 * MIB
        tree.sync()
        assert await build.allowed() == 800
        tree.groups[B].anon = 300 * MIB
        tree.sync()
        assert await build.allowed() == 500
        build.writer.close()


@pytest.mark.asyncio
async def test_who_never_says_a_need_is_told_nothing(tmp_path: Path, tree: FakeTree) -> None:
    """An older `run`; and lines that nobody knows are dropped."""
    async with serving(tmp_path, tree) as path:
        older, build = await Build.watched(path, A), await Build.watched(path, B)
        older.writer.write(b"perhaps later\nneed x\n")
        build.writer.write(b"later 1 2\nneed 0 0 1\nnonsense\n")
        assert await build.allowed() == 1000
        older.writer.write_eof()
        assert await older.reader.read() == b""
        build.writer.close()
        older.writer.close()


GARBAGE = [
    b"x" * 100_000,
    b"\n" * 100_000,
    b"need 1 2 1\n" * 10_000,
    b"need " + b"9" * 100_000 + b" 0 1\n",
    b"need -1 -1 1\nneed 1180591620717411303424 0 1\n" * 1_000,
    bytes(range(256)) * 100,
]


@pytest.mark.asyncio
@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda each: repr(each[:12]))
async def test_garbage_harms_nobody(tmp_path: Path, tree: FakeTree, garbage: bytes) -> None:
    """The other one has its share meanwhile, and the one that sends it may still mend its ways."""
    async with serving(tmp_path, tree) as path:
        hostile = await Build.watched(path, B)
        hostile.writer.write(garbage)
        build = await Build.watched(path, A)
        build.writer.write(b"need 0 0 1\n")
        told = await build.allowed()
        hostile.writer.write(b"\nneed 0 0 1\n")
        while told != 500:
            told = await build.allowed()
        build.writer.close()
        hostile.writer.close()


@pytest.mark.asyncio
async def test_a_flood_is_not_drunk(tmp_path: Path, tree: FakeTree, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many pieces in a second, and the flood stands in its own buffers."""
    monkeypatch.setattr(control, "MOST_PIECES", 3)
    rests: list[float] = []
    drained = asyncio.Event()

    async def rest(seconds: float) -> None:
        rests.append(seconds)
        await drained.wait()

    monkeypatch.setattr(control, "sleep", rest)
    async with serving(tmp_path, tree) as path:
        with socket.socket(socket.AF_UNIX) as hostile:
            hostile.connect(path)
            hostile.sendall(f"watch {B}\n".encode())
            hostile.setblocking(False)
            await until(lambda: _is_full(hostile) and bool(rests))
            build = await Build.watched(path, A)
            build.writer.write(b"need 0 0 1\n")
            assert await build.allowed() == 500
            assert len(rests) == 1
            assert 0 < rests[0] <= 1
        drained.set()
        build.writer.close()


def _is_full(client: socket.socket) -> bool:
    """Pour until nothing more goes in."""
    try:
        while True:
            client.send(b"need 1 2 1\n" * 1_000)
    except BlockingIOError:
        return True


@pytest.mark.asyncio
async def test_who_does_not_read_gets_the_newest_when_he_does(tmp_path: Path, tree: FakeTree) -> None:
    """One line waits for him at most, whatever happens meanwhile, and the others are told all the while."""
    async with server_of(tmp_path, tree) as server:
        build, sleeper = await Build.watched(server._path, A), await Build.watched(server._path, B)
        (at_server,) = [writer for writer, cgroup in server._clients.items() if cgroup == B]
        # As little as the kernel allows: some ten lines. A paused reader of asyncio's would drink them otherwise.
        at_server.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        sleeper.reader._transport.pause_reading()  # type: ignore[attr-defined]
        build.writer.write(b"need 0 0 1\n")
        assert await build.allowed() == 1000
        sleeper.writer.write(b"need 0 0 1\n")
        assert await build.allowed() == 500
        for limit in range(40, 400, 4):
            tree.groups[SLICE].max = limit * MIB
            tree.sync()
            assert await build.allowed() == limit // 2
            assert at_server.transport.get_write_buffer_size() <= 60
        assert at_server.transport.get_write_buffer_size()
        sleeper.reader._transport.resume_reading()  # type: ignore[attr-defined]
        told = [await sleeper.allowed()]
        while told[-1] != 198:
            told.append(await sleeper.allowed())
        assert len(told) < 50
        for each in (build, sleeper):
            each.writer.close()


@pytest.mark.asyncio
async def test_rounds_keep_their_distance(tmp_path: Path, tree: FakeTree, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often somebody speaks; and one that took long is followed by a longer rest."""
    monkeypatch.setattr(control, "SHARE_SECONDS", 1_000.0)
    rounds: list[int] = []
    news = BudgetShares.news

    def count(shares: BudgetShares[asyncio.StreamWriter]) -> list[tuple[asyncio.StreamWriter, int | None]]:
        rounds.append(1)
        return news(shares)

    monkeypatch.setattr(BudgetShares, "news", count)
    async with serving(tmp_path, tree) as path:
        build = await Build.watched(path, A)
        for at in range(5):
            build.writer.write(b"need %d 0 1\n" % at)
            await build.writer.drain()
            if at == 0:
                assert await build.allowed() == 1000
        other = await Build.watched(path, B)
        other.writer.write_eof()
        assert await other.reader.read() == b""  # All that came before has been heard by now.
        assert len(rounds) == 1
        build.writer.close()
        other.writer.close()
