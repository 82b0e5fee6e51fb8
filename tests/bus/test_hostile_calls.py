# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whatever somebody sends: one answer, an error of one line, nothing done, nothing left open, and the next is served."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
from collections import Counter
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import pytest
from gi.repository import GLib
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slicemgr.bus.call import LONGEST_ERROR
from slicemgr.bus.interface import InterfaceTable
from slicemgr.bus.objects import JOB, MANAGER, ROOT, SESSION, SLICE, job_object, slice_object
from slicemgr.bus.server import MOST_BYTES
from slicemgr.bus.values import split
from slicemgr.kernel.pidfd import process_behind
from slicemgr.service.request_options import LIMITS
from tests.bus.face import SYSTEM_JOB, Face, Peer, RefusedError, refusal, shared_face

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


TABLE = InterfaceTable()
METHODS = sorted(name for name in TABLE.methods if name[0].startswith("org.slicemgr1."))
UID = os.getuid()
OURS = "org.slicemgr1.Error."
THEIRS = {
    f"org.freedesktop.DBus.Error.{name}"
    for name in ("InvalidArgs", "UnknownMethod", "UnknownObject", "UnknownInterface")
}
READS = {
    (MANAGER, name)
    for name in ("ListSlices", "ListJobs", "ListSessions", "GetSlice", "GetJob", "GetSession", "ListActions")
}
"""Nothing is done by these, so they may as well answer."""

TEXTS = st.one_of(
    st.sampled_from(["", " ", "/", "..", "build", "build.slice", "backup", "builds-grow", "1", "9" * 5000, "²", "०", "-1", "%s%n", "\n", "\x1b[2J", "x" * 300, "\U0010ffff", "a/b", "-.slice"]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40),
)  # fmt: skip
NUMBERS = st.sampled_from([0, 1, 2, (1 << 31) - 1, (1 << 32) - 1])
LONG = NUMBERS | st.sampled_from([(1 << 63) - 1, 1 << 63, (1 << 64) - 1])
INDICES = st.sampled_from([0, 1, 5, 9, 250, (1 << 31) - 1, -1, -(1 << 31)])


def variants() -> st.SearchStrategy[Any]:
    """Values of any type."""
    plain: st.SearchStrategy[Any] = st.one_of(
        TEXTS.map(lambda each: GLib.Variant("s", each)),
        LONG.map(lambda each: GLib.Variant("t", each)),
        NUMBERS.map(lambda each: GLib.Variant("u", each)),
        st.integers(-(1 << 63), (1 << 63) - 1).map(lambda each: GLib.Variant("x", each)),
        st.booleans().map(lambda each: GLib.Variant("b", each)),
        st.sampled_from([float("nan"), float("inf"), -0.0, 1e308]).map(lambda each: GLib.Variant("d", each)),
        st.binary(max_size=9).map(lambda each: GLib.Variant("ay", each)),
        INDICES.map(lambda each: GLib.Variant("h", each)),
        st.sampled_from([GLib.Variant("o", "/"), GLib.Variant("g", "a{sv}"), GLib.Variant("(ii)", (1, 2)), GLib.Variant("aa{sv}", [])]),
    )  # fmt: skip
    return st.recursive(
        plain,
        lambda inner: st.one_of(
            inner.map(lambda each: GLib.Variant("v", each)),
            st.dictionaries(TEXTS, inner, max_size=2).map(lambda each: GLib.Variant("a{sv}", each)),
        ),
        max_leaves=3,
    )


KEYS = st.sampled_from(["name", "tree", "slice", "memory-high", "memory-max", "memory-swap-max", "interactive", "id", "desktop", "type", "user", "place", "all-users", *LIMITS]) | TEXTS  # fmt: skip
NO_KEY = TEXTS.filter(lambda each: each not in LIMITS).map(lambda each: f"{each}?")
BY_TYPE: dict[str, st.SearchStrategy[Any]] = {
    "s": TEXTS,
    "u": NUMBERS,
    "t": LONG,
    "h": INDICES,
    "ah": st.lists(INDICES, max_size=4),
    "a{sv}": st.dictionaries(KEYS, variants(), max_size=3),
}
WRONG_TYPES = st.sampled_from(
    ["", "s", "a{sv}", "h", "(h)", "as", "v", "t", "sssa{sv}s", "ha{ss}", "a{sv}a{sv}a{sv}", "y", "d"]
)


@st.composite
def bodies(draw: st.DrawFn, method: tuple[str, str]) -> Any:
    """Of the right types, and what a method that does something can't mean; or of others."""
    wanted = TABLE.methods[method].arguments
    if draw(st.integers(0, 3)) == 0:
        signature = draw(WRONG_TYPES.filter(lambda each: each != "".join(wanted)))
        return GLib.Variant(f"({signature})", tuple(zero(each) for each in parts(signature)))
    values = [draw(BY_TYPE[each]) for each in wanted]
    if method not in READS and wanted[-1] == "a{sv}":
        values[-1] = {**values[-1], draw(NO_KEY): draw(variants())}
    return GLib.Variant(f"({''.join(wanted)})", tuple(values))


