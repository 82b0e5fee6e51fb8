# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guest gets the checkout as it stands, whether git knows it or not."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

from tests.vm.checkout import checkout_files, write_job_drive
from tests.vm.protocol import Job

FILES = ("a.py", "tests/b.py", "__pycache__/c.pyc", "tests/vm/results/d/console.log")


def plant(root: Path) -> None:
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def test_copy_without_git_leaves_scratch_behind(tmp_path: Path) -> None:
    """Caches and old results do not travel."""
    plant(tmp_path)
    assert checkout_files(tmp_path) == [Path("a.py"), Path("tests/b.py")]


def test_git_checkout_brings_untracked_files_too(tmp_path: Path) -> None:
    """A test written a minute ago runs before it is added; what git ignores does not travel."""
    plant(tmp_path)
    (tmp_path / ".gitignore").write_text("__pycache__/\nresults/\n")
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    assert checkout_files(tmp_path) == [Path(".gitignore"), Path("a.py"), Path("tests/b.py")]


def test_private_files_are_readable_in_the_guest(tmp_path: Path) -> None:
    """A checkout made with umask 077 belongs to root inside, and tester can read it."""
    plant(tmp_path)
    (tmp_path / "a.py").chmod(0o600)
    write_job_drive(tmp_path / "job.tar", Job(), root=tmp_path)
    with tarfile.open(tmp_path / "job.tar") as tar:
        entry = tar.getmember("slicemgr/a.py")
        assert (entry.uid, entry.mode) == (0, 0o644)
        assert "job.json" in tar.getnames()
