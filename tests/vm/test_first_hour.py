# SPDX-License-Identifier: LGPL-2.1-or-later
"""What README promises, typed as it says: install, start, run a build that does not fit, look at what happened; and once
more without pacing, where steps die."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.conftest import HOG
from tests.vm.bystanders import dead, people, until
from tests.vm.desktop_2010 import standing_by
from tests.vm.systemd import run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.vm.systemd import Systemd

STEPS = 20


def makefile(folder: Path) -> None:
    """Twenty steps that grow to 90 MB each: 1.8 GB at -j20, more than the guest has."""
    hog = f"{sys.executable} {HOG} --grow 90M --rate 40M --hold 1 --comm meinproc5"
    steps = "".join(f"manual{at}:\n\t@{hog}\n" for at in range(STEPS))
    names = " ".join(f"manual{at}" for at in range(STEPS))
    (folder / "Makefile").write_text(f"all: {names}\n.PHONY: all {names}\n{steps}")


@pytest.mark.vm(timeout=300)
def test_a_build_that_does_not_fit(systemd: Systemd, vm_files: Path, tmp_path: Path, vm_user: str) -> None:
    """Steps wait, and all end; without that steps die, make and the session live; and every verb tells about it."""
    told: list[str] = []

    def typed(command: str, *, status: int | None = 0) -> str:
        done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True)
        told.append(f"$ {command}\n{done.stdout}{done.stderr}")
        assert status is None or done.returncode == status, told[-1]
        return done.stdout + done.stderr

    whose = "" if vm_user == "root" else " --user"
    makefile(tmp_path)
    with standing_by(systemd):
        before = people()
        try:
            typed("slicemgr install")
            typed(f"systemctl{whose} start slicemgr")
            paced = typed("slicemgr run -- make -j20")
            assert "'make' exited with 0" in paced
            assert "nothing killed" in paced
            assert "steps waited" in paced
            assert "meinproc5" in typed("slicemgr steps")
            assert int(typed("slicemgr jobs")) >= 1
            build = subprocess.Popen(
                ["slicemgr", "run", "--no-pacing", "--", "make", "-k", "-j20"],
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            until(lambda: "make" in run("slicemgr", "list"), "the build is listed", 60)
            assert "build" in typed("slicemgr status")
            explained = typed("slicemgr explain build")
            output, _ = build.communicate()
            told.append(f"$ slicemgr run --no-pacing -- make -k -j20\n{output}")
            assert build.returncode == 2, output
            assert "killed 'meinproc5'" in output
            assert "'make' exited with 2" in output
            assert "meinproc5" in explained or "make" in explained
            kills = typed("slicemgr kills")
            assert "meinproc5" in kills
            assert "build" in kills
            typed("slicemgr status")
            shown = typed(f"systemctl{whose} show -p StatusText -p ActiveState slicemgr")
            assert "ActiveState=active" in shown
            typed(f"systemctl{whose} reload slicemgr")
            show = f"systemctl{whose} show -p ActiveState slicemgr"
            until(lambda: "ActiveState=active" in typed(show), "it has read again")
        finally:
            typed("slicemgr install --uninstall")
            # What the daemon has set holds until the next boot.
            typed(f"systemctl{whose} revert build.slice app.slice session.slice")
            typed(f"journalctl{whose} --no-pager -o cat -u slicemgr | tail -40", status=None)
            (vm_files / f"first-hour-{vm_user}.txt").write_text("\n".join(told))
        assert dead(before) == []