def parts(signature: str) -> list[str]:
    """Of the ones above."""
    return split(signature)


def zero(signature: str) -> Any:
    zeros: dict[str, Any] = {"s": "", "h": 0, "(h)": (0,), "t": 0, "y": 0, "d": 0.0, "v": GLib.Variant("s", "")}
    return zeros[signature] if signature in zeros else {} if signature.startswith("a{") else []


class Bag(ExitStack):
    """Descriptors of all kinds, by name."""

    def __init__(self) -> None:
        super().__init__()
        pipe = os.pipe()
        ours, theirs = socket.socketpair()
        self.callback(ours.close)
        self.callback(theirs.close)
        with subprocess.Popen(["true"]) as process:
            ended = os.pidfd_open(process.pid)
        self.kinds = {
            "pipe": pipe[0],
            "directory": os.open("/", os.O_RDONLY),
            "file": os.open("/dev/null", os.O_RDWR),
            "socket": ours.fileno(),
            "ended": ended,
            "pid 1": os.pidfd_open(1),
            "ourselves": os.pidfd_open(os.getpid()),
        }
        for name, each in self.kinds.items():
            if name != "socket":
                self.callback(os.close, each)
        self.callback(os.close, pipe[1])

    def held(self) -> Counter[str]:
        """How often we have each of them open, by what the kernel calls it: copies that came over a bus are as these."""
        wanted = {os.readlink(f"/proc/self/fd/{each}") for each in self.kinds.values()} - {"/", "/dev/null"}
        found: Counter[str] = Counter()
        for each in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                found[os.readlink(f"/proc/self/fd/{each}")] += 1
        return Counter({name: found[name] for name in wanted})


@pytest.fixture
def bag() -> Iterator[Bag]:
    with Bag() as made:
        yield made


