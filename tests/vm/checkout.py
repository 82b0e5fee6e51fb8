# SPDX-License-Identifier: LGPL-2.1-or-later
"""The checkout as a tar: what git knows or would add, or all that is not scratch in a copy without git."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.vm.protocol import Job

ROOT = Path(__file__).resolve().parents[2]
SCRATCH = {".git", ".venv", "venv", "build", "dist", "results", "out", "__pycache__"}


def checkout_files(root: Path = ROOT) -> list[Path]:
    """Paths relative to `root` of the files that the guest gets."""
    # safe.directory: root tests a user's checkout, and git would refuse it for its owner.
    listing = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
    )
    if (root / ".git").exists() and listing.returncode == 0:
        names = {Path(os.fsdecode(name)) for name in listing.stdout.split(b"\0") if name}
    else:
        names = set()
        for folder, folders, files in os.walk(root):
            folders[:] = [name for name in folders if name not in SCRATCH and not name.endswith("_cache")]
            names.update((Path(folder) / name).relative_to(root) for name in files)
    # A file deleted but not yet committed is still listed by git.
    return sorted(name for name in names if (root / name).is_file())


def write_job_drive(path: Path, job: Job, root: Path = ROOT) -> None:
    """Write the guest's job drive: a plain tar of the checkout (owned by root) and the job."""
    with tarfile.open(path, "w") as tar:
        for name in checkout_files(root):
            tar.add(root / name, arcname=f"slicemgr/{name}", filter=_owned_by_root)
        data = job.to_json().encode()
        entry = tarfile.TarInfo("job.json")
        entry.size = len(data)
        entry.mode = 0o644
        tar.addfile(entry, io.BytesIO(data))


def _owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    # A checkout made with umask 077 must still be readable for tester.
    entry.mode = 0o755 if entry.mode & 0o100 else 0o644
    return entry
