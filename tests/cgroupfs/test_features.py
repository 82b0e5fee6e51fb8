# SPDX-License-Identifier: LGPL-2.1-or-later
"""The probes on mount tables and trees of many machines: what is missing, and what is said of it."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from slicemgr.kernel import features
from slicemgr.kernel.features import Feature, probe
from tests.cgroupfs.tree import Tree, grow

if TYPE_CHECKING:
    from pathlib import Path

STALL = "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
CONTROLLERS = "cpuset cpu io memory pids\n"
NEW: Tree = dict.fromkeys(("cgroup.events", "cgroup.kill", "memory.current", "memory.reclaim", "memory.peak"), "")
OLD: Tree = dict.fromkeys(("cgroup.events", "memory.current"), "")

UNIFIED = "31 24 0:27 / {} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
NET_CLS = "40 31 0:40 / /run/vpn rw - cgroup net_cls rw,net_cls\n"
MEMORY_1 = "41 31 0:41 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


def machine(tmp_path: Path, mountinfo: str, tree: Tree, *, psi: bool = True) -> str:
    """A /proc and a cgroup tree; `{}` in the mount table is where that is."""
    mount = grow(tmp_path / "cgroup", tree)
    proc: Tree = {"self": {"mountinfo": mountinfo.format(mount)}, **({"pressure": {"memory": STALL}} if psi else {})}
    return str(grow(tmp_path / "proc", proc))


def told(tmp_path: Path, mountinfo: str, tree: Tree, path: str = "/", *, psi: bool = True) -> list[str]:
    found = probe(path, machine(tmp_path, mountinfo, tree, psi=psi))
    return [str(each).replace(str(tmp_path), "") for each in found.missing]


def root(**below: Tree) -> Tree:
    return {"cgroup.controllers": CONTROLLERS, "cgroup.procs": "", **below}


def test_nothing_is_missing(tmp_path: Path) -> None:
    """The root has no files of its own to tell, so one below is asked."""
    found = probe("/", machine(tmp_path, UNIFIED, root(init=NEW)))
    assert found.missing == ()
    assert found.mount == str(tmp_path / "cgroup")
    assert found.controllers == {"cpuset", "cpu", "io", "memory", "pids"}
    assert found.kernel == os.uname().release
    assert all(found.has(feature) for feature in Feature)


@pytest.mark.parametrize(
    ("mountinfo", "text"),
    [
        ("", "no cgroup v2 is mounted at /sys/fs/cgroup; try mount -t cgroup2 cgroup2 /sys/fs/cgroup"),
        (MEMORY_1, "the cgroups are of version 1; try `systemd.unified_cgroup_hierarchy=1` on the kernel command line"),
        (
            UNIFIED + MEMORY_1,
            "the cgroups are of version 1, or a mix of both (hybrid); try `systemd.unified_cgroup_hierarchy=1` on the kernel command line",
        ),
    ],
)
def test_no_tree(tmp_path: Path, mountinfo: str, text: str) -> None:
    """One line, and not ten that follow from it."""
    found = probe("/", machine(tmp_path, mountinfo, {}))
    assert [str(each) for each in found.missing] == [text]
    assert found.mount is None
    assert not found.has(Feature.CGROUP2)


def test_version_1_without_memory_is_no_hybrid(tmp_path: Path) -> None:
    """Some VPNs mount net_cls."""
    assert told(tmp_path, UNIFIED + NET_CLS, root(init=NEW)) == []


def test_the_usual_place_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several mounts, and the later one of two there."""
    proc = machine(
        tmp_path,
        "31 24 0:27 / /tmp/x rw - cgroup2 none rw\n" + UNIFIED + "31 24 0:27 / /tmp/y rw - cgroup2 none rw\n",
        root(),
    )
    monkeypatch.setattr(features, "MOUNT", str(tmp_path / "cgroup"))
    assert features.find_mount(proc) == (str(tmp_path / "cgroup"), ())
    monkeypatch.setattr(features, "MOUNT", "/nowhere")
    assert features.find_mount(proc) == ("/tmp/y", ())