class Faults(logging.Handler):
    """What the server logs is a fault of ours: a hostile call is not one."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(f"{record.getMessage()} {record.exc_info}")


@pytest.fixture
def faults() -> Iterator[Faults]:
    made = Faults()
    logging.getLogger("slicemgr").addHandler(made)
    yield made
    logging.getLogger("slicemgr").removeHandler(made)


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Face]:
    with shared_face(tmp_path_factory.mktemp("face"), user_uid=UID) as made:
        yield made


@pytest.fixture
def face(users: Face) -> Iterator[Face]:
    yield users
    users.settle()


def object_of(interface: str, session: str) -> str:
    return {MANAGER: ROOT, SLICE: slice_object("build.slice"), JOB: job_object(SYSTEM_JOB), SESSION: session}[interface]


def error_of(call: Callable[[], object]) -> RefusedError | None:
    try:
        call()
    except RefusedError as error:
        return error
    return None


def is_one_line(text: str) -> bool:
    return bool(text) and text.isprintable() and "Traceback" not in text and len(text) <= LONGEST_ERROR


def served(it: Peer) -> None:
    """By both threads, and whatever they had to clear away before is done."""
    assert it.get("Scope") == "user"
    assert refusal(lambda: it.manager("Release", "(u)", 4711)).name == f"{OURS}NotFound"
    assert it.get("Scope") == "user"


@pytest.mark.parametrize("method", METHODS, ids=[f"{each[0].rpartition('.')[2]}.{each[1]}" for each in METHODS])
def test_what_nobody_can_mean(face: Face, bag: Bag, cats: list[int], faults: Faults, method: tuple[str, str]) -> None:
    it = face.peer()
    descriptors = list(bag.kinds.values())
    options = {"place": GLib.Variant("b", False)}
    (session,) = it.manager("RegisterSession", "(ha{sv})", 0, options, descriptors=cats[:1])
    served(it)
    before = bag.held()

    @settings(max_examples=40, suppress_health_check=list(HealthCheck))
    @given(bodies(method), st.integers(0, len(descriptors)))
    def hostile(body: Any, count: int) -> None:
        path = object_of(method[0], session)
        error = error_of(lambda: it.call(path, *method, body, descriptors=descriptors[:count]))
        if error is None:
            assert method in READS, body.print_(True)
        elif error.name not in THEIRS:
            assert error.name.startswith(OURS)
            assert is_one_line(error.text), error
            assert error.name != f"{OURS}Failed" or "Error: " not in error.text, error
        assert face.nothing_was_done, body.print_(True)
        assert faults.records == []

    hostile()
    served(it)
    Face.until_outside(lambda: bag.held() == before)  # GDBus' own thread closes what it has refused itself.


NO_PIDFD = "this descriptor is no pidfd; try pidfd_open(2)"
WITH_PIDFD: dict[str, tuple[str, tuple[Any, ...]]] = {
    "GetJobByPIDFd": ("(ha{sv})", (0, {})),
    "PlaceJob": ("(ha{sv})", (0, {})),
    "PlaceProcess": ("(hsa{sv})", (0, "build", {})),
    "RegisterSession": ("(ha{sv})", (0, {})),
}


@pytest.mark.parametrize("method", WITH_PIDFD)
@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("pipe", "NotSupported", NO_PIDFD),
        ("directory", "NotSupported", NO_PIDFD),
        ("file", "NotSupported", NO_PIDFD),
        ("socket", "NotSupported", NO_PIDFD),
        ("ended", "NotFound", "the process has ended; try one that lives"),
        ("pid 1", "Denied", "process 1"),
        ("ourselves", "Denied", "it is this daemon, which is to outlive its jobs; try "),
    ],
)
def test_whose_descriptor_it_is(
    face: Face, bag: Bag, faults: Faults, method: str, kind: str, name: str, words: str
) -> None:
    """Of something else, of somebody who has gone, of the manager, of the daemon: nobody is moved."""
    signature, arguments = WITH_PIDFD[method]
    it = face.peer()
    error = refusal(lambda: it.manager(method, signature, *arguments, descriptors=[bag.kinds[kind]]))
    if method == "GetJobByPIDFd" and name == "Denied":
        name, words = "NotManaged", "is in no job; try PlaceJob"
    assert error.name == OURS + name
    assert words in error.text
    assert face.nothing_was_done
    assert faults.records == []


@pytest.fixture
def cats() -> Iterator[list[int]]:
    """Two pidfds of processes that live."""
    with ExitStack() as stack:
        descriptors = []
        for _ in range(2):
            process = stack.enter_context(subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL))
            assert process.stdin is not None
            stack.callback(process.stdin.close)
            descriptors.append(os.pidfd_open(process.pid))
            stack.callback(os.close, descriptors[-1])
        yield descriptors


@pytest.mark.parametrize("kind", ["pipe", "directory", "ended"])
def test_who_is_to_be_protected(face: Face, bag: Bag, cats: list[int], kind: str) -> None:
    """One that is none among many: then none of them is."""
    leader, other = cats
    identity = process_behind(other).identity
    it = face.peer()
    (session,) = it.manager("RegisterSession", "(ha{sv})", 0, {"place": GLib.Variant("b", False)}, descriptors=[leader])
    body = GLib.Variant("(aha{sv})", ([0, 1], {}))
    error = refusal(lambda: it.call(session, SESSION, "Protect", body, descriptors=[other, bag.kinds[kind]]))
    assert error.name in {f"{OURS}NotSupported", f"{OURS}NotFound"}
    assert identity not in face.face.spared()
    it.call(session, SESSION, "Protect", body, descriptors=[other, leader])
    assert identity in face.face.spared()


@pytest.mark.parametrize("what", ["a name", "a key", "many keys", "many processes"])
def test_more_than_anybody_means(face: Face, cats: list[int], what: str) -> None:
    """Refused unread: a bus carries 128 MiB, and everybody else would wait."""
    body = {
        "a name": GLib.Variant("(sa{sv})", ("x" * (1 << 20), {})),
        "a key": GLib.Variant("(sa{sv})", ("x", {"y" * (1 << 20): GLib.Variant("b", True)})),
        "many keys": GLib.Variant("(sa{sv})", ("x", {f"{at}": GLib.Variant("b", True) for at in range(20_000)})),
        "many processes": GLib.Variant("(aha{sv})", ([0] * 20_000, {})),
    }[what]
    it = face.peer()
    where = (ROOT, MANAGER, "GetSlice")
    if what == "many processes":
        options = {"place": GLib.Variant("b", False)}
        (session,) = it.manager("RegisterSession", "(ha{sv})", 0, options, descriptors=cats[:1])
        where = (session, SESSION, "Protect")
    error = refusal(lambda: it.call(*where, body))
    assert error == RefusedError(f"{OURS}LimitExceeded", f"the arguments are longer than {MOST_BYTES} bytes; try fewer")
    served(it)


def test_a_name_as_long_as_may_be(face: Face) -> None:
    """It is told in part."""
    error = refusal(lambda: face.peer().manager("GetSlice", "(sa{sv})", "\n" * (MOST_BYTES - 100), {}))
    assert error.name == f"{OURS}NotFound"
    assert is_one_line(error.text)
    assert error.text.startswith("no slice '\\n\\n")


@pytest.mark.parametrize(
    ("path", "interface", "method"),
    [
        (ROOT, MANAGER, "Nothing"),
        (ROOT, "org.slicemgr1.Nothing", "GetSlice"),
        (ROOT, JOB, "Stop"),
        ("/", MANAGER, "ListSlices"),
        (f"{ROOT}/jobs/none", JOB, "Stop"),
        (slice_object("build.slice"), MANAGER, "ListSlices"),
        (ROOT, "org.freedesktop.DBus.Properties", "Nothing"),
        (ROOT, "org.freedesktop.DBus.ObjectManager", "Nothing"),
    ],
)
def test_where_nothing_is(face: Face, path: str, interface: str, method: str) -> None:
    it = face.peer()
    assert refusal(lambda: it.call(path, interface, method, GLib.Variant("(a{sv})", ({},)))).name in THEIRS
    served(it)
