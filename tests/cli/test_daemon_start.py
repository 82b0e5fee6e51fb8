# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where `slicemgr daemon` can't start: one line, and what to try."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from slicemgr.cli import daemon, install
from slicemgr.kernel.errors import KernelError, NotSupportedError, ProcessGoneError
from slicemgr.kernel.features import Features, probe

if TYPE_CHECKING:
    from pathlib import Path


def test_without_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """That is what is missing, and not our own process."""

    def gone(pid: int) -> str:
        raise ProcessGoneError(pid)

    monkeypatch.setattr(daemon, "probe", lambda root: probe(root, str(tmp_path)))
    monkeypatch.setattr(daemon, "cgroup_of", gone)
    assert daemon.main(["--user"]) == 125
    assert capsys.readouterr().err == (
        f"slicemgr daemon: {tmp_path} can't be read (No such file or directory); try mount -t proc proc /proc\n"
    )


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ProcessGoneError(7), "/proc does not tell our own cgroup; try mount -t proc proc /proc"),
        (NotSupportedError("process 7 is in no cgroup v2", "another"), "process 7 is in no cgroup v2; try another"),
    ],
)
def test_without_a_cgroup_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: KernelError, line: str
) -> None:
    """On a machine that has all that is needed."""

    def fails(pid: int) -> str:
        raise error

    monkeypatch.setattr(daemon, "probe", lambda root: Features("/sys/fs/cgroup", "6.1", frozenset(), ()))
    monkeypatch.setattr(daemon, "cgroup_of", fails)
    assert daemon.main(["--user"]) == 125
    assert capsys.readouterr().err == f"slicemgr daemon: {line}\n"


def test_system_is_for_root(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The same mistake, the same answer: a usage error."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for verb, main in (("daemon", daemon.main), ("install", install.main)):
        assert main(["--system"]) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"slicemgr {verb}: --system is for root; try 'sudo slicemgr {verb} --system', or --user")
