# SPDX-License-Identifier: LGPL-2.1-or-later
"""What memory.low of a cgroup and of its parent is worth; prints MiB of 60 that stay, for each case of CASES.

Runs in a delegated scope of its own. wall (160 MiB) holds chain and other; chain holds session and build.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

from tests.vm.systemd import cgroup_of

MIB = 1 << 20

CASES = {
    # name: (memory.low of chain, of session, who reads 400 MiB)
    "nobody asks": (0, 0, "other"),
    "session alone": (0, 60, "other"),
    "chain alone": (60, 0, "other"),
    "both": (60, 60, "other"),
    "chain alone, a build reads": (60, 0, "chain/build"),
    "both, a build reads": (60, 60, "chain/build"),
}


def main(folder: str) -> None:
    top = cgroup_of()
    _group(top / "runner").joinpath("cgroup.procs").write_text("0")
    _control(top)
    session_file, reader_file = Path(folder, "session"), Path(folder, "reader")
    for file, size in ((session_file, 60), (reader_file, 400)):
        with file.open("wb") as stream:
            stream.truncate(size * MIB)
    told = {}
    for at, (name, (chain_low, session_low, reader)) in enumerate(CASES.items()):
        wall = _control(_group(top / f"wall{at}"))
        (wall / "memory.max").write_text(str(160 * MIB))
        chain = _control(_group(wall / "chain"))
        (chain / "memory.low").write_text(str(chain_low * MIB))
        session = _group(chain / "session")
        (session / "memory.low").write_text(str(session_low * MIB))
        _read(session_file, session)
        _read(reader_file, _group(wall / reader))
        told[name] = round(int((session / "memory.current").read_text()) / MIB)
        # The pages go, so that the next case charges them anew.
        session_file.unlink()
        reader_file.unlink()
        for file, size in ((session_file, 60), (reader_file, 400)):
            with file.open("wb") as stream:
                stream.truncate(size * MIB)
    print(json.dumps(told))


def _group(path: Path) -> Path:
    path.mkdir()
    return path


def _control(path: Path) -> Path:
    (path / "cgroup.subtree_control").write_text("+memory")
    return path


def _read(file: Path, cgroup: Path) -> None:
    script = f"echo 0 > {cgroup}/cgroup.procs && exec cat {file} > /dev/null"
    subprocess.run(["sh", "-c", script], check=True)


if __name__ == "__main__":
    # Not in /tmp: with Debian 13 that is a tmpfs, where a hole is read without a page of one's own.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        main(folder)
