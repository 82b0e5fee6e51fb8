# SPDX-License-Identifier: LGPL-2.1-or-later
"""Placing jobs, against a manager of the test's own: what is asked for, and what every refusal turns into."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from slicemgr.kernel import syscalls
from slicemgr.placement import backend, choose, delegated, systemd, systemd1
from slicemgr.placement.bus_connection import CallTimeoutError, Connection, ManagerError, NoManagerError
from slicemgr.placement.bus_wire import BusError, FormatError
from slicemgr.placement.systemd1 import JobFailedError, Manager, connect, escape, unit_path
from tests.service.fake_manager import JOB, Call, FakeManager, error, job_removed, message, reply

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from tests.service.fake_manager import Answer

HEAVY = ("dataclasses", "typing", "enum", "asyncio", "re", "json", "socket", "argparse", "gi", "contextlib")


def test_nothing_heavy_is_imported() -> None:
    """A fresh interpreter without site (which may import what it likes) knows none of them afterwards."""
    script = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\nimport slicemgr.placement.choose, slicemgr.placement.systemd, slicemgr.placement.delegated\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Callable[..., tuple[FakeManager, Manager]]]:
    """Start a manager that answers as told, and connect to it."""
    started: list[tuple[FakeManager, Manager]] = []

    def start(answer: Answer, *, greeting: bytes | None = None, seconds: float = 10) -> tuple[FakeManager, Manager]:
        there = FakeManager(tmp_path / "private", answer, greeting=greeting)
        manager = Manager(Connection(str(tmp_path / "private"), is_bus=False, seconds=seconds))
        started.append((there, manager))
        return started[-1]

    yield start
    for there, manager in started:
        manager.close()
        there.end()


def makes_scopes(_: FakeManager, peer: socket.socket, call: Call) -> None:
    """As systemd 252: the answer names the job, others' jobs end in between, and then ours."""
    peer.sendall(reply(call, "o", JOB) + job_removed("done", "/other") + job_removed("done"))


