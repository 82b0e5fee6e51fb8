# SPDX-License-Identifier: LGPL-2.1-or-later
"""D-Bus bytes: by the specification's own examples, there and back, against hostile ones, and to a real daemon."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slicemgr.placement.bus_connection import (
    BUS_NAME,
    BUS_PATH,
    Connection,
    ManagerError,
    NoManagerError,
    first_unix_socket,
)
from slicemgr.placement.bus_wire import DEEPEST, FormatError, complete_types, pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.mark.parametrize(
    ("signature", "values", "expected"),
    [
        ("y", (7,), b"\x07"),
        ("b", (True,), b"\1\0\0\0"),
        ("u", (0x01020304,), b"\4\3\2\1"),
        ("s", ("foo",), b"\3\0\0\0foo\0"),
        ("o", ("/a/b",), b"\4\0\0\0/a/b\0"),
        ("g", ("a{sv}",), b"\5a{sv}\0"),
        ("yu", (1, 2), b"\1\0\0\0\2\0\0\0"),
        ("au", ([1, 2],), b"\x08\0\0\0\1\0\0\0\2\0\0\0"),
        # Elements of 8 bytes are aligned after the length, and the padding does not count.
        ("ax", ([5],), b"\x08\0\0\0\0\0\0\0\5\0\0\0\0\0\0\0"),
        ("ax", ([],), b"\0\0\0\0\0\0\0\0"),
        ("v", (("u", 5),), b"\1u\0\0\5\0\0\0"),
        ("(yy)", ((1, 2),), b"\1\2"),
        ("a(sv)", ([("A", ("b", False))],), b"\x10\0\0\0\0\0\0\0\1\0\0\0A\0\1b\0\0\0\0\0\0\0\0"),
        ("ay", (b"\1\2",), b"\2\0\0\0\1\2"),
        ("a{sy}", ({"k": 1},), b"\7\0\0\0\0\0\0\0\1\0\0\0k\0\1"),
    ],
)
def test_bytes_by_the_specification(signature: str, values: tuple[Any, ...], expected: bytes) -> None:
    """Written out by hand from "Marshalling (Wire Format)"."""
    assert pack(signature, values) == expected
    assert unpack(signature, expected) == values


@pytest.mark.parametrize(
    ("signature", "parts"),
    [
        ("ssa(sv)a(sa(sv))", ["s", "s", "a(sv)", "a(sa(sv))"]),
        ("a{s(uu)}v", ["a{s(uu)}", "v"]),
        ("aaaay", ["aaaay"]),
        ("", []),
    ],
)
def test_signatures_are_split(signature: str, parts: list[str]) -> None:
    """Into complete types."""
    assert list(complete_types(signature)) == parts


@pytest.mark.parametrize(
    "signature",
    ["a", "(", "(s", "()", ")", "a{}", "a{s}", "a{vs}", "a{sss}", "{sv}", "h", "z", "a{s", "a" * 100 + "s", "y" * 256],
)
def test_no_signatures(signature: str) -> None:
    """Refused before any byte is read."""
    with pytest.raises(FormatError):
        list(complete_types(signature))


@pytest.mark.parametrize(
    ("signature", "data"),
    [
        ("u", b"\1\0\0"),
        ("u", b"\1\0\0\0\0"),
        ("b", b"\2\0\0\0"),
        ("yu", b"\1\1\0\0\2\0\0\0"),
        ("s", b"\3\0\0\0fo\0"),
        ("s", b"\3\0\0\0fooo"),
        ("s", b"\3\0\0\0f\0o\0"),
        ("s", b"\2\0\0\0\xff\xfe\0"),
        ("s", b"\xff\xff\xff\xff"),
        ("s", b"\0\0\0\x08" + bytes(64)),
        ("o", b"\2\0\0\0/-\0"),
        ("o", b"\2\0\0\0a/\0"),
        ("o", b"\3\0\0\0/a/\0"),
        ("g", b"\1z\0"),
        ("v", b"\2uu\0\0\0\0\0\0\0\0\0"),
        ("v", b"\0\0"),
        ("au", b"\xff\xff\xff\xff" + bytes(8)),
        ("au", b"\0\0\0\x08" + bytes(8)),
        ("au", b"\6\0\0\0" + bytes(8)),
        ("ax", b"\x08\0\0\0\1\0\0\0" + bytes(8)),
    ],
)
def test_hostile_bytes(signature: str, data: bytes) -> None:
    """Lengths of up to 4 GiB, strings without an end, padding with something in it: one error for all."""
    with pytest.raises(FormatError):
        unpack(signature, data)


def test_variants_can_not_exhaust_the_stack() -> None:
    """Variants in variants are the one nesting that no signature bounds."""
    nested: Any = ("y", 1)
    for _ in range(DEEPEST - 1):
        nested = ("v", nested)
    assert unpack("v", pack("v", (nested,))) == (nested,)
    with pytest.raises(FormatError):
        pack("v", (("v", nested),))
    with pytest.raises(FormatError):
        unpack("v", b"\1v\0" * 1000 + b"\1y\0\0")


@pytest.mark.parametrize(
    ("signature", "values"),
    [
        ("s", ("a\0b",)),
        ("s", (1,)),
        ("s", ("\udcff",)),
        ("o", ("build",)),
        ("u", (-1,)),
        ("u", (1 << 32,)),
        ("t", ("1",)),
        ("su", ("a",)),
        ("(su)", (("a",),)),
        ("v", (("uu", 1),)),
        ("ay", ([1, 2],)),
        ("a{sv}", ([],)),
    ],
)
def test_values_that_do_not_fit(signature: str, values: tuple[Any, ...]) -> None:
    """They never get on the wire."""
    with pytest.raises(FormatError):
        pack(signature, values)


_TEXT = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"))
_BASIC: dict[str, st.SearchStrategy[Any]] = {
    "y": st.integers(0, 255),
    "b": st.booleans(),
    "n": st.integers(-(1 << 15), (1 << 15) - 1),
    "q": st.integers(0, (1 << 16) - 1),
    "i": st.integers(-(1 << 31), (1 << 31) - 1),
    "u": st.integers(0, (1 << 32) - 1),
    "x": st.integers(-(1 << 63), (1 << 63) - 1),
    "t": st.integers(0, (1 << 64) - 1),
    "d": st.floats(allow_nan=False),
    "s": _TEXT,
    "o": st.lists(st.from_regex(r"[A-Za-z0-9_]+", fullmatch=True), max_size=3).map(lambda names: "/" + "/".join(names)),
    "g": st.sampled_from(["", "s", "a(sv)", "a{s(uu)}v"]),
}


def _containers(kinds: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return (
        kinds.map(lambda kind: f"a{kind}")
        | st.lists(kinds, min_size=1, max_size=3).map(lambda members: f"({''.join(members)})")
        | st.tuples(st.sampled_from(sorted(_BASIC)), kinds).map(lambda pair: f"a{{{pair[0]}{pair[1]}}}")
    )


_KINDS = st.recursive(st.sampled_from([*_BASIC, "v"]), _containers, max_leaves=5)


def _values(kind: str) -> st.SearchStrategy[Any]:
    if kind in _BASIC:
        return _BASIC[kind]
    if kind == "v":
        return st.sampled_from(["y", "s", "au", "(sx)", "a{sv}"]).flatmap(
            lambda inner: st.tuples(st.just(inner), _values(inner))
        )
    if kind == "ay":
        return st.binary(max_size=9)
    if kind.startswith("a{"):
        return st.dictionaries(_BASIC[kind[2]], _values(kind[3:-1]), max_size=3)
    if kind[0] == "a":
        return st.lists(_values(kind[1:]), max_size=3)
    return st.tuples(*(_values(member) for member in complete_types(kind[1:-1])))


@given(st.lists(_KINDS, max_size=3).flatmap(lambda kinds: st.tuples(st.just(kinds), st.tuples(*map(_values, kinds)))))
def test_there_and_back(typed: tuple[list[str], tuple[Any, ...]]) -> None:
    """Whatever D-Bus can say comes back as it was."""
    kinds, values = typed
    signature = "".join(kinds)
    assert unpack(signature, pack(signature, values)) == values


@given(st.lists(_KINDS, min_size=1, max_size=3).map("".join), st.binary(max_size=64), st.sampled_from("<>"))
def test_any_bytes_are_a_value_or_an_error(signature: str, data: bytes, order: str) -> None:
    """Never another exception; and what was taken is as long as the bytes."""
    try:
        values = unpack(signature, data, order=order)
    except FormatError:
        return
    if order == "<":
        assert len(pack(signature, values)) == len(data)


def test_big_endian_peers() -> None:
    """A bus passes messages on in the sender's byte order."""
    assert unpack("us", struct.pack(">II", 5, 2) + b"hi\0", order=">") == (5, "hi")


