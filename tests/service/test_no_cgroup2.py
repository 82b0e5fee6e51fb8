# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine without cgroup v2: the daemon, the verbs that look, and `run` tell it in the same words."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from slicemgr.kernel import features, syscalls
from slicemgr.kernel.errors import NotSupportedError
from slicemgr.placement import choose
from slicemgr.service import overview

if TYPE_CHECKING:
    from pathlib import Path

MEMORY = "41 31 0:41 / {0}/memory rw - cgroup cgroup rw,memory\n"
UNIFIED = "42 31 0:42 / {0}/unified rw - cgroup2 cgroup2 rw\n"
BOOT = "`systemd.unified_cgroup_hierarchy=1` on the kernel command line"


@pytest.mark.parametrize(
    ("folders", "mountinfo", "text"),
    [
        (["memory", "unified"], MEMORY + UNIFIED, f"the cgroups are of version 1, or a mix of both (hybrid); try {BOOT}"),
        (["memory"], MEMORY, f"the cgroups are of version 1; try {BOOT}"),
        ([], "", "no cgroup v2 is mounted at {0}; try mount -t cgroup2 cgroup2 {0}"),
    ],
)  # fmt: skip
def test_one_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folders: list[str], mountinfo: str, text: str
) -> None:
    """What is missing, and what to try."""
    mount, proc = tmp_path / "cgroup", tmp_path / "proc"
    for folder in (*(mount / each for each in folders), mount, proc / "self"):
        folder.mkdir(parents=True, exist_ok=True)
    (proc / "self/mountinfo").write_text(mountinfo.format(mount))
    monkeypatch.setattr(choose, "CGROUPS", str(mount))
    not_mounted = features.not_mounted
    monkeypatch.setattr(features, "not_mounted", lambda: not_mounted(str(mount)))
    # It holds for ever, and this process has other tests to run.
    monkeypatch.setattr(syscalls, "set_child_subreaper", lambda: None)
    of_daemon = features.probe("/", str(proc)).why_not(features.Feature.CGROUP2)
    with pytest.raises(NotSupportedError) as of_verbs:
        overview.require_cgroup2(str(mount), str(proc))
    of_run = {reason for _, reason in choose.choose(uid=os.getuid()).passed_over}
    assert {str(of_daemon), str(of_verbs.value)} | of_run == {text.format(mount)}


def test_cgroup_v2_elsewhere(tmp_path: Path) -> None:
    """It is no use where nobody looks for it."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self/mountinfo").write_text("42 31 0:42 / /mnt rw - cgroup2 cgroup2 rw\n")
    with pytest.raises(NotSupportedError, match=r"^no cgroup v2 is mounted at /nowhere; try mount -t cgroup2 "):
        overview.require_cgroup2("/nowhere", str(tmp_path))