@pytest.mark.parametrize(
    ("tree", "path", "text"),
    [
        (
            {"cgroup.controllers": "cpu pids\n", "cgroup.procs": "", "init": {"cgroup.events": "", "cgroup.kill": ""}},
            "/",
            "the kernel runs without the memory controller; try `cgroup_enable=memory` on its command line",
        ),
        (
            {"cgroup.controllers": "memory\n", "cgroup.procs": "", "init": NEW},
            "/",
            "the kernel runs without the pids controller; try a kernel with CONFIG_CGROUP_PIDS",
        ),
        (
            root(user={**NEW, "cgroup.controllers": "pids\n", "cgroup.procs": ""}),
            "/user",
            "cgroup /user does not get the memory controller; try `Delegate=cpu memory pids` in the unit above it",
        ),
    ],
)
def test_no_controller(tmp_path: Path, tree: Tree, path: str, text: str) -> None:
    """The kernel's lack, or that of the unit above."""
    assert told(tmp_path, UNIFIED, tree, path) == [text]


def test_an_older_kernel(tmp_path: Path) -> None:
    """Each file that it lacks."""
    assert told(tmp_path, UNIFIED, root(init=OLD)) == [
        "the kernel has no cgroup.kill; try 5.14 or later",
        "the kernel has no memory.reclaim; try 5.19 or later",
        "the kernel has no memory.peak; try 5.19 or later",
    ]


def test_the_cgroup_that_was_asked_about_is_looked_at_first(tmp_path: Path) -> None:
    """Then those above it: a leaf without the controller says nothing about memory files."""
    leaf: Tree = {"cgroup.events": "", "cgroup.controllers": CONTROLLERS, "cgroup.procs": ""}
    assert told(tmp_path, UNIFIED, root(a=OLD, job={**NEW, "leaf": leaf}), "/job/leaf") == []


def test_no_pressure(tmp_path: Path) -> None:
    """No file, and one that answers EOPNOTSUPP as with psi=0."""
    line = "the kernel measures no pressure (PSI); try `psi=1` on the kernel command line"
    assert told(tmp_path, UNIFIED, root(init=NEW), psi=False) == [line]


def test_read_only(tmp_path: Path) -> None:
    """As in a container: named once, with both engines' own options."""
    read_only = "31 24 0:27 / {} ro,nosuid - cgroup2 cgroup rw\n"
    assert told(tmp_path, read_only, root(init=NEW)) == [
        "/cgroup is mounted read-only; try `podman run --security-opt unmask=/sys/fs/cgroup`, or `docker run --security-opt writable-cgroups=true` (since 28)"
    ]


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory or its cgroup.procs is somebody else's."""
    proc = machine(tmp_path, UNIFIED, root(job={**NEW, "cgroup.controllers": CONTROLLERS, "cgroup.procs": ""}))
    monkeypatch.setattr(os, "access", lambda path, mode, **_: not str(path).endswith("cgroup.procs"))
    assert [str(each) for each in probe("/job", proc).missing] == [
        "no permission to make cgroups in /job; try a service manager, or a unit with Delegate=yes"
    ]


def test_no_pidfd() -> None:
    """A sandbox, or a kernel before 5.3."""

    def refuse(pid: int) -> int:
        assert pid == os.getpid()
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    lack = features.pidfd_missing(refuse)
    assert (
        str(lack)
        == "pidfd_open(2) is refused (Function not implemented); try Linux 5.3 or later, or a sandbox that allows the call"
    )


def test_no_proc(tmp_path: Path) -> None:
    """Not even that."""
    found = probe("/", str(tmp_path))
    assert [each.feature for each in found.missing] == [Feature.CGROUP2, Feature.PRESSURE]


def test_this_machine_answers() -> None:
    """Whatever it is, each lack is one line that ends in what to try."""
    for each in probe().missing:
        what, _, hint = str(each).partition("; try ")
        assert what
        assert hint
        assert "\n" not in what + hint