@pytest.mark.parametrize(
    ("addresses", "path"),
    [
        ("unix:path=/run/user/1000/bus", "/run/user/1000/bus"),
        ("unix:guid=1,path=/run/user/1000/bus,x=2", "/run/user/1000/bus"),
        ("tcp:host=a;unix:abstract=/tmp/dbus-1", "\0/tmp/dbus-1"),
        ("unix:path=/a%20b", None),
        ("disabled:", None),
        ("", None),
        (None, None),
    ],
)
def test_bus_addresses(addresses: str | None, path: str | None) -> None:
    """As they stand in $DBUS_SESSION_BUS_ADDRESS."""
    assert first_unix_socket(addresses) == path


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[str]:
    """The path of a private bus."""
    if shutil.which("dbus-daemon") is None:
        pytest.skip("needs dbus-daemon")
    socket = tmp_path / "bus"
    process = subprocess.Popen(
        ["dbus-daemon", "--session", "--nofork", "--print-address", f"--address=unix:path={socket}"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process, process.stdout:
        assert process.stdout.readline().startswith("unix:path=")
        yield str(socket)
        process.terminate()


def test_a_real_bus_understands_us(daemon: str) -> None:
    """Hello, strings and arrays both ways, an error by its name, a signal that was asked for."""
    connection = Connection(daemon, is_bus=True, seconds=10)

    def ask(member: str, signature: str = "", *values: object) -> tuple[Any, ...]:
        return connection.call(BUS_NAME, BUS_PATH, BUS_NAME, member, signature, values)

    (names,) = ask("ListNames")
    assert BUS_NAME in names
    assert len(names) == 2
    assert ask("GetNameOwner", "s", BUS_NAME) == (BUS_NAME,)
    assert connection.peer_pid() > 0
    (credentials,) = ask("GetConnectionCredentials", "s", next(name for name in names if name != BUS_NAME))
    assert credentials["UnixUserID"] == ("u", os.geteuid())
    assert credentials["ProcessID"] == ("u", os.getpid())
    with pytest.raises(ManagerError) as refused:
        ask("GetNameOwner", "s", "org.freedesktop.systemd1")
    assert refused.value.name == "org.freedesktop.DBus.Error.NameHasNoOwner"
    assert "org.freedesktop.systemd1" in refused.value.message
    ask("AddMatch", "s", "type='signal',member='NameOwnerChanged'")
    ask("RequestName", "su", "org.slicemgr.test", 0)
    assert "NameOwnerChanged" in {signal.member for signal in connection.signals}
    connection.close()


def test_nobody_there(tmp_path: Path) -> None:
    """A socket that is not there, and one that nobody listens on."""
    with pytest.raises(NoManagerError) as missing:
        Connection(str(tmp_path / "none"), is_bus=False)
    assert missing.value.errno
    with pytest.raises(NoManagerError):
        Connection("x" * 300, is_bus=False)