def test_what_a_scope_is_asked_for(
    fake: Callable[..., tuple[FakeManager, Manager]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole call, and the limits that were not there to be read back."""
    there, manager = fake(makes_scopes)
    monkeypatch.setattr(systemd, "cgroup_of", lambda pid: f"/build.slice/slicemgr-cc1plus-{pid}.scope")
    handle = systemd.open_job(
        manager,
        4711,
        name="cc1plus",
        slice_name="build.slice",
        command=["cc1plus", "a\nb.cc"],
        memory_high=100,
        memory_max=1 << 30,
        is_user=True,
    )
    (call,) = there.calls
    assert call.path == "/org/freedesktop/systemd1"
    assert call.member == "StartTransientUnit"
    unit, mode, properties, auxiliary = call.values
    assert (unit, mode, auxiliary) == ("slicemgr-cc1plus-4711.scope", "fail", [])
    assert dict(properties) == {
        "Description": ("s", "cc1plus a?b.cc"),
        "Slice": ("s", "build.slice"),
        "PIDs": ("au", [4711]),
        "Delegate": ("b", True),
        "CollectMode": ("s", "inactive-or-failed"),
        "OOMPolicy": ("s", "continue"),
        "ManagedOOMPreference": ("s", "avoid"),
        "MemoryHigh": ("t", 100),
        "MemoryMax": ("t", 1 << 30),
    }
    assert handle.unit == unit
    assert handle.cgroup == f"/build.slice/{unit}"
    assert not handle.limits_in_force
    assert "Delegate=cpu memory pids" in handle.why_not
    handle.release()


@pytest.mark.parametrize("writable", [True, False])
def test_who_goes_beside_the_job(
    fake: Callable[..., tuple[FakeManager, Manager]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writable: bool
) -> None:
    """In a cgroup of its own within the scope, which goes with the job; where none can be made, in the job's."""
    there, manager = fake(makes_scopes)
    monkeypatch.setattr(systemd, "CGROUPS", str(tmp_path))
    monkeypatch.setattr(systemd, "cgroup_of", lambda pid: f"/slicemgr-make-{pid}.scope")
    scope = tmp_path / "slicemgr-make-4711.scope"
    leaf = scope / "slicemgr-keeper"
    written: list[tuple[str, str]] = []
    monkeypatch.setattr(systemd, "write_text", lambda path, text: written.append((path, text)))
    if writable:
        scope.mkdir()
    handle = systemd.open_job(
        manager, 4711, name="make", slice_name="build.slice", command=["make"], beside=[4712], is_user=True
    )
    assert dict(there.calls[0].values[2])["PIDs"] == ("au", [4711, 4712])
    assert handle.limits_in_force
    assert leaf.exists() is writable
    assert written == ([(f"{leaf}/cgroup.procs", "4712")] if writable else [])
    handle.release()
    assert not leaf.exists()


def test_a_process_that_stayed_where_it_was(
    fake: Callable[..., tuple[FakeManager, Manager]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manager's word is not enough: the process's own cgroup is asked."""
    _, manager = fake(makes_scopes)
    monkeypatch.setattr(systemd, "cgroup_of", lambda _: "/user.slice/user-1000.slice/session-2.scope")
    with pytest.raises(backend.PlacementError, match="; try "):
        systemd.open_job(manager, os.getpid(), name="x", slice_name="build.slice", command=["x"], is_user=True)


@pytest.mark.parametrize(
    ("text", "left_out"),
    [
        ("Cannot set property ManagedOOMPreference, or unknown property.", ("ManagedOOMPreference",)),
        ("Cannot set property OOMPolicy, or unknown property.", ("OOMPolicy",)),
        ("Unknown.", ("ManagedOOMPreference", "OOMPolicy", "CollectMode")),
    ],
)
def test_properties_of_a_later_systemd(
    fake: Callable[..., tuple[FakeManager, Manager]], text: str, left_out: tuple[str, ...]
) -> None:
    """The named one is left out, or else all that may be; and it is said which."""

    def old(there: FakeManager, peer: socket.socket, call: Call) -> None:
        if len(there.calls) == 1:
            peer.sendall(error(call, "org.freedesktop.DBus.Error.PropertyReadOnly", text))
        else:
            makes_scopes(there, peer, call)

    there, manager = fake(old)
    wanted = {"OOMPolicy": "continue", "CollectMode": "inactive", "ManagedOOMPreference": "avoid", "MemoryMax": None}
    assert manager.start_transient_unit("x.scope", wanted) == left_out
    assert dict(there.calls[1].values[2]) == {
        **{name: ("s", value) for name, value in wanted.items() if isinstance(value, str) and name not in left_out},
        "MemoryMax": ("t", (1 << 64) - 1),
    }


def test_a_property_that_is_not_optional(fake: Callable[..., tuple[FakeManager, Manager]]) -> None:
    """Without its limit a job is not what was asked for."""
    there, manager = fake(
        lambda _, peer, call: peer.sendall(
            error(call, "org.freedesktop.DBus.Error.PropertyReadOnly", "Cannot set property MemoryMax")
        )
    )
    with pytest.raises(ManagerError, match="MemoryMax"):
        manager.start_transient_unit("x.scope", {"MemoryMax": 1, "OOMPolicy": "continue"})
    assert len(there.calls) == 2


def test_a_name_that_is_taken(
    fake: Callable[..., tuple[FakeManager, Manager]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pid came back while a daemon of its last job lives: the next name."""

    def taken(there: FakeManager, peer: socket.socket, call: Call) -> None:
        if len(there.calls) < 3:
            peer.sendall(error(call, systemd1.UNIT_EXISTS, "Unit was already loaded or has a fragment file."))
        else:
            makes_scopes(there, peer, call)

    there, manager = fake(taken)
    monkeypatch.setattr(systemd, "cgroup_of", lambda _: f"/{there.calls[-1].values[0]}")
    handle = systemd.open_job(manager, 5, name="make", slice_name="build.slice", command=["make"], is_user=True)
    assert handle.unit == "slicemgr-make.3-5.scope"
    assert handle.limits_in_force  # none was asked for
    assert [call.values[0] for call in there.calls] == [
        "slicemgr-make-5.scope",
        "slicemgr-make.2-5.scope",
        "slicemgr-make.3-5.scope",
    ]


def test_a_job_of_the_manager_that_fails(fake: Callable[..., tuple[FakeManager, Manager]]) -> None:
    """systemd's own word for it."""
    _, manager = fake(lambda _, peer, call: peer.sendall(reply(call, "o", JOB) + job_removed("dependency")))
    with pytest.raises(JobFailedError, match="dependency"):
        manager.start_unit("build.slice")


def test_a_signal_before_the_answer(fake: Callable[..., tuple[FakeManager, Manager]]) -> None:
    """Kept, and found when it is waited for."""
    _, manager = fake(lambda _, peer, call: peer.sendall(job_removed("done") + reply(call, "o", JOB)))
    manager.start_unit("build.slice")


def test_signals_of_no_use_are_dropped_unread(tmp_path: Path) -> None:
    """Even those that are no D-Bus behind their fixed header; the wanted one among them is found."""
    noise = b"l\4\1\1\4\0\0\0\1\0\0\0\5\0\0\0" + b"x" * 12

    def loud(_: FakeManager, peer: socket.socket, call: Call) -> None:
        peer.sendall(noise * 3000 + reply(call, "o", JOB) + noise + job_removed("done") + noise)

    there = FakeManager(tmp_path / "private", loud)
    connection = Connection(str(tmp_path / "private"), is_bus=False, signals_with=b"JobRemoved")
    Manager(connection).start_unit("build.slice")
    connection.close()
    there.end()


def test_no_answer_in_time(fake: Callable[..., tuple[FakeManager, Manager]]) -> None:
    """A manager that hangs."""
    _, manager = fake(lambda *_: None, seconds=0.2)
    with pytest.raises(CallTimeoutError):
        manager.get_unit("build.slice")


def test_a_peer_that_trickles(fake: Callable[..., tuple[FakeManager, Manager]]) -> None:
    """The time-out is for the whole answer and not for each byte."""

    def trickle(_: FakeManager, peer: socket.socket, call: Call) -> None:
        for byte in reply(call, "o", JOB) * 100:
            peer.sendall(bytes((byte,)))
            time.sleep(0.05)

    _, manager = fake(trickle, seconds=0.3)
    with pytest.raises(CallTimeoutError):
        manager.get_unit("build.slice")
    manager.close()


@pytest.mark.parametrize(
    "greeting",
    [b"REJECTED EXTERNAL\r\n", b"OK" * 4096, b"\xff\r\n", b""],
    ids=["rejected", "endless", "nonsense", "silent"],
)
def test_a_greeting_that_is_none(fake: Callable[..., tuple[FakeManager, Manager]], greeting: bytes) -> None:
    """Known at the first call."""
    _, manager = fake(lambda *_: None, greeting=greeting, seconds=0.3)
    with pytest.raises(BusError):
        manager.get_unit("build.slice")


HOSTILE = {
    "no byte order": b"x" + bytes(15),
    "version 2": b"l\2\1\2" + bytes(4) + b"\1\0\0\0" + bytes(4),
    "serial 0": b"l\2\1\1" + bytes(12),
    "128 MiB of body": b"l\2\1\1\0\0\0\x08\1\0\0\0\0\0\0\0",
    "4 GiB of fields": b"l\2\1\1\0\0\0\0\1\0\0\0\xff\xff\xff\xff",
    "path of type u": message(2, 1, [(1, ("u", 5))]),
    "reply serial of type s": message(2, 1, [(5, ("s", "1"))]),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_peer(fake: Callable[..., tuple[FakeManager, Manager]], data: bytes) -> None:
    """Refused before a byte of it is waited for."""
    _, manager = fake(lambda _, peer, __: peer.sendall(data), seconds=5)
    with pytest.raises(FormatError):
        manager.get_unit("build.slice")


def test_a_peer_that_hangs_up(fake: Callable[..., tuple[FakeManager, Manager]]) -> None:
    """In the middle of a message."""

    def leave(_: FakeManager, peer: socket.socket, call: Call) -> None:
        peer.sendall(reply(call, "o", JOB)[:-3])
        peer.close()
        raise EOFError

    _, manager = fake(leave)
    with pytest.raises(NoManagerError):
        manager.get_unit("build.slice")


def test_units_are_listed(fake: Callable[..., tuple[FakeManager, Manager]]) -> None:
    """The rows of ListUnits have ten columns; five are of use."""
    row = ("build.slice", "Builds", "loaded", "active", "active", "", "/unit", 0, "", "/")
    there, manager = fake(lambda _, peer, call: peer.sendall(reply(call, "a(ssssssouso)", [row])))
    (unit,) = manager.list_units(["*.slice"])
    assert (unit.name, unit.description, unit.load, unit.active, unit.sub) == row[:5]
    assert there.calls[0].values == ([], ["*.slice"])


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        ("make", "make"),
        ("cargo build", "cargo\\x20build"),
        ("a-b/c", "a\\x2db-c"),
        (".hidden", "\\x2ehidden"),
        ("ä", "\\xc3\\xa4"),
        ("back\\slash", "back\\x5cslash"),
        ("g++", "g\\x2b\\x2b"),
        ("a:b_c.d", "a:b_c.d"),
        ("\udcff", "\\xff"),
    ],
)
def test_names_are_escaped_as_systemd_does(name: str, escaped: str) -> None:
    """By the table, and by systemd-escape itself where it is."""
    assert escape(name) == escaped
    if shutil.which("systemd-escape") and "\udcff" not in name:
        done = subprocess.run(["systemd-escape", "--", name], capture_output=True, text=True, check=True)
        assert done.stdout.rstrip("\n") == escaped


def test_long_names_are_cut_between_signs() -> None:
    """A unit's name has 255 characters; half an escape would be another name."""
    name = systemd.scope_name("ä" * 300, 1 << 22)
    assert len(name) <= 255
    assert name.removesuffix(f"-{1 << 22}.scope").endswith(("\\xa4", "\\xc3"))
    assert systemd.scope_name("", 5) == "slicemgr-job-5.scope"


@pytest.mark.parametrize(
    ("unit", "label"),
    [
        ("build.slice", "build_2eslice"),
        ("user@1000.service", "user_401000_2eservice"),
        ("-.slice", "_2d_2eslice"),
        ("1.scope", "_31_2escope"),
    ],
)
def test_object_paths_of_units(unit: str, label: str) -> None:
    """bus_label_escape."""
    assert unit_path(unit) == f"/org/freedesktop/systemd1/unit/{label}"


def test_a_description_is_one_printable_line() -> None:
    """It is shown by systemctl, and written to the journal."""
    assert systemd.description(["sh", "-c", "a\x1b[2J\n\udcff"]) == "sh -c a?[2J??"
    assert len(systemd.description(["x" * 5000])) == systemd.LONGEST_DESCRIPTION


def test_no_manager_names_the_private_socket(tmp_path: Path) -> None:
    """Neither socket is there."""
    with pytest.raises(NoManagerError, match="systemd/private"):
        connect(1000, runtime_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("written", "wanted", "held"),
    [
        ("1073741824", 1 << 30, True),
        ("1073737728", (1 << 30) - 1, True),
        ("max", 1 << 30, False),
        ("max", (1 << 63) - 1, True),
        ("0", 0, True),
        ("1073745920", 1 << 30, False),
        ("536870912", 1 << 30, False),
        ("max", None, True),
        (None, 5, False),
        (None, None, True),
    ],
)
def test_limits_are_read_back(tmp_path: Path, written: str | None, wanted: int | None, held: bool) -> None:
    """The kernel rounds down to pages; anything else is another limit."""
    if written is not None:
        (tmp_path / "memory.max").write_text(f"{written}\n")
    assert backend.not_in_force(str(tmp_path), {"memory.max": wanted}) == (() if held else ("memory.max",))


@pytest.mark.parametrize(
    ("written", "held"),
    [("default 100\n", True), ("default 100\n8:0 300\n", True), ("default 300\n8:0 100\n", False), ("", False)],
)
def test_weights_are_read_back(tmp_path: Path, written: str, held: bool) -> None:
    """The default comes first; behind it each device that has a weight of its own."""
    (tmp_path / "io.weight").write_text(written)
    assert backend.not_in_force(str(tmp_path), {"io.weight": 100}) == (() if held else ("io.weight",))


@pytest.mark.parametrize("sign", ["\r", "\x0b", "\x1c", "\x85", "\u2028"], ids=ascii)
def test_a_cgroup_with_a_strange_name(monkeypatch: pytest.MonkeyPatch, sign: str) -> None:
    """The kernel refuses a newline in a name, and nothing else: all the rest is part of it."""
    monkeypatch.setattr(backend, "read_text", lambda _: f"4:memory:/a{sign}0::/forged\n0::/build.slice{sign}x/y\n")
    assert backend.cgroup_of(1) == f"/build.slice{sign}x/y"


def cgroups(root: Path, *paths: str, delegated_at: str | None = None) -> str:
    """Directories that look like a cgroup tree."""
    for path in ("", *paths):
        (root / path).mkdir(parents=True, exist_ok=True)
        for file in ("cgroup.procs", "cgroup.subtree_control"):
            (root / path / file).touch()
    if delegated_at is not None:
        try:
            os.setxattr(root / delegated_at, "user.delegate", b"1")
        except OSError:
            pytest.skip("no user attributes on this file system")
    return str(root)


APP = "user.slice/user-1000.slice/user@1000.service/app.slice"


@pytest.mark.parametrize(
    ("own", "delegated_at", "expected"),
    [
        (f"{APP}/run-1.scope", f"{APP}/run-1.scope", [f"{APP}/run-1.scope"]),
        (f"{APP}/run-1.scope/leaf", f"{APP}/run-1.scope", [f"{APP}/run-1.scope/leaf", f"{APP}/run-1.scope"]),
        (f"{APP}/run-1.scope", "user.slice/user-1000.slice/user@1000.service", None),
        ("user.slice/user-1000.slice/user@1000.service", "user.slice/user-1000.slice/user@1000.service", None),
        ("user.slice/user-1000.slice/session-2.scope", None, None),
        (
            "system.slice/docker-1.scope/init",
            "system.slice/docker-1.scope",
            ["system.slice/docker-1.scope/init", "system.slice/docker-1.scope"],
        ),
    ],
)
def test_where_systemd_ends(
    tmp_path: Path, own: str, delegated_at: str | None, expected: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only at or below the unit that was delegated to us; a user manager's own tree is its own."""
    monkeypatch.setattr(delegated, "_manager_says", lambda _: False)
    parts = own.split("/")
    root = cgroups(tmp_path / "cg", *("/".join(parts[: at + 1]) for at in range(len(parts))), delegated_at=delegated_at)
    if expected is None:
        with pytest.raises(backend.PlacementError, match="; try "):
            delegated.writable_parents(f"/{own}", root=root, systemd_runs=True)
    else:
        found = delegated.writable_parents(f"/{own}", root=root, systemd_runs=True)
        assert found == [f"{root}/{path}" for path in expected]


def test_the_manager_is_asked_where_no_attribute_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user manager of systemd 252 sets none."""
    scope = f"{APP}/run-1.scope"
    root = cgroups(tmp_path / "cg", scope, f"{scope}/leaf")
    asked: list[str] = []

    def yes(directory: str) -> bool:
        asked.append(directory)
        return True

    monkeypatch.setattr(delegated, "_manager_says", yes)
    found = delegated.writable_parents(f"/{scope}/leaf", root=root, systemd_runs=True)
    assert found == [f"{root}/{scope}/leaf", f"{root}/{scope}"]
    assert asked == [f"{root}/{scope}"]


def test_a_container_without_systemd(tmp_path: Path) -> None:
    """Up to the root of its namespace, and no further."""
    root = cgroups(tmp_path / "cg", "init")
    assert delegated.writable_parents("/", root=root, systemd_runs=False) == [root]
    assert delegated.writable_parents("/init", root=root, systemd_runs=False) == [f"{root}/init", root]
    with pytest.raises(backend.PlacementError, match="; try "):
        delegated.writable_parents("/../../elsewhere", root=root, systemd_runs=False)


NO_LIMITS: dict[str, Any] = {"name": "true", "slice_name": "build.slice", "command": ["true"]}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cgroup v2 file system with a memory controller at its root, as far as `choose` looks."""
    (tmp_path / "cg").mkdir()
    (tmp_path / "cg/cgroup.controllers").write_text("cpu memory pids\n")
    monkeypatch.setattr(choose, "CGROUPS", str(tmp_path / "cg"))
    # It holds for ever, and this process has other tests to run.
    monkeypatch.setattr(syscalls, "set_child_subreaper", lambda: None)
    return tmp_path / "cg"


def no_delegation(_: str) -> list[str]:
    raise backend.PlacementError("no cgroup here is delegated to this user; try x")


def test_without_cgroup_v2(tree: Path) -> None:
    """A hybrid tree has its own words."""
    (tree / "cgroup.controllers").unlink()
    (tree / "unified").mkdir()
    found = choose.choose(uid=1000)
    assert found.backend == "embedded"
    assert [backend for backend, _ in found.passed_over] == ["systemd", "cgroup"]
    assert all("hybrid" in reason and "; try " in reason for _, reason in found.passed_over)


@pytest.mark.parametrize("preference", ["systemd", "cgroup"])
def test_an_explicit_preference_is_no_wish(
    tree: Path, preference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is that backend, or an error with the reason."""
    monkeypatch.setattr(delegated, "writable_parents", no_delegation)
    with pytest.raises(choose.NoBackendError, match="; try "):
        choose.choose(preference, uid=1000, runtime_dir=str(tmp_path))
    assert tree.exists()


def test_a_manager_without_the_memory_controller(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known before anything is placed; no reason if no limit is asked for."""
    home = tree / "user.slice/user-1000.slice/user@1000.service"
    home.mkdir(parents=True)
    (home / "cgroup.controllers").write_text("pids\n")
    monkeypatch.setattr(delegated, "writable_parents", no_delegation)
    found = choose.choose(uid=1000, runtime_dir=str(tmp_path))
    assert found.passed_over[0] == ("systemd", systemd.no_controller(["memory"], is_user=True))
    without = choose.choose(uid=1000, runtime_dir=str(tmp_path), needs_memory=False)
    assert "no service manager answers" in without.passed_over[0][1]


def test_what_fails_at_placing_goes_on_to_the_next(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manager refuses the scope: the job runs, and it is said why it is not where it was meant to be."""
    monkeypatch.setattr(delegated, "writable_parents", no_delegation)
    monkeypatch.setattr(delegated, "cgroup_of", lambda _: "/x")
    (tmp_path / "systemd").mkdir()
    there = FakeManager(
        tmp_path / "systemd/private",
        lambda _, peer, call: peer.sendall(error(call, "org.freedesktop.DBus.Error.AccessDenied", "no")),
    )
    found = choose.choose(uid=1000, runtime_dir=str(tmp_path))
    assert found.backend == "systemd"
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as command:
        handle = found.open_job(command.pid, **NO_LIMITS, memory_max=1 << 30)
        assert handle.source is not None
        assert command.pid in handle.source.members()
    assert handle.backend == "embedded"
    assert [name for name, _ in handle.passed_over] == ["systemd", "cgroup"]
    assert "refuses the scope: no; try " in handle.passed_over[0][1]
    assert not handle.limits_in_force
    assert tree.exists()
    found.close()
    there.end()


def test_a_process_that_was_killed_while_it_was_held(tree: Path) -> None:
    """Its status tells; there is nothing to be placed, and nothing to complain about."""
    (tree / "cgroup.controllers").unlink()
    found = choose.choose(uid=1000)
    with subprocess.Popen(["true"]) as command:
        command.wait()
        handle = found.open_job(command.pid, **NO_LIMITS)
    assert handle.backend == "embedded"
    assert handle.limits_in_force  # none was asked for


def test_an_explicit_systemd_that_refuses(tree: Path, tmp_path: Path) -> None:
    """Nobody is left to go on to."""
    (tmp_path / "systemd").mkdir()
    there = FakeManager(
        tmp_path / "systemd/private",
        lambda _, peer, call: peer.sendall(error(call, "org.freedesktop.DBus.Error.AccessDenied", "no")),
    )
    found = choose.choose("systemd", uid=1000, runtime_dir=str(tmp_path))
    with pytest.raises(choose.NoBackendError, match="refuses the scope"):
        found.open_job(1, **NO_LIMITS)
    assert tree.exists()
    found.close()
    there.end()
